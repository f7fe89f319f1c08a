"""The traceback: from envelopes or bounds down to one plan, a transition for each state, then rows of the table."""

from __future__ import annotations

import numpy as np

from sim.base.compiled import compiled, put
from sim.graphs.node import Ints
from sim.strategies.optimal.envelope import Envelopes
from sim.strategies.optimal.inside import FIRST, LAST, START, Floats, Grid, phase_of
from sim.strategies.optimal.recurrence import (
    BASE,
    CUT,
    DROP,
    HELD,
    INFINITE,
    KEEP,
    KIND,
    NOW,
    ONE,
    OWN_COST,
    PEAK,
    SPLIT,
    SPLIT_HELD,
    TRANSITION_FIELDS,
    TWO,
    Ints32,
    Problem,
    States,
    T,
    V,
    decode,
    most_transitions,
    number_of,
    row_of,
    transitions_of,
)
from sim.strategies.optimal.stages import VJP_PEAK


@compiled
def trace(problem: Problem, states: States, tables: Envelopes, limit: int) -> Ints:
    """The transitions of the best plan that fits into `limit` bytes, first state first, by its envelopes."""
    n = len(problem.table)
    starts, sizes, memory, cost = tables
    chosen = np.empty((4 * n + 16, TRANSITION_FIELDS), dtype=np.int64)
    done = 0
    stack = np.empty((4 * n + 16, 4), dtype=np.int64)
    options = np.zeros((most_transitions(n, problem.reach), TRANSITION_FIELDS), dtype=np.int64)
    put(stack, 0, 0, n - 1, 0, limit)
    top = 1
    while top:
        top -= 1
        s, t, v, limit = stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3]
        least, best = INFINITE, 0
        for j in range(transitions_of(problem, s, t, v, options)):
            w = options[j]
            total = w[OWN_COST] if w[PEAK] <= limit else INFINITE
            for state in (ONE, TWO):
                if w[state] >= 0 and total < least:
                    i = number_of(states.ids, problem.reach, w, state, -1)
                    there = limit - w[state + HELD]
                    p = last_at_most(memory, starts[i], sizes[i], there)
                    total += cost[p] if p >= starts[i] else INFINITE
            if total < least:
                least, best = total, j
        chosen = _taken(chosen, done, options[best])
        done += 1
        top = _pushed(stack, top, options[best], limit)
    return chosen[:done]


@compiled
def last_at_most(memory: Ints, start: int, size: int, limit: int) -> int:
    """The last of the rising breakpoints memory[start … start+size-1] that is at most `limit`, or start - 1."""
    low, high = start, start + size
    while low < high:
        middle = (low + high) // 2
        if memory[middle] <= limit:
            low = middle + 1
        else:
            high = middle
    return low - 1


@compiled
def _taken(chosen: Ints, done: int, transition: Ints) -> Ints:
    """The transitions chosen so far and one more."""
    if done == len(chosen):
        bigger = np.empty((2 * done, TRANSITION_FIELDS), dtype=np.int64)
        for i in range(done):
            for f in range(TRANSITION_FIELDS):
                bigger[i, f] = chosen[i, f]
        chosen = bigger
    for f in range(TRANSITION_FIELDS):
        chosen[done, f] = transition[f]
    return chosen


@compiled
def _pushed(stack: Ints, top: int, transition: Ints, limit: int) -> int:
    """The top of the stack when the states of a transition are on it, with the bytes that each may take."""
    w = transition
    for state in (TWO, ONE):
        if w[state] >= 0:
            put(stack, top, w[state], w[state + T], w[state + V], limit - w[state + HELD])
            top += 1
    return top


