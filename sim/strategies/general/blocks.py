"""Plans of a graph of equal blocks, joined from those of the same graph with a few of them.

Networks repeat: a transformer of 96 layers is one layer, 96 times. `shortened` leaves four of the blocks, so that they
are planned as a small graph is; `joined` makes plans of the whole out of its plans. Each of the four says what runs
again before each VJP of a block, and any number of neighbours may do as it does; how many is free, so that equal
blocks get different plans. What comes out is valid whatever the short plan was, as every sequence is in which each row
runs after what it reads was first written, and its peak and cost are measured, not inferred.

Plans of equal blocks are made once by Rockmate too (Zhao, Le Hellard, Eyraud-Dubois, Gusak and Beaumont, 2023, ICML,
arXiv:2307.01236), which joins them by the dynamic program for chains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from sim.strategies.general.problem import Flags, Problem, Rows

KEPT = 4
"""Blocks of a short problem."""
LEAST = 8
"""Blocks from which a problem is shortened."""
LONGEST = 2000
"""Nodes of a block, at most."""
SMALLEST = 50
"""Nodes of a block, about, where equal stretches are shorter: a block is then of several."""
LENGTHS = 8
"""Lengths of a block that are tried, at most."""


@dataclass(frozen=True)
class Blocks:
    """Equal stretches of nodes, one after the other: block b has `length` nodes from `start + b * length` on."""

    start: int
    length: int
    count: int

    @property
    def end(self) -> int:
        """The first node after the last block."""
        return self.start + self.length * self.count


@dataclass(frozen=True, eq=False)
class Short:
    """A problem with `KEPT` of its equal blocks, which are the first of them, and the whole."""

    problem: Problem
    whole: Problem
    blocks: Blocks

    @property
    def left_out(self) -> int:
        """Nodes that the short problem lacks."""
        return (self.blocks.count - KEPT) * self.blocks.length


def shortened(problem: Problem) -> Short | None:
    """The problem with a few of its equal blocks; `None` where it has not many that are equal.

    Blocks of nodes are equal if their forwards and VJPs cost the same and touch values of the same bytes in the same
    way, each of which is shared by all blocks or has its like in the next.
    """
    if not np.array_equal(problem.once, np.arange(len(problem)) >= len(problem) // 2):
        return None  # nothing says which rows of a plain graph are the backward half of a block
    marks = _marks(problem)
    for length in _lengths(marks):
        blocks = _longest(problem, marks, length)
        following = _following(problem, blocks)
        short = None if following is None else _without(problem, blocks, following)
        if short is not None:
            return Short(short, problem, blocks)
    return None


def joined(short: Short, rows: Rows, *, mixes: int) -> Iterator[Rows]:
    """Plans of the whole in which each block does what one of the blocks of a short plan does.

    The first is that in which about as many do as each; then the blocks are shared between two neighbours that differ,
    in so many ways.
    """
    blocks, whole = short.blocks, short.whole
    prefix, *turns, suffix = _turns(short, rows)
    first = whole.order[~whole.once[whole.order]]
    lifted = [
        [_placed(short, turn, by=block * blocks.length) for block in range(blocks.count - KEPT + 1)] for turn in turns
    ]
    differ = [k for k in range(KEPT - 1) if not np.array_equal(lifted[k][1], lifted[k + 1][0])]
    for counts in _mixes(blocks.count, differ, mixes):
        of = np.repeat(np.arange(KEPT), counts)
        middle = [lifted[of[block]][block - of[block]] for block in reversed(range(blocks.count))]
        parts = [first, _placed(short, suffix, by=short.left_out), *middle, _placed(short, prefix, by=0)]
        yield np.concatenate(parts).astype(np.int32)


def _mixes(count: int, differ: list[int], ways: int) -> Iterable[tuple[int, ...]]:
    """How many of the blocks do as each of the short plan."""
    spare = count - KEPT
    mixes = {tuple(1 + spare // KEPT + (k < spare % KEPT) for k in range(KEPT)): None}
    for pair in differ:
        for share in np.linspace(0, spare, ways).round().astype(int).tolist():
            more = {pair: share, pair + 1: spare - share}
            mixes[tuple(1 + more.get(k, 0) for k in range(KEPT))] = None
    return mixes


def _turns(short: Short, rows: Rows) -> list[Rows]:
    """The VJPs of what is before the blocks, of each block and of what is after, and what runs again before each."""
    n, blocks = len(short.problem) // 2, short.blocks
    again = np.ones(len(rows), dtype=np.bool_)
    again[np.unique(rows, return_index=True)[1]] = False
    rows = rows[again | (np.cumsum(rows >= n) > 0)]
    at = np.flatnonzero(rows >= n)
    following = at[np.searchsorted(at, np.arange(at[-1] + 1))]
    block = np.clip((rows[following] - n - blocks.start) // blocks.length, -1, KEPT)
    return [rows[: at[-1] + 1][block == k] for k in range(-1, KEPT + 1)]


def _placed(short: Short, rows: Rows, *, by: int) -> Rows:
    """Rows of the short problem as rows of the whole, those of blocks so many nodes later."""
    n, blocks = len(short.problem) // 2, short.blocks
    vjp, node = np.divmod(rows, n)
    inside = (node >= blocks.start) & (node < blocks.start + KEPT * blocks.length)
    moved = np.where(inside, node + by, np.where(node < blocks.start, node, node + short.left_out))
    kept = ~inside | (moved < blocks.end)
    placed: Rows = (moved + vjp * (len(short.whole) // 2))[kept]
    return placed


def _marks(problem: Problem) -> Rows:
    """A number for each node, equal where the node's forward and VJP cost and touch the same."""
    n, ptr = len(problem) // 2, problem.ptr
    of_row = np.stack(
        [problem.cost, problem.workspace, problem.saving_workspace, problem.must.astype(np.int64)], axis=1
    )
    of_touch = np.stack(
        [problem.access.astype(np.int64), problem.value_bytes[problem.value], problem.remains[problem.value]], axis=1
    )
    numbers: dict[bytes, int] = {}
    marks = np.empty(n, dtype=np.int32)
    for node in range(n):
        rows = (node, n + node)
        mark = b"|".join(of_row[r].tobytes() + of_touch[ptr[r] : ptr[r + 1]].tobytes() for r in rows)
        marks[node] = numbers.setdefault(mark, len(numbers))
    return marks


