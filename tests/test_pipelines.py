"""Pipeline schedules: published bubbles, closed forms, a slow twin, and what is no schedule."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipelines import SCHEDULES, any_pipelines, any_times, even, longest_paths, made, reads

from sim.base.errors import ParameterError
from sim.parallel import simulate as simulation
from sim.parallel.pipeline import InvalidPipeline, Part, Pass, PipelineSchedule, scheduled
from sim.parallel.schedules import Shape
from sim.parallel.simulate import PipelineTrace
from sim.parallel.times import Times

whole = st.integers(1, 9).map(float)


def simulate(schedule: PipelineSchedule, times: Times) -> PipelineTrace:
    return simulation.simulate(schedule, times.clock(schedule.homes))


def extra_seconds(trace: PipelineTrace, times: Times) -> float:
    """What a step takes beyond the work of one rank."""
    work = times.forward[0] + times.input_vjp[0] + times.weight_vjp[0]
    return trace.seconds - trace.schedule.micro_batches * work


@pytest.mark.parametrize(
    ("ranks", "micro_batches", "times", "bubbles"),
    [
        (8, 24, (18.522, 18.086, 9.337, 0.601), {"1f1b": 0.2431, "zb_h1": 0.1585, "zb_h2": 0.1083}),
        (8, 64, (18.546, 18.097, 9.321, 0.762), {"1f1b": 0.1240, "zb_h1": 0.0674}),
        (16, 48, (11.347, 11.248, 8.132, 0.377), {"1f1b": 0.2552, "zb_h1": 0.1397}),
        pytest.param(
            32, 256, (10.402, 10.248, 7.698, 0.460), {"1f1b": 0.1352, "zb_h1": 0.0594}, marks=pytest.mark.slow
        ),
    ],
)
def test_bubbles_are_those_of_the_zero_bubble_paper(
    ranks: int, micro_batches: int, times: tuple[float, float, float, float], bubbles: dict[str, float]
) -> None:
    """Qi, Wan, Huang, Lin 2023, Zero Bubble Pipeline Parallelism, arXiv:2401.10241, from its profiled milliseconds."""
    for name, bubble in bubbles.items():
        trace = simulate(made(name, ranks, micro_batches), even(*times))
        assert round(trace.bubble, 4) == bubble, name


@given(p=st.integers(1, 6), m=st.integers(1, 12), forward=whole, vjp=whole, name=st.sampled_from(["gpipe", "1f1b"]))
def test_gpipe_and_1f1b_idle_while_the_pipeline_fills_and_drains(
    p: int, m: int, forward: float, vjp: float, name: str
) -> None:
    """(p - 1)/(m + p - 1): Huang et al. 2019, GPipe, arXiv:1811.06965; Narayanan et al. 2021, arXiv:2104.04473."""
    trace = simulate(made(name, p, m), even(forward, vjp, 0.0))
    assert trace.bubble == pytest.approx((p - 1) / (m + p - 1))


@given(p=st.integers(1, 5), groups=st.integers(1, 3), v=st.integers(2, 4), forward=whole)
def test_interleaving_divides_the_bubble_by_the_chunks(p: int, groups: int, v: int, forward: float) -> None:
    """Narayanan et al. 2021, arXiv:2104.04473, section 2.2.2: the bubble is (p - 1)(F + B)/v."""
    times = even(forward, 2 * forward, 0.0)
    trace = simulate(made("interleaved", p, p * groups, chunks=v), times)
    assert extra_seconds(trace, times) == pytest.approx((p - 1) * 3 * forward / v)


@given(p=st.integers(1, 6), more=st.integers(0, 9), w=whole, f=st.integers(0, 4), b=st.integers(0, 4))
def test_zero_bubble_schedules_save_what_is_put_off(p: int, more: int, w: float, f: int, b: int) -> None:
    """Qi et al. 2023, arXiv:2401.10241, table 1: (p - 1)(F + B - W), and (p - 1)(F + B - 2W)."""
    times = even(w + f, w + b, w)
    for name, saved in (("zb_h1", 1), ("zb_h2", 2)):
        m = 2 * p + more
        trace = simulate(made(name, p, m), times)
        assert extra_seconds(trace, times) == pytest.approx((p - 1) * (2 * w + f + b - saved * w)), name


@given(p=st.integers(1, 6), more=st.integers(0, 9), seconds=whole)
def test_zb_v_has_no_bubble_where_all_parts_take_the_same(p: int, more: int, seconds: float) -> None:
    times = even(seconds, seconds, seconds)
    assert extra_seconds(simulate(made("zb_v", p, 2 * p + more), times), times) == pytest.approx(0.0)


@given(half=st.integers(1, 4), more=st.integers(0, 4), f=whole, w=whole)
def test_dualpipe_has_the_bubble_of_its_paper(half: int, more: int, f: float, w: float) -> None:
    """DeepSeek-AI 2024, arXiv:2412.19437, table 2: (PP/2 - 1)(F&B + B - 3W), where F&B is both, one after the other.

    With F > W, as in the paper's figure; B there is the whole VJP.
    """
    p, times = 2 * half, even(f + w, f + w, w)
    trace = simulate(made("dualpipe", p, 2 * p + 2 * more), times)
    whole_vjp = f + 2 * w
    assert extra_seconds(trace, times) == pytest.approx((half - 1) * ((f + w + whole_vjp) + whole_vjp - 3 * w))


@given(p=st.integers(1, 6), m=st.integers(1, 12))
def test_what_ranks_hold_follows_from_the_order(p: int, m: int) -> None:
    """In flight under GPipe m, under 1F1B p - i, under ZB-H1 p and ZB-H2 2p - 1: the tables of their papers."""
    assert made("gpipe", p, m).in_flight() == [m] * p
    assert made("1f1b", p, m).in_flight() == [min(m, p - rank) for rank in range(p)]
    assert made("zb_h1", p, m).in_flight() == [min(m, p)] * p
    assert made("zb_h2", p, m).in_flight() == [min(m, 2 * p - 1)] * p


@given(p=st.integers(1, 5), groups=st.integers(2, 4), v=st.integers(2, 4))
def test_interleaving_holds_more_on_the_first_rank(p: int, groups: int, v: int) -> None:
    """1 + (p - 1)/(p·v) of what 1F1B holds there: Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.3."""
    first = made("interleaved", p, groups * p, chunks=v).in_flight()[0]
    assert first / v == pytest.approx(p * (1 + (p - 1) / (p * v)))


@given(p=st.integers(1, 6), more=st.integers(0, 6))
def test_schedules_of_two_stages_a_rank_hold_the_same_on_every_rank(p: int, more: int) -> None:
    """ZB-V p micro-batches of two stages (arXiv:2401.10241, section 6); DualPipe p + 1 (arXiv:2412.19437, table 2)."""
    assert made("zb_v", p, 2 * p + more).in_flight() == [2 * p] * p
    assert made("dualpipe", 2 * p, 4 * p + 2 * more).in_flight() == [2 * p + 1] * (2 * p)


@given(data=st.data(), schedule=any_pipelines())
def test_a_simulation_is_the_longest_path(data: st.DataObject, schedule: PipelineSchedule) -> None:
    times = data.draw(any_times(len(schedule.orders)))
    trace = simulate(schedule, times)
    ends = {t.at: t.end for passes in trace.ranks for t in passes}
    assert ends == pytest.approx(longest_paths(schedule, times))


@given(data=st.data(), schedule=any_pipelines())
def test_a_step_is_no_shorter_than_its_chain_and_no_longer_than_serial(
    data: st.DataObject, schedule: PipelineSchedule
) -> None:
    times = data.draw(any_times(len(schedule.orders)))
    trace = simulate(schedule, times)
    durations = {t.at: t.end - t.start for passes in trace.ranks for t in passes}
    chain = [p for p in durations if p.micro_batch == 0 and p.part is not Part.WEIGHT_VJP]
    assert trace.finish >= sum(durations[p] for p in chain) - 1e-9
    serial = sum(durations.values()) + sum(s.end - s.start for s in trace.sends)
    assert trace.seconds <= trace.finish <= serial + 1e-9
    assert all(trace.busy_seconds(rank) <= trace.seconds + 1e-9 for rank in range(len(trace.ranks)))
    assert 0 <= trace.bubble <= 1


@given(data=st.data(), schedule=any_pipelines())
def test_a_link_carries_one_result_at_a_time_to_who_reads_it(data: st.DataObject, schedule: PipelineSchedule) -> None:
    times = data.draw(any_times(len(schedule.orders)))
    trace = simulate(schedule, times)
    starts = {t.at: t.start for passes in trace.ranks for t in passes}
    free: dict[tuple[int, int], float] = {}
    for send in trace.sends:
        link = send.source, send.target
        assert max(send.ready, free.get(link, 0.0)) == send.start
        assert send.end == send.start + times.send
        free[link] = send.end
    arrivals = {(s.of, s.target): s.end for s in trace.sends}
    rank_of = {p: rank for rank, order in enumerate(schedule.orders) for p in order}
    for reader, rank in rank_of.items():
        for source in reads(schedule, reader):
            if rank_of[source] != rank:
                assert arrivals[source, rank] <= starts[reader]


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_without_a_pass_a_schedule_is_refused(name: str) -> None:
    """The checker sees each pass that is taken out, done twice, or moved to before what it reads."""
    schedule = made(name, 2, 4)
    orders = [list(order) for order in schedule.orders]
    for rank, order in enumerate(orders):
        for k, p in enumerate(order):
            without = [*orders[:rank], order[:k] + order[k + 1 :], *orders[rank + 1 :]]
            twice = [*orders[:rank], [*order, p], *orders[rank + 1 :]]
            for wrong in (without, twice):
                with pytest.raises(InvalidPipeline) as refusal:
                    scheduled(wrong, stages=schedule.stages, micro_batches=4)
                assert refusal.value.at.stage == p.stage
    first_last = [[order[-1], *order[:-1]] for order in orders]
    with pytest.raises(InvalidPipeline, match="waits for ever"):
        scheduled(first_last, stages=schedule.stages, micro_batches=4)


def test_what_is_computed_whole_and_in_parts_or_is_not_there_is_refused() -> None:
    forward, vjp = Pass(Part.FORWARD, 0, 0), Pass(Part.VJP, 0, 0)
    parts = [Pass(Part.INPUT_VJP, 0, 0), Pass(Part.WEIGHT_VJP, 0, 0)]
    with pytest.raises(InvalidPipeline, match="whole and in parts"):
        scheduled([[forward, vjp, *parts]], stages=1, micro_batches=1)
    with pytest.raises(InvalidPipeline, match="which there is not"):
        scheduled([[forward, vjp, Pass(Part.FORWARD, 1, 0)]], stages=1, micro_batches=1)


@pytest.mark.parametrize(
    ("name", "ranks", "micro_batches", "message"),
    [
        ("interleaved", 4, 6, "got 6 micro-batches, expected a multiple of the 4 stages"),
        ("dualpipe", 3, 8, "got 3 stages, expected an even number"),
        ("dualpipe", 4, 9, "got 9 micro-batches, expected an even number of at least 8 for 4 stages"),
        ("dualpipe", 4, 6, "got 6 micro-batches, expected an even number of at least 8 for 4 stages"),
    ],
)
def test_a_schedule_says_what_it_needs(name: str, ranks: int, micro_batches: int, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        made(name, ranks, micro_batches)
    with pytest.raises(ParameterError, match=message):
        SCHEDULES[name].requires(Shape(ranks=ranks, micro_batches=micro_batches))  # type: ignore[misc]


def test_times_that_fit_no_stages_are_refused() -> None:
    with pytest.raises(ParameterError, match="got 3 times, expected 1 or 2 or 4"):
        Times(forward=(1.0, 2.0, 3.0), input_vjp=(1.0,), weight_vjp=(1.0,)).clock(made("zb_v", 2, 4).homes)


def test_a_slow_stage_sets_the_pace() -> None:
    """With one stage of 3 + 6 seconds among stages of 1 + 2, a step takes m times 9 and the way there and back."""
    times = Times(forward=(1.0, 3.0, 1.0), input_vjp=(2.0, 6.0, 2.0), weight_vjp=(0.0,))
    trace = simulate(made("1f1b", 3, 50), times)
    assert trace.busy_seconds(1) == 50 * 9
    assert trace.seconds == 50 * 9 + (1 + 1) + (2 + 2) - (1 + 2)
    assert math.isclose(trace.bubble, 1 - 450 / trace.seconds)
