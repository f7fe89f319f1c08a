"""Pipelines: passes of micro-batches through stages, in order.

A model is cut into stages, each on one rank; a rank that has several stages is said to have chunks. The
forward pass of a stage reads what the stage before it sends, its VJP what the stage after it sends. The
VJP may be split into the part for the stage's input, which the stage before waits for, and the part for
its weights, which nobody waits for (Qi, Wan, Huang, Lin 2023, Zero Bubble Pipeline Parallelism,
arXiv:2401.10241, whose F, B and W are FORWARD, INPUT_VJP and WEIGHT_VJP).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from sim.base.errors import SimError


class Part(StrEnum):
    """The part of a stage that a pass computes; VJP is both parts in one."""

    FORWARD = "forward"
    VJP = "vjp"
    INPUT_VJP = "input_vjp"
    WEIGHT_VJP = "weight_vjp"


class Pass(NamedTuple):
    """One part of one stage for one micro-batch, `forward(stage 3, micro-batch 0)`.

    >>> print(Pass(Part.FORWARD, 3, 0))
    forward(stage 3, micro-batch 0)
    """

    part: Part
    stage: int
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.part}(stage {self.stage}, micro-batch {self.micro_batch})"


class InvalidPipeline(SimError):
    """A pipeline schedule that no ranks could run: a pass that is missing, done twice or waited for in a circle."""

    def __init__(self, message: str, *, rank: int, at: Pass) -> None:
        super().__init__(message)
        self.rank = rank
        self.at = at


@dataclass(frozen=True, eq=False)
class PipelineSchedule:
    """The passes of each rank in order: every stage forward once and its VJP once, for each micro-batch.

    A pass in `overlapped` runs as one with the pass after it: they begin when the inputs of both are there,
    and their results are there when both have ended. `left` is, for each stage, the share of what a forward pass
    keeps that is still there when the input's part of its VJP has ended. A schedule checks itself when it is made,
    and raises `InvalidPipeline` if it cannot be run.
    """

    orders: tuple[tuple[Pass, ...], ...]
    stages: int
    micro_batches: int
    overlapped: frozenset[Pass] = frozenset()
    left: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self._check_complete()
        self._check_runs()

    @cached_property
    def blocks(self) -> tuple[tuple[tuple[Pass, ...], ...], ...]:
        """The work of each rank in order: passes, and those that overlap together."""
        of_ranks = []
        for order in self.orders:
            blocks: list[tuple[Pass, ...]] = []
            for k, p in enumerate(order):
                if k and order[k - 1] in self.overlapped:
                    blocks[-1] = (*blocks[-1], p)
                else:
                    blocks.append((p,))
            of_ranks.append(tuple(blocks))
        return tuple(of_ranks)

    @cached_property
    def rank_of(self) -> dict[Pass, int]:
        """The rank that computes each pass."""
        return {p: rank for rank, order in enumerate(self.orders) for p in order}

    @cached_property
    def split(self) -> frozenset[tuple[int, int]]:
        """(stage, micro-batch) of the VJPs that are split into their two parts."""
        return frozenset((p.stage, p.micro_batch) for p in self.rank_of if p.part is Part.INPUT_VJP)

    def inputs(self, of: Pass) -> Iterator[Pass]:
        """Yield the passes whose results a pass reads."""
        part, stage, micro_batch = of
        if part is Part.FORWARD:
            if stage:
                yield Pass(Part.FORWARD, stage - 1, micro_batch)
        elif part is Part.WEIGHT_VJP:
            yield Pass(Part.INPUT_VJP, stage, micro_batch)
        else:
            yield Pass(Part.FORWARD, stage, micro_batch)
            if stage + 1 < self.stages:
                split = (stage + 1, micro_batch) in self.split
                yield Pass(Part.INPUT_VJP if split else Part.VJP, stage + 1, micro_batch)

    @cached_property
    def homes(self) -> tuple[int, ...]:
        """The rank of each stage."""
        return tuple(self.rank_of[Pass(Part.FORWARD, stage, 0)] for stage in range(self.stages))

    def held(self, rank: int) -> Iterator[float]:
        """Yield how many forward passes of a rank are begun and still to be read, at each of its passes."""
        whole, halves = 0, dict.fromkeys((p.stage for p in self.orders[rank]), 0)
        for part, stage, _ in self.orders[rank]:
            whole += part is Part.FORWARD
            yield whole + sum(count * (self.left[stage] if self.left else 1) for stage, count in halves.items())
            if part is Part.INPUT_VJP:
                halves[stage] += 1
            if part is Part.WEIGHT_VJP:
                halves[stage] -= 1
            else:
                whole -= part is not Part.FORWARD

    def in_flight(self) -> list[float]:
        """The most that each rank holds at once."""
        return [max(self.held(rank)) for rank in range(len(self.orders))]

    def _check_complete(self) -> None:
        for rank, order in enumerate(self.orders):
            for p in order:
                if not (0 <= p.stage < self.stages and 0 <= p.micro_batch < self.micro_batches):
                    raise InvalidPipeline(f"rank {rank} computes {p}, which there is not", rank=rank, at=p)
                if self.rank_of[p] != rank:
                    raise InvalidPipeline(f"{p} is computed on ranks {rank} and {self.rank_of[p]}", rank=rank, at=p)
        for stage in range(self.stages):
            for micro_batch in range(self.micro_batches):
                split = (stage, micro_batch) in self.split
                last = Pass(Part.WEIGHT_VJP if split else Part.VJP, stage, micro_batch)
                for p in (Pass(Part.FORWARD, stage, micro_batch), last, *self.inputs(last)):
                    if p not in self.rank_of:
                        raise InvalidPipeline(f"no rank computes {p}", rank=-1, at=p)
                if last.part is Part.WEIGHT_VJP and (unsplit := Pass(Part.VJP, stage, micro_batch)) in self.rank_of:
                    raise InvalidPipeline(f"{unsplit} is computed whole and in parts", rank=-1, at=unsplit)
        if len(self.rank_of) != sum(map(len, self.orders)):
            rank, p = next((r, p) for r, o in enumerate(self.orders) for p in o if o.count(p) > 1)
            raise InvalidPipeline(f"rank {rank} computes {p} twice", rank=rank, at=p)

    def _check_runs(self) -> None:
        done: set[Pass] = set()
        place = [0] * len(self.orders)
        moved = True
        while moved:
            moved = False
            for rank, blocks in enumerate(self.blocks):
                begin = place[rank]
                while place[rank] < len(blocks) and not self._missing(blocks[place[rank]], done):
                    done.update(blocks[place[rank]])
                    place[rank] += 1
                moved = moved or place[rank] > begin
        for rank, blocks in enumerate(self.blocks):
            if place[rank] < len(blocks):
                block = blocks[place[rank]]
                missing = self._missing(block, done)[0]
                raise InvalidPipeline(
                    f"rank {rank} waits for ever with {block[0]} for {missing}", rank=rank, at=block[0]
                )

    def _missing(self, block: tuple[Pass, ...], done: set[Pass]) -> list[Pass]:
        return [source for p in block for source in self.inputs(p) if source not in done]


def scheduled(
    orders: Sequence[Iterable[Pass]],
    *,
    stages: int,
    micro_batches: int,
    overlapped: Iterable[Pass] = (),
    left: Sequence[float] = (),
) -> PipelineSchedule:
    """The schedule of these orders."""
    return PipelineSchedule(tuple(map(tuple, orders)), stages, micro_batches, frozenset(overlapped), tuple(left))
