"""The compiled loops over a schedule's actions; each has a plain Python twin in the tests.

They see arrays alone: `rows[k]` is the row of action k in a `Table`, whose `Columns` say what it
touches. Liveness and the ledger are written here and nowhere else: replay, simulation, pictures and
executions all follow them. Compiled by numba on first use and cached on disk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.base.compiled import compiled
from sim.graphs.node import Ints
from sim.schedules.effects import Bytes8, Columns, Ints4
from sim.schedules.values import ACCUMULATE, CONSUME, COTANGENT, DEVICE, READ, SAVE, TANGENT, TIERS, VALUE_KINDS, WRITE

FREE, SKIP = 1, 2
OK, MISSING, WRONG_WIDTH, INCOMPLETE = range(4)
N_TIERS, N_VALUE_KINDS = len(TIERS), len(VALUE_KINDS)
WORKSPACE = N_VALUE_KINDS  # the column after the value kinds
LIFE_VALUE, LIFE_BYTES, LIFE_START, LIFE_STOP = range(4)


class Record(NamedTuple):
    """The record of a walk, where its arrays have room: empty ones stay empty.

    `during` and `after` (an entry an action) are the device bytes of each action; `buckets` (B, kinds
    and workspace) the breakdown at the fullest action of each of B equal stretches; `lives` (L, 4) the
    value, bytes, first action and the action after the last of everything that is made, in order.
    """

    during: Ints
    after: Ints
    buckets: Ints
    lives: Ints


@compiled
def mark(rows: Ints4, columns: Columns) -> Bytes8:
    """For each touch of each action, in order, whether it frees its value (FREE) or never makes it (SKIP).

    Backward liveness: a value is needed before the last action that reads it, until the action that
    writes it. What nobody reads is freed by the action that wrote it, and a residual is not even made.
    """
    ptr, value, access = columns.ptr, columns.value, columns.access
    total = 0
    for k in range(len(rows)):
        total += ptr[rows[k] + 1] - ptr[rows[k]]
    flags = np.zeros(total, dtype=np.uint8)
    needed = columns.remains.copy()
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
def ledger(rows: Ints4, widths: Ints4, weights: Ints, flags: Bytes8, columns: Columns, record: Record) -> Any:
    """Run the actions in order through an integer ledger.

    `widths` has one entry, or one for each action; `weights[k]` says how often action k stands for
    itself (empty: once). Returns (fault, action, value, peak, peak action, breakdown, tier peaks, how
    often each row was run, the sum of its widths (empty if there is one width), which nodes were
    evaluated, the width of each value that is there at the end, how many lives began).
    """
    ptr, value, access, contributions = columns.ptr, columns.value, columns.access, columns.contributions
    value_bytes, value_kind, value_tier = columns.value_bytes, columns.value_kind, columns.value_tier
    n = len(columns.saving_workspace)
    width_of = np.zeros(len(value_bytes), dtype=np.int32)  # 0: not in memory
    added = np.zeros(n, dtype=np.int32)
    by_kind = np.zeros((N_TIERS, N_VALUE_KINDS), dtype=np.int64)
    level = np.zeros(N_TIERS, dtype=np.int64)
    tier_peaks = np.zeros(N_TIERS, dtype=np.int64)
    breakdown = np.zeros(N_VALUE_KINDS + 1, dtype=np.int64)
    runs = np.zeros(len(ptr) - 1, dtype=np.int64)
    run_widths = np.zeros(len(ptr) - 1 if len(widths) > 1 else 0, dtype=np.int64)
    evaluated = np.zeros(n, dtype=np.bool_)
    during, after, buckets, lives = record.during, record.after, record.buckets, record.lives
    n_buckets = len(buckets)
    bucket_level = np.empty(n_buckets, dtype=np.int64)
    for b in range(n_buckets):
        bucket_level[b] = -1
    life_of = np.empty(len(value_bytes) if len(lives) else 0, dtype=np.int64)
    began = 0
    peak, peak_action = np.int64(-1), -1
    fault, fault_action, fault_value = OK, -1, -1
    width = widths[0]
    e = 0
    for k in range(len(rows)):
        row = rows[k]
        if len(widths) > 1:
            width = widths[k]
        start, stop = ptr[row], ptr[row + 1]
        saving = False
        for t in range(start, stop):
            access_kind, v = access[t], value[t]
            if access_kind == SAVE:
                if flags[e + t - start] == SKIP:
                    continue
                saving = row < n
            kind, tier = value_kind[v], value_tier[v]
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
            accumulated = kind == COTANGENT and tier == DEVICE
            if access_kind == CONSUME:
                if accumulated and added[v - COTANGENT * n] != contributions[v - COTANGENT * n]:
                    fault, fault_action, fault_value = INCOMPLETE, k, v
                    break
                continue
            if width_of[v] != 0:
                if access_kind == ACCUMULATE:
                    if accumulated:
                        added[v - COTANGENT * n] += 1
                    continue
                size = value_bytes[v] * (np.int64(width_of[v]) if scaled else 1)
                level[tier] -= size
                by_kind[tier, kind] -= size
                if len(lives):
                    lives[life_of[v], LIFE_STOP] = k
            width_of[v] = width
            if accumulated:
                added[v - COTANGENT * n] = 1
            size = value_bytes[v] * (np.int64(width) if scaled else 1)
            level[tier] += size
            by_kind[tier, kind] += size
            if len(lives):
                life_of[v] = began
                lives[began, LIFE_VALUE], lives[began, LIFE_BYTES] = v, size
                lives[began, LIFE_START], lives[began, LIFE_STOP] = k, len(rows)
                began += 1
        if fault != OK:
            break
        extra = columns.saving_workspace[row] if saving else columns.workspace[row]
        now = level[DEVICE] + extra
        if now > peak:
            peak, peak_action = now, k
            for kind in range(N_VALUE_KINDS):
                breakdown[kind] = by_kind[DEVICE, kind]
            breakdown[WORKSPACE] = extra
        for tier in range(1, N_TIERS):
            tier_peaks[tier] = max(tier_peaks[tier], level[tier])
        if n_buckets:
            b = k * n_buckets // len(rows)
            if now > bucket_level[b]:
                bucket_level[b] = now
                for kind in range(N_VALUE_KINDS):
                    buckets[b, kind] = by_kind[DEVICE, kind]
                buckets[b, WORKSPACE] = extra
        if len(during):
            during[k] = now
        for t in range(start, stop):
            if flags[e + t - start] == FREE:
                v = value[t]
                if width_of[v] != 0:
                    kind, tier = value_kind[v], value_tier[v]
                    size = value_bytes[v] * (np.int64(width_of[v]) if kind in (COTANGENT, TANGENT) else 1)
                    level[tier] -= size
                    by_kind[tier, kind] -= size
                    width_of[v] = 0
                    if len(lives):
                        lives[life_of[v], LIFE_STOP] = k + 1
        if len(after):
            after[k] = level[DEVICE]
        weight = weights[k] if len(weights) else 1
        if row < n:
            evaluated[row] = True
        runs[row] += weight
        if len(run_widths):
            run_widths[row] += weight * width
        e += stop - start
    tier_peaks[DEVICE] = peak
    return (
        fault, fault_action, fault_value, peak, peak_action, breakdown, tier_peaks, runs, run_widths, evaluated,
        width_of, began,
    )  # fmt: skip


@compiled
def alive_forwards(rows: Ints4, columns: Columns) -> NDArray[np.bool_]:
    """For each action, whether it is worth running: a recomputation whose outputs nobody reads or keeps is not.

    The first evaluation of each node is always kept.
    """
    ptr, value, access = columns.ptr, columns.value, columns.access
    forwards = len(columns.saving_workspace)
    keep = np.ones(len(rows), dtype=np.bool_)
    first = np.zeros(len(rows), dtype=np.bool_)
    seen = np.zeros(forwards, dtype=np.bool_)
    for k in range(len(rows)):
        if rows[k] < forwards and not seen[rows[k]]:
            seen[rows[k]] = True
            first[k] = True
    needed = columns.remains.copy()
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
