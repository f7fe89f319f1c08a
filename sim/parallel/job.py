"""Jobs: a graph cut into stages over ranks, replicated, and run; what each rank holds and does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sim.base.errors import ParameterError
from sim.graphs.graph import Graph
from sim.parallel.memory import RankMemory, StageRows, memory_of
from sim.parallel.pipeline import Part, PipelineSchedule
from sim.parallel.sharding import Link, Precision, Replicas, collective_seconds, resident_bytes
from sim.parallel.simulate import PipelineTrace, simulate
from sim.parallel.stages import Recompute, Stage, cut, seconds_of, stages_of
from sim.parallel.times import Clock, Times, Transfer, Work, Works
from sim.simulation.device import Device


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The spread of a job: replicas, ranks that share each layer (`tensor`), precision, links, cuts, recomputation.

    `cuts` are the last nodes of stages, `recompute` is for all stages alike, or of each in the order of the
    graph. Without a link, sends and collectives take no time.
    """

    replicas: Replicas = field(default_factory=Replicas)
    tensor: int = 1
    sequence: bool = False
    precision: Precision = field(default_factory=Precision)
    link: Link | None = None
    cuts: tuple[str, ...] = ()
    recompute: tuple[Recompute, ...] = ("none",)


@dataclass(frozen=True, eq=False)
class JobTrace:
    """A job on the clock: its pipeline, and for each rank its stages, what it holds throughout, and over time."""

    pipeline: PipelineTrace
    stages: tuple[Stage, ...]
    resident: tuple[Mapping[str, int], ...]
    memory: tuple[RankMemory, ...]
    collective_seconds: tuple[float, ...]
    copies: int
    tensor: int

    @property
    def seconds(self) -> float:
        """The step, with the longest collectives of a rank after it."""
        return self.pipeline.seconds + max(self.collective_seconds)

    def peak_bytes(self, rank: int) -> int:
        return sum(self.resident[rank].values()) + self.memory[rank].peak_bytes

    def breakdown(self, rank: int) -> dict[str, int]:
        """The bytes by kind of a rank at its peak."""
        moving, resident = self.memory[rank].breakdown, self.resident[rank]
        kinds = [*resident, *(kind for kind in moving if kind not in resident)]
        return {kind: resident.get(kind, 0) + moving.get(kind, 0) for kind in kinds}

    def flops(self) -> dict[str, int]:
        """Flops by kind of one replica's step."""
        count = self.pipeline.schedule.micro_batches * self.tensor
        return {kind: count * sum(stage.flops[kind] for stage in self.stages) for kind in self.stages[0].flops}


def run(
    graph: Graph,
    schedule: PipelineSchedule | Callable[[Works], PipelineSchedule],
    plan: Plan,
    *,
    device: Device | None = None,
    times: Times | None = None,
) -> JobTrace:
    """Cut the graph, of one micro-batch, into the stages of a schedule, and simulate a step of them.

    A schedule may be made for the work of its stages. Given `times` override those of the device's roofline.

    Raises
    ------
    ParameterError
        If the graph cannot be cut so, or a list does not have one entry for each stage.
    """
    seconds = None if device is None else seconds_of(graph, device)

    @cache
    def cut_into(count: int) -> list[Stage]:
        starts, recompute = check(graph, count, plan, seconds=seconds)
        zero, dtype = plan.replicas.zero, plan.precision.gradients
        return stages_of(graph, starts, seconds, recompute=recompute, zero=zero, gradient_dtype=dtype)

    def clock(homes: Sequence[int]) -> Clock:
        stages = cut_into(len(homes))
        given = _clock(stages, plan.link) if times is None else times.clock(homes)
        if times is not None and plan.link is not None and not times.send:
            return Clock(given.parts, *_transfers(stages, plan.link))
        return given

    def work(homes: Sequence[int]) -> Work:
        kept, left = zip(*map(_kept, cut_into(len(homes))), strict=True)
        return Work(clock(homes), kept, left)

    made = schedule if isinstance(schedule, PipelineSchedule) else schedule(work)
    stages = cut_into(made.stages)
    trace = simulate(made, clock(made.homes))
    held = [[stages[k] for k in np.unique(made.stage[made.of_rank(rank)])] for rank in range(made.ranks)]
    rows = StageRows(stages)
    link, m = plan.link, made.micro_batches
    return JobTrace(
        pipeline=trace,
        stages=tuple(stages),
        copies=plan.replicas.count * plan.tensor,
        tensor=plan.tensor,
        resident=tuple(resident_bytes(graph, own, plan.replicas, plan.precision) for own in held),
        memory=tuple(memory_of(trace, rows, rank) for rank in range(len(held))),
        collective_seconds=tuple(
            collective_seconds(graph, own, plan.replicas, plan.precision, link, m) if link else 0.0 for own in held
        ),
    )


def check(
    graph: Graph, count: int, plan: Plan, *, seconds: NDArray[np.float64] | None = None
) -> tuple[tuple[int, ...], tuple[Recompute, ...]]:
    """The starts of so many stages and the recomputation of each; raises as `run` does."""
    if graph.wrt != "parameters" or graph.plain:
        raise ParameterError("got a graph without parameters that are trained, which is what a pipeline does")
    recompute = plan.recompute * count if len(plan.recompute) == 1 else plan.recompute
    if len(recompute) != count:
        message = f"got {len(recompute)} entries, expected 1 or {count}, one for each stage of the model"
        raise ParameterError(message, parameter=("recompute",))
    return cut(graph, count, after=plan.cuts, seconds=seconds), recompute


def _kept(stage: Stage) -> tuple[int, int]:
    """The bytes that a stage's forward pass keeps of a micro-batch, and those left when its input's part has ended."""
    kept, freed = (
        int((profile.taken - profile.freed).sum())
        for profile in (stage.profiles[Part.FORWARD], stage.profiles[Part.INPUT_VJP])
    )
    return kept, kept + freed


def _clock(stages: Sequence[Stage], link: Link | None) -> Clock:
    return Clock({part: [stage.seconds(part) for stage in stages] for part in Part}, *_transfers(stages, link))


def _transfers(stages: Sequence[Stage], link: Link | None) -> tuple[list[Transfer], list[Transfer]]:
    """The sends of each stage to the next one, and back."""
    if link is None:
        free = [Transfer(0.0, 0.0)] * len(stages)
        return free, free
    return [link.transfer(s.forward.bytes) for s in stages], [link.transfer(s.back.bytes) for s in stages]
