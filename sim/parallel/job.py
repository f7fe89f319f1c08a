"""Jobs: a graph cut into stages over ranks, replicated, and run; what each rank holds and does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sim.base.errors import ParameterError
from sim.graphs.graph import Graph
from sim.parallel.cuts import cut, seconds_of
from sim.parallel.links import Channel, Cluster, Link, waits
from sim.parallel.memory import RankMemory, StageRows, memory_of
from sim.parallel.pipeline import PARTS, Part, PipelineSchedule
from sim.parallel.recomputation import Layout, fastest, moving_peak
from sim.parallel.sharding import Precision, Replicas, Sharing, resident_bytes
from sim.parallel.simulate import PipelineTrace, simulate
from sim.parallel.stages import Cutter, Profile, Recompute, RowTimes, Stage
from sim.parallel.times import Clock, Times, Transfer, Work, Works
from sim.simulation.device import Device

OPTIMAL: Literal["optimal"] = "optimal"
MOST_ROUNDS = 8
"""Rounds in which recomputation is chosen anew for what messages hold besides."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Equal machines: how many ranks each has, and the link between these."""

    devices: int
    link: Link | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The spread of a job: replicas, ranks that share each layer, precision, links, cuts, recomputation.

    `tensor` ranks divide layers, `context` ranks tokens; replicas are those of either with the same share of the
    layers. `cuts` are the last nodes of stages, or all are between blocks (`at_blocks`); `recompute` is for all stages
    alike, or of each in the order of the graph; optimal is chosen for a limit of bytes. `link` is between ranks, or
    between machines if there are several on one. Without links, sends and collectives take no time.
    """

    replicas: Replicas = field(default_factory=Replicas)
    tensor: int = 1
    sequence: bool = False
    context: int = 1
    precision: Precision = field(default_factory=Precision)
    link: Link | None = None
    machine: Machine | None = None
    cuts: tuple[str, ...] = ()
    at_blocks: bool = False
    recompute: tuple[Recompute | Literal["optimal"], ...] = ("none",)

    @property
    def ranks_of_stage(self) -> int:
        """The ranks next to each other that share each layer of one replica."""
        return self.tensor * self.context

    def cluster(self, stages: int) -> Cluster:
        """The machines of all ranks, with pipelines over so many."""
        ranks, machine = self.tensor * stages * self.replicas.count, self.machine
        if machine is None:
            return Cluster(ranks=ranks, between=self.link)
        return Cluster(ranks=ranks, devices=machine.devices, inside=machine.link, between=self.link)

    def check_links(self, stages: int) -> None:
        """Raise ParameterError if ranks that talk have no link, with pipelines over so many."""
        cluster, step = self.cluster(stages), self.ranks_of_stage
        self.channels(cluster, stages)
        for rank in range(0 if cluster.free else stages - 1):
            cluster.link(rank * step, (rank + 1) * step, alike=step)

    def channels(self, cluster: Cluster, stages: int) -> dict[str, Channel]:
        """What each kind of group moves its collectives on.

        Raises
        ------
        ParameterError
            If a link between its ranks is missing.
        """
        expert, count = self.replicas.expert, self.replicas.count
        data, apart = count // self.context, self.ranks_of_stage * stages
        of_context = cluster.near(self.context, self.tensor)
        whole = of_context == self.context
        near = of_context * (cluster.near(data, apart) if whole else 1)
        others = of_context * (cluster.near(data // expert, apart * expert) if whole else 1)
        return {
            "tensor": cluster.channel("tensor", count=self.tensor, stride=1),
            "context": cluster.channel("context", count=self.context, stride=self.tensor),
            "expert": cluster.channel("expert", count=expert, stride=apart),
            "data": cluster.channel_of("data", count=count, near=near),
            "experts": cluster.channel_of("data", count=count // expert, near=others),
        }


@dataclass(frozen=True, eq=False)
class JobTrace:
    """A job on the clock: its pipeline, and for each rank its stages, what it holds throughout, and over time.

    `ends` are when each rank is done, collectives among replicas included, of which `shared_seconds` are those
    that are not part of a pass. `recompute` is that of each block of each stage, if it was chosen for the job.
    """

    pipeline: PipelineTrace
    stages: tuple[Stage, ...]
    resident: tuple[Mapping[str, int], ...]
    memory: tuple[RankMemory, ...]
    ends: tuple[float, ...]
    shared_seconds: tuple[float, ...]
    plan: Plan
    recompute: tuple[tuple[Recompute, ...], ...] | None = None

    @property
    def seconds(self) -> float:
        """The longest of the ranks' steps, from the start of the first pass to the end of the last collective."""
        return float((np.array(self.ends) - self.pipeline.run.starts[self.pipeline.schedule.ptr[:-1]]).max())

    @property
    def copies(self) -> int:
        """The ranks that do what one rank of the pipeline does."""
        return self.plan.replicas.count * self.plan.tensor

    def waiting_seconds(self, rank: int) -> float:
        """Seconds of a rank's passes in which it waits for collectives."""
        return self._sum(rank, lambda profile: profile.waiting)

    def communication_seconds(self, rank: int) -> float:
        """Seconds of a rank's sends and collectives, waited for or not."""
        moving = self._sum(rank, lambda profile: profile.moving)
        return self.pipeline.communication_seconds[rank] + moving + self.shared_seconds[rank]

    def _sum(self, rank: int, seconds: Callable[[Profile], float]) -> float:
        """The seconds of the profiles of a rank's passes together."""
        schedule, profiles = self.pipeline.schedule, [stage.profiles for stage in self.stages]
        own = schedule.of_rank(rank)
        kinds, counts = np.unique(np.stack([schedule.part[own], schedule.stage[own]]), axis=1, return_counts=True)
        return math.fsum(
            count * seconds(profiles[stage][PARTS[part]])
            for part, stage, count in zip(*kinds.tolist(), counts.tolist(), strict=True)
        )

    def peak_bytes(self, rank: int) -> int:
        return sum(self.resident[rank].values()) + self.memory[rank].peak_bytes

    def peak_seconds(self, rank: int) -> float:
        """When a rank first holds most."""
        memory = self.memory[rank]
        return float(memory.times[memory.peak_at])

    def breakdown(self, rank: int, *, at: int | None = None) -> dict[str, int]:
        """The bytes by kind of a rank after some change, or at its peak."""
        memory, resident = self.memory[rank], self.resident[rank]
        moving = memory.breakdown(memory.peak_at if at is None else at)
        kinds = [*resident, *(kind for kind in moving if kind not in resident)]
        return {kind: resident.get(kind, 0) + moving.get(kind, 0) for kind in kinds}

    def flops(self) -> dict[str, int]:
        """Flops by kind of one replica's step."""
        count = self.pipeline.schedule.micro_batches * self.plan.ranks_of_stage
        return {kind: count * sum(stage.flops[kind] for stage in self.stages) for kind in self.stages[0].flops}


