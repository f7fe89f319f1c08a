"""Whole staircases at once, as compiled code: the least cost of each state for every memory.

A staircase is rising breakpoints of memory with falling costs. That of a state is the lower envelope
of its ways, each the sum of two staircases moved and clamped. A coarse look decides first which ways
can matter where: memory is cut into cells of 2^shift bytes, and a way whose cost at the end of a cell is
no less than what some way has at its start adds nothing inside. Only the rest is merged, exactly.
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
    ways_of,
)

FAR = 2**61  # cells: beyond any, and so little that a few more bytes are no overflow
LEAF_STEPS, LEAF_WAYS = 12, 3  # breakpoints below which a cell is not halved any more: at all, for each way


@compiled
def staircases(
    table: Any, crossing: Any, cost_before: Any, gradients_before: Any, reach: Any, same: Any, ids: Any,
    begins: Any, ends: Any, ceiling_starts: Any, ceilings: Any, shift: Any, room: Any,
) -> Any:  # fmt: skip
    """(starts, sizes, memory, cost) of the staircase of every state that matters, where it does.

    State (s, t, v) has number i = ids[s, t] · variants + v; it matters in the cells begins[i] … ends[i] - 1,
    where its cost is below ceilings[ceiling_starts[i] …], or at any cost if there are no `ceilings`. Cell c is
    memory in (c, c + 1] · 2^shift; with a shift of 0 all sizes are whole cells. `room` is how many
    breakpoints may be kept in all; where more are needed, `sizes` comes back empty.
    """
    n = len(table)
    variants = 4 * (reach + 1)
    nothing = len(begins)  # stands in where a way has fewer than two states: no bytes, no cost
    starts = np.zeros(nothing + 1, dtype=np.int64)
    sizes = np.zeros(nothing + 1, dtype=np.int32)
    cells = points = 1
    for i in range(nothing):
        cells = max(cells, ends[i])
        points += max(0, ends[i] - begins[i] + 1)
    # What is known of a state at the ends of cells, first … last, from `at` on in the next two.
    at = np.zeros(nothing + 1, dtype=np.int64)
    first = np.full(nothing + 1, -FAR)
    last = np.full(nothing + 1, -FAR)
    coarse = np.zeros(points, dtype=np.int64)  # cost
    upto = np.zeros(points, dtype=np.int32)  # breakpoints up to there
    # usually enough; pages are committed when they are first written to
    capacity = min(room, 4096 + 16 * n * n * n)
    memory = np.empty(capacity, dtype=np.int64)
    cost = np.empty(capacity, dtype=np.int64)
    memory[0] = cost[0] = 0
    sizes[nothing] = upto[0] = 1
    used = points = 1
    ways = np.zeros((2 * (reach + 1) * n + 4, WAY_FIELDS), dtype=np.int64)
    number = np.empty((len(ways), 2), dtype=np.int64)
    total = np.empty(cells + 1, dtype=np.int64)
    bound = np.empty(cells + 1, dtype=np.int64)
    matters = np.empty((cells, len(ways)), dtype=np.int32)
    at_best = np.empty((cells, len(ways)), dtype=np.int64)
    mattering = np.empty(cells, dtype=np.int64)
    flags = np.zeros(cells + 8, dtype=np.bool_)
    result = np.empty((2, max(1024, cells + 1 if shift == 0 else 0)), dtype=np.int64)
    leaf = np.empty((2, 1024), dtype=np.int64)
    todo = np.empty((4 * len(ways), 5), dtype=np.int64)
    tasks = np.empty((256, 4), dtype=np.int64)
    for t in range(n):
        for s in range(t, -1, -1):
            for v in range(variants if same[s, t] == s else 0):
                here = ids[s, t] * variants + v
                begin, end = begins[here], ends[here]
                if begin >= end:
                    continue
                count = 0
                every = ways_of(table, crossing, cost_before, gradients_before, reach, s, t, v, ways)
                for j in range(every):
                    a = ids[ways[j, S1], ways[j, T1]] * variants + ways[j, V1] if ways[j, S1] >= 0 else nothing
                    b = ids[ways[j, S2], ways[j, T2]] * variants + ways[j, V2] if ways[j, S2] >= 0 else nothing
                    if sizes[a] == 0 or sizes[b] == 0:
                        continue
                    number[count, 0], number[count, 1] = a, b
                    if count < j:
                        for f in range(WAY_FIELDS):
                            ways[count, f] = ways[j, f]
                    count += 1
                _lowest(ways, number, count, at, first, last, coarse, shift, total, bound, begin, end)
                if shift == 0:  # every memory is looked at
                    found = _steps(bound, begin, end, result)
                else:
                    within = 0  # the ceiling of the cell before: what costs more is no breakpoint there
                    for c in range(begin, end):
                        ceiling = ceilings[ceiling_starts[here] + c - begin] if len(ceilings) else INFINITE
                        bound[c] = min(bound[c] + (bound[c] >= within), ceiling)
                        within = ceiling
                    _which_matter(
                        ways, number, count, at, first, last, coarse, shift, total, bound, flags, matters, at_best,
                        mattering, begin, end,
                    )  # fmt: skip
                    found = -1
                while found < 0:
                    found = _envelope(
                        ways, number, matters, at_best, mattering, starts, sizes, at, first, last, upto, memory, cost,
                        shift, ceilings, ceiling_starts[here], result, tasks, todo, leaf, begin, end,
                    )  # fmt: skip
                    if found < 0:
                        result = np.empty((2, 2 * result.shape[1]), dtype=np.int64)
                        leaf = np.empty((2, 2 * leaf.shape[1]), dtype=np.int64)
                        todo = np.empty((2 * len(todo), 5), dtype=np.int64)
                if found == 0:
                    continue
                if used + found > room:
                    return starts, sizes[:0], memory, cost
                if used + found > len(memory):
                    capacity = min(room, 2 * (used + found))
                    memory = _grown(memory, used, capacity)
                    cost = _grown(cost, used, capacity)
                starts[here], sizes[here] = used, found
                for i in range(found):
                    memory[used + i] = result[0, i]
                    cost[used + i] = result[1, i]
                p = 0
                at[here], first[here], last[here] = points, begin, end
                for c in range(begin, end + 1):
                    while p < found and result[0, p] <= c << shift:
                        p += 1
                    upto[points] = p
                    coarse[points] = result[1, p - 1] if p else INFINITE
                    points += 1
                used += found
    return starts, sizes, memory[:used], cost[:used]


@compiled
def _grown(array: Any, used: Any, capacity: Any) -> Any:
    out = np.empty(capacity, dtype=np.int64)
    for i in range(used):
        out[i] = array[i]
    return out


@compiled
def _total(
    price: Any, values: Any, at1: Any, first1: Any, last1: Any, move1: Any,
    at2: Any, first2: Any, last2: Any, move2: Any, begin: Any, end: Any, out: Any,
) -> Any:  # fmt: skip
    """Fills out[b … end - 1] with the cost of a way and its states, each moved by some points; returns b.

    A state is infinite before its first point and constant after its last. Loops run over slices from 0,
    which is what lets the compiler use vector instructions.
    """
    begin = max(begin, first1 - move1, first2 - move2)
    if begin >= end:
        return end
    if last1 - move1 < last2 - move2:
        at1, at2, first1, first2, last1, last2 = at2, at1, first2, first1, last2, last1
        move1, move2 = move2, move1
    both, one = min(end, last2 - move2 + 1), min(end, last1 - move1 + 1)
    at = begin
    if at < both:
        here = out[at:both]
        a = values[at1 + at + move1 - first1 : at1 + both + move1 - first1]
        b = values[at2 + at + move2 - first2 : at2 + both + move2 - first2]
        for i in range(len(here)):
            here[i] = price + a[i] + b[i]
        at = both
    price += values[at2 + last2 - first2]
    if at < one:
        here = out[at:one]
        a = values[at1 + at + move1 - first1 : at1 + one + move1 - first1]
        for i in range(len(here)):
            here[i] = price + a[i]
        at = one
    price += values[at1 + last1 - first1]
    for c in range(at, end):
        out[c] = price
    return begin


@compiled
def _lowest(
    ways: Any, number: Any, count: Any, at: Any, first: Any, last: Any, coarse: Any, shift: Any,
    total: Any, lowest: Any, begin: Any, end: Any,
) -> None:  # fmt: skip
    """Fills `lowest` with a cost that some way has at the start of each cell: the least, if cells are points."""
    for c in range(begin, end):
        lowest[c] = INFINITE
    for j in range(count):
        a, b = number[j, 0], number[j, 1]
        since = _total(
            ways[j, PRICE], coarse, at[a], first[a], last[a], -ways[j, OFFSET1] >> shift,
            at[b], first[b], last[b], -ways[j, OFFSET2] >> shift, max(begin, -(-ways[j, LOW] >> shift)), end, total,
        )  # fmt: skip
        here, found = lowest[since:end], total[since:end]
        for i in range(len(here)):
            here[i] = min(here[i], found[i])


@compiled
def _steps(lowest: Any, begin: Any, end: Any, out: Any) -> Any:
    """The breakpoints of costs given for every memory, in `out`; how many there are."""
    size, best = 0, INFINITE
    for c in range(begin, end):
        if lowest[c] < best:
            best = lowest[c]
            out[0, size], out[1, size] = c, best
            size += 1
    return size


@compiled
def _which_matter(
    ways: Any, number: Any, count: Any, at: Any, first: Any, last: Any, coarse: Any, shift: Any, total: Any, bound: Any,
    flags: Any, matters: Any, at_best: Any, mattering: Any, begin: Any, end: Any,
) -> None:  # fmt: skip
    """Lists the ways that can have a breakpoint below `bound` in each cell, and what they cost there `at_best`."""
    for c in range(begin, end):
        mattering[c] = 0
    eights = flags[: len(flags) // 8 * 8].view(np.int64)
    for j in range(count):
        a, b = number[j, 0], number[j, 1]
        since = _total(
            ways[j, PRICE], coarse, at[a], first[a], last[a], 1 - (ways[j, OFFSET1] >> shift),
            at[b], first[b], last[b], 1 - (ways[j, OFFSET2] >> shift),
            max(begin, -(-ways[j, LOW] >> shift) - 1), end, total,
        )  # fmt: skip
        here, found, below = flags[since:end], total[since:end], bound[since:end]
        for i in range(len(here)):
            here[i] = found[i] < below[i]
        for e in range(since >> 3, (end + 7) >> 3):
            if eights[e]:
                for c in range(max(since, 8 * e), min(end, 8 * e + 8)):
                    if flags[c]:
                        matters[c, mattering[c]] = j
                        at_best[c, mattering[c]] = total[c]
                        mattering[c] += 1


@compiled
def _envelope(
    ways: Any, number: Any, matters: Any, at_best: Any, mattering: Any, starts: Any, sizes: Any, at: Any, firsts: Any,
    lasts: Any, upto: Any, memory: Any, cost: Any, shift: Any, ceilings: Any, ceiling_start: Any, out: Any, tasks: Any,
    todo: Any, leaf: Any, begin: Any, end: Any,
) -> Any:  # fmt: skip
    """The size of the lower envelope of the ways, in `out`; -1 if a buffer is too small.

    A cell is halved until few breakpoints are left in it; before each halving, ways that at its end
    are no better than the envelope at its start are left out. `tasks` are half-cells to come, the
    leftmost last; `todo` their ways: the way, and for both its staircases the breakpoint in force
    before the cell and the one at its end. Calls, tuples and views are avoided because each of them
    would count references to arrays, which took half of the time.
    """
    size = 0
    least = INFINITE  # the envelope so far, at its right end
    for c in range(begin, end):
        low = c << shift if c else -1
        high = (c + 1) << shift
        best = min(least, ceilings[ceiling_start + c - begin]) if len(ceilings) else least
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
                p = limit >> shift
                if p >= lasts[state]:
                    i += sizes[state]
                elif p + 1 >= firsts[state]:
                    k = i + upto[at[state] + p + 1 - firsts[state]]
                    if p >= firsts[state]:
                        i += upto[at[state] + p - firsts[state]]
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
                place, bound = since, best
                while True:
                    if p1 >= start1 and p2 >= start2:
                        value = price + cost[p1] + cost[p2]
                        if value < bound:
                            bound = value
                            i = points
                            while i and leaf[0, i - 1] > place:
                                leaf[0, i], leaf[1, i] = leaf[0, i - 1], leaf[1, i - 1]
                                i -= 1
                            leaf[0, i], leaf[1, i] = place, value
                            points += 1
                    step1 = memory[p1 + 1] + o1 if p1 < e1 else INFINITE
                    step2 = memory[p2 + 1] + o2 if p2 < e2 else INFINITE
                    if step1 <= step2:
                        if step1 == INFINITE:
                            break
                        p1 += 1
                        place = max(since, step1)
                        if step1 == step2:
                            p2 += 1
                    else:
                        p2 += 1
                        place = max(since, step2)
            for r in range(points):
                if leaf[1, r] < best:
                    best = least = leaf[1, r]
                    if size and out[0, size - 1] == leaf[0, r]:
                        size -= 1
                    out[0, size], out[1, size] = leaf[0, r], best
                    size += 1
    return size
