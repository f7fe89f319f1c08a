"""The cost of a pipeline: its step, its bubble, and what each rank holds and does."""

from __future__ import annotations

from collections import Counter

from sim.experiment.point import Flops, PeakAt, Point, Rank
from sim.parallel.pipeline import PipelineSchedule
from sim.parallel.simulate import PipelineTrace
from sim.scenario.parallel import PipelinePoint


def measure_pipeline(request: PipelinePoint, trace: PipelineTrace) -> Point:
    """The point of a pipeline's run; without sizes of activations it counts them, and has no bytes."""
    schedule = trace.schedule
    passes = Counter(str(p.part) for order in schedule.orders for p in order)
    nothing = Flops(primal=0, recompute=0, tangent=0, adjoint=0, jacobian=0, product=0, total=0)
    shape = {"stages": request.shape.ranks, "micro_batches": request.shape.micro_batches}
    return Point(
        strategy=request.name,
        parameters=shape | dict(request.parameters),
        label=request.label,
        peak_at=_fullest(schedule),
        flops=nothing,
        seconds=trace.seconds,
        bubble=trace.bubble,
        ranks=_distinct(trace),
        peak_bytes=0,
        working_bytes=0,
        resident_bytes=0,
        peak_breakdown={},
        actions=dict(passes) | {"send": len(trace.sends)},
    )


def _fullest(schedule: PipelineSchedule) -> PeakAt:
    """The pass with which the rank that holds most first holds as much."""
    peaks = schedule.in_flight()
    rank = peaks.index(max(peaks))
    number = list(schedule.held(rank)).index(peaks[rank])
    at = schedule.orders[rank][number]
    place = f"stage {at.stage} on rank {rank}, micro-batch {at.micro_batch}"
    return PeakAt(action=number, kind=str(at.part), node=place)


def _distinct(trace: PipelineTrace) -> tuple[Rank, ...]:
    """Ranks that do the same as one entry, in the order of the first of each."""
    share = trace.schedule.stages / len(trace.ranks)
    groups: dict[tuple[float, float, float], list[int]] = {}
    for rank, held in enumerate(trace.schedule.in_flight()):
        key = (held / share, trace.busy_seconds(rank), trace.communication_seconds(rank))
        groups.setdefault(key, []).append(rank)
    return tuple(
        Rank(
            ranks=ranks,
            count=len(ranks),
            in_flight=held,
            busy_seconds=busy,
            idle_seconds=max(0.0, trace.seconds - busy),
            communication_seconds=sent,
        )
        for (held, busy, sent), ranks in groups.items()
    )