def run(
    graph: Graph,
    schedule: PipelineSchedule | Callable[[Works], PipelineSchedule],
    plan: Plan,
    *,
    stages: int,
    device: Device | None = None,
    times: Times | None = None,
    limit_bytes: int | None = None,
) -> JobTrace:
    """Cut the graph, of one micro-batch, for a pipeline over `stages` ranks, and simulate a step.

    A schedule may be made for the work of its stages. Given `times` override those of the device's roofline.
    Recomputation that is optimal keeps what each rank holds within `limit_bytes`.

    Raises
    ------
    ParameterError
        If the graph cannot be cut so, a list does not have one entry for each stage, a link is missing, or
        recomputation cannot be optimal.
    """
    job = _Job(graph, schedule, plan, stages, device, times)
    trace = job.simulate(None)
    if plan.recompute != (OPTIMAL,):
        return trace
    job.check_optimal(trace.pipeline.schedule)
    if limit_bytes is None:
        return trace
    ranks = range(trace.pipeline.schedule.ranks)
    limits = [limit_bytes - sum(trace.resident[rank].values()) for rank in ranks]
    for _ in range(MOST_ROUNDS):
        over = [trace.peak_bytes(rank) - limit_bytes for rank in ranks]
        if max(over) <= 0:
            break
        made = trace.pipeline.schedule
        for rank in ranks if trace.recompute is not None else ():
            if over[rank] > 0:  # messages take more than there was left
                held = {int(k): trace.stages[k] for k in np.unique(made.stage[made.of_rank(rank)])}
                limits[rank] = moving_peak(made, rank, held)[1] - over[rank]
        own = trace.stages
        blocks = [len(list(job.cutter.blocks(*stage.span))) for stage in own]
        hows = fastest(job.layout(own), blocks, made, limits)
        trace = job.simulate(tuple(hows))
    return trace


