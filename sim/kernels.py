"""The compiled loops over a schedule's actions; each has a plain Python twin in the tests.

They see arrays alone: `rows[k]` is the row of action k in a `Table`, whose CSR (`ptr`, `value`,
`access`) says what it touches. Compiled by numba on first use and cached on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

READ, CONSUME, ACCUMULATE, WRITE, SAVE = range(5)  # as in sim.actions; numba freezes module constants
FREE, SKIP = 1, 2
OK, MISSING, WRONG_WIDTH, INCOMPLETE = range(4)
VALUE_KINDS = 6
WORKSPACE = 6  # the column after the value kinds

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """`function`, compiled without bounds checks and kept on disk for the next process."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))


@compiled
def mark(rows: Any, ptr: Any, value: Any, access: Any, persistent: Any) -> Any:
    """For each touch of each action, in order, whether it frees its value (FREE) or never makes it (SKIP).

    Backward liveness: a value is needed before the last action that reads it, until the action that
    writes it. What nobody reads is freed by the action that wrote it, and a residual is not even made.
    """
    total = 0
    for k in range(len(rows)):
        total += ptr[rows[k] + 1] - ptr[rows[k]]
    flags = np.zeros(total, dtype=np.uint8)
    needed = persistent.copy()
    e = total
    for k in range(len(rows) - 1, -1, -1):
        start, stop = ptr[rows[k]], ptr[rows[k] + 1]
        e -= stop - start
        for t in range(start, stop):
            kind, v = access[t], value[t]
            if kind >= WRITE:
                if not needed[v]:
                    flags[e + t - start] = SKIP if kind == SAVE else FREE
                needed[v] = False
            elif kind == ACCUMULATE and not needed[v]:
                flags[e + t - start] = FREE
        for t in range(start, stop):
            kind, v = access[t], value[t]
            if kind == CONSUME or (kind == READ and not needed[v]):
                flags[e + t - start] = FREE
                needed[v] = True
    return flags


