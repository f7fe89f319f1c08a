"""What the rest of a plan takes at the least, for every state with so much memory: bounds from outside.

The other half of `sim.strategies.optimal.inside`: from the whole problem down, a state's bound is the least over
all ways to come to it, with the lower bounds of what else they ask for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.base.compiled import compiled
from sim.strategies.optimal.inside import BLOCK, FAR, FIRST, LAST, START, phase_of
from sim.strategies.optimal.recurrence import LOW, OFFSET1, OFFSET2, PRICE, S1, S2, T1, T2, V1, V2, WAY_FIELDS, ways_of


@compiled
def outside(
    table: Any, crossing: Any, cost_before: Any, gradients_before: Any, reach: Any, anchor: Any, shift: Any,
    row: Any, windows: Any, places: Any, lower: Any, to_beat: Any, slack: Any, beyond: Any,
) -> Any:  # fmt: skip
    """Fills `beyond` with what the rest of a plan takes at least, less what is `to_beat`, for each point of each row.

    `to_beat` has a cost for each point of the whole problem's row. A state whose bounds from inside and outside
    add up to more than `slack` everywhere loses its row; the windows of the others are made as narrow as the
    grid allows. Returns at how many points they do not.
    """
    n = len(table)
    variants = 4 * (reach + 1)
    scale = 1.0 / cost_before[n]
    infinite = np.float32(np.inf)
    for i in range(len(lower)):
        beyond[i] = infinite
    whole = places[row[(n - 1) * variants], START]
    for i in range(len(to_beat)):
        beyond[whole + i] = -to_beat[i]
    ways = np.zeros((2 * (reach + 1) * n + 4, WAY_FIELDS), dtype=np.int64)
    left = 0
    stop = len(lower)
    for block in range((n - 1) // BLOCK * BLOCK, -1, -BLOCK):
        base = stop
        for s in range(min(n, block + BLOCK)):
            for i in range((s * n + max(s, block)) * variants, (s * n + min(n, block + BLOCK)) * variants):
                if row[i] >= 0:
                    base = min(base, places[row[i], START])
        stop, between = base, len(lower) - base
        for i in range(len(lower), len(beyond)):
            beyond[i] = infinite
        for s in range(min(n, block + BLOCK)):
            for t in range(min(n, block + BLOCK) - 1, max(s, block) - 1, -1):
                phase = phase_of(anchor, gradients_before, s, t, shift)
                for v in range(variants - 1, -1, -1):
                    here = (s * n + t) * variants + v
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
                    count = ways_of(table, crossing, cost_before, gradients_before, reach, s, t, v, ways)
                    for j in range(count):
                        w = ways[j]
                        if w[S1] < 0:
                            continue
                        a = row[(w[S1] * n + w[T1]) * variants + w[V1]]
                        b = row[(w[S2] * n + w[T2]) * variants + w[V2]] if w[S2] >= 0 else 0
                        if a < 0 or b < 0:
                            continue
                        move1 = phase_of(anchor, gradients_before, w[S1], w[T1], shift) - phase - w[OFFSET1]
                        move2 = phase_of(anchor, gradients_before, w[S2], w[T2], shift) - phase - w[OFFSET2]
                        aligned = move1 & ((1 << shift) - 1) == 0  # the second state of a way always is
                        move1, move2 = -(-move1 >> shift), -(-move2 >> shift)
                        since = max(
                            begin, -(-(w[LOW] + phase) >> shift), places[a, FIRST] - move1, places[b, FIRST] - move2
                        )
                        if since > end:
                            continue
                        price = np.float32(w[PRICE] * scale)
                        source = beyond[start + since - first : start + end - first + 1]
                        start1, first1, last1 = places[a, START], places[a, FIRST], places[a, LAST]
                        start2, first2, last2 = places[b, START], places[b, FIRST], places[b, LAST]
                        if _spread(
                            price, source, since, slack, lower, start2, first2, last2, move2,
                            beyond, start1 if aligned else between + start1, start1, first1, last1, move1,
                        ) and b:  # fmt: skip
                            _spread(
                                price, source, since, slack, lower, start1, first1, last1, move1,
                                beyond, start2, start2, first2, last2, move2,
                            )  # fmt: skip
    return left


@compiled
def largest_block(n: Any, reach: Any, row: Any, places: Any) -> Any:
    """The most points that the states of a block of t have together."""
    variants = 4 * (reach + 1)
    most = 0
    for block in range(0, n, BLOCK):
        size = 0
        for s in range(min(n, block + BLOCK)):
            for i in range((s * n + max(s, block)) * variants, (s * n + min(n, block + BLOCK)) * variants):
                if row[i] >= 0:
                    size += places[row[i], LAST] - places[row[i], FIRST] + 1
        most = max(most, size)
    return most


@compiled
def _spread(
    price: Any, source: Any, since: Any, slack: Any, lower: Any,
    other: Any, other_first: Any, other_last: Any, other_move: Any,
    beyond: Any, out: Any, start: Any, first: Any, last: Any, move: Any,
) -> Any:  # fmt: skip
    """Lowers what is beyond one state of a way to that of the way, its price and the other state's lower bound.

    `out` is where the state's first point is written; what comes out above its last point counts at the
    last one. Returns whether the way and both states are within the slack at some point.
    """
    found = 0
    end = since + len(source) - 1
    stop = min(end, last - move, other_last - other_move)
    at = since
    if at <= stop:
        here = beyond[out + at + move - first : out + stop + move - first + 1]
        own = lower[start + at + move - first : start + stop + move - first + 1]
        least = lower[other + at + other_move - other_first : other + stop + other_move - other_first + 1]
        for i in range(len(here)):
            value = source[i] + price + least[i]
            here[i] = min(here[i], value)
            found |= value + own[i] <= slack
        at = stop + 1
    stop = min(end, last - move)
    if at <= stop:
        constant = price + lower[other + other_last - other_first]
        here = beyond[out + at + move - first : out + stop + move - first + 1]
        own, rest = lower[start + at + move - first : start + stop + move - first + 1], source[at - since :]
        for i in range(len(here)):
            value = rest[i] + constant
            here[i] = min(here[i], value)
            found |= value + own[i] <= slack
        at = stop + 1
    if at <= end:
        best, own_least = beyond[start + last - first], lower[start + last - first]
        for c in range(at, end + 1):
            value = source[c - since] + price + lower[other + min(c + other_move, other_last) - other_first]
            best = min(best, value)
            found |= value + own_least <= slack
        beyond[start + last - first] = best
    return found


@compiled
def ceilings(
    anchor: Any, gradients_before: Any, scale: Any, shift: Any, row: Any, places: Any,
    lower: Any, beyond: Any, slack: Any, ids: Any, variants: Any, count: Any,
) -> Any:  # fmt: skip
    """(begins, ends, starts, costs): the cells in which each numbered state matters, and below what cost.

    Cell c is memory in (c, c + 1] · 2^shift. A state that several stages share matters where any of them does.
    """
    n = len(ids)
    begins = np.full(count, FAR)
    ends = np.full(count, -FAR)
    starts = np.zeros(count, dtype=np.int64)
    costs = np.zeros(0, dtype=np.int64)
    for fill in range(2):
        for s in range(n):
            for t in range(s, n):
                shared = phase_of(anchor, gradients_before, s, t, shift) > 0  # a cell then meets two points
                for v in range(variants):
                    r = row[(s * n + t) * variants + v]
                    i = ids[s, t] * variants + v
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