def _lengths(marks: Rows) -> list[int]:
    """Lengths of a block with which at least half as many nodes repeat as with the best, the shortest first."""
    n = len(marks)
    lengths = range(1, min(LONGEST, n // LEAST) + 1)
    covered = [_run(marks, length)[1] for length in lengths]
    most = max((c for c, length in zip(covered, lengths, strict=True) if c >= LEAST * length), default=0)
    good = [k for k, c in zip(lengths, covered, strict=True) if most and c >= max(most / 2, LEAST * k)]
    return good[:LENGTHS]


def _run(marks: Rows, length: int) -> tuple[int, int]:
    """The longest stretch of nodes in which each has the mark of the one `length` before: (first node, nodes)."""
    differs = np.flatnonzero(np.concatenate([[True], marks[length:] != marks[:-length], [True]]))
    widths = np.diff(differs) - 1
    at = int(np.argmax(widths))
    return int(differs[at]), int(widths[at]) + length


def _longest(problem: Problem, marks: Rows, length: int) -> Blocks:
    """The blocks of a length, cut where the fewest bytes of activations cross."""
    n = len(marks)
    first, covered = _run(marks, length)
    crossing = np.zeros(n + 1, dtype=np.int64)
    forward = problem.row_of_touch < n
    rows, values = problem.row_of_touch[forward], problem.value[forward]
    last = np.full(len(problem.value_bytes), -1, dtype=np.int64)
    np.maximum.at(last, values, rows)
    made = np.flatnonzero((problem.maker >= 0) & (problem.maker < n) & (last > problem.maker))
    np.add.at(crossing, problem.maker[made] + 1, problem.value_bytes[made])
    np.add.at(crossing, last[made] + 1, -problem.value_bytes[made])
    slack = min(length, covered - (LEAST - 1) * length)
    start = first + int(np.argmin(np.cumsum(crossing)[first : first + slack]))
    whole = length * max(1, min(SMALLEST // length, (first + covered - start) // (LEAST * length)))
    return Blocks(start, whole, (first + covered - start) // whole)


def _following(problem: Problem, blocks: Blocks) -> Rows | None:
    """For each value that blocks touch, the one that the next block touches in its place; -1 for all others.

    `None` where there is no single one.
    """
    n, ptr = len(problem) // 2, problem.ptr
    here, there = [], []
    for begin in (blocks.start, n + blocks.start):
        middle, end = begin + (blocks.count - 1) * blocks.length, begin + blocks.count * blocks.length
        here.append(problem.value[ptr[begin] : ptr[middle]])
        there.append(problem.value[ptr[begin + blocks.length] : ptr[end]])
    source, target = np.concatenate(here), np.concatenate(there)
    following = np.full(len(problem.value_bytes), -1, dtype=np.int32)
    following[source] = target
    moving = np.flatnonzero((following >= 0) & (following != np.arange(len(following))))
    if not np.array_equal(following[source], target) or len(np.unique(following[moving])) < len(moving):
        return None
    return following


def _without(problem: Problem, blocks: Blocks, following: Rows) -> Problem | None:
    """The problem with the first `KEPT` blocks; what follows the last block follows the last of those."""
    n = len(problem) // 2
    node = np.arange(n)
    kept = np.tile((node < blocks.start + KEPT * blocks.length) | (node >= blocks.end), 2)
    row, value = problem.row_of_touch, problem.value
    in_short = kept[row]
    after = (row % n >= blocks.end) & in_short
    near = np.unique(value[in_short & ~after])
    like = near  # the values of the last blocks that take the place of these
    for _ in range(blocks.count - KEPT):
        like = np.where(like >= 0, following[like], -1)
    stands_for = np.arange(len(problem.value_bytes), dtype=np.int32)
    stands_for[like[like >= 0]] = near[like >= 0]
    dropped: Flags = np.zeros(len(problem.value_bytes), dtype=np.bool_)
    dropped[value[~in_short]] = True
    dropped[near] = False
    touched = np.where(after, stands_for[value], value)[in_short]
    if dropped[touched].any():
        return None
    used, number = np.unique(touched, return_inverse=True)
    renumbered = np.cumsum(kept) - 1
    return replace(
        problem,
        ptr=np.concatenate([[0], np.cumsum(np.diff(problem.ptr)[kept])]).astype(np.int32),
        value=number.astype(np.int32),
        access=problem.access[in_short],
        cost=problem.cost[kept],
        workspace=problem.workspace[kept],
        saving_workspace=problem.saving_workspace[kept],
        value_bytes=problem.value_bytes[used],
        must=problem.must[kept],
        once=problem.once[kept],
        remains=problem.remains[used],
        order=renumbered[problem.order[kept[problem.order]]].astype(np.int32),
    )