@compiled
def trace_bounds(problem: Problem, grid: Grid, lower: Floats, limit: int) -> Ints:
    """The transitions of some plan that fits into `limit` bytes, each chosen as if inside bounds were costs."""
    n, shift, places = len(problem.table), grid.shift, grid.places
    scale = 1.0 / problem.cost_before[n]
    step = 1 << shift
    chosen = np.empty((4 * n + 16, TRANSITION_FIELDS), dtype=np.int64)
    done = 0
    stack = np.empty((4 * n + 16, 4), dtype=np.int64)
    options = np.zeros((most_transitions(n, problem.reach), TRANSITION_FIELDS), dtype=np.int64)
    put(stack, 0, 0, n - 1, 0, limit)
    top = 1
    while top:
        top -= 1
        s, t, v, limit = stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3]
        least, best = np.inf, 0
        for j in range(transitions_of(problem, s, t, v, options)):
            w = options[j]
            value = w[OWN_COST] * scale if w[PEAK] <= limit else np.inf
            for state in (ONE, TWO):
                if w[state] < 0 or value >= least:
                    continue
                r = row_of(grid.row, n, problem.reach, w, state)
                there = limit - w[state + HELD]
                if r < 0 or grid.smallest[r] > there:
                    value = np.inf
                    continue
                there += phase_of(grid.anchor, problem.gradients_before, w[state], w[state + T], shift)
                start, first = places[r, START], places[r, FIRST]
                c = max(first, min(places[r, LAST], -(-there >> shift)))
                value += lower[start + c - first]
                if c > first and c << shift > there:  # between two points, between their bounds
                    higher = lower[start + c - 1 - first] - lower[start + c - first]
                    value += higher * ((c << shift) - there) / step
            if value < least:
                least, best = value, j
        chosen = _taken(chosen, done, options[best])
        done += 1
        top = _pushed(stack, top, options[best], limit)
    return chosen[:done]


@compiled
def cost_and_peak(chosen: Ints, n: int) -> tuple[int, int]:
    """(cost of all forwards, working bytes) of a plan by its transitions."""
    cost, peak = 0, 0
    held = np.zeros(2 * n + 8, dtype=np.int64)
    top = 1
    for j in range(len(chosen)):
        w = chosen[j]
        top -= 1
        beside = held[top]
        cost += w[OWN_COST]
        peak = max(peak, beside + w[PEAK])
        for state in (TWO, ONE):
            if w[state] >= 0:
                held[top] = beside + w[state + HELD]
                top += 1
    return cost, peak


@compiled
def rows_of_plan(table: Ints, chosen: Ints) -> Ints32:
    """The actions of a plan by its transitions: i evaluates node i, n + i is its VJP."""
    n = len(table)
    size = 2 * n
    for j in range(len(chosen)):
        size += chosen[j, CUT] + 2
    rows = np.empty(size, dtype=np.int32)
    done = 0
    stack = np.empty((4 * n + 16, 4), dtype=np.int64)  # a state (s, t, variant, ·), or (-1, i, ·, ·): VJP i
    put(stack, 0, 0, n - 1, 0, 0)
    top, j = 1, 0
    while top:
        top -= 1
        s, t, v = stack[top, 0], stack[top, 1], stack[top, 2]
        if s < 0:
            if table[t, VJP_PEAK] >= 0:
                rows[done] = n + t
                done += 1
            continue
        w = chosen[j]
        j += 1
        kind, cut = w[KIND], w[CUT]
        back, _, held, _ = decode(v)
        if kind == NOW and table[t, VJP_PEAK] >= 0:
            rows[done] = n + t
            done += 1
        start, stop = cut, cut  # of the forwards
        if kind in (KEEP, DROP) or (kind == BASE and (w[OWN_COST] or not held)):
            stop = cut + 1
        elif kind in (SPLIT, SPLIT_HELD):
            start = s - back
        for i in range(start, stop):
            rows[done] = i
            done += 1
        if kind in (BASE, KEEP):
            put(stack, top, -1, s, 0, 0)
            top += 1
        top = _pushed(stack, top, w, 0)
    return rows[:done]
