"""From bounds or staircases down to one plan: a way for each state on the path, then rows of the graph's table."""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.base.compiled import compiled, put
from sim.strategies.optimal.inside import FIRST, LAST, START, phase_of
from sim.strategies.optimal.recurrence import (
    BASE,
    CUT,
    DROP,
    INFINITE,
    KEEP,
    KIND,
    LOW,
    NOW,
    OFFSET1,
    OFFSET2,
    PRICE,
    S1,
    S2,
    SPLIT,
    SPLIT_HELD,
    T1,
    T2,
    V1,
    V2,
    VJP_PEAK,
    WAY_FIELDS,
    level_at,
    ways_of,
)


@compiled
def optimal_ways(
    table: Any, crossing: Any, cost_before: Any, gradients_before: Any, reach: Any,
    ids: Any, starts: Any, sizes: Any, memory: Any, cost: Any, limit: Any,
) -> Any:  # fmt: skip
    """The ways of the best plan that fits into `limit` bytes, first state first, by exact staircases."""
    n = len(table)
    variants = 4 * (reach + 1)
    chosen = np.empty((4 * n + 16, WAY_FIELDS), dtype=np.int64)
    done = 0
    stack = np.empty((4 * n + 16, 4), dtype=np.int64)
    ways = np.zeros((2 * (reach + 1) * n + 4, WAY_FIELDS), dtype=np.int64)
    put(stack, 0, 0, n - 1, 0, limit)
    top = 1
    while top:
        top -= 1
        s, t, v, limit = stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3]
        count = ways_of(table, crossing, cost_before, gradients_before, reach, s, t, v, ways)
        least, best = INFINITE, 0
        for j in range(count):
            w = ways[j]
            total = w[PRICE] if w[LOW] <= limit else INFINITE
            for state in range(S1, S2 + 1, S2 - S1):
                if w[state] >= 0 and total < least:
                    i = ids[w[state], w[state + 1]] * variants + w[state + 2]
                    there = limit - (w[OFFSET1] if state == S1 else w[OFFSET2])
                    p = level_at(memory, starts[i], sizes[i], there)
                    total += cost[p] if p >= starts[i] else INFINITE
            if total < least:
                least, best = total, j
        chosen = _taken(chosen, done, ways[best])
        done += 1
        top = _pushed(stack, top, ways[best], limit)
    return chosen[:done]


@compiled
def _taken(chosen: Any, done: Any, way: Any) -> Any:
    """The ways chosen so far and one more."""
    if done == len(chosen):
        bigger = np.empty((2 * done, WAY_FIELDS), dtype=np.int64)
        for i in range(done):
            for f in range(WAY_FIELDS):
                bigger[i, f] = chosen[i, f]
        chosen = bigger
    for f in range(WAY_FIELDS):
        chosen[done, f] = way[f]
    return chosen


@compiled
def _pushed(stack: Any, top: Any, way: Any, limit: Any) -> Any:
    """The top of the stack when the states of a way are on it, with the bytes that each may take."""
    if way[S2] >= 0:
        put(stack, top, way[S2], way[T2], way[V2], limit - way[OFFSET2])
        top += 1
    if way[S1] >= 0:
        put(stack, top, way[S1], way[T1], way[V1], limit - way[OFFSET1])
        top += 1
    return top


@compiled
def guided_ways(
    table: Any, crossing: Any, cost_before: Any, gradients_before: Any, reach: Any, anchor: Any, shift: Any,
    row: Any, places: Any, smallest: Any, lower: Any, memory: Any,
) -> Any:  # fmt: skip
    """The ways of some plan that fits into `memory` bytes, each chosen as if bounds on the grid were costs."""
    n = len(table)
    variants = 4 * (reach + 1)
    scale = 1.0 / cost_before[n]
    step = 1 << shift
    chosen = np.empty((4 * n + 16, WAY_FIELDS), dtype=np.int64)
    done = 0
    stack = np.empty((4 * n + 16, 4), dtype=np.int64)
    ways = np.zeros((2 * (reach + 1) * n + 4, WAY_FIELDS), dtype=np.int64)
    put(stack, 0, 0, n - 1, 0, memory)
    top = 1
    while top:
        top -= 1
        s, t, v, limit = stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3]
        count = ways_of(table, crossing, cost_before, gradients_before, reach, s, t, v, ways)
        least, best = np.inf, 0
        for j in range(count):
            w = ways[j]
            value = w[PRICE] * scale if w[LOW] <= limit else np.inf
            for state in range(S1, S2 + 1, S2 - S1):
                if w[state] < 0 or value >= least:
                    continue
                r = row[(w[state] * n + w[state + 1]) * variants + w[state + 2]]
                there = limit - (w[OFFSET1] if state == S1 else w[OFFSET2])
                if r < 0 or smallest[r] > there:
                    value = np.inf
                    continue
                there += phase_of(anchor, gradients_before, w[state], w[state + 1], shift)
                start, first = places[r, START], places[r, FIRST]
                c = max(first, min(places[r, LAST], -(-there >> shift)))
                value += lower[start + c - first]
                if c > first and c << shift > there:  # between two points, between their bounds
                    higher = lower[start + c - 1 - first] - lower[start + c - first]
                    value += higher * ((c << shift) - there) / step
            if value < least:
                least, best = value, j
        chosen = _taken(chosen, done, ways[best])
        done += 1
        top = _pushed(stack, top, ways[best], limit)
    return chosen[:done]


@compiled
def cost_and_peak(chosen: Any, n: Any) -> Any:
    """(cost of all forwards, working bytes) of a plan given by its ways."""
    cost, peak = 0, 0
    held = np.zeros(2 * n + 8, dtype=np.int64)
    top = 1
    for j in range(len(chosen)):
        w = chosen[j]
        top -= 1
        beside = held[top]
        cost += w[PRICE]
        peak = max(peak, beside + w[LOW])
        if w[S2] >= 0:
            held[top] = beside + w[OFFSET2]
            top += 1
        if w[S1] >= 0:
            held[top] = beside + w[OFFSET1]
            top += 1
    return cost, peak


@compiled
def emitted(table: Any, chosen: Any) -> Any:
    """The actions of a plan given by its ways: i evaluates node i, n + i is its VJP."""
    n = len(table)
    size = 2 * n
    for j in range(len(chosen)):
        size += chosen[j, CUT] + 2
    rows = np.empty(size, dtype=np.int32)
    done = 0
    stack = np.empty((4 * n + 16, 4), dtype=np.int64)  # a state (s, t, v, ·), or (-1, i, ·, ·): VJP i
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
        kind, k = w[KIND], w[CUT]
        if kind == BASE and (w[PRICE] or not (v >> 1) & 1):
            rows[done] = s
            done += 1
        if kind == NOW and table[t, VJP_PEAK] >= 0:
            rows[done] = n + t
            done += 1
        if kind in (DROP, KEEP):
            rows[done] = k
            done += 1
        if kind in (SPLIT, SPLIT_HELD):
            for i in range(s if v < 4 else s - v // 4, k):
                rows[done] = i
                done += 1
        if kind in (BASE, KEEP):
            put(stack, top, -1, s, 0, 0)
            top += 1
        top = _pushed(stack, top, w, 0)
    return rows[:done]
