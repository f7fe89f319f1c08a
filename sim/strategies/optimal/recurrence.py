"""The recurrence of optimal checkpointing, as compiled code: which ways there are to do some stages.

A *state* (s, t, v) is: do the VJPs t … s, given the cotangent of stage t. Its variant v says

    e  how many stages before s the source lies: what crosses cut s - e is in memory
    h  (e = 0) the source outlives the state, because an outer VJP reads it
    q  what VJP t needs of forward t (its residual, its output) is in memory already: it is *held*
    g  (e > 0) what VJP s - 1 needs of forward s - 1 must be held when the state is done

and a *way* combines at most two smaller states. With u = s - e:

    keep   forward s, holding what VJP s needs; s+1 … t; VJP s
    drop   forward u and forget the source
    now    VJP t at once, where it is held; then s … t-1
    split  with the source in memory, forward u … k-1; then k+e' … t from cut k; then s … k+e'-1

The published recurrence (Beaumont et al. 2021) has keep and split with e' = 0 alone. q lets a
residual stay while an activation is dropped; e > 0 lets a checkpoint be dropped before all stages
after it are done. Memory is counted without the gradients that later stages have left.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sim.base.compiled import compiled

(
    PASSING, SAVING, RESIDUAL, OUTPUT, COST, READS, READS_INPUT, READS_OUTPUT, FREE, COTANGENTS, GRADIENTS, VJP_PEAK,
) = range(12)  # fmt: skip  # as in sim.strategies.optimal.stages; numba freezes module constants

INFINITE = 2**60
BASE, KEEP, DROP, NOW, SPLIT, SPLIT_HELD = range(6)
WAY_FIELDS = 12
LOW, PRICE, KIND, CUT, OFFSET1, OFFSET2, S1, T1, V1, S2, T2, V2 = range(WAY_FIELDS)
"""A way: at least LOW bytes, PRICE more than its states, which need OFFSET bytes beside their own."""


class Problem(NamedTuple):
    """What the recurrence reads: the columns of the stages, and sums over the stages before each."""

    table: Any  # (n, FIELDS)
    crossing: Any  # (n, n)
    cost_before: Any  # (n + 1,)
    gradients_before: Any  # (n + 1,)
    reach: int


@compiled
def variant(e: Any, h: Any, q: Any, g: Any) -> Any:
    """The number of a variant; those with e = 0 come first."""
    return q * 2 + h if e == 0 else 4 * e + q + 2 * g


@compiled
def normal(table: Any, t: Any, q: Any) -> Any:
    """q as the state has it: what is free is always held, and the last stage never is."""
    if t == len(table) - 1:
        return 0
    return 1 if table[t, FREE] else q


@compiled
def exists(table: Any, s: Any, t: Any, v: Any) -> Any:
    """Whether any way asks for this state."""
    e = 0 if v < 4 else v // 4
    q = (v >> 1) & 1 if v < 4 else v & 1
    if normal(table, t, q) != q:
        return False
    if e == 0:
        return not (v & 1) or (s > 0 and table[s - 1, READS_OUTPUT] == 1)
    return s - e >= 1 and not ((v >> 1) & 1 and table[s - 1, FREE])


@compiled
def _put(ways: Any, n: Any, low: Any, price: Any, kind: Any, k: Any, a: Any, b: Any, v: Any, offset: Any) -> Any:
    w = ways[n]
    w[LOW], w[PRICE], w[KIND], w[CUT] = low, price, kind, k
    w[S1], w[T1], w[V1], w[OFFSET1] = a, b, v, offset
    w[S2], w[OFFSET2] = -1, 0
    return n + 1


@compiled
def _then(ways: Any, n: Any, a: Any, b: Any, v: Any, offset: Any) -> None:
    w = ways[n - 1]
    w[S2], w[T2], w[V2], w[OFFSET2] = a, b, v, offset


@compiled
def ways_of(
    table: Any, crossing: Any, cost_before: Any, gradients_before: Any, reach: Any, s: Any, t: Any, v: Any, ways: Any
) -> Any:
    """Fills `ways` and returns how many there are; a state without smaller ones has the one way BASE."""
    e = 0 if v < 4 else v // 4
    if e == 0:
        h, q, g = v & 1, (v >> 1) & 1, 0
    else:
        h, q, g = 0, v & 1, (v >> 1) & 1
    u = s - e
    held = table[t, RESIDUAL] + table[t, OUTPUT] if q else 0
    beside = table[t, COTANGENTS] + held
    n = 0
    if e == 0:
        outlives = max(0, crossing[s, s] - table[s, READS]) if h else 0
        left = gradients_before[t + 1] - gradients_before[s + 1]  # by the stages of this state after s
        vjp = table[s, VJP_PEAK] + outlives + left if table[s, VJP_PEAK] >= 0 else 0
        forward = crossing[s, t] + table[s, SAVING] + beside
        if s == t:
            return (
                _put(ways, n, vjp, 0, BASE, s, -1, -1, 0, 0)
                if q
                else _put(ways, n, max(forward, vjp), table[s, COST], BASE, s, -1, -1, 0, 0)
            )
        stays = table[s, RESIDUAL] + (crossing[s, t] if h else table[s, READS])
        n = _put(
            ways,
            n,
            max(forward, vjp),
            table[s, COST],
            KEEP,
            s,
            s + 1,
            t,
            variant(0, table[s, READS_OUTPUT], q, 0),
            stays,
        )
    else:
        if e == 1 and g:
            low, r = crossing[u, t] + table[u, SAVING] + beside, table[u, RESIDUAL]
            n = _put(ways, n, low, table[u, COST], DROP, u, s, t, variant(0, table[u, READS_OUTPUT], q, 0), r)
        else:
            low = crossing[u, t] + table[u, PASSING] + beside
            n = _put(ways, n, low, table[u, COST], DROP, u, s, t, variant(e - 1, 0, q, g), 0)
    if q and s < t and not table[t, READS_INPUT]:
        n = _put(
            ways, n, crossing[u, t - 1] + table[t, VJP_PEAK] if table[t, VJP_PEAK] >= 0 else 0, 0, NOW, t,
            s, t - 1, variant(e, h, normal(table, t - 1, 0), g), gradients_before[t + 1] - gradients_before[t],
        )  # fmt: skip
    first = crossing[u, t] + table[u, PASSING] + beside
    before = running = 0  # the most that the forwards after u take, without the source: but the last, and all
    for k in range(u + 1, t + 1):
        i = k - 1
        if i > u:
            before, running = running, max(running, crossing[i, t] + table[i, PASSING] + beside)
        price = cost_before[k] - cost_before[u]
        for e2 in range(min(reach, t - k) + 1):
            k2 = k + e2
            if k2 <= s:
                continue
            source = crossing[u, k2 - 1]
            advance = max(first, source + running) if i > u else first
            left = gradients_before[t + 1] - gradients_before[k2]
            free = table[k2 - 1, FREE]
            n = _put(ways, n, advance, price, SPLIT, k, k2, t, variant(e2, 0, q, 0), source)
            _then(ways, n, s, k2 - 1, variant(e, h, 1 if free else 0, g), left)
            if free:
                continue
            if e2 == 0:
                low = crossing[i, t] + table[i, SAVING] + beside
                if i > u:
                    low = max(first, source + max(before, low))
                offset = source + table[i, RESIDUAL]
                n = _put(ways, n, low, price, SPLIT_HELD, k, k, t, variant(0, table[i, READS_OUTPUT], q, 0), offset)
            else:
                n = _put(ways, n, advance, price, SPLIT_HELD, k, k2, t, variant(e2, 0, q, 1), source)
            _then(ways, n, s, k2 - 1, variant(e, h, 1, g), left)
    return n


@compiled
def level_at(memory: Any, start: Any, size: Any, limit: Any) -> Any:
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
def equal_stages(signature: Any, reach: Any) -> Any:
    """For s ≤ t, the first s' whose stages s'-reach … s'+t-s cost what those around s … t do."""
    n = len(signature)
    common = np.zeros((n + 1, n + 1), dtype=np.int32)  # of the rows of stages from i and from j
    for i in range(n - 1, -1, -1):
        for j in range(n - 1, i, -1):
            common[i, j] = common[i + 1, j + 1] + 1 if signature[i] == signature[j] else 0
    out = np.empty((n, n), dtype=np.int32)
    for s in range(n):
        done = s
        for other in range(reach + 1 if reach else 0, s):
            stop = min(n, s - reach + common[other - reach, s - reach])
            for t in range(done, stop):
                out[s, t] = other
            done = max(done, stop)
        for t in range(done, n):
            out[s, t] = s
    return out


