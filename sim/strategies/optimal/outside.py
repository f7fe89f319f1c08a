"""The outside bound: for every state with so much memory a lower bound of what the rest of a plan costs.

The other half of `sim.strategies.optimal.inside`: from the whole problem down, a state's bound is the least over
all transitions that lead to it, with the inside bounds of the other states that they ask for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.base.compiled import compiled
from sim.graphs.node import Ints
from sim.strategies.optimal.inside import BLOCK, FAR, FIRST, LAST, START, Floats, Grid, Span, phase_of
from sim.strategies.optimal.recurrence import (
    HELD,
    ONE,
    OWN_COST,
    PEAK,
    TRANSITION_FIELDS,
    TWO,
    Ints32,
    Problem,
    T,
    most_transitions,
    place,
    row_of,
    transitions_of,
    variants,
)


@compiled
def outside(problem: Problem, grid: Grid, lower: Floats, to_beat: Floats, slack: Any, beyond: Floats) -> int:
    """Fill `beyond` with what the rest of a plan costs at least, less what is `to_beat`, for each point of each row.

    `to_beat` has a cost for each point of the whole problem's row. A state whose bounds from inside and outside
    add up to more than `slack` everywhere loses its row; the windows of the others are made as narrow as the
    grid allows. Return at how many points they do not.
    """
    n, reach = len(problem.table), problem.reach
    anchor, gradients_before = grid.anchor, problem.gradients_before
    shift, row, windows, places = grid.shift, grid.row, grid.windows, grid.places
    scale = 1.0 / problem.cost_before[n]
    infinite = np.float32(np.inf)
    for i in range(len(lower)):
        beyond[i] = infinite
    whole = places[row[place(n, reach, 0, n - 1, 0)], START]
    for i in range(len(to_beat)):
        beyond[whole + i] = -to_beat[i]
    options = np.zeros((most_transitions(n, reach), TRANSITION_FIELDS), dtype=np.int64)
    left = 0
    stop = len(lower)
    for block in range((n - 1) // BLOCK * BLOCK, -1, -BLOCK):
        base = stop
        for s in range(min(n, block + BLOCK)):
            for i in range(place(n, reach, s, max(s, block), 0), place(n, reach, s, min(n, block + BLOCK), 0)):
                if row[i] >= 0:
                    base = min(base, places[row[i], START])
        stop, between = base, len(lower) - base
        for i in range(len(lower), len(beyond)):
            beyond[i] = infinite
        for s in range(min(n, block + BLOCK)):
            for t in range(min(n, block + BLOCK) - 1, max(s, block) - 1, -1):
                phase = phase_of(anchor, gradients_before, s, t, shift)
                for v in range(variants(reach) - 1, -1, -1):
                    here = place(n, reach, s, t, v)
                    r = row[here]
                    if r < 0:
                        continue
                    start, first, last = places[r, START], places[r, FIRST], places[r, LAST]
                    begin, end = last + 1, first - 1
                    for i in range(start, start + last - first + 1):
                        beyond[i] = min(beyond[i], beyond[between + i])
                        if i < start + last - first:
                            beyond[i] = min(beyond[i], beyond[between + i + 1])
                        if beyond[i] + lower[i] <= slack:
                            end = first + i - start
                            left += 1
                            begin = min(begin, end)
                    if end < first:
                        row[here] = -1
                        continue
                    windows[r, 0] = max(windows[r, 0], ((begin - 1) << shift) - phase)
                    if end < last:
                        windows[r, 1] = min(windows[r, 1], (end << shift) - phase)
                    for j in range(transitions_of(problem, s, t, v, options)):
                        w = options[j]
                        if w[ONE] < 0:
                            continue
                        a = row_of(row, n, reach, w, ONE)
                        b = row_of(row, n, reach, w, TWO)
                        if a < 0 or b < 0:
                            continue
                        move1 = phase_of(anchor, gradients_before, w[ONE], w[ONE + T], shift) - phase - w[ONE + HELD]
                        move2 = phase_of(anchor, gradients_before, w[TWO], w[TWO + T], shift) - phase - w[TWO + HELD]
                        aligned = move1 & ((1 << shift) - 1) == 0  # the second state of a transition always is
                        one = Span(places[a, START], places[a, FIRST], places[a, LAST], -(-move1 >> shift))
                        two = Span(places[b, START], places[b, FIRST], places[b, LAST], -(-move2 >> shift))
                        since = max(begin, -(-(w[PEAK] + phase) >> shift), one.first - one.move, two.first - two.move)
                        if since > end:
                            continue
                        cost = np.float32(w[OWN_COST] * scale)
                        source = beyond[start + since - first : start + end - first + 1]
                        out = one.start if aligned else between + one.start
                        if _spread(cost, source, since, slack, lower, two, beyond, out, one) and b:
                            _spread(cost, source, since, slack, lower, one, beyond, two.start, two)
    return left


@compiled
def largest_block(problem: Problem, grid: Grid) -> int:
    """The most points that the states of a block of t have together."""
    n, reach, row, places = len(problem.table), problem.reach, grid.row, grid.places
    most = 0
    for block in range(0, n, BLOCK):
        size = 0
        for s in range(min(n, block + BLOCK)):
            for i in range(place(n, reach, s, max(s, block), 0), place(n, reach, s, min(n, block + BLOCK), 0)):
                if row[i] >= 0:
                    size += places[row[i], LAST] - places[row[i], FIRST] + 1
        most = max(most, size)
    return most


@compiled
def _spread(
    cost: Any, source: Floats, since: int, slack: Any, lower: Floats, other: Span, beyond: Floats, out: int, state: Span
) -> int:
    """Lower what is beyond one state of a transition to that of the transition, its cost and the other's inside bound.

    `out` is where the state's first point is written; what comes out above its last point counts at the
    last one. Return whether the transition and both states are within the slack at some point.
    """
    within = 0
    end = since + len(source) - 1
    stop = min(end, state.last - state.move, other.last - other.move)
    at = since
    shift, other_shift = state.move - state.first, other.start + other.move - other.first
    if at <= stop:
        here = beyond[out + at + shift : out + stop + shift + 1]
        own = lower[state.start + at + shift : state.start + stop + shift + 1]
        least = lower[at + other_shift : stop + other_shift + 1]
        for i in range(len(here)):
            value = source[i] + cost + least[i]
            here[i] = min(here[i], value)
            within |= value + own[i] <= slack
        at = stop + 1
    stop = min(end, state.last - state.move)
    if at <= stop:
        constant = cost + lower[other.start + other.last - other.first]
        here = beyond[out + at + shift : out + stop + shift + 1]
        own, rest = lower[state.start + at + shift : state.start + stop + shift + 1], source[at - since :]
        for i in range(len(here)):
            value = rest[i] + constant
            here[i] = min(here[i], value)
            within |= value + own[i] <= slack
        at = stop + 1
    if at <= end:
        last = state.start + state.last - state.first
        best, own_least = beyond[last], lower[last]
        for c in range(at, end + 1):
            value = source[c - since] + cost + lower[other.start + min(c + other.move, other.last) - other.first]
            best = min(best, value)
            within |= value + own_least <= slack
        beyond[last] = best
    return within


@compiled
def cells_within(
    problem: Problem, grid: Grid, lower: Floats, beyond: Floats, slack: Any, scale: float, ids: Ints32, count: int
) -> tuple[Ints, Ints, Ints, Ints]:
    """(begins, ends, starts, ceilings): the cells in which each numbered state matters, and below what cost.

    Cell c is memory in (c, c + 1] · 2^shift. A state that several stages share matters where any of them does.
    """
    n, reach, shift, row, places = len(problem.table), problem.reach, grid.shift, grid.row, grid.places
    begins = np.full(count, FAR)
    ends = np.full(count, -FAR)
    starts = np.zeros(count, dtype=np.int64)
    costs = np.zeros(0, dtype=np.int64)
    for fill in range(2):
        for s in range(n):
            for t in range(s, n):
                # a cell then meets two points
                shared = phase_of(grid.anchor, problem.gradients_before, s, t, shift) > 0
                for v in range(variants(reach)):
                    r = row[place(n, reach, s, t, v)]
                    i = ids[s, t] * variants(reach) + v
                    if r < 0:
                        continue
                    for c in range(places[r, FIRST], places[r, LAST] + 1):
                        at = places[r, START] + c - places[r, FIRST]
                        if beyond[at] + lower[at] > slack:
                            continue
                        if not fill:
                            begins[i] = min(begins[i], max(0, c - 1 - shared))
                            ends[i] = max(ends[i], c, 1)
                            continue
                        cost = np.int64((slack - beyond[at]) * scale) + 1
                        for cell in range(max(0, c - 1 - shared), max(c, 1)):
                            costs[starts[i] + cell - begins[i]] = max(costs[starts[i] + cell - begins[i]], cost)
        if not fill:
            total = 0
            for i in range(count):
                starts[i] = total
                total += max(0, ends[i] - begins[i])
            costs = np.zeros(total, dtype=np.int64)
    return begins, ends, starts, costs
