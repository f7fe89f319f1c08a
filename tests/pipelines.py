"""Pipelines for tests: schedules, times, and the slow, obvious twin of their simulation."""

from __future__ import annotations

from hypothesis import strategies as st

from sim.parallel.pipeline import Part, Pass, PipelineSchedule
from sim.parallel.schedules import Shape, load
from sim.parallel.times import Times

SCHEDULES = load()


def made(name: str, ranks: int, micro_batches: int, **parameters: float) -> PipelineSchedule:
    return SCHEDULES.call(name, Shape(ranks=ranks, micro_batches=micro_batches), **parameters)


def even(forward: float, input_vjp: float, weight_vjp: float, send: float = 0.0) -> Times:
    return Times(forward=(forward,), input_vjp=(input_vjp,), weight_vjp=(weight_vjp,), send=send)


@st.composite
def any_pipelines(draw: st.DrawFn) -> PipelineSchedule:
    """A schedule of any kind with few enough ranks and micro-batches for the twin."""
    name = draw(st.sampled_from(sorted(SCHEDULES)))
    ranks, micro_batches = draw(st.integers(1, 5)), draw(st.integers(1, 11))
    if name == "dualpipe":
        ranks = 2 * draw(st.integers(1, 2))
        micro_batches = 2 * ranks + 2 * draw(st.integers(0, 3))
    if name != "interleaved":
        return made(name, ranks, micro_batches)
    return made(name, ranks, ranks * draw(st.integers(1, 3)), chunks=draw(st.integers(2, 3)))


@st.composite
def any_times(draw: st.DrawFn, ranks: int) -> Times:
    """Times of whole seconds, so that sums are exact; one for all ranks, or one for each."""
    count = draw(st.sampled_from([1, ranks]))
    parts = [tuple(float(draw(st.integers(0, 9))) for _ in range(count)) for _ in range(3)]
    return Times(forward=parts[0], input_vjp=parts[1], weight_vjp=parts[2], send=float(draw(st.integers(0, 12))))


def reads(schedule: PipelineSchedule, of: Pass) -> list[Pass]:
    """The passes whose results a pass reads, of those that a schedule has."""
    part, stage, j = of
    forward, after = Pass(Part.FORWARD, stage, j), [Pass(back, stage + 1, j) for back in (Part.VJP, Part.INPUT_VJP)]
    wanted = {
        Part.FORWARD: [Pass(Part.FORWARD, stage - 1, j)],
        Part.WEIGHT_VJP: [Pass(Part.INPUT_VJP, stage, j)],
    }.get(part, [forward, *after])
    there = {p for order in schedule.orders for p in order}
    return [p for p in wanted if p in there]


def longest_paths(schedule: PipelineSchedule, times: Times) -> dict[Pass, float]:
    """When each pass ends: the longest path to it through ranks and links, relaxed until nothing changes."""
    ranks = len(schedule.orders)
    rank_of = {p: rank for rank, order in enumerate(schedule.orders) for p in order}
    inputs = {p: reads(schedule, p) for p in rank_of}
    stages = [rank_of[Pass(Part.FORWARD, stage, 0)] for stage in range(schedule.stages)]

    def seconds(p: Pass) -> float:
        parts = {
            Part.FORWARD: (times.forward,), Part.INPUT_VJP: (times.input_vjp,), Part.WEIGHT_VJP: (times.weight_vjp,),
            Part.VJP: (times.input_vjp, times.weight_vjp),
        }[p.part]  # fmt: skip
        return sum(of[0] if len(of) == 1 else of[stages[p.stage]] for of in parts) * ranks / schedule.stages

    blocks = [block for of_rank in schedule.blocks for block in of_rank]
    begin = dict.fromkeys(blocks, 0.0)
    arrival: dict[tuple[Pass, int], float] = {}
    for _ in range(len(rank_of) + 2):
        before = dict(begin), dict(arrival)
        for of_rank in schedule.blocks:
            last: dict[int, float] = {}
            free = 0.0
            for block in of_rank:
                rank = rank_of[block[0]]
                there = [arrival.get((i, rank), 0.0) for p in block for i in inputs[p]]
                begin[block] = max([free, *there])
                free = begin[block] + sum(map(seconds, block))
                for p in block:
                    for target in sorted({rank_of[q] for q in rank_of if p in inputs[q]} - {rank}):
                        arrival[p, target] = max(free, last.get(target, 0.0)) + times.send
                        last[target] = arrival[p, target]
        if before == (begin, arrival):
            break
    else:
        raise AssertionError("relaxation does not end")
    ends = {}
    for block, start in begin.items():
        for p in block:
            start += seconds(p)
            ends[p] = start
    return ends
