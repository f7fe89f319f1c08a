"""The event simulation of a pipeline: a compute stream for each rank, a stream for each link, one simpy environment."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

import simpy

from sim.parallel.pipeline import Pass, PipelineSchedule
from sim.parallel.times import Clock

Process = Generator[simpy.Event, Any, None]


class Timed(NamedTuple):
    """A pass on the clock."""

    at: Pass
    start: float
    end: float


class Send(NamedTuple):
    """The result of a pass on a link from `source` to `target`; `ready` is when it could have left."""

    of: Pass
    source: int
    target: int
    ready: float
    start: float
    end: float


@dataclass(frozen=True, eq=False)
class PipelineTrace:
    """A pipeline schedule on the clock: the passes of each rank, and the sends in the order of their ends.

    A rank's step is from the start of its first pass to the end of its last. `seconds` is the longest of
    these, since ranks begin the next step without a barrier; `finish` is when all are done.
    """

    schedule: PipelineSchedule
    ranks: tuple[tuple[Timed, ...], ...]
    sends: tuple[Send, ...]

    @property
    def seconds(self) -> float:
        return max(passes[-1].end - passes[0].start for passes in self.ranks)

    @property
    def finish(self) -> float:
        return max(passes[-1].end for passes in self.ranks)

    def busy_seconds(self, rank: int) -> float:
        """Seconds that a rank computes."""
        return math.fsum(end - start for _, start, end in self.ranks[rank])

    def communication_seconds(self, rank: int) -> float:
        """Seconds that the links by which a rank sends are busy."""
        return math.fsum(s.end - s.start for s in self.sends if s.source == rank)

    @property
    def bubble(self) -> float:
        """The share of the step in which the busiest rank computes nothing.

        It is (seconds - m·(F + B + W)) / seconds for equal stages: what Qi et al. (2023, arXiv:2401.10241,
        section 5.3) call the bubble rate.
        """
        busiest = max(map(self.busy_seconds, range(len(self.ranks))))
        return max(0.0, self.seconds - busiest) / self.seconds if self.seconds else 0.0


def simulate(schedule: PipelineSchedule, clock: Clock) -> PipelineTrace:
    """The run of a pipeline schedule on ranks and links that take so long.

    A rank takes its passes in order, each as soon as its inputs are there. Results that another rank reads
    leave on the link between the two, one after the other in the order in which they are made.
    """
    return _Pipeline(schedule, clock).run()


class _Pipeline:
    """The processes of one simulation and what they have done."""

    def __init__(self, schedule: PipelineSchedule, clock: Clock) -> None:
        self.environment = simpy.Environment()
        self.schedule = schedule
        rank_of = schedule.rank_of
        self.clock = clock
        self.arrived: dict[tuple[Pass, int], simpy.Event] = {}
        self.targets: dict[Pass, list[int]] = {}
        self.links: dict[tuple[int, int], simpy.Store] = {}
        for reader, rank in rank_of.items():
            for source in schedule.inputs(reader):
                if rank_of[source] != rank:
                    self.targets.setdefault(source, []).append(rank)
                    self.arrived[source, rank] = self.environment.event()
                    self.links.setdefault((rank_of[source], rank), simpy.Store(self.environment))
        self.timed: list[list[Timed]] = [[] for _ in schedule.orders]
        self.sends: list[Send] = []

    def run(self) -> PipelineTrace:
        """Let every rank do its passes and every link its sends."""
        for rank in range(len(self.timed)):
            self.environment.process(self._rank(rank))
        for source, target in self.links:
            self.environment.process(self._link(source, target))
        self.environment.run()
        done = sum(map(len, self.timed))
        assert done == len(self.schedule.rank_of), "a schedule that passed its checks runs to its end"
        return PipelineTrace(self.schedule, tuple(map(tuple, self.timed)), tuple(self.sends))

    def _rank(self, rank: int) -> Process:
        environment, timed = self.environment, self.timed[rank]
        for block in self.schedule.blocks[rank]:
            for p in block:
                for source in self.schedule.inputs(p):
                    arrival = self.arrived.get((source, rank))
                    if arrival is not None and not arrival.processed:
                        yield arrival
            start = environment.now
            for p in block:
                yield environment.timeout(self.clock.parts[p.part][p.stage])
                timed.append(Timed(p, start, environment.now))
                start = environment.now
            for p in block:
                for target in self.targets.get(p, ()):
                    self.links[rank, target].put((p, environment.now))

    def _link(self, source: int, target: int) -> Process:
        while True:
            p, ready = yield self.links[source, target].get()
            start = self.environment.now
            transfer = self.clock.send(p)
            yield self.environment.timeout(transfer.seconds)
            end = self.environment.now + transfer.latency
            self.sends.append(Send(p, source, target, ready, start, end))
            if transfer.latency:
                self.environment.process(self._late(self.arrived[p, target], transfer.latency))
            else:
                self.arrived[p, target].succeed()

    def _late(self, arrival: simpy.Event, latency: float) -> Process:
        yield self.environment.timeout(latency)
        arrival.succeed()
