"""Pipelines: passes of micro-batches through stages, in order.

A model is cut into stages, each on one rank; a rank that has several stages is said to have chunks. The
forward pass of a stage reads what the stage before it sends, its VJP what the stage after it sends. The
VJP may be split into the part for the stage's input, which the stage before waits for, and the part for
its weights, which nobody waits for (Qi, Wan, Huang, Lin 2023, Zero Bubble Pipeline Parallelism,
arXiv:2401.10241, whose F, B and W are FORWARD, INPUT_VJP and WEIGHT_VJP).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.base.errors import SimError
from sim.graphs.node import Ints
from sim.parallel import paths


class Part(StrEnum):
    """The part of a stage that a pass computes; VJP is both parts in one."""

    FORWARD = "forward"
    VJP = "vjp"
    INPUT_VJP = "input_vjp"
    WEIGHT_VJP = "weight_vjp"


PARTS = tuple(Part)
FORWARD, VJP, INPUT_VJP, WEIGHT_VJP = range(len(PARTS))
"""The numbers of parts in columns."""
Ints4 = NDArray[np.int32]


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


class Sends(NamedTuple):
    """The results that go to other ranks, in the order of who sends: a column each.

    The sends of pass i are ptr[i] … ptr[i + 1] - 1; `of` are the passes, `reader` the last pass of the `target`
    that reads it. `links` numbers pairs of ranks. `arrivals` are the sends that each pass waits for, one for each of
    its two sources, or -1.
    """

    ptr: Ints
    of: Ints
    source: Ints
    target: Ints
    reader: Ints
    links: Ints
    arrivals: Ints4


@dataclass(frozen=True, eq=False, kw_only=True)
class PipelineSchedule:
    """The passes of each rank in order: every stage forward once and its VJP once, for each micro-batch.

    Passes are columns, those of rank r ptr[r] … ptr[r + 1] - 1; `part` has the place in `PARTS`. A pass that is
    `overlapped` runs as one with the pass after it: they begin when the inputs of both are there, and their results
    are there when both have ended. `left` is, for each stage, the share of what a forward pass keeps that is still
    there when the input's part of its VJP has ended. A schedule checks itself when it is made, and raises
    `InvalidPipeline` if it cannot be run.
    """

    ptr: Ints
    part: NDArray[np.int8]
    stage: Ints4
    micro_batch: Ints4
    overlapped: NDArray[np.bool_]
    stages: int
    micro_batches: int
    left: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self._check_complete()
        self._check_runs()

    def __len__(self) -> int:
        return len(self.part)

    @property
    def ranks(self) -> int:
        return len(self.ptr) - 1

    def at(self, k: int) -> Pass:
        """Pass number k of all ranks'."""
        return Pass(PARTS[self.part[k]], int(self.stage[k]), int(self.micro_batch[k]))

    def of_rank(self, rank: int) -> slice:
        """The numbers of a rank's passes."""
        return slice(int(self.ptr[rank]), int(self.ptr[rank + 1]))

    @cached_property
    def orders(self) -> tuple[tuple[Pass, ...], ...]:
        """The passes of each rank."""
        columns = zip(self.part.tolist(), self.stage.tolist(), self.micro_batch.tolist(), strict=True)
        passes = [Pass(PARTS[part], stage, j) for part, stage, j in columns]
        return tuple(tuple(passes[a:b]) for a, b in pairwise(self.ptr.tolist()))

    @cached_property
    def blocks(self) -> tuple[tuple[tuple[Pass, ...], ...], ...]:
        """The work of each rank in order: passes, and those that overlap together."""
        of_ranks, joined = [], self.overlapped.tolist()
        for first, order in zip(self.ptr.tolist(), self.orders, strict=False):
            blocks: list[tuple[Pass, ...]] = []
            for k, p in enumerate(order):
                if k and joined[first + k - 1]:
                    blocks[-1] = (*blocks[-1], p)
                else:
                    blocks.append((p,))
            of_ranks.append(tuple(blocks))
        return tuple(of_ranks)

    @cached_property
    def rank(self) -> Ints:
        """The rank of each pass."""
        return np.repeat(np.arange(self.ranks), np.diff(self.ptr))

    @cached_property
    def homes(self) -> tuple[int, ...]:
        """The rank of each stage, that of its first micro-batch."""
        return tuple(self.rank[self._numbers[FORWARD, :, 0]].tolist())

    @cached_property
    def sources(self) -> Ints4:
        """The two passes whose results each pass reads; -1 where there is none."""
        numbers, stage, j = self._numbers, self.stage, self.micro_batch
        before = np.where(stage > 0, numbers[FORWARD, stage - 1, j], -1)
        after = np.minimum(stage + 1, self.stages - 1)
        back = np.maximum(numbers[INPUT_VJP, after, j], numbers[VJP, after, j])
        vjp = (self.part == VJP) | (self.part == INPUT_VJP)
        first = np.where(self.part == WEIGHT_VJP, numbers[INPUT_VJP, stage, j], numbers[FORWARD, stage, j])
        first = np.where(self.part == FORWARD, before, first)
        second = np.where(vjp & (stage + 1 < self.stages), back, -1)
        return np.ascontiguousarray(np.stack([first, second], axis=1), dtype=np.int32)

    def inputs(self, k: int) -> list[int]:
        """The numbers of the passes whose results a pass reads."""
        return [source for source in self.sources[k].tolist() if source >= 0]

    @cached_property
    def sends(self) -> Sends:
        """What goes from rank to rank."""
        n, ranks = len(self), self.ranks
        reader, column = np.nonzero((self.sources >= 0) & (self.rank[self.sources] != self.rank[:, None]))
        of = self.sources[reader, column].astype(np.int64)
        key, inverse = np.unique(of * ranks + self.rank[reader], return_inverse=True)
        last = np.zeros(len(key), dtype=np.int64)
        np.maximum.at(last, inverse, reader)
        arrivals = np.full((n, 2), -1, dtype=np.int32)
        arrivals[reader, column] = inverse
        of, target = np.divmod(key, ranks)
        source = self.rank[of]
        links = np.unique(source * ranks + target, return_inverse=True)[1]
        ptr = np.searchsorted(of, np.arange(n + 1))
        return Sends(ptr, of, source, target, last, links, arrivals)

    def run(self, seconds: NDArray[np.float64], send_seconds: NDArray[np.float64], latency: NDArray[np.float64]) -> Run:
        """The run of passes and sends that take so long."""
        sends, n = self.sends, len(self)
        starts, ends = np.zeros(n), np.zeros(n)
        send_starts, send_ends = np.zeros(len(sends.of)), np.zeros(len(sends.of))
        done = paths.run(
            self.ptr, self.sources, self.overlapped, sends.ptr, sends.links, sends.arrivals, seconds, send_seconds,
            latency, starts, ends, send_starts, send_ends,
        )  # fmt: skip
        return Run(starts, ends, send_starts, send_ends, done)

    def held(self, rank: int) -> NDArray[np.float64]:
        """How many forward passes of a rank are begun and still to be read, at each of its passes."""
        own = self.of_rank(rank)
        part, stage = self.part[own], self.stage[own]
        ended = (part == VJP) | (part == INPUT_VJP)
        held: NDArray[np.float64] = (np.cumsum(part == FORWARD) - np.cumsum(ended) + ended).astype(np.float64)
        for one in np.unique(stage).tolist():
            begins, ends = (part == INPUT_VJP) & (stage == one), (part == WEIGHT_VJP) & (stage == one)
            between = np.cumsum(begins) - begins - (np.cumsum(ends) - ends)
            held += between * (self.left[one] if self.left else 1.0)
        return held

    def in_flight(self) -> list[float]:
        """The most that each rank holds at once."""
        return [float(self.held(rank).max()) for rank in range(self.ranks)]

    @cached_property
    def _numbers(self) -> Ints4:
        """The number of each part of each stage for each micro-batch; -1 where no rank computes it."""
        numbers = np.full((len(PARTS), self.stages, self.micro_batches), -1, dtype=np.int32)
        numbers[self.part, self.stage, self.micro_batch] = np.arange(len(self))
        return numbers

    def _check_complete(self) -> None:
        """Raise unless every stage has its parts for each micro-batch, each once."""
        stage, j = self.stage, self.micro_batch
        unknown = (stage < 0) | (stage >= self.stages) | (j < 0) | (j >= self.micro_batches)
        if unknown.any():
            k = int(np.argmax(unknown))
            raise self._invalid("rank {rank} computes {at}, which there is not", k)
        numbers = self._numbers
        other = numbers[self.part, stage, j]
        twice = other != np.arange(len(self))
        if twice.any():
            k = int(np.argmax(twice))
            rank, again = int(self.rank[k]), int(self.rank[other[k]])
            where = f"{{at}} is computed on ranks {rank} and {again}"
            raise self._invalid(where if rank != again else "rank {rank} computes {at} twice", k)
        there = numbers >= 0
        split = there[INPUT_VJP] | there[WEIGHT_VJP]
        needed = np.stack([np.ones_like(split), ~split, split, split])
        for part in (FORWARD, VJP, INPUT_VJP, WEIGHT_VJP):
            if not there[part][needed[part]].all():
                at = np.argwhere(needed[part] & ~there[part])[0].tolist()
                missing = Pass(PARTS[part], *at)
                raise InvalidPipeline(f"no rank computes {missing}", rank=-1, at=missing)
        if (there[VJP] & split).any():
            at = np.argwhere(there[VJP] & split)[0].tolist()
            raise self._invalid("{at} is computed whole and in parts", int(numbers[VJP, at[0], at[1]]))

    def _check_runs(self) -> None:
        """Raise unless every rank comes to its end."""
        nothing = np.zeros(len(self.sends.of))
        done = self.run(np.zeros(len(self)), nothing, nothing).done
        for rank in np.flatnonzero(done < np.diff(self.ptr)).tolist():
            k = int(self.ptr[rank] + done[rank])
            stop = k + 1 + int(np.argmin(self.overlapped[k:]))
            reached = self.ptr[:-1] + done
            wanted = [source for p in range(k, stop) for source in self.inputs(p)]
            missing = next(source for source in wanted if source >= reached[self.rank[source]])
            raise self._invalid(f"rank {{rank}} waits for ever with {{at}} for {self.at(missing)}", k)

    def _invalid(self, message: str, k: int) -> InvalidPipeline:
        rank, at = int(self.rank[k]), self.at(k)
        return InvalidPipeline(message.format(rank=rank, at=at), rank=rank, at=at)


