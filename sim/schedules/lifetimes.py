"""The lives of values, in a form that a simulation can follow: who allocates, who frees, who waits for whom.

A life begins with the action that makes a value and ends with the access that liveness marks as its
last (`Schedule.flags`); a value that is made again has a new life, and new memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.base.compiled import compiled
from sim.schedules.actions import ACCUMULATE, CONSUME, COPY, SAVE, TIERS
from sim.schedules.ledger import FREE, SKIP, workspace_index
from sim.schedules.schedule import Schedule
from sim.schedules.table import Table

Ints = NDArray[np.int64]

COMPUTE = 0
STREAMS = ("compute", "device_to_host", "host_to_device", "host_to_disk", "disk_to_host")
ENDS = ((0, 0), (0, 1), (1, 0), (1, 2), (2, 1))
"""The tiers that each stream reads from and writes to."""


class Allocations(NamedTuple):
    """Device bytes that each action of a schedule without copies takes when it starts and returns when it ends.

    Workspace is in both. `live` is the width of each value that is there after the last action, 0
    where it is not.
    """

    taken: Ints
    freed: Ints
    live: NDArray[np.int32]


class Lives(NamedTuple):
    """What the streams of a schedule with copies have to know of each flat action.

    `taken` is allocated in the tier that the stream writes to; `freed_from` and `freed_to` are
    returned in the tiers of `ENDS` at its end. A life whose last accesses on several streams may end
    in any order is shared: `shares` lists (CSR by action) those in which the action is the last of its
    stream, `share_bytes`, `share_tier` and `share_count` describe each. `unmet` counts the actions of
    other streams that have to end before; `dependents` lists (CSR) whom the end of an action helps.
    """

    taken: Ints
    freed_from: Ints
    freed_to: Ints
    share_ptr: Ints
    shares: Ints
    share_bytes: Ints
    share_tier: Ints
    share_count: Ints
    unmet: Ints
    dependent_ptr: Ints
    dependents: Ints


def allocations(schedule: Schedule, *, stop: int | None = None) -> Allocations:
    """What each action (up to flat action `stop`) takes and returns, for a valid schedule on one stream."""
    t, flat = schedule.table, schedule.flat
    rows = np.ascontiguousarray(flat.rows[:stop])
    return Allocations(
        *_allocations(
            len(t.graph), rows, _widths(flat.widths[:stop]), schedule.flags, t.ptr, t.value, t.access, t.workspace,
            t.value_bytes, t.scaled, t.value_tier,
        )
    )  # fmt: skip


def lives(schedule: Schedule, streams: NDArray[np.int8]) -> Lives:
    """Allocations, lives and dependencies of a valid schedule whose action k runs on `streams[k]`."""
    t, flat = schedule.table, schedule.flat
    found = _lives(
        len(t.graph), np.ascontiguousarray(flat.rows), _widths(flat.widths), streams, schedule.flags, t.ptr, t.value,
        t.access, t.workspace, t.value_bytes, t.scaled, t.value_tier, np.array(ENDS, dtype=np.int64),
    )  # fmt: skip
    taken, freed_from, freed_to, unmet, share_action, share_life, sizes, tiers, counts, before, after = found
    share_ptr, shares = _csr(share_action, share_life, len(streams))
    dependent_ptr, dependents = _csr(before, after, len(streams))
    return Lives(taken, freed_from, freed_to, share_ptr, shares, sizes, tiers, counts, unmet, dependent_ptr, dependents)


def streams_of(table: Table) -> NDArray[np.int8]:
    """The stream of each row of a table: that of its copy, or compute; -1 for a copy that has no link."""
    streams = np.zeros(len(table), dtype=np.int8)
    if table.extra_rows:
        copies = np.flatnonzero(table.opcode == COPY)
        by_ends = np.full((len(TIERS), len(TIERS)), -1, dtype=np.int8)
        for s, (source, target) in enumerate(ENDS):
            by_ends[source, target] = s if s != COMPUTE else -1
        read, written = table.value[table.ptr[copies]], table.value[table.ptr[copies] + 1]
        streams[copies] = by_ends[table.value_tier[read], table.value_tier[written]]
    return streams


def _widths(widths: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.array(widths, dtype=np.int32)  # a view of one number repeated becomes an array


def _csr(keys: Ints, values: Ints, length: int) -> tuple[Ints, Ints]:
    order = np.argsort(keys, kind="stable")
    return np.searchsorted(keys[order], np.arange(length + 1)), values[order]


@compiled
def _saves(access: Any, flags: Any, start: Any, stop: Any, e: Any) -> Any:
    """Whether an action saves a residual: its touches are start … stop-1, their flags begin at e."""
    saves = False
    for t in range(start, stop):
        saves = saves or (access[t] == SAVE and flags[e + t - start] != SKIP)
    return saves


@compiled
def _allocations(
    n: Any, rows: Any, widths: Any, flags: Any, ptr: Any, value: Any, access: Any, workspace: Any, value_bytes: Any,
    scaled: Any, value_tier: Any,
) -> Any:  # fmt: skip
    """Follows each value from where it is made to where it is last used."""
    width_of = np.zeros(len(value_bytes), dtype=np.int32)
    taken = np.zeros(len(rows), dtype=np.int64)
    freed = np.zeros(len(rows), dtype=np.int64)
    e = 0
    for k in range(len(rows)):
        row = rows[k]
        start, stop = ptr[row], ptr[row + 1]
        extra = workspace[workspace_index(n, workspace[0], row, _saves(access, flags, start, stop, e))]
        taken[k], freed[k] = extra, extra
        for t in range(start, stop):
            v = value[t]
            made = access[t] >= ACCUMULATE and width_of[v] == 0
            if made and not (access[t] == SAVE and flags[e + t - start] == SKIP):
                width_of[v] = widths[k]
                if value_tier[v] == 0:
                    taken[k] += value_bytes[v] * (np.int64(widths[k]) if scaled[v] else 1)
        for t in range(start, stop):
            v = value[t]
            if flags[e + t - start] == FREE and width_of[v] > 0:
                if value_tier[v] == 0:
                    freed[k] += value_bytes[v] * (np.int64(width_of[v]) if scaled[v] else 1)
                width_of[v] = 0
        e += stop - start
    return taken, freed, width_of


@compiled
def _lives(
    n: Any, rows: Any, widths: Any, streams: Any, flags: Any, ptr: Any, value: Any, access: Any, workspace: Any,
    value_bytes: Any, scaled: Any, value_tier: Any, ends: Any,
) -> Any:  # fmt: skip
    """Follows each value over the streams that touch it.

    A stream does its actions in order, so of each other stream an action waits for one at most: the
    latest that wrote what it reads (or, if it adds to a value, the latest that touched it). A copy
    also waits for the computation before it in the schedule.
    """
    many, n_streams = len(rows), len(ends)
    width_of = np.zeros(len(value_bytes), dtype=np.int32)
    writer = np.zeros(len(value_bytes), dtype=np.int32)
    last = np.empty((len(value_bytes), n_streams), dtype=np.int32)
    for v in range(len(value_bytes)):
        for other in range(n_streams):
            last[v, other] = -1
    taken = np.zeros(many, dtype=np.int64)
    freed = np.zeros((2, many), dtype=np.int64)
    unmet = np.zeros(many, dtype=np.int64)
    waited = np.empty((n_streams, n_streams), dtype=np.int64)  # what each stream has already waited for
    need = np.empty(n_streams, dtype=np.int64)
    for one in range(n_streams):
        for other in range(n_streams):
            waited[one, other] = -1
    before = np.empty(many * (n_streams - 1), dtype=np.int64)
    after = np.empty(many * (n_streams - 1), dtype=np.int64)
    pairs = 0
    touches = len(flags)
    share_action, share_life = np.empty(2 * touches, dtype=np.int64), np.empty(2 * touches, dtype=np.int64)
    sizes, tiers = np.empty(touches, dtype=np.int64), np.empty(touches, dtype=np.int64)
    counts = np.empty(touches, dtype=np.int64)
    shares, shared = 0, 0
    computed = -1
    e = 0
    for k in range(many):
        row, stream = rows[k], streams[k]
        start, stop = ptr[row], ptr[row + 1]
        for other in range(n_streams):
            need[other] = -1
        extra = np.int64(0)
        if stream == 0:
            computed = k
            extra = workspace[workspace_index(n, workspace[0], row, _saves(access, flags, start, stop, e))]
        else:
            need[0] = computed
        taken[k], freed[0, k] = extra, extra
        for t in range(start, stop):
            v, how = value[t], access[t]
            if how == SAVE and flags[e + t - start] == SKIP:
                continue
            if how >= ACCUMULATE and width_of[v] == 0:
                width_of[v] = widths[k]
                for other in range(n_streams):
                    last[v, other] = -1
                taken[k] += value_bytes[v] * (np.int64(widths[k]) if scaled[v] else 1)
            elif how <= CONSUME:
                w = writer[v]
                need[streams[w]] = max(need[streams[w]], w)
            else:
                for s in range(n_streams):
                    need[s] = max(need[s], last[v, s])
            if how >= ACCUMULATE:
                writer[v] = k
            last[v, stream] = k
        for s in range(n_streams):
            if s != stream and need[s] > waited[stream, s]:
                waited[stream, s] = need[s]
                before[pairs], after[pairs] = need[s], k
                pairs += 1
                unmet[k] += 1
        for t in range(start, stop):
            v = value[t]
            if flags[e + t - start] != FREE or width_of[v] == 0:
                continue
            size = value_bytes[v] * (np.int64(width_of[v]) if scaled[v] else 1)
            width_of[v] = 0
            count = 1
            for s in range(n_streams):
                if s != stream and last[v, s] > waited[stream, s]:
                    share_action[shares], share_life[shares] = last[v, s], shared
                    shares += 1
                    count += 1
            if count == 1:
                freed[0 if value_tier[v] == ends[stream, 0] else 1, k] += size
            else:
                share_action[shares], share_life[shares] = k, shared
                shares += 1
                sizes[shared], tiers[shared], counts[shared] = size, value_tier[v], count
                shared += 1
        e += stop - start
    return (
        taken, freed[0], freed[1], unmet, share_action[:shares], share_life[:shares], sizes[:shared], tiers[:shared],
        counts[:shared], before[:pairs], after[:pairs],
    )  # fmt: skip