@compiled
def numbered(same: Any) -> Any:
    """(ids, how many): a number for each pair s ≤ t of stages that cost different things."""
    n = len(same)
    ids = np.empty((n, n), dtype=np.int32)
    distinct = 0
    for t in range(n):
        for s in range(t, -1, -1):
            if same[s, t] == s:
                ids[s, t] = distinct
                distinct += 1
            else:
                ids[s, t] = ids[same[s, t], t - s + same[s, t]]
    return ids, distinct


@compiled
def cells_of(
    table: Any,
    crossing: Any,
    cost_before: Any,
    gradients_before: Any,
    reach: Any,
    same: Any,
    ids: Any,
    count: Any,
    shift: Any,
) -> Any:
    """(begins, ends): the cells of 2^shift bytes from each state's least bytes to where more change nothing."""
    n = len(table)
    variants = 4 * (reach + 1)
    least = np.zeros(count + 1, dtype=np.int64)  # bytes; the last entry stands in where there is no state
    most = np.zeros(count + 1, dtype=np.int64)  # bytes that the cheapest way takes
    cheapest = np.zeros(count + 1, dtype=np.int64)
    begins = np.zeros(count, dtype=np.int64)
    ends = np.zeros(count, dtype=np.int64)
    ways = np.zeros((2 * (reach + 1) * n + 4, WAY_FIELDS), dtype=np.int64)
    for t in range(n):
        for s in range(t, -1, -1):
            for v in range(variants if same[s, t] == s else 0):
                if not exists(table, s, t, v):
                    continue
                here = ids[s, t] * variants + v
                least[here] = most[here] = cheapest[here] = INFINITE
                every = ways_of(table, crossing, cost_before, gradients_before, reach, s, t, v, ways)
                for j in range(every):
                    w = ways[j]
                    a = ids[w[S1], w[T1]] * variants + w[V1] if w[S1] >= 0 else count
                    b = ids[w[S2], w[T2]] * variants + w[V2] if w[S2] >= 0 else count
                    least[here] = min(least[here], max(w[LOW], w[OFFSET1] + least[a], w[OFFSET2] + least[b]))
                    price = w[PRICE] + cheapest[a] + cheapest[b]
                    need = max(w[LOW], w[OFFSET1] + most[a], w[OFFSET2] + most[b])
                    if price < cheapest[here] or (price == cheapest[here] and need < most[here]):
                        cheapest[here], most[here] = price, need
                if shift:
                    begins[here] = max(0, -(-least[here] >> shift) - 1)
                    ends[here] = max(1, -(-most[here] >> shift))
                else:
                    begins[here], ends[here] = least[here], most[here] + 1
    return begins, ends
