"""The searched zero-bubble schedule: the best of a grid of greedy orders that keep to a memory limit."""

from __future__ import annotations

import itertools
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from sim.base.errors import ParameterError
from sim.graphs.node import Ints
from sim.parallel.pipeline import FORWARD, INPUT_VJP, PARTS, WEIGHT_VJP, PipelineSchedule, scheduled
from sim.parallel.schedules import Shape, pipeline_schedules
from sim.parallel.schedules.one_forward_one_backward import in_turn
from sim.parallel.simulate import simulate
from sim.parallel.times import Work

SPLIT = (FORWARD, INPUT_VJP, WEIGHT_VJP)
F, B, W = range(len(SPLIT))
"""Places in `SPLIT`."""


MOST_PASSES = 1_000_000
"""Passes whose search takes 15 seconds."""


def check(shape: Shape) -> None:
    """Raise ParameterError if there are too many passes to search orders of."""
    passes = 3 * shape.ranks * shape.micro_batches
    if passes > MOST_PASSES:
        raise ParameterError(f"makes {passes} passes, expected at most {MOST_PASSES} to search orders of")


class Choices(NamedTuple):
    """The binary choices of the greedy order.

    `fill` the gap before the first VJP with a forward pass that delays it; `skip` a forward pass for now where the
    next rank has enough; `spare` a gap that is too short for a weights' part and does not widen the largest bubble.
    """

    fill: bool
    skip: bool
    spare: bool


@pipeline_schedules.register("zero_bubble", requires=check)
def zero_bubble(
    shape: Shape,
    *,
    memory: Annotated[float, Field(ge=1, description="the limit of what a rank holds, in 1F1B's memory")] = 2.0,
) -> PipelineSchedule:
    """The fastest of greedy orders with VJPs split, made for the times of the stages, within a memory limit.

    The limit is for all ranks: `memory` times what 1F1B's fullest rank holds of activations and, between the two
    parts of a VJP, of cotangents. Once the pipeline is full, each rank does forward passes and VJPs in turn and
    weights' parts in the gaps, or before a pass that needs the memory that they free. The 8 sets of `Choices` are
    tried, and split 1F1B, ZB-H1 and ZB-H2 where they fit; no order found takes less than
    (p - 1)(F + B + 2·send) + m(F + B) + W seconds (Qi et al. 2023, arXiv:2401.10241, section 3.1, where memory 1 is
    ZB-1p and memory 2 ZB-2p).

    Raises
    ------
    ParameterError
        If there are more passes than can be searched.
    """
    check(shape)
    p, m = shape.ranks, shape.micro_batches
    work = shape.work(range(p))
    pairs = list(zip(work.kept, work.left, strict=True))
    limit = memory * max((p - rank) * kept + max(0.0, left - kept) for rank, (kept, left) in enumerate(pairs))
    left = [left / kept if kept else 1.0 for kept, left in pairs]
    known = [
        [in_turn(rank, m, ahead=k * (p - 1 - rank), behind=rank * behind) for rank in range(p)]
        for k, behind in ((1, 0), (1, 1), (2, 2))
    ]
    greedy = [_Greedy(work, m, limit, Choices(*c)).orders() for c in itertools.product((False, True), repeat=3)]
    best: tuple[float, PipelineSchedule] | None = None
    for orders in [*greedy, *known]:
        if max(map(_most_held, orders, work.kept, work.left)) > limit * (1 + 1e-9):
            continue
        made = scheduled(orders, stages=p, micro_batches=m, left=left)
        seconds = simulate(made, work.clock).seconds
        if best is None or seconds < best[0]:
            best = seconds, made
    assert best is not None, "1F1B is within its own memory"
    return best[1]


def _most_held(order: Ints, kept: float, left: float) -> float:
    """The most that a rank holds, which is after a pass."""
    changes = np.zeros(len(PARTS))
    changes[list(SPLIT)] = kept, left - kept, -left
    return float(np.cumsum(changes[order[:, 0]]).max())


