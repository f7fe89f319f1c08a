"""Lower bounds of jobs that share stages: what the fullest rank holds, and what a step takes, whatever ZeRO shares."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from sim.graphs.graph import Graph
from sim.parallel.job import Plan, check, row_times
from sim.parallel.pipeline import FORWARD, INPUT_VJP, PARTS, VJP, WEIGHT_VJP, PipelineSchedule
from sim.parallel.recomputation import moving_peak
from sim.parallel.sharding import Replicas, resident_bytes
from sim.parallel.stages import Stage, stages_of
from sim.simulation.device import Device

ROUNDING = 1e-9
"""The share by which sums in another order may be off."""


class Bounds:
    """The bounds of jobs with these stages of a graph.

    What replicas gather and reduce, and what is on its way between ranks, only adds to them.
    """

    def __init__(self, graph: Graph, plan: Plan, schedule: PipelineSchedule, device: Device) -> None:
        """Raise ParameterError if the graph cannot be cut so, or a link is missing."""
        self.graph, self.plan, self.schedule = graph, plan, schedule
        rows = row_times(graph, device, plan.channels(plan.cluster(schedule.ranks), schedule.ranks))
        starts, recompute = check(graph, schedule.stages, plan, seconds=rows.whole)
        dtype = plan.precision.gradients
        self.stages: list[Stage] = stages_of(graph, starts, rows, recompute=recompute, gradient_dtype=dtype)

    def bytes(self, replicas: Replicas) -> int:
        """The bytes that the fullest rank holds at least."""
        schedule, precision = self.schedule, self.plan.precision
        lasting = replicas.zero < 2
        most = 0
        for rank in range(schedule.ranks):
            own = np.unique(schedule.stage[schedule.of_rank(rank)]).tolist()
            resident = resident_bytes(self.graph, (self.stages[k].span for k in own), replicas, precision)
            most = max(most, sum(resident.values()) + self._moving[rank][lasting])
        return most

    @cached_property
    def _moving(self) -> list[tuple[int, int]]:
        """The peak of what comes and goes on each rank, with lasting gradients left out, and with them."""
        schedule = self.schedule
        own = [np.unique(schedule.stage[schedule.of_rank(rank)]).tolist() for rank in range(schedule.ranks)]
        return [moving_peak(schedule, rank, {k: self.stages[k] for k in held}) for rank, held in enumerate(own)]

    @cached_property
    def seconds(self) -> float:
        """The seconds of the busiest rank, or of the longest way from a stage to the loss and back.

        A rank with stage k alone cannot begin the VJP of its first micro-batch before that has been through all
        stages from k on and back to k + 1; then all VJPs of the stage are still to be done.
        """
        schedule = self.schedule
        took = np.array([[stage.seconds(part) for stage in self.stages] for part in PARTS])
        counts = np.zeros((len(PARTS), schedule.ranks, schedule.stages), dtype=np.int64)
        np.add.at(counts, (schedule.part, schedule.rank, schedule.stage), 1)
        least = float(sum(counts[part] @ took[part] for part in range(len(PARTS))).max())
        back = took[INPUT_VJP] if (schedule.part == INPUT_VJP).any() else took[VJP]
        back = np.minimum(back, took[VJP])
        alone = (counts[FORWARD] > 0).sum(axis=1) == 1
        for rank in np.flatnonzero(alone).tolist():
            k = int(np.argmax(counts[FORWARD, rank]))
            way = took[FORWARD, k:].sum() + back[k + 1 :].sum()
            own = sum(counts[part, rank, k] * took[part, k] for part in (VJP, INPUT_VJP, WEIGHT_VJP))
            least = max(least, float(way + own))
        return least * (1 - ROUNDING)
