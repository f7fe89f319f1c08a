"""The envelopes: for every state its least cost as a step function of memory, exactly.

A step function is rising breakpoints of memory with falling costs. That of a state is the lower envelope
of its transitions', each the sum of two step functions moved and clamped. A look at the ends of cells decides
first which transitions can matter where: memory is cut into cells of 2^shift bytes, and a transition whose
cost at the end of a cell is no less than what some transition has at its start adds nothing inside. Only the
rest is merged, exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.base.compiled import compiled
from sim.graphs.node import Ints
from sim.strategies.optimal.inside import FAR
from sim.strategies.optimal.recurrence import (
    HELD,
    INFINITE,
    ONE,
    OWN_COST,
    PEAK,
    STATE_FIELDS,
    TRANSITION_FIELDS,
    TWO,
    Ints32,
    Problem,
    States,
    exists,
    most_transitions,
    number_of,
    transitions_of,
    variants,
)

LEAF_STEPS, LEAF_EACH = 12, 3  # breakpoints below which a cell is not halved any more: at all, for each transition
DONE, MORE_ROOM, MORE_BUFFERS = range(3)


class Cells(NamedTuple):
    """The region in which each state matters: in the cells begins[i] … ends[i] - 1, below ceilings[starts[i] …].

    Cell c is memory in (c, c + 1] · 2^shift; with a shift of 0 all sizes are whole cells. Without `ceilings`
    a state matters at any cost.
    """

    shift: int
    begins: Ints
    ends: Ints
    starts: Ints
    ceilings: Ints


class Envelopes(NamedTuple):
    """The step function of state i: sizes[i] breakpoints from starts[i] on; the last state has no stages."""

    starts: Ints
    sizes: Ints32
    memory: Ints
    cost: Ints


class Ends(NamedTuple):
    """The cost of state i at the ends of cells first[i] … last[i], from at[i] on, and its breakpoints up to there."""

    at: Ints
    first: Ints
    last: Ints
    cost: Ints
    upto: Ints32


class Buffers(NamedTuple):
    """Room for one state: its transitions and their states' numbers, what they cost at ends, which matter where."""

    options: Ints
    number: Ints
    total: Ints
    bound: Ints
    flags: NDArray[np.bool_]
    matters: Ints32
    at_best: Ints
    mattering: Ints
    result: Ints
    leaf: Ints
    todo: Ints
    tasks: Ints


def envelopes(problem: Problem, states: States, cells: Cells, *, most_breakpoints: int) -> Envelopes | None:
    """The envelope of every state where it matters; `None` if they have more breakpoints together."""
    n, count = len(problem.table), states.number
    sized = np.maximum(0, cells.ends - cells.begins + 1)
    points = 1 + int(sized.sum())
    ends = Ends(
        at=np.zeros(count + 1, dtype=np.int64),
        first=np.full(count + 1, -FAR),
        last=np.full(count + 1, -FAR),
        cost=np.zeros(points, dtype=np.int64),
        upto=np.zeros(points, dtype=np.int32),
    )
    # usually enough; pages are committed when they are first written to
    capacity = min(most_breakpoints, 4096 + 16 * n**3)
    tables = Envelopes(
        starts=np.zeros(count + 1, dtype=np.int64),
        sizes=np.zeros(count + 1, dtype=np.int32),
        memory=np.empty(capacity, dtype=np.int64),
        cost=np.empty(capacity, dtype=np.int64),
    )
    tables.memory[0] = tables.cost[0] = 0
    tables.sizes[count] = ends.upto[0] = 1
    size = 1 << 16
    buffers = _buffers(problem, cells, size)
    used = points = 1
    for t in range(n):
        status = -1
        while status != DONE:
            status, used_after, points_after = _column(problem, states, cells, tables, ends, buffers, t, used, points)
            if status == MORE_ROOM:
                if len(tables.memory) == most_breakpoints:
                    return None
                for steps in (tables.memory, tables.cost):
                    steps.resize(min(most_breakpoints, 2 * len(steps)), refcheck=False)
            elif status == MORE_BUFFERS:
                size *= 2
                buffers = _buffers(problem, cells, size)
        used, points = used_after, points_after
    for steps in (tables.memory, tables.cost):
        steps.resize(used, refcheck=False)
    return tables