@compiled
def ledger(
    rows: Any, widths: Any, weights: Any, flags: Any, ptr: Any, value: Any, access: Any, workspace: Any,
    value_bytes: Any, scaled: Any, value_kind: Any, value_tier: Any, contributions: Any, forwards: Any,
    during: Any, after: Any, buckets: Any,
) -> Any:  # fmt: skip
    """Runs the actions in order through an integer ledger; the heart of replay.

    `weights[k]` says how often action k stands for itself (empty: once); `forwards` is how many of
    the first rows are forwards. `during` and `after` (empty or one entry an action) receive the
    device bytes of each action, `buckets` (shape (B, 7) or (0, 7)) the breakdown at the fullest
    action of each of B equal stretches.

    Returns (fault, action, value, peak, peak action, breakdown (7), tier peaks (3), times each row
    was run, its widths summed, its first evaluations).
    """
    n_values = len(value_bytes)
    live = np.zeros(n_values, dtype=np.bool_)
    width_of = np.zeros(n_values, dtype=np.int32)
    added = np.zeros(n_values, dtype=np.int32)
    by_kind = np.zeros((3, VALUE_KINDS + 1), dtype=np.int64)
    level = np.zeros(3, dtype=np.int64)
    tier_peaks = np.zeros(3, dtype=np.int64)
    breakdown = np.zeros(VALUE_KINDS + 1, dtype=np.int64)
    runs = np.zeros(len(ptr) - 1, dtype=np.int64)
    run_widths = np.zeros(len(ptr) - 1, dtype=np.int64)
    first = np.zeros(len(ptr) - 1, dtype=np.int64)
    n_buckets = len(buckets)
    bucket_level = np.full(n_buckets, -1, dtype=np.int64)
    peak, peak_action = np.int64(-1), -1
    fault, fault_action, fault_value = OK, -1, -1
    e = 0
    for k in range(len(rows)):
        row, width = rows[k], widths[k]
        start, stop = ptr[row], ptr[row + 1]
        for t in range(start, stop):
            kind, v, flag = access[t], value[t], flags[e + t - start]
            if kind <= CONSUME:
                if not live[v]:
                    fault, fault_action, fault_value = MISSING, k, v
                    break
                if scaled[v] and width_of[v] != width:
                    fault, fault_action, fault_value = WRONG_WIDTH, k, v
                    break
                if kind == CONSUME and contributions[v] > 0 and added[v] != contributions[v]:
                    fault, fault_action, fault_value = INCOMPLETE, k, v
                    break
                continue
            if flag == SKIP:
                continue
            if live[v]:
                if kind == ACCUMULATE:
                    if scaled[v] and width_of[v] != width:
                        fault, fault_action, fault_value = WRONG_WIDTH, k, v
                        break
                    added[v] += 1
                    continue
                size = value_bytes[v] * (np.int64(width_of[v]) if scaled[v] else 1)
                level[value_tier[v]] -= size
                by_kind[value_tier[v], value_kind[v]] -= size
            live[v] = True
            width_of[v] = width
            added[v] = 1
            size = value_bytes[v] * (np.int64(width) if scaled[v] else 1)
            level[value_tier[v]] += size
            by_kind[value_tier[v], value_kind[v]] += size
        if fault != OK:
            break
        now = level[0] + workspace[row]
        if now > peak:
            peak, peak_action = now, k
            breakdown[:VALUE_KINDS] = by_kind[0, :VALUE_KINDS]
            breakdown[WORKSPACE] = workspace[row]
        for tier in range(1, 3):
            tier_peaks[tier] = max(tier_peaks[tier], level[tier])
        if n_buckets:
            b = k * n_buckets // len(rows)
            if now > bucket_level[b]:
                bucket_level[b] = now
                buckets[b, :VALUE_KINDS] = by_kind[0, :VALUE_KINDS]
                buckets[b, WORKSPACE] = workspace[row]
        if len(during):
            during[k] = now
        for t in range(start, stop):
            if flags[e + t - start] == FREE:
                v = value[t]
                if live[v]:
                    live[v] = False
                    size = value_bytes[v] * (np.int64(width_of[v]) if scaled[v] else 1)
                    level[value_tier[v]] -= size
                    by_kind[value_tier[v], value_kind[v]] -= size
        if len(after):
            after[k] = level[0]
        weight = weights[k] if len(weights) else 1
        if row < forwards and runs[row] == 0:
            first[row] = 1
        runs[row] += weight
        run_widths[row] += weight * width
        e += stop - start
    tier_peaks[0] = peak
    return fault, fault_action, fault_value, peak, peak_action, breakdown, tier_peaks, runs, run_widths, first


@compiled
def alive_forwards(rows: Any, ptr: Any, value: Any, access: Any, forwards: Any, n_values: Any) -> Any:
    """For each action, whether it is worth running: a recomputation whose outputs nobody reads is not.

    The first evaluation of each node is always kept.
    """
    keep = np.ones(len(rows), dtype=np.bool_)
    first = np.zeros(len(rows), dtype=np.bool_)
    seen = np.zeros(forwards, dtype=np.bool_)
    for k in range(len(rows)):
        if rows[k] < forwards and not seen[rows[k]]:
            seen[rows[k]] = True
            first[k] = True
    needed = np.zeros(n_values, dtype=np.bool_)
    for k in range(len(rows) - 1, -1, -1):
        start, stop = ptr[rows[k]], ptr[rows[k] + 1]
        if rows[k] < forwards and not first[k]:
            useful = False
            for t in range(start, stop):
                if access[t] >= WRITE and needed[value[t]]:
                    useful = True
            if not useful:
                keep[k] = False
                continue
        for t in range(start, stop):
            if access[t] >= WRITE:
                needed[value[t]] = False
        for t in range(start, stop):
            if access[t] <= CONSUME:
                needed[value[t]] = True
    return keep
