"""The inside bound: for every state a lower bound of its cost at points of memory on a coarse grid.

Coarse-to-fine search, as parsers do it (Charniak et al. 2006, Multilevel coarse-to-fine PCFG parsing,
doi 10.3115/1220835.1220857). On a grid of 2^shift bytes each state has a lower bound of its own cost
(*inside*), and from the whole problem down a lower bound of what the rest of a plan costs beyond the best
plan known (*outside*, `sim.strategies.optimal.outside`). Where the two add up to more than nothing, no
optimal plan has that state with that much memory.

A state's grid is moved so that keeping one stage after another is never rounded: its points are the
memories m with m + anchor[s] - gradients_before[t + 1] a multiple of 2^shift, where `anchor` adds up
what KEEP holds. Rounded is one step for each checkpoint that a plan holds at once.
Costs on the grid are of type float32, in units in which one evaluation of all stages is 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.base.compiled import compiled
from sim.graphs.node import Ints
from sim.strategies.optimal.recurrence import (
    HELD,
    INFINITE,
    ONE,
    OWN_COST,
    PEAK,
    TRANSITION_FIELDS,
    TWO,
    Ints32,
    Problem,
    T,
    exists,
    most_transitions,
    place,
    row_of,
    transitions_of,
    variants,
)

Floats = NDArray[np.float32]

FAR = 2**61
"""Cells: beyond any, and so few that adding some is no overflow."""
START, FIRST, LAST = range(3)
BLOCK = 8
"""Values of t that are looked at together, so that what is read of the states (s, ·) is still in the cache."""
EPSILON = 2.0**-24
"""Relative error of one rounding."""


class Grid(NamedTuple):
    """The points of memory that are looked at for each state, 2^shift bytes apart.

    A state has the row `row[place(…)]`, or -1 if it cannot matter; row 0 is the state of no stages. Row r
    matters with more than windows[r, 0] and up to windows[r, 1] bytes. Its points places[r, FIRST] …
    places[r, LAST] lie in that window, and their bounds are at places[r, START] and after it.
    """

    anchor: Ints  # (n + 1,)
    shift: int
    row: Ints32
    windows: Ints  # (rows, 2)
    places: Ints  # (rows, 3)
    smallest: Ints  # (rows,): the least bytes that are enough


class Span(NamedTuple):
    """The bounds of one state on its grid, as points `move` before those of another state see them."""

    start: int
    first: int
    last: int
    move: int


def margin(stages: int, most: float) -> float:
    """More than float32 can be wrong by in a sum over a plan of so many stages, with terms up to `most`."""
    return 8 * (stages + 8) * EPSILON * most


@compiled
def rows_of(problem: Problem) -> tuple[Ints32, Ints]:
    """(row, windows) of a grid on which every state may matter with any memory."""
    table, reach = problem.table, problem.reach
    n = len(table)
    row = np.empty(n * n * variants(reach), dtype=np.int32)
    rows = 1
    for s in range(n):
        for t in range(n):
            for v in range(variants(reach)):
                there = s <= t and exists(table, s, t, v)
                row[place(n, reach, s, t, v)] = rows if there else -1
                rows += there
    windows = np.empty((rows, 2), dtype=np.int64)
    for r in range(rows):
        windows[r, 0], windows[r, 1] = -1, INFINITE
    return row, windows


@compiled
def set_points(problem: Problem, grid: Grid) -> int:
    """Fill `places` and `smallest` of a grid for its shift, row and windows; return how many points there are.

    Windows without an end get one, where more memory changes nothing; states that no memory is enough for
    lose their row.
    """
    n, reach = len(problem.table), problem.reach
    shift, row, windows, places, smallest = grid.shift, grid.row, grid.windows, grid.places, grid.smallest
    places[0, START], places[0, FIRST], places[0, LAST] = 0, -FAR, -FAR
    smallest[0] = 0
    most = np.zeros(len(windows), dtype=np.int64)  # bytes that the cheapest transition takes
    cheapest = np.zeros(len(windows), dtype=np.int64)
    size = 1
    options = np.zeros((most_transitions(n, reach), TRANSITION_FIELDS), dtype=np.int64)
    for block in range(0, n, BLOCK):
        for s in range(min(n, block + BLOCK) - 1, -1, -1):
            for t in range(max(s, block), min(n, block + BLOCK)):
                phase = phase_of(grid.anchor, problem.gradients_before, s, t, shift)
                for v in range(variants(reach)):
                    here = place(n, reach, s, t, v)
                    r = row[here]
                    if r < 0:
                        continue
                    small = most[r] = cheapest[r] = INFINITE
                    for j in range(transitions_of(problem, s, t, v, options)):
                        w = options[j]
                        a = row_of(row, n, reach, w, ONE)
                        b = row_of(row, n, reach, w, TWO)
                        if a < 0 or b < 0:
                            continue
                        small = min(small, max(w[PEAK], w[ONE + HELD] + smallest[a], w[TWO + HELD] + smallest[b]))
                        cost = w[OWN_COST] + cheapest[a] + cheapest[b]
                        need = max(w[PEAK], w[ONE + HELD] + most[a], w[TWO + HELD] + most[b])
                        if cost < cheapest[r] or (cost == cheapest[r] and need < most[r]):
                            cheapest[r], most[r] = cost, need
                    smallest[r] = small
                    if small == INFINITE:
                        row[here] = -1
                        continue
                    if windows[r, 1] == INFINITE:
                        windows[r, 1] = most[r]
                    begin = max(-(-(small + phase) >> shift), (windows[r, 0] + phase) >> shift)
                    end = max(begin, -(-(windows[r, 1] + phase) >> shift))
                    places[r, START], places[r, FIRST], places[r, LAST] = size, begin, end
                    size += end - begin + 1
    return size


@compiled
def inside(problem: Problem, grid: Grid, lower: Floats, first_t: int, end_t: int, first_s: int, end_s: int) -> None:
    """Fill `lower` with a bound for each point of the rows of some s and t, which holds down to the point before it.

    Rows of smaller t and the same s, and of greater s and the same t, come before; `first_t` starts a block.
    """
    n, reach = len(problem.table), problem.reach
    anchor, gradients_before = grid.anchor, problem.gradients_before
    shift, row, places = grid.shift, grid.row, grid.places
    scale = 1.0 / problem.cost_before[n]
    infinite = np.float32(np.inf)
    options = np.zeros((most_transitions(n, reach), TRANSITION_FIELDS), dtype=np.int64)
    for block in range(first_t, end_t, BLOCK):
        for s in range(min(end_s, block + BLOCK) - 1, first_s - 1, -1):
            for t in range(max(s, block), min(end_t, block + BLOCK)):
                phase = phase_of(anchor, gradients_before, s, t, shift)
                for v in range(variants(reach)):
                    r = row[place(n, reach, s, t, v)]
                    if r < 0:
                        continue
                    start, begin, end = places[r, START], places[r, FIRST], places[r, LAST]
                    for i in range(start, start + end - begin + 1):
                        lower[i] = infinite
                    for j in range(transitions_of(problem, s, t, v, options)):
                        w = options[j]
                        since = max(begin, -(-(w[PEAK] + phase) >> shift))
                        if since > end:
                            continue
                        a = row_of(row, n, reach, w, ONE)
                        b = row_of(row, n, reach, w, TWO)
                        if a < 0 or b < 0:
                            continue
                        move1 = phase_of(anchor, gradients_before, w[ONE], w[ONE + T], shift) - phase - w[ONE + HELD]
                        move2 = phase_of(anchor, gradients_before, w[TWO], w[TWO + T], shift) - phase - w[TWO + HELD]
                        one = Span(places[a, START], places[a, FIRST], places[a, LAST], -(-move1 >> shift))
                        two = Span(places[b, START], places[b, FIRST], places[b, LAST], -(-move2 >> shift))
                        _lower(lower, start - begin, since, end, np.float32(w[OWN_COST] * scale), one, two)
                    best = infinite
                    for i in range(start, start + end - begin + 1):
                        best = min(best, lower[i])
                        lower[i] = best


@compiled
def phase_of(anchor: Ints, gradients_before: Ints, s: int, t: int, shift: int) -> int:
    """The distance of a state's points below multiples of 2^shift bytes; 0 for the state of no stages."""
    return (anchor[s] - gradients_before[t + 1]) & ((1 << shift) - 1) if s >= 0 else 0


