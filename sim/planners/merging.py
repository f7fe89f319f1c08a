"""Whole staircases at once, as compiled code: the least cost of each state for every memory.

A staircase is rising breakpoints of memory with falling costs. That of a state is the lower envelope
of its ways, each the sum of two staircases moved and clamped. A coarse look decides first which ways
can matter where: memory is cut into cells of 2^shift bytes, and a way whose cost at the end of a cell is
no less than what some way has at its start adds nothing inside. Only the rest is merged, exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.kernels import compiled
from sim.planners.recurrence import (
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

EXACT, UPPER, LOWER = range(3)
LEAF_STEPS, LEAF_WAYS = 12, 3  # breakpoints below which a cell is not halved any more: at all, for each way


@compiled
def staircases(
    table: Any, crossing: Any, cost_before: Any, gradients_before: Any, same: Any, reach: Any,
    most: Any, cells: Any, spacing: Any, rounding: Any, own_cost: Any, room: Any,
) -> Any:  # fmt: skip
    """(ids, starts, sizes, memory, cost) of every state's staircase up to `most` bytes.

    State (s, t, v) has number ids[s, t] · variants + v. With `rounding` UPPER, breakpoints whose cost
    (with `own_cost` of the stages, which no plan changes) is within a factor 1 + spacing of an earlier
    one are left out; with LOWER the earlier ones take the last one's cost, which bounds the optimum
    from below. The whole problem's own staircase is never thinned. `room` is how many breakpoints
    may be kept in all; where more are needed, `sizes` comes back empty. `cells` is the most there may be.
    """
    n = len(table)
    variants = 4 * (reach + 1)
    shift = 0
    while (most >> shift) + 1 > cells:
        shift += 1
    cells = (most >> shift) + 1
    ids = np.empty((n, n), dtype=np.int32)
    distinct = 0
    for t in range(n):
        for s in range(t, -1, -1):
            if same[s, t] == s:
                ids[s, t] = distinct
                distinct += 1
    rows = 1
    for t in range(n):
        for s in range(t + 1):
            for v in range(variants if same[s, t] == s else 0):
                rows += exists(table, s, t, v)
    nothing = distinct * variants  # stands in where a way has fewer than two states: no bytes, no cost
    starts = np.zeros(nothing + 1, dtype=np.int64)
    sizes = np.zeros(nothing + 1, dtype=np.int32)
    row = np.zeros(nothing + 1, dtype=np.int32)  # of the state in the next two; 0 is that of `nothing`
    coarse = np.empty((rows, cells + 1), dtype=np.int64)  # cost at the ends of cells
    upto = np.empty((rows, cells + 2), dtype=np.int32)  # breakpoints up to there
    for i in range(rows):
        for cell in range(cells + 1):
            coarse[i, cell] = INFINITE
        for cell in range(cells + 2):
            upto[i, cell] = 1
    # usually enough; pages are committed when they are first written to
    capacity = min(room, 4096 + 16 * n * n * n)
    memory = np.empty(capacity, dtype=np.int64)
    cost = np.empty(capacity, dtype=np.int64)
    memory[0] = cost[0] = 0
    sizes[nothing] = 1
    for cell in range(cells + 1):
        coarse[0, cell] = 0
    used = rows = 1
    ways = np.zeros((2 * (reach + 1) * n + 4, WAY_FIELDS), dtype=np.int64)
    number = np.empty((len(ways), 2), dtype=np.int64)
    lowest = np.empty(cells, dtype=np.int64)
    matters = np.empty((cells, len(ways)), dtype=np.int32)
    at_best = np.empty((cells, len(ways)), dtype=np.int64)
    mattering = np.empty(cells, dtype=np.int64)
    flags = np.zeros(cells + 8, dtype=np.bool_)
    result = np.empty((2, 1024), dtype=np.int64)
    leaf = np.empty((2, 1024), dtype=np.int64)
    todo = np.empty((4 * len(ways), 5), dtype=np.int64)
    tasks = np.empty((256, 4), dtype=np.int64)
    for t in range(n):
        for s in range(t, -1, -1):
            if same[s, t] != s:
                ids[s, t] = ids[same[s, t], t - s + same[s, t]]
                continue
            for v in range(variants):
                if not exists(table, s, t, v):
                    continue
                count = ways_of(table, crossing, cost_before, gradients_before, reach, s, t, v, ways)
                for j in range(count):
                    number[j, 0] = number[j, 1] = nothing
                    if ways[j, S1] >= 0:
                        number[j, 0] = ids[ways[j, S1], ways[j, T1]] * variants + ways[j, V1]
                    if ways[j, S2] >= 0:
                        number[j, 1] = ids[ways[j, S2], ways[j, T2]] * variants + ways[j, V2]
                _lowest(ways, number, count, row, coarse, shift, lowest)
                found = -1
                if shift == 0:  # every memory is looked at
                    while cells > result.shape[1]:
                        result = np.empty((2, cells), dtype=np.int64)
                    found = _steps(lowest, result)
                else:
                    _which_matter(ways, number, count, row, coarse, shift, lowest, flags, matters, at_best, mattering)
                while found < 0:
                    found = _envelope(
                        ways, number, matters, at_best, mattering, starts, row, upto, memory, cost, shift,
                        result, tasks, todo, leaf,
                    )  # fmt: skip
                    if found < 0:
                        result = np.empty((2, 2 * result.shape[1]), dtype=np.int64)
                        leaf = np.empty((2, 2 * leaf.shape[1]), dtype=np.int64)
                        todo = np.empty((2 * len(todo), 5), dtype=np.int64)
                here = ids[s, t] * variants + v
                if rounding != EXACT and not (s == 0 and t == n - 1):
                    found = _thinned(result, found, spacing, rounding, own_cost[t + 1] - own_cost[s])
                if used + found > room:
                    return ids, starts, sizes[:0], memory, cost
                if used + found > len(memory):
                    capacity = min(room, 2 * (used + found))
                    memory = _grown(memory, used, capacity)
                    cost = _grown(cost, used, capacity)
                starts[here], sizes[here] = used, found
                row[here] = rows
                p = 0
                for i in range(found):
                    memory[used + i] = result[0, i]
                    cost[used + i] = result[1, i]
                for c in range(cells + 1):
                    while p < found and result[0, p] <= c << shift:
                        p += 1
                    upto[rows, c] = p
                    if p:
                        coarse[rows, c] = result[1, p - 1]
                upto[rows, cells + 1] = found
                rows += 1
                used += found
    return ids, starts, sizes, memory[:used], cost[:used]


@compiled
def _grown(array: Any, used: Any, capacity: Any) -> Any:
    out = np.empty(capacity, dtype=np.int64)
    for i in range(used):
        out[i] = array[i]
    return out


@compiled
def _lowest(ways: Any, number: Any, count: Any, row: Any, coarse: Any, shift: Any, lowest: Any) -> None:
    """Fills `lowest` with a cost that some way has at the start of each cell: the least, if cells are points.

    Loops run over slices from 0, which is what lets the compiler use vector instructions.
    """
    cells = len(lowest)
    for i in range(len(lowest)):
        lowest[i] = INFINITE
    for j in range(count):
        from1 = -(-ways[j, OFFSET1] >> shift)
        from2 = -(-ways[j, OFFSET2] >> shift)
        first = max(-(-ways[j, LOW] >> shift), from1, from2)
        if first < cells:
            out = lowest[first:]
            a = coarse[row[number[j, 0]], first - from1 : first - from1 + len(out)]
            b = coarse[row[number[j, 1]], first - from2 : first - from2 + len(out)]
            price = ways[j, PRICE]
            for c in range(len(out)):
                out[c] = min(out[c], price + a[c] + b[c])


@compiled
def _steps(lowest: Any, out: Any) -> Any:
    """The breakpoints of costs given for every memory, in `out`; how many there are."""
    size, best = 0, INFINITE
    for c in range(len(lowest)):
        if lowest[c] < best:
            best = lowest[c]
            out[0, size], out[1, size] = c, best
            size += 1
    return size


@compiled
def _which_matter(
    ways: Any, number: Any, count: Any, row: Any, coarse: Any, shift: Any, lowest: Any, flags: Any,
    matters: Any, at_best: Any, mattering: Any,
) -> None:  # fmt: skip
    """Lists the ways that can have a breakpoint in each cell, and what they cost there `at_best`.

    Cell c is memory in (c, c + 1] · 2^shift.
    """
    cells = len(lowest)
    for i in range(len(mattering)):
        mattering[i] = 0
    eights = flags[: len(flags) // 8 * 8].view(np.int64)
    for j in range(count):
        to1 = 1 - (ways[j, OFFSET1] >> shift)
        to2 = 1 - (ways[j, OFFSET2] >> shift)
        first = max(0, -(-ways[j, LOW] >> shift) - 1, -to1, -to2)
        if first < cells:
            here, bound = flags[first:cells], lowest[first:]
            a = coarse[row[number[j, 0]], first + to1 : first + to1 + len(here)]
            b = coarse[row[number[j, 1]], first + to2 : first + to2 + len(here)]
            price = ways[j, PRICE]
            for c in range(len(here)):
                here[c] = price + a[c] + b[c] < bound[c]
            for e in range(first >> 3, (cells + 7) >> 3):
                if eights[e]:
                    for c in range(max(first, 8 * e), min(cells, 8 * e + 8)):
                        if flags[c]:
                            matters[c, mattering[c]] = j
                            at_best[c, mattering[c]] = price + a[c - first] + b[c - first]
                            mattering[c] += 1


@compiled
def _envelope(
    ways: Any, number: Any, matters: Any, at_best: Any, mattering: Any, starts: Any, row: Any, upto: Any,
    memory: Any, cost: Any, shift: Any, out: Any, tasks: Any, todo: Any, leaf: Any,
) -> Any:  # fmt: skip
    """The size of the lower envelope of the ways, in `out`; -1 if a buffer is too small.

    A cell is halved until few breakpoints are left in it; before each halving, ways that at its end
    are no better than the envelope at its start are left out. `tasks` are half-cells to come, the
    leftmost last; `todo` their ways: the way, and for both its staircases the breakpoint in force
    before the cell and the one at its end. Calls, tuples and views are avoided because each of them
    would count references to arrays, which took half of the time.
    """
    size = 0
    best = INFINITE  # the envelope so far, at its right end
    for c in range(len(mattering)):
        low = c << shift if c else -1
        high = (c + 1) << shift
        stop = 0
        for r in range(mattering[c]):
            if at_best[c, r] >= best:
                continue
            j = matters[c, r]
            value = ways[j, PRICE]
            for side in range(2):
                state = number[j, side]
                limit = high - ways[j, OFFSET1 + side]
                i = starts[state] - 1
                if limit >= 0:
                    k = i + upto[row[state], (limit >> shift) + 1]
                    i += upto[row[state], limit >> shift]
                    while i < k and memory[i + 1] <= limit:
                        i += 1
                todo[stop, 2 + 2 * side] = i
                value += cost[i] if i >= starts[state] else INFINITE
            if value >= best:
                continue
            todo[stop, 0] = j
            before = max(low, ways[j, LOW] - 1)
            for side in range(2):
                start = starts[number[j, side]]
                limit = before - ways[j, OFFSET1 + side]
                i = todo[stop, 2 + 2 * side]
                while i >= start and memory[i] > limit:
                    i -= 1
                todo[stop, 1 + 2 * side] = i
            stop += 1
        tasks[0, 0], tasks[0, 1], tasks[0, 2], tasks[0, 3] = low, high, 0, stop
        top = 1 if stop else 0
        while top:
            top -= 1
            low, high, first, stop = tasks[top, 0], tasks[top, 1], tasks[top, 2], tasks[top, 3]
            kept, steps = first, 0
            for r in range(first, stop):
                if ways[todo[r, 0], PRICE] + cost[todo[r, 2]] + cost[todo[r, 4]] < best:
                    if kept < r:
                        for f in range(5):
                            todo[kept, f] = todo[r, f]
                    steps += todo[r, 2] - todo[r, 1] + todo[r, 4] - todo[r, 3]
                    kept += 1
            if kept - first > 1 and steps > LEAF_STEPS + LEAF_WAYS * (kept - first) and high - low > 1:
                if 2 * kept - first > len(todo):
                    return -1
                halfway = (low + high) >> 1
                left = kept
                for r in range(first, kept):
                    j = todo[r, 0]
                    begun = ways[j, LOW] <= halfway
                    todo[left, 0] = j
                    for side in range(2):
                        limit = halfway - ways[j, OFFSET1 + side]
                        i, k = todo[r, 1 + 2 * side] + 1, todo[r, 2 + 2 * side] + 1
                        while i < k:
                            middle = (i + k) >> 1
                            if memory[middle] <= limit:
                                i = middle + 1
                            else:
                                k = middle
                        begun = begun and i > starts[number[j, side]]
                        todo[left, 1 + 2 * side] = todo[r, 1 + 2 * side]
                        todo[left, 2 + 2 * side] = i - 1
                        todo[r, 1 + 2 * side] = i - 1
                    if begun:
                        left += 1
                # the left half is done first and lies last, so that nothing of the right one is overwritten
                tasks[top, 0], tasks[top, 1], tasks[top, 2], tasks[top, 3] = halfway, high, first, kept
                top += 1
                if left > kept:
                    tasks[top, 0], tasks[top, 1], tasks[top, 2], tasks[top, 3] = low, halfway, kept, left
                    top += 1
                continue
            if size + steps + kept - first > out.shape[1] or steps + kept - first > leaf.shape[1]:
                return -1
            points = 0
            for r in range(first, kept):  # walk over the breakpoints of each way, sorting in those below `best`
                j = todo[r, 0]
                p1, e1, p2, e2 = todo[r, 1], todo[r, 2], todo[r, 3], todo[r, 4]
                o1, o2, price = ways[j, OFFSET1], ways[j, OFFSET2], ways[j, PRICE]
                since = max(low + 1, ways[j, LOW])
                start1, start2 = starts[number[j, 0]], starts[number[j, 1]]
                at, bound = since, best
                while True:
                    if p1 >= start1 and p2 >= start2:
                        value = price + cost[p1] + cost[p2]
                        if value < bound:
                            bound = value
                            i = points
                            while i and leaf[0, i - 1] > at:
                                leaf[0, i], leaf[1, i] = leaf[0, i - 1], leaf[1, i - 1]
                                i -= 1
                            leaf[0, i], leaf[1, i] = at, value
                            points += 1
                    step1 = memory[p1 + 1] + o1 if p1 < e1 else INFINITE
                    step2 = memory[p2 + 1] + o2 if p2 < e2 else INFINITE
                    if step1 <= step2:
                        if step1 == INFINITE:
                            break
                        p1 += 1
                        at = max(since, step1)
                        if step1 == step2:
                            p2 += 1
                    else:
                        p2 += 1
                        at = max(since, step2)
            for r in range(points):
                if leaf[1, r] < best:
                    best = leaf[1, r]
                    if size and out[0, size - 1] == leaf[0, r]:
                        size -= 1
                    out[0, size], out[1, size] = leaf[0, r], best
                    size += 1
    return size


@compiled
def _thinned(stairs: Any, size: Any, spacing: Any, rounding: Any, own_cost: Any) -> Any:
    """The new size of a staircase from which breakpoints of nearly equal cost are left out, in place."""
    kept, i = 0, 0
    while i < size:
        limit = (stairs[1, i] + own_cost) / (1.0 + spacing) - own_cost
        j = i
        while j + 1 < size and stairs[1, j + 1] >= limit:
            j += 1
        stairs[0, kept] = stairs[0, i]
        stairs[1, kept] = stairs[1, i] if rounding == UPPER else stairs[1, j]
        kept += 1
        if rounding == UPPER and j == size - 1 and j > i:
            stairs[0, kept], stairs[1, kept] = stairs[0, j], stairs[1, j]
            kept += 1
        i = j + 1
    return kept
