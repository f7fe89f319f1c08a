"""The cost of a pipeline: its step, its bubble, and what each rank holds and does."""

from __future__ import annotations

import dataclasses

import numpy as np

from sim.base.units import format_bytes
from sim.experiment.point import Flops, PeakAt, Phase, Point, Rank, Throughput
from sim.graphs.graph import Graph
from sim.parallel.job import JobTrace, run
from sim.parallel.pipeline import PARTS, PipelineSchedule
from sim.parallel.simulate import PipelineTrace, simulate
from sim.scenario.parallel import PipelinePoint
from sim.simulation.device import Device


def run_pipeline(
    request: PipelinePoint,
    graph: Graph | None,
    device: Device | None,
    budget_bytes: int | None,
    *,
    sequence: int | None = None,
) -> tuple[Point, PipelineTrace, JobTrace | None]:
    """Simulate a pipeline: its point, its run, and the job of a graph. A sample has `sequence` tokens, if it has any.

    Without a graph it counts activations and has no bytes. With one it fits if every rank is within the
    budget and the device's memory; it has its times in any case.

    Raises
    ------
    ParameterError
        If the graph cannot be cut into its stages.
    """
    if graph is None:
        assert request.times is not None, "a pipeline has times where it has no graph"
        schedule = request.schedule(request.times.work)
        trace = simulate(schedule, request.times.clock(schedule.homes))
        return _point(request, trace, trace.seconds, _ranks(trace, None)), trace, None
    stages = request.shape.ranks
    limits = [x for x in (budget_bytes, device.memory_bytes if device else None) if x is not None]
    limit = min(limits, default=None)
    job = run(
        graph, request.schedule, request.plan, stages=stages, device=device, times=request.times, limit_bytes=limit
    )
    ranks = _ranks(job.pipeline, job)
    fullest = max(range(len(job.memory)), key=job.peak_bytes)
    peak, resident = job.peak_bytes(fullest), sum(job.resident[fullest].values())
    over = peak - limit if limit is not None else 0
    why_not = f"rank {fullest} holds {format_bytes(peak)}, which is {format_bytes(over)} too much" if over > 0 else None
    point = _point(request, job.pipeline, job.seconds, ranks)
    flops = job.flops()
    measured = dataclasses.replace(
        point,
        peak_bytes=peak,
        resident_bytes=resident,
        working_bytes=peak - resident,
        peak_breakdown=job.breakdown(fullest),
        peak_at=_at(job, fullest),
        flops=Flops(
            primal=flops["primal"],
            recompute=flops["recompute"],
            adjoint=flops["adjoint"],
            total=sum(flops.values()),
            tangent=0,
            jacobian=0,
            product=0,
        ),
        throughput=_throughput(job, graph, device, sequence),
        fits=why_not is None,
        why_not=why_not,
        notes={"recompute": _recomputed(job)} if job.recompute is not None else {},
    )
    return measured, job.pipeline, job


def _recomputed(job: JobTrace) -> str:
    """How many blocks of each stage are evaluated again, whole or their attention, and of how many."""
    of_stages = []
    for hows in job.recompute or ():
        again = [f"{hows.count(how)} {how}" for how in ("block", "selective") if how in hows]
        of_stages.append(f"{' and '.join(again) or 'none'} of {len(hows)}")
    return f"blocks of each stage: {', '.join(of_stages)}"


def _throughput(job: JobTrace, graph: Graph, device: Device | None, sequence: int | None) -> Throughput | None:
    """What is done in a second; `None` for a step that takes no time."""
    if not job.seconds:
        return None
    data = job.plan.replicas.count // job.plan.context
    samples = graph.batch * job.pipeline.schedule.micro_batches * data / job.seconds
    found = Throughput(samples_per_second=samples)
    if sequence is not None:
        found["tokens_per_second"] = samples * sequence
    if device is not None:
        flops, ranks = job.flops(), job.plan.ranks_of_stage * job.pipeline.schedule.ranks
        able = job.seconds * ranks * (device.peak_flops_per_s or device.flops_per_s)
        found["model_flops_utilization"] = 3 * flops["primal"] / able
        found["hardware_flops_utilization"] = sum(flops.values()) / able
    return found