class _Job:
    """A job whose stages are laid out with one recomputation after another."""

    def __init__(
        self,
        graph: Graph,
        schedule: PipelineSchedule | Callable[[Works], PipelineSchedule],
        plan: Plan,
        stages: int,
        device: Device | None,
        times: Times | None,
    ) -> None:
        self.graph, self.schedule, self.plan, self.times = graph, schedule, plan, times
        self.cluster = plan.cluster(stages)
        channels = plan.channels(self.cluster, stages)
        self.sharing = Sharing(graph, plan.replicas, plan.precision, channels)
        self.rows = None if device is None else row_times(graph, device, channels)
        self.cutter = Cutter(graph, self.rows, gathers=self.sharing.gathers(), gradient_dtype=plan.precision.gradients)

    def check_optimal(self, schedule: PipelineSchedule) -> None:
        """Raise ParameterError unless recomputation has its price, and each stage one rank."""
        if self.times is not None:
            message = "got optimal, but recomputation has no price where times are given"
            raise ParameterError(message, parameter=("recompute",))
        if len(np.unique(np.stack([schedule.rank, schedule.stage]), axis=1).T) > schedule.stages:
            message = "got optimal, expected a schedule that has each stage on one rank"
            raise ParameterError(message, parameter=("recompute",))

    def layout(self, stages: Sequence[Stage]) -> Layout:
        """These stages with other recomputations."""
        return lambda k, how: self.cutter.stage(*stages[k].span, how)

    def simulate(self, hows: tuple[tuple[Recompute, ...], ...] | None) -> JobTrace:
        """Simulate a step with the recomputation of each block of each stage, or with that of the plan."""
        graph, plan, sharing = self.graph, self.plan, self.sharing

        @cache
        def cut_into(count: int) -> list[Stage]:
            starts, given = check(graph, count, plan, seconds=None if self.rows is None else self.rows.whole)
            spans = zip(pairwise(starts), hows or given, strict=True)
            return [self.cutter.stage(start, stop, how) for (start, stop), how in spans]

        def clock(homes: Sequence[int]) -> Clock:
            made = cut_into(len(homes))
            sends = _transfers(made, homes, self.cluster, plan.ranks_of_stage)
            if self.times is None:
                return Clock({part: [stage.seconds(part) for stage in made] for part in Part}, *sends)
            given = self.times.clock(homes)
            return given if self.times.send else Clock(given.parts, *sends)

        def work(homes: Sequence[int]) -> Work:
            kept, left = zip(*map(_kept, cut_into(len(homes))), strict=True)
            return Work(clock(homes), kept, left)

        made = self.schedule if isinstance(self.schedule, PipelineSchedule) else self.schedule(work)
        own = cut_into(made.stages)
        trace = simulate(made, clock(made.homes))
        held = [[own[k] for k in np.unique(made.stage[made.of_rank(rank)])] for rank in range(made.ranks)]
        laid_out = StageRows(own)
        shared = [_shared(trace, own, rank, sharing) for rank in range(made.ranks)]
        spans = [[stage.span for stage in of_rank] for of_rank in held]
        return JobTrace(
            pipeline=trace,
            stages=tuple(own),
            resident=tuple(resident_bytes(graph, of_rank, plan.replicas, plan.precision) for of_rank in spans),
            memory=tuple(memory_of(trace, laid_out, rank) for rank in range(made.ranks)),
            ends=tuple(end for end, _ in shared),
            shared_seconds=tuple(seconds for _, seconds in shared),
            plan=plan,
            recompute=hows,
        )


def row_times(graph: Graph, device: Device, channels: Mapping[str, Channel]) -> RowTimes:
    """Seconds of each node's forward and VJP on a device, and of the collectives of ranks that divide it."""
    times = RowTimes.of(seconds_of(graph, device))
    if isinstance(graph.nodes, tuple):  # nodes that are made from columns have no collectives
        for i, node in enumerate(graph.nodes):
            for row, part in enumerate(("forward", "vjp")) if node.collectives else ():
                times.exposed[row, i], times.hidden[row, i] = waits(node.collectives, channels, part)
    return times


