"""The compiled loops over a schedule's actions; each has a plain Python twin in the tests.

They see arrays alone: `rows[k]` is the row of action k in a `Table`, whose CSR (`ptr`, `value`,
`access`) says what it touches. Compiled by numba on first use and cached on disk.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.base.compiled import compiled
from sim.schedules.actions import ACCUMULATE, CONSUME, COTANGENT, GRADIENT, READ, SAVE, TANGENT, WRITE

FREE, SKIP = 1, 2
OK, MISSING, WRONG_WIDTH, INCOMPLETE = range(4)
N_VALUE_KINDS = 6
WORKSPACE = 6  # the column after the value kinds


@compiled
def mark(rows: Any, ptr: Any, value: Any, access: Any, value_code: Any) -> Any:
    """For each touch of each action, in order, whether it frees its value (FREE) or never makes it (SKIP).

    Backward liveness: a value is needed before the last action that reads it, until the action that
    writes it. What nobody reads is freed by the action that wrote it, and a residual is not even made.
    """
    total = 0
    for k in range(len(rows)):
        total += ptr[rows[k] + 1] - ptr[rows[k]]
    flags = np.zeros(total, dtype=np.uint8)
    needed = value_code == GRADIENT  # gradients live to the end
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
def workspace_index(n: Any, sections: Any, row: Any, taping: Any) -> Any:
    """Where `Table.workspace` has that of a row; `taping` marks a forward that saves its residual."""
    if row >= 3 * n:
        return 1 + row + (sections - 3) * n
    opcode = 0 if row < n else 1 if row < 2 * n else 2
    section = 0 if sections == 1 else 2 if taping else opcode % 2
    return 1 + row + (section - opcode) * n


@compiled
def ledger(
    n: Any, rows: Any, widths: Any, weights: Any, flags: Any, ptr: Any, value: Any, access: Any, workspace: Any,
    value_bytes: Any, value_code: Any, contributions: Any, during: Any, after: Any, buckets: Any,
) -> Any:  # fmt: skip
    """Runs the actions in order through an integer ledger; the heart of replay.

    `n` is the number of nodes. `widths` has one entry, or one for each action; `weights[k]` says how
    often action k stands for itself (empty: once). `during` and `after` (empty or one entry an
    action) receive the device bytes of each action, `buckets` (shape (B, 7) or (0, 7)) the breakdown
    at the fullest action of each of B equal stretches.

    Returns (fault, action, value, peak, peak action, breakdown (7), tier peaks (3), how often each
    row was run, the sum of its widths (empty if there is one width), which nodes were evaluated).
    """
    width_of = np.zeros(len(value_bytes), dtype=np.int32)  # 0: not in memory
    added = np.zeros(n, dtype=np.int32)
    by_kind = np.zeros((3, N_VALUE_KINDS), dtype=np.int64)
    level = np.zeros(3, dtype=np.int64)
    tier_peaks = np.zeros(3, dtype=np.int64)
    breakdown = np.zeros(N_VALUE_KINDS + 1, dtype=np.int64)
    runs = np.zeros(len(ptr) - 1, dtype=np.int64)
    run_widths = np.zeros(len(ptr) - 1 if len(widths) > 1 else 0, dtype=np.int64)
    evaluated = np.zeros(n, dtype=np.bool_)
    n_buckets = len(buckets)
    bucket_level = np.empty(n_buckets, dtype=np.int64)
    for b in range(n_buckets):
        bucket_level[b] = -1
    peak, peak_action = np.int64(-1), -1
    fault, fault_action, fault_value = OK, -1, -1
    width = widths[0]
    sections = workspace[0]
    e = 0
    for k in range(len(rows)):
        row = rows[k]
        if len(widths) > 1:
            width = widths[k]
        start, stop = ptr[row], ptr[row + 1]
        taping = False
        for t in range(start, stop):
            access_kind, v = access[t], value[t]
            if access_kind == SAVE:
                if flags[e + t - start] == SKIP:
                    continue
                taping = True
            kind, tier = value_code[v] % 8, value_code[v] // 8
            scaled = kind in (COTANGENT, TANGENT)
            if width_of[v] == 0:
                if access_kind <= CONSUME:
                    fault, fault_action, fault_value = MISSING, k, v
                    break
            elif scaled and width_of[v] != width and access_kind != WRITE:
                fault, fault_action, fault_value = WRONG_WIDTH, k, v
                break
            if access_kind == READ:
                continue
            if access_kind == CONSUME:
                if kind == COTANGENT and tier == 0 and added[v - COTANGENT * n] != contributions[v - COTANGENT * n]:
                    fault, fault_action, fault_value = INCOMPLETE, k, v
                    break
                continue
            if width_of[v] != 0:
                if access_kind == ACCUMULATE:
                    if kind == COTANGENT:
                        added[v - COTANGENT * n] += 1
                    continue
                size = value_bytes[v] * (np.int64(width_of[v]) if scaled else 1)
                level[tier] -= size
                by_kind[tier, kind] -= size
            width_of[v] = width
            if kind == COTANGENT and tier == 0:
                added[v - COTANGENT * n] = 1
            size = value_bytes[v] * (np.int64(width) if scaled else 1)
            level[tier] += size
            by_kind[tier, kind] += size
        if fault != OK:
            break
        extra = workspace[workspace_index(n, sections, row, taping)]
        now = level[0] + extra
        if now > peak:
            peak, peak_action = now, k
            for kind in range(N_VALUE_KINDS):
                breakdown[kind] = by_kind[0, kind]
            breakdown[WORKSPACE] = extra
        for tier in range(1, 3):
            tier_peaks[tier] = max(tier_peaks[tier], level[tier])
        if n_buckets:
            b = k * n_buckets // len(rows)
            if now > bucket_level[b]:
                bucket_level[b] = now
                for kind in range(N_VALUE_KINDS):
                    buckets[b, kind] = by_kind[0, kind]
                buckets[b, WORKSPACE] = extra
        if len(during):
            during[k] = now
        for t in range(start, stop):
            if flags[e + t - start] == FREE:
                v = value[t]
                if width_of[v] != 0:
                    kind, tier = value_code[v] % 8, value_code[v] // 8
                    scaled = kind in (COTANGENT, TANGENT)
                    size = value_bytes[v] * (np.int64(width_of[v]) if scaled else 1)
                    level[tier] -= size
                    by_kind[tier, kind] -= size
                    width_of[v] = 0
        if len(after):
            after[k] = level[0]
        weight = weights[k] if len(weights) else 1
        if row < n:
            evaluated[row] = True
        runs[row] += weight
        if len(run_widths):
            run_widths[row] += weight * width
        e += stop - start
    tier_peaks[0] = peak
    return fault, fault_action, fault_value, peak, peak_action, breakdown, tier_peaks, runs, run_widths, evaluated


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