@compiled
def _lower(values: Floats, base: int, begin: int, end: int, cost: Any, one: Span, two: Span) -> None:
    """Lower values[base + begin … base + end] to the cost of a transition: its own and that of its states.

    A state is infinite before its first point and constant after its last; where both are constant one
    point is enough, because running minima are taken afterwards. Loops run over slices from 0, which
    is what lets the compiler use vector instructions.
    """
    begin = max(begin, one.first - one.move, two.first - two.move)
    stop = min(end, one.last - one.move, two.last - two.move)
    if begin <= stop:
        here = values[base + begin : base + stop + 1]
        a = values[one.start + begin + one.move - one.first : one.start + stop + one.move - one.first + 1]
        b = values[two.start + begin + two.move - two.first : two.start + stop + two.move - two.first + 1]
        for i in range(len(here)):
            here[i] = min(here[i], cost + a[i] + b[i])
        begin = stop + 1
    if begin > end:
        return
    if one.last - one.move < two.last - two.move:
        one, two = two, one
    constant = cost + values[two.start + two.last - two.first]
    stop = min(end, one.last - one.move)
    if begin <= stop:
        here = values[base + begin : base + stop + 1]
        a = values[one.start + begin + one.move - one.first : one.start + stop + one.move - one.first + 1]
        for i in range(len(here)):
            here[i] = min(here[i], constant + a[i])
        begin = stop + 1
    if begin <= end:
        values[base + begin] = min(values[base + begin], constant + values[one.start + one.last - one.first])