def _buffers(problem: Problem, cells: Cells, size: int) -> Buffers:
    most = most_transitions(len(problem.table), problem.reach)
    last = max(1, int(cells.ends.max(initial=1)))
    return Buffers(
        options=np.zeros((most, TRANSITION_FIELDS), dtype=np.int64),
        number=np.empty((most, 2), dtype=np.int64),
        total=np.empty(last + 1, dtype=np.int64),
        bound=np.empty(last + 1, dtype=np.int64),
        flags=np.zeros(last + 8, dtype=np.bool_),
        matters=np.empty((last, most), dtype=np.int32),
        at_best=np.empty((last, most), dtype=np.int64),
        mattering=np.empty(last, dtype=np.int64),
        result=np.empty((2, max(size, last + 1)), dtype=np.int64),
        leaf=np.empty((2, size), dtype=np.int64),
        todo=np.empty((max(4 * most, size), 5), dtype=np.int64),
        tasks=np.empty((256, 4), dtype=np.int64),
    )


@compiled
def every_cell(problem: Problem, states: States, shift: int) -> tuple[Ints, Ints]:
    """(begins, ends): the cells of 2^shift bytes from each state's least bytes to where more change nothing."""
    n, count, reach = len(problem.table), states.number, problem.reach
    same, ids = states.same, states.ids
    least = np.zeros(count + 1, dtype=np.int64)  # bytes; the last entry stands in where there is no state
    most = np.zeros(count + 1, dtype=np.int64)  # bytes that the cheapest transition takes
    cheapest = np.zeros(count + 1, dtype=np.int64)
    begins = np.zeros(count, dtype=np.int64)
    ends = np.zeros(count, dtype=np.int64)
    options = np.zeros((most_transitions(n, reach), TRANSITION_FIELDS), dtype=np.int64)
    for t in range(n):
        for s in range(t, -1, -1):
            for v in range(variants(reach) if same[s, t] == s else 0):
                if not exists(problem.table, s, t, v):
                    continue
                here = ids[s, t] * variants(reach) + v
                least[here] = most[here] = cheapest[here] = INFINITE
                for j in range(transitions_of(problem, s, t, v, options)):
                    w = options[j]
                    a = number_of(ids, reach, w, ONE, count)
                    b = number_of(ids, reach, w, TWO, count)
                    least[here] = min(least[here], max(w[PEAK], w[ONE + HELD] + least[a], w[TWO + HELD] + least[b]))
                    cost = w[OWN_COST] + cheapest[a] + cheapest[b]
                    need = max(w[PEAK], w[ONE + HELD] + most[a], w[TWO + HELD] + most[b])
                    if cost < cheapest[here] or (cost == cheapest[here] and need < most[here]):
                        cheapest[here], most[here] = cost, need
                if shift:
                    begins[here] = max(0, -(-least[here] >> shift) - 1)
                    ends[here] = max(1, -(-most[here] >> shift))
                else:
                    begins[here], ends[here] = least[here], most[here] + 1
    return begins, ends


