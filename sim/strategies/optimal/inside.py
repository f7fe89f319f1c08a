"""Where a state can matter, before any staircase is made: bounds on a coarse grid, here those from inside.

Coarse-to-fine search, as parsers do it (Charniak et al. 2006, Multilevel coarse-to-fine PCFG parsing).
On a grid of 2^shift bytes each state has a lower bound of its cost (*inside*), and from the whole
problem down there is the least that the rest of a plan takes beyond the best plan known (*outside*).
Where the two add up to more than nothing, no optimal plan has that state with that much memory
(`sim.strategies.optimal.outside`).

A state's grid is moved so that keeping one stage after another is never rounded: its points are the
memories m with m + anchor[s] - gradients_before[t + 1] a multiple of 2^shift, where `anchor` adds up
what KEEP holds. Rounded is one step for each checkpoint that a plan holds at once.
Costs on the grid are of type float32, in units in which one evaluation of all stages is 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.base.compiled import compiled
from sim.strategies.optimal.recurrence import (
    INFINITE,
    LOW,
    OFFSET1,
    OFFSET2,
    PRICE,
    S1,
    S2,
    T1,
    T2,
    V1,
    V2,
    WAY_FIELDS,
    exists,
    ways_of,
)

FAR = 2**61  # cells: beyond any, and so little that a few more bytes are no overflow
START, FIRST, LAST = range(3)
BLOCK = 8
"""Values of t that are looked at together, so that what is read of the states (s, ·) is still in the cache."""
EPSILON = 2.0**-24
"""Relative error of one rounding."""


def margin(stages: int, most: float) -> float:
    """More than float32 can be wrong by in a sum over a plan of so many stages, with terms up to `most`."""
    return 8 * (stages + 8) * EPSILON * most


@compiled
def rows_of(table: Any, reach: Any) -> Any:
    """(row, windows): a row for each state there is, and the bytes (more than, up to) at which it may matter.

    State (s, t, v) has row[(s · n + t) · variants + v], or -1 if it cannot matter; row 0 is the state of no stages.
    """
    n = len(table)
    variants = 4 * (reach + 1)
    row = np.empty(n * n * variants, dtype=np.int32)
    rows = 1
    for s in range(n):
        for t in range(n):
            for v in range(variants):
                there = s <= t and exists(table, s, t, v)
                row[(s * n + t) * variants + v] = rows if there else -1
                rows += there
    windows = np.empty((rows, 2), dtype=np.int64)
    for r in range(rows):
        windows[r, 0], windows[r, 1] = -1, INFINITE
    return row, windows


@compiled
def extents(
    table: Any, crossing: Any, cost_before: Any, gradients_before: Any, reach: Any, anchor: Any,
    shift: Any, row: Any, windows: Any,
) -> Any:  # fmt: skip
    """(places, smallest, size): the points on the grid of each row, and its least bytes.

    Row r has points places[r, FIRST] … places[r, LAST], which lie in its window, and their bounds are at
    places[r, START] and after it, in an array of `size` points. Windows without an end get one, where more
    memory changes nothing; states that no memory is enough for lose their row.
    """
    n = len(table)
    variants = 4 * (reach + 1)
    places = np.zeros((len(windows), 3), dtype=np.int64)
    places[0, FIRST] = places[0, LAST] = -FAR
    smallest = np.zeros(len(windows), dtype=np.int64)
    most = np.zeros(len(windows), dtype=np.int64)  # bytes that the cheapest way takes
    cheapest = np.zeros(len(windows), dtype=np.int64)
    size = 1
    ways = np.zeros((2 * (reach + 1) * n + 4, WAY_FIELDS), dtype=np.int64)
    for block in range(0, n, BLOCK):
        for s in range(min(n, block + BLOCK) - 1, -1, -1):
            for t in range(max(s, block), min(n, block + BLOCK)):
                phase = phase_of(anchor, gradients_before, s, t, shift)
                for v in range(variants):
                    r = row[(s * n + t) * variants + v]
                    if r < 0:
                        continue
                    small = most[r] = cheapest[r] = INFINITE
                    count = ways_of(table, crossing, cost_before, gradients_before, reach, s, t, v, ways)
                    for j in range(count):
                        w = ways[j]
                        a = row[(w[S1] * n + w[T1]) * variants + w[V1]] if w[S1] >= 0 else 0
                        b = row[(w[S2] * n + w[T2]) * variants + w[V2]] if w[S2] >= 0 else 0
                        if a < 0 or b < 0:
                            continue
                        small = min(small, max(w[LOW], w[OFFSET1] + smallest[a], w[OFFSET2] + smallest[b]))
                        price = w[PRICE] + cheapest[a] + cheapest[b]
                        need = max(w[LOW], w[OFFSET1] + most[a], w[OFFSET2] + most[b])
                        if price < cheapest[r] or (price == cheapest[r] and need < most[r]):
                            cheapest[r], most[r] = price, need
                    smallest[r] = small
                    if small == INFINITE:
                        row[(s * n + t) * variants + v] = -1
                        continue
                    if windows[r, 1] == INFINITE:
                        windows[r, 1] = most[r]
                    begin = max(-(-(small + phase) >> shift), (windows[r, 0] + phase) >> shift)
                    end = max(begin, -(-(windows[r, 1] + phase) >> shift))
                    places[r, START], places[r, FIRST], places[r, LAST] = size, begin, end
                    size += end - begin + 1
    return places, smallest, size


@compiled
def inside(
    table: Any, crossing: Any, cost_before: Any, gradients_before: Any, reach: Any, anchor: Any,
    shift: Any, row: Any, places: Any, lower: Any, first_t: Any, end_t: Any, first_s: Any, end_s: Any,
) -> None:  # fmt: skip
    """Fills `lower` with a bound for each point of the rows of some s and t, which holds down to the point before it.

    Rows of smaller t and the same s, and of greater s and the same t, come before; `first_t` starts a block.
    """
    n = len(table)
    variants = 4 * (reach + 1)
    scale = 1.0 / cost_before[n]
    infinite = np.float32(np.inf)
    ways = np.zeros((2 * (reach + 1) * n + 4, WAY_FIELDS), dtype=np.int64)
    for block in range(first_t, end_t, BLOCK):
        for s in range(min(end_s, block + BLOCK) - 1, first_s - 1, -1):
            for t in range(max(s, block), min(end_t, block + BLOCK)):
                phase = phase_of(anchor, gradients_before, s, t, shift)
                for v in range(variants):
                    r = row[(s * n + t) * variants + v]
                    if r < 0:
                        continue
                    start, begin, end = places[r, START], places[r, FIRST], places[r, LAST]
                    for i in range(start, start + end - begin + 1):
                        lower[i] = infinite
                    count = ways_of(table, crossing, cost_before, gradients_before, reach, s, t, v, ways)
                    for j in range(count):
                        w = ways[j]
                        since = max(begin, -(-(w[LOW] + phase) >> shift))
                        if since > end:
                            continue
                        a = row[(w[S1] * n + w[T1]) * variants + w[V1]] if w[S1] >= 0 else 0
                        b = row[(w[S2] * n + w[T2]) * variants + w[V2]] if w[S2] >= 0 else 0
                        if a < 0 or b < 0:
                            continue
                        move1 = phase_of(anchor, gradients_before, w[S1], w[T1], shift) - phase - w[OFFSET1]
                        move2 = phase_of(anchor, gradients_before, w[S2], w[T2], shift) - phase - w[OFFSET2]
                        _lower(
                            lower, start - begin, since, end, np.float32(w[PRICE] * scale),
                            places[a, START], places[a, FIRST], places[a, LAST], -(-move1 >> shift),
                            places[b, START], places[b, FIRST], places[b, LAST], -(-move2 >> shift),
                        )  # fmt: skip
                    best = infinite
                    for i in range(start, start + end - begin + 1):
                        best = min(best, lower[i])
                        lower[i] = best


@compiled
def phase_of(anchor: Any, gradients_before: Any, s: Any, t: Any, shift: Any) -> Any:
    """How far a state's points lie below multiples of 2^shift bytes; 0 for the state of no stages."""
    return (anchor[s] - gradients_before[t + 1]) & ((1 << shift) - 1) if s >= 0 else 0