def _shared(trace: PipelineTrace, stages: Sequence[Stage], rank: int, sharing: Sharing) -> tuple[float, float]:
    """When a rank is done, and the seconds of its collectives among replicas that are not part of a pass.

    Up to ZeRO-1 the gradients of a block are reduced as soon as its last micro-batch has added to them, beside the
    passes that follow (Li et al. 2020, PyTorch Distributed, arXiv:2006.15704, section 3.2.3). From ZeRO-1 on what was
    updated is gathered at the end, unless it is gathered in each pass.
    """
    schedule, replicas = trace.schedule, sharing.replicas
    own = schedule.of_rank(rank)
    part, stage, starts, ends = (of[own] for of in (schedule.part, schedule.stage, trace.run.starts, trace.run.ends))
    end, total = float(ends[-1]), 0.0
    if replicas.count == 1:
        return end, total
    held = np.unique(stage).tolist()
    if replicas.zero < 2:
        done: dict[int, float] = {}
        makes_gradients = np.isin(part, [PARTS.index(Part.VJP), PARTS.index(Part.WEIGHT_VJP)])
        last = {k: int(np.flatnonzero((stage == k) & makes_gradients)[-1]) for k in held}
        for k, at in sorted(last.items(), key=lambda item: item[1]):
            profile = stages[k].profiles[PARTS[int(part[at])]]
            rows = np.cumsum(profile.seconds)
            for row, owners in profile.finished:
                share = rows[row] / rows[-1] if rows[-1] else (row + 1) / len(rows)
                done |= dict.fromkeys(owners, float(starts[at] + share * (ends[at] - starts[at])))
        free = 0.0
        for moment in sorted(set(done.values())):
            seconds = sharing.reduce_seconds(owner for owner, when in done.items() if when == moment)
            free, total = max(free, moment) + seconds, total + seconds
        end = max(end, free)
    if replicas.zero and not (replicas.zero == 3 and replicas.reshard):
        seconds = sharing.gather_seconds(frozenset[int]().union(*(stages[k].owners for k in held)))
        end, total = end + seconds, total + seconds
    return end, total


def check(
    graph: Graph, count: int, plan: Plan, *, seconds: NDArray[np.float64] | None = None
) -> tuple[tuple[int, ...], tuple[Recompute, ...]]:
    """The starts of so many stages and the recomputation of each; raises as `run` does."""
    if graph.wrt != "parameters" or graph.plain:
        raise ParameterError("got a graph without parameters that are trained, which is what a pipeline does")
    ways: tuple[Recompute, ...] = tuple("none" if way == OPTIMAL else way for way in plan.recompute)
    recompute = ways * count if len(ways) == 1 else ways
    if len(recompute) != count:
        message = f"got {len(recompute)} entries, expected 1 or {count}, one for each stage of the model"
        raise ParameterError(message, parameter=("recompute",))
    return cut(graph, count, after=plan.cuts, at_blocks=plan.at_blocks, seconds=seconds), recompute


def _kept(stage: Stage) -> tuple[int, int]:
    """The bytes that a stage's forward pass keeps of a micro-batch, and those left when its input's part has ended."""
    kept, freed = (
        int((profile.taken - profile.freed).sum())
        for profile in (stage.profiles[Part.FORWARD], stage.profiles[Part.INPUT_VJP])
    )
    return kept, kept + freed


def _transfers(
    stages: Sequence[Stage], homes: Sequence[int], cluster: Cluster, neighbours: int
) -> tuple[list[Transfer], list[Transfer]]:
    """The sends of each stage to the next one, and back.

    Each rank of a pipeline stands for so many neighbours, which send their shares at the same time.
    """

    def transfer(count: int, source: int, target: int) -> Transfer:
        if cluster.free or source == target or not count:
            return Transfer(0.0, 0.0)
        return cluster.link(source * neighbours, target * neighbours, alike=neighbours).transfer(count)

    hops = [*pairwise(homes), (0, 0)]
    forward = [transfer(stage.forward.bytes, a, b) for stage, (a, b) in zip(stages, hops, strict=True)]
    hops = [(0, 0), *((b, a) for a, b in pairwise(homes))]
    return forward, [transfer(stage.back.bytes, a, b) for stage, (a, b) in zip(stages, hops, strict=True)]