@compiled
def _column(
    problem: Problem, states: States, cells: Cells, tables: Envelopes, ends: Ends, buffers: Buffers, t: int,
    used: int, points: int,
) -> tuple[int, int, int]:  # fmt: skip
    """(status, breakpoints, points at ends so far) with the envelopes of all states (·, t) added to the `tables`.

    Columns of smaller t come before. Where room or buffers do not suffice, nothing of the column counts.
    """
    ids, same, shift, ceilings = states.ids, states.same, cells.shift, cells.ceilings
    starts, sizes, memory, cost = tables
    options, number, bound, result = buffers.options, buffers.number, buffers.bound, buffers.result
    nothing = states.number  # stands in where a transition has fewer than two states: no bytes, no cost
    for s in range(t, -1, -1):
        for v in range(variants(problem.reach) if same[s, t] == s else 0):
            here = ids[s, t] * variants(problem.reach) + v
            begin, end = cells.begins[here], cells.ends[here]
            if begin >= end:
                continue
            count = 0
            for j in range(transitions_of(problem, s, t, v, options)):
                w = options[j]
                a = number_of(ids, problem.reach, w, ONE, nothing)
                b = number_of(ids, problem.reach, w, TWO, nothing)
                if sizes[a] == 0 or sizes[b] == 0:
                    continue
                number[count, 0], number[count, 1] = a, b
                if count < j:
                    for f in range(TRANSITION_FIELDS):
                        options[count, f] = options[j, f]
                count += 1
            _lowest(buffers, ends, shift, count, begin, end)
            if shift == 0:  # every memory is looked at
                size = _steps(bound, begin, end, result)
            else:
                within = 0  # the ceiling of the cell before: what costs more is no breakpoint there
                for c in range(begin, end):
                    ceiling = ceilings[cells.starts[here] + c - begin] if len(ceilings) else INFINITE
                    bound[c] = min(bound[c] + (bound[c] >= within), ceiling)
                    within = ceiling
                _which_matter(buffers, ends, shift, count, begin, end)
                size = _envelope(tables, ends, cells, buffers, cells.starts[here], begin, end)
                if size < 0:
                    return MORE_BUFFERS, used, points
            if size == 0:
                continue
            if used + size > len(memory):
                return MORE_ROOM, used, points
            starts[here], sizes[here] = used, size
            for i in range(size):
                memory[used + i] = result[0, i]
                cost[used + i] = result[1, i]
            p = 0
            ends.at[here], ends.first[here], ends.last[here] = points, begin, end
            for c in range(begin, end + 1):
                while p < size and result[0, p] <= c << shift:
                    p += 1
                ends.upto[points] = p
                ends.cost[points] = result[1, p - 1] if p else INFINITE
                points += 1
            used += size
    return DONE, used, points


@compiled
def _total(cost: int, ends: Ends, a: int, move1: int, b: int, move2: int, begin: int, end: int, out: Ints) -> int:
    """Fill out[c … end - 1] with the cost of a transition and its states a and b, each moved by some points; return c.

    A state is infinite before its first point and constant after its last. Loops run over slices from 0,
    which is what lets the compiler use vector instructions.
    """
    begin = max(begin, ends.first[a] - move1, ends.first[b] - move2)
    if begin >= end:
        return end
    if ends.last[a] - move1 < ends.last[b] - move2:
        a, b, move1, move2 = b, a, move2, move1
    values = ends.cost
    start1, start2 = ends.at[a] + move1 - ends.first[a], ends.at[b] + move2 - ends.first[b]
    both, one = min(end, ends.last[b] - move2 + 1), min(end, ends.last[a] - move1 + 1)
    at = begin
    if at < both:
        here = out[at:both]
        first, second = values[start1 + at : start1 + both], values[start2 + at : start2 + both]
        for i in range(len(here)):
            here[i] = cost + first[i] + second[i]
        at = both
    cost += values[start2 + ends.last[b] - move2]
    if at < one:
        here = out[at:one]
        first = values[start1 + at : start1 + one]
        for i in range(len(here)):
            here[i] = cost + first[i]
        at = one
    cost += values[start1 + ends.last[a] - move1]
    for c in range(at, end):
        out[c] = cost
    return begin


@compiled
def _lowest(buffers: Buffers, ends: Ends, shift: int, count: int, begin: int, end: int) -> None:
    """Fill `bound` with a cost that some transition has at the start of each cell: the least, if cells are points."""
    options, number, total, lowest = buffers.options, buffers.number, buffers.total, buffers.bound
    for c in range(begin, end):
        lowest[c] = INFINITE
    for j in range(count):
        move1, move2 = -options[j, ONE + HELD] >> shift, -options[j, TWO + HELD] >> shift
        since = max(begin, -(-options[j, PEAK] >> shift))
        since = _total(options[j, OWN_COST], ends, number[j, 0], move1, number[j, 1], move2, since, end, total)
        here, costs = lowest[since:end], total[since:end]
        for i in range(len(here)):
            here[i] = min(here[i], costs[i])


@compiled
def _steps(lowest: Ints, begin: int, end: int, out: Ints) -> int:
    """Write the breakpoints of costs at every memory to `out`; return how many there are."""
    size, best = 0, INFINITE
    for c in range(begin, end):
        if lowest[c] < best:
            best = lowest[c]
            out[0, size], out[1, size] = c, best
            size += 1
    return size