def _point(request: PipelinePoint, trace: PipelineTrace, seconds: float, ranks: tuple[Rank, ...]) -> Point:
    schedule = trace.schedule
    parts, first, counts = np.unique(schedule.part, return_index=True, return_counts=True)
    passes = {str(PARTS[parts[k]]): int(counts[k]) for k in np.argsort(first)}
    nothing = Flops(primal=0, recompute=0, tangent=0, adjoint=0, jacobian=0, product=0, total=0)
    shape = {"stages": request.shape.ranks, "micro_batches": request.shape.micro_batches}
    busiest = max(r["busy_seconds"] for r in ranks)
    return Point(
        strategy=request.name,
        parameters=shape | dict(request.parameters),
        label=request.label,
        peak_at=_fullest(schedule),
        flops=nothing,
        seconds=seconds,
        bubble=max(0.0, seconds - busiest) / seconds if seconds else 0.0,
        ranks=ranks,
        peak_bytes=0,
        working_bytes=0,
        resident_bytes=0,
        peak_breakdown={},
        actions=passes | {"send": len(schedule.sends.of)},
    )


def _at(job: JobTrace, rank: int) -> PeakAt:
    """The pass during which a rank first holds most."""
    memory, schedule = job.memory[rank], job.pipeline.schedule
    own = schedule.of_rank(rank)
    begun = np.searchsorted(job.pipeline.run.starts[own], memory.times[memory.peak_at], side="right")
    number = max(0, int(begun) - 1)
    at = schedule.at(own.start + number)
    place = f"stage {at.stage} on rank {rank}, micro-batch {at.micro_batch}"
    return PeakAt(action=number, kind=str(at.part), node=place)


def _phases(job: JobTrace, rank: int) -> dict[str, Phase]:
    """What a rank does and holds in the passes of each part."""
    schedule, run, memory = job.pipeline.schedule, job.pipeline.run, job.memory[rank]
    own = schedule.of_rank(rank)
    part, stage, starts = schedule.part[own], schedule.stage[own], run.starts[own]
    seconds = run.ends[own] - starts
    waiting = np.array([[s.profiles[p].waiting for s in job.stages] for p in PARTS])[part, stage]
    during = part[np.maximum(np.searchsorted(starts, memory.times, side="right") - 1, 0)]
    totals = memory.levels.sum(axis=1)
    phases = {}
    for k in dict.fromkeys(part.tolist()):
        at = int(np.argmax(np.where(during == k, totals, -1)))
        breakdown = job.breakdown(rank, at=at)
        waits = float(waiting[part == k].sum())
        phases[str(PARTS[k])] = Phase(
            busy_seconds=float(seconds[part == k].sum()) - waits,
            waiting_seconds=waits,
            peak_bytes=sum(breakdown.values()),
            breakdown=breakdown,
        )
    return phases


def _fullest(schedule: PipelineSchedule) -> PeakAt:
    """The pass with which the rank that holds most first holds as much."""
    peaks = schedule.in_flight()
    rank = peaks.index(max(peaks))
    number = int(np.argmax(schedule.held(rank)))
    at = schedule.at(schedule.of_rank(rank).start + number)
    place = f"stage {at.stage} on rank {rank}, micro-batch {at.micro_batch}"
    return PeakAt(action=number, kind=str(at.part), node=place)


def _ranks(trace: PipelineTrace, job: JobTrace | None) -> tuple[Rank, ...]:
    """Ranks that do the same as one entry, in the order of the first of each; replicas count too."""
    share = trace.schedule.stages / trace.schedule.ranks
    seconds = trace.seconds if job is None else job.seconds
    copies = 1 if job is None else job.copies
    groups: dict[str, Rank] = {}
    for number, held in enumerate(trace.schedule.in_flight()):
        busy, sent = trace.busy_seconds(number), trace.communication_seconds[number]
        if job is not None:
            busy, sent = busy - job.waiting_seconds(number), job.communication_seconds(number)
        rank = Rank(
            ranks=[],
            count=0,
            in_flight=held / share,
            busy_seconds=busy,
            idle_seconds=max(0.0, seconds - busy),
            communication_seconds=sent,
        )
        if job is not None:
            rank |= {
                "peak_bytes": job.peak_bytes(number),
                "peak_seconds": job.peak_seconds(number),
                "breakdown": job.breakdown(number),
                "phases": _phases(job, number),
            }
        same = groups.setdefault(repr(rank), rank)
        same["ranks"].append(number)
        same["count"] += copies
    return tuple(groups.values())