class _Greedy:
    """The state of ranks as their passes are laid out one after the other."""

    def __init__(self, work: Work, micro_batches: int, limit: float, choices: Choices) -> None:
        clock = work.clock
        self.ranks, self.m, self.limit, self.choices = len(work.kept), micro_batches, limit, choices
        self.kept, self.left = work.kept, work.left
        self.seconds = [clock.parts[PARTS[part]] for part in SPLIT]
        self.ahead = [sum(transfer) for transfer in clock.forward]
        self.back = [sum(transfer) for transfer in clock.back]
        self.ends = [[[0.0] * micro_batches for _ in range(self.ranks)] for _ in SPLIT]
        self.count = [[0] * self.ranks for _ in SPLIT]
        self.now = [0.0] * self.ranks
        self.bubble = [0.0] * self.ranks
        self.order: list[list[tuple[int, int, int]]] = [[] for _ in range(self.ranks)]

    def orders(self) -> list[Ints]:
        """The passes of each rank: one VJP in each round, the last rank first."""
        self._fill()
        for _ in range(1, self.m):
            for rank, wanted in enumerate(self._wanted()):
                if wanted:
                    self._make_room(rank, self.kept[rank])
                    self._use_gap(rank, self._arrival(F, rank))
                    self._put(F, rank)
            for rank in reversed(range(self.ranks)):
                self._make_room(rank, self.left[rank] - self.kept[rank])
                self._use_gap(rank, self._arrival(B, rank))
                self._put(B, rank)
        for rank in range(self.ranks):
            while self.count[W][rank] < self.m:
                self._put(W, rank)
        return list(map(np.array, self.order))

    def _fill(self) -> None:
        """Lay out forward passes until the first VJP, and that."""
        for rank in range(self.ranks):
            self._put(F, rank)
        more = [0] * self.ranks
        vjp_ends = self.now[-1] + self.seconds[B][-1]
        for rank in reversed(range(self.ranks - 1)):
            arrival, now, took = vjp_ends + self.back[rank + 1], self.now[rank], self.seconds[F][rank]
            # what 1F1B has ahead is always taken; beyond, what fits
            while self.count[F][rank] + more[rank] < self.m and (
                self._fits(rank, (more[rank] + 1) * self.kept[rank] + max(0.0, self.left[rank] - self.kept[rank]))
                and (now < arrival if self.choices.fill else now + took <= arrival)
            ):
                now += took
                more[rank] += 1
            vjp_ends = max(now, arrival) + self.seconds[B][rank]
        for rank in range(1, self.ranks):
            more[rank] = min(more[rank], max(0, more[rank - 1] - 1))
        for rank, count in enumerate(more):
            for _ in range(count):
                self._put(F, rank)
        for rank in reversed(range(self.ranks)):
            self._put(B, rank)

    def _wanted(self) -> list[bool]:
        """Which ranks do one more forward pass in this round."""
        done = self.count[F]
        wanted = [done[rank] < self.m and not (self.choices.skip and self._enough(rank)) for rank in range(self.ranks)]
        for rank in reversed(range(self.ranks - 1)):
            wanted[rank] = wanted[rank] and wanted[rank + 1]
        return wanted

    def _enough(self, rank: int) -> bool:
        """Whether a forward pass of a rank can wait for the next round without a bubble on the next rank."""
        after = rank + 1
        if after == self.ranks or self.count[F][rank] < self.count[F][after] + 2:
            return False
        needed = self.now[after] + self.seconds[F][after] + self.seconds[B][after] + self.ahead[rank]
        if self.now[rank] >= needed:
            return True
        held, weights = self._held(rank) + self.kept[rank], 0
        while held > self.limit and self.count[W][rank] + weights < self.count[B][rank]:
            held -= self.left[rank]
            weights += 1
        if self.now[rank] + self.seconds[F][rank] + weights * self.seconds[W][rank] <= needed:
            return False
        return needed - self.now[rank] <= max(self.bubble) - self.bubble[rank]

    def _make_room(self, rank: int, size: float) -> None:
        while not self._fits(rank, size) and self.count[W][rank] < self.count[B][rank]:
            self._put(W, rank)

    def _use_gap(self, rank: int, until: float) -> None:
        """Lay out weights' parts until what comes next is there."""
        took = self.seconds[W][rank]
        while self.count[W][rank] < self.count[B][rank] and self.now[rank] < until:
            short = self.now[rank] + took > until
            if short and self.choices.spare and until - self.now[rank] <= max(self.bubble) - self.bubble[rank]:
                return
            self._put(W, rank)

    def _held(self, rank: int) -> float:
        f, b, w = (count[rank] for count in self.count)
        return (f - b) * self.kept[rank] + (b - w) * self.left[rank]

    def _fits(self, rank: int, size: float) -> bool:
        return self._held(rank) + size <= self.limit * (1 + 1e-12)

    def _arrival(self, part: int, rank: int) -> float:
        """When what the next pass of a part reads is there."""
        k = self.count[part][rank]
        if part == F:
            return self.ends[F][rank - 1][k] + self.ahead[rank - 1] if rank else 0.0
        return self.ends[B][rank + 1][k] + self.back[rank + 1] if rank + 1 < self.ranks else 0.0

    def _put(self, part: int, rank: int) -> None:
        """Lay out the next pass of a part on a rank."""
        k, begin = self.count[part][rank], self.now[rank]
        start = begin if part == W else max(begin, self._arrival(part, rank))
        if self.count[F][rank]:
            self.bubble[rank] += start - begin
        self.now[rank] = self.ends[part][rank][k] = start + self.seconds[part][rank]
        self.count[part][rank] += 1
        self.order[rank].append((SPLIT[part], rank, k))