@compiled
def _lower(
    values: Any, base: Any, begin: Any, end: Any, price: Any,
    start1: Any, first1: Any, last1: Any, move1: Any, start2: Any, first2: Any, last2: Any, move2: Any,
) -> None:  # fmt: skip
    """Lowers values[base + begin … base + end] to a way's cost: its price and two states, each moved by some points.

    A state is infinite before its first point and constant after its last; where both are constant one
    point is enough, because running minima are taken afterwards. Loops run over slices from 0, which
    is what lets the compiler use vector instructions.
    """
    begin = max(begin, first1 - move1, first2 - move2)
    stop = min(end, last1 - move1, last2 - move2)
    if begin <= stop:
        here = values[base + begin : base + stop + 1]
        a = values[start1 + begin + move1 - first1 : start1 + stop + move1 - first1 + 1]
        b = values[start2 + begin + move2 - first2 : start2 + stop + move2 - first2 + 1]
        for i in range(len(here)):
            here[i] = min(here[i], price + a[i] + b[i])
        begin = stop + 1
    if begin > end:
        return
    if last1 - move1 < last2 - move2:
        start1, start2, first1, first2 = start2, start1, first2, first1
        last1, last2, move1, move2 = last2, last1, move2, move1
    constant = price + values[start2 + last2 - first2]
    stop = min(end, last1 - move1)
    if begin <= stop:
        here = values[base + begin : base + stop + 1]
        a = values[start1 + begin + move1 - first1 : start1 + stop + move1 - first1 + 1]
        for i in range(len(here)):
            here[i] = min(here[i], constant + a[i])
        begin = stop + 1
    if begin <= end:
        values[base + begin] = min(values[base + begin], constant + values[start1 + last1 - first1])