class Run(NamedTuple):
    """The clock of a pipeline: when passes and sends start and end; how many passes each rank has `done`."""

    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    send_starts: NDArray[np.float64]
    send_ends: NDArray[np.float64]
    done: Ints


def scheduled(
    orders: Sequence[Iterable[Pass] | Ints],
    *,
    stages: int,
    micro_batches: int,
    overlapped: Iterable[Pass] = (),
    left: Sequence[float] = (),
) -> PipelineSchedule:
    """The schedule of these orders: passes, or rows of a part's number, a stage and a micro-batch."""
    rows = [order if isinstance(order, np.ndarray) else _rows(order) for order in orders]
    columns = np.concatenate(rows)
    joined = np.zeros(len(columns), dtype=np.bool_)
    wanted = set(overlapped)
    if wanted:
        joined[[Pass(PARTS[part], stage, j) in wanted for part, stage, j in columns.tolist()]] = True
    ptr = np.cumsum([0, *map(len, rows)])
    joined[ptr[1:] - 1] = False
    return PipelineSchedule(
        ptr=ptr,
        part=columns[:, 0].astype(np.int8),
        stage=columns[:, 1].astype(np.int32),
        micro_batch=columns[:, 2].astype(np.int32),
        overlapped=joined,
        stages=stages,
        micro_batches=micro_batches,
        left=tuple(left),
    )


def _rows(order: Iterable[Pass]) -> Ints:
    number = {part: k for k, part in enumerate(PARTS)}
    return np.array([(number[part], stage, j) for part, stage, j in order], dtype=np.int64).reshape(-1, 3)
