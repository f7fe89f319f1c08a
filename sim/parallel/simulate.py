"""The event simulation of a pipeline: a compute stream for each rank, and a stream for each link between two.

Every stream has one source of work whose order is fixed, so that what happens when is the longest path to it:
`paths` follows it, in place of an event queue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.parallel.pipeline import FORWARD, PARTS, Pass, PipelineSchedule, Run
from sim.parallel.times import Clock, Transfer


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
    """A pipeline schedule on the clock: when its passes, and its sends without their latency, start and end.

    A rank's step is from the start of its first pass to the end of its last. `seconds` is the longest of
    these, since ranks begin the next step without a barrier; `finish` is when all are done.
    """

    schedule: PipelineSchedule
    run: Run
    latency: NDArray[np.float64]

    @property
    def seconds(self) -> float:
        first, last = self.schedule.ptr[:-1], self.schedule.ptr[1:] - 1
        return float((self.run.ends[last] - self.run.starts[first]).max())

    @property
    def finish(self) -> float:
        return float(self.run.ends.max())

    @cached_property
    def ready(self) -> NDArray[np.float64]:
        """When each send could have left: at the end of its pass, and of what overlaps with that."""
        ends, joined = self.run.ends.copy(), self.schedule.overlapped
        for k in np.flatnonzero(joined)[::-1].tolist():
            ends[k] = ends[k + 1]
        return ends[self.schedule.sends.of]

    @property
    def arrivals(self) -> NDArray[np.float64]:
        """When each send is there."""
        return self.run.send_ends + self.latency

    @cached_property
    def ranks(self) -> tuple[tuple[Timed, ...], ...]:
        """The passes of each rank."""
        starts, ends = self.run.starts.tolist(), self.run.ends.tolist()
        firsts = self.schedule.ptr.tolist()
        return tuple(
            tuple(Timed(at, starts[k], ends[k]) for k, at in enumerate(order, start=first))
            for first, order in zip(firsts, self.schedule.orders, strict=False)
        )

    @cached_property
    def sends(self) -> tuple[Send, ...]:
        """The sends in the order of their ends."""
        passes = [p for order in self.schedule.orders for p in order]
        s = self.schedule.sends
        columns = (s.of, s.source, s.target, self.ready, self.run.send_starts, self.arrivals)
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        return tuple(Send(passes[rows[k][0]], *rows[k][1:]) for k in np.argsort(self.run.send_ends, kind="stable"))

    def busy_seconds(self, rank: int) -> float:
        """Seconds that a rank computes."""
        own = self.schedule.of_rank(rank)
        return math.fsum((self.run.ends[own] - self.run.starts[own]).tolist())

    @cached_property
    def communication_seconds(self) -> list[float]:
        """Seconds that the links by which each rank sends are busy."""
        s = self.schedule.sends  # in the order of their sources
        took = (self.arrivals - self.run.send_starts).tolist()
        edges = np.searchsorted(s.source, np.arange(self.schedule.ranks + 1)).tolist()
        return [math.fsum(took[a:b]) for a, b in pairwise(edges)]

    @property
    def bubble(self) -> float:
        """The share of the step in which the busiest rank computes nothing.

        It is (seconds - m·(F + B + W)) / seconds for equal stages: what Qi et al. (2023, arXiv:2401.10241,
        section 5.3) call the bubble rate.
        """
        seconds, busiest = self.seconds, max(map(self.busy_seconds, range(self.schedule.ranks)))
        return max(0.0, seconds - busiest) / seconds if seconds else 0.0


def simulate(schedule: PipelineSchedule, clock: Clock) -> PipelineTrace:
    """The run of a pipeline schedule on ranks and links that take so long.

    A rank takes its passes in order, each as soon as its inputs are there. Results that another rank reads
    leave on the link between the two, one after the other in the order in which they are made.
    """
    table = np.array([clock.parts[part] for part in PARTS])
    of = schedule.sends.of
    stage, forward = schedule.stage[of], schedule.part[of] == FORWARD
    ahead, back = _columns(clock.forward), _columns(clock.back)
    transfers = np.where(forward[:, None], ahead[stage], back[stage])
    seconds, latency = np.ascontiguousarray(transfers.T)
    return PipelineTrace(schedule, schedule.run(table[schedule.part, schedule.stage], seconds, latency), latency)


def _columns(transfers: Sequence[Transfer]) -> NDArray[np.float64]:
    return np.array(transfers, dtype=np.float64).reshape(-1, 2)