@compiled
def _which_matter(buffers: Buffers, ends: Ends, shift: int, count: int, begin: int, end: int) -> None:
    """List the transitions that can have a breakpoint below `bound` in a cell, and what they cost there `at_best`."""
    options, number, total, bound = buffers.options, buffers.number, buffers.total, buffers.bound
    flags, matters, at_best, mattering = buffers.flags, buffers.matters, buffers.at_best, buffers.mattering
    for c in range(begin, end):
        mattering[c] = 0
    eights = flags[: len(flags) // 8 * 8].view(np.int64)
    for j in range(count):
        move1, move2 = 1 - (options[j, ONE + HELD] >> shift), 1 - (options[j, TWO + HELD] >> shift)
        since = max(begin, -(-options[j, PEAK] >> shift) - 1)
        since = _total(options[j, OWN_COST], ends, number[j, 0], move1, number[j, 1], move2, since, end, total)
        here, costs, below = flags[since:end], total[since:end], bound[since:end]
        for i in range(len(here)):
            here[i] = costs[i] < below[i]
        for e in range(since >> 3, (end + 7) >> 3):
            if eights[e]:
                for c in range(max(since, 8 * e), min(end, 8 * e + 8)):
                    if flags[c]:
                        matters[c, mattering[c]] = j
                        at_best[c, mattering[c]] = total[c]
                        mattering[c] += 1


@compiled
def _envelope(
    tables: Envelopes, ends: Ends, cells: Cells, buffers: Buffers, ceiling_start: int, begin: int, end: int
) -> int:
    """Write the lower envelope of the transitions to `result` and return its size; -1 if a buffer is too small.

    A cell is halved until few breakpoints are left in it; before each halving, transitions that at its end
    are no better than the envelope at its start are left out. `tasks` are half-cells to come, the
    leftmost last; `todo` their transitions: the transition, and for both its states the breakpoint in force
    before the cell and the one at its end. Calls, tuples and views are avoided because each of them
    would count references to arrays, which took half of the time.
    """
    starts, sizes, memory, cost = tables
    at, firsts, lasts, upto = ends.at, ends.first, ends.last, ends.upto
    shift, ceilings = cells.shift, cells.ceilings
    options, number, matters, at_best, mattering = (
        buffers.options, buffers.number, buffers.matters, buffers.at_best, buffers.mattering,
    )  # fmt: skip
    out, leaf, todo, tasks = buffers.result, buffers.leaf, buffers.todo, buffers.tasks
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
            value = options[j, OWN_COST]
            for side in range(2):
                state = number[j, side]
                limit = high - options[j, ONE + HELD + STATE_FIELDS * side]
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
            before = max(low, options[j, PEAK] - 1)
            for side in range(2):
                start = starts[number[j, side]]
                limit = before - options[j, ONE + HELD + STATE_FIELDS * side]
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
                if options[todo[r, 0], OWN_COST] + cost[todo[r, 2]] + cost[todo[r, 4]] < best:
                    if kept < r:
                        for f in range(5):
                            todo[kept, f] = todo[r, f]
                    steps += todo[r, 2] - todo[r, 1] + todo[r, 4] - todo[r, 3]
                    kept += 1
            if kept - first > 1 and steps > LEAF_STEPS + LEAF_EACH * (kept - first) and high - low > 1:
                if 2 * kept - first > len(todo):
                    return -1
                halfway = (low + high) >> 1
                left = kept
                for r in range(first, kept):
                    j = todo[r, 0]
                    begun = options[j, PEAK] <= halfway
                    todo[left, 0] = j
                    for side in range(2):
                        limit = halfway - options[j, ONE + HELD + STATE_FIELDS * side]
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
            for r in range(first, kept):  # walk over the breakpoints of each transition, sorting in those below `best`
                j = todo[r, 0]
                p1, e1, p2, e2 = todo[r, 1], todo[r, 2], todo[r, 3], todo[r, 4]
                o1, o2, own = options[j, ONE + HELD], options[j, TWO + HELD], options[j, OWN_COST]
                since = max(low + 1, options[j, PEAK])
                start1, start2 = starts[number[j, 0]], starts[number[j, 1]]
                place, bound = since, best
                while True:
                    if p1 >= start1 and p2 >= start2:
                        value = own + cost[p1] + cost[p2]
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
