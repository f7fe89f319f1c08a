"""Lifetimes as interpreters follow them: who allocates, who frees, who waits for whom.

A life begins with the action that makes a value and ends with the access that liveness marks as its
last; a value that is made again has a new life, and new memory. The lives and their bytes are those
of the ledger (`sim.schedules.ledger`); here they are laid out for streams, and for real arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.base.compiled import compiled
from sim.graphs.node import Ints
from sim.schedules.effects import Bytes8, Columns, Ints4
from sim.schedules.ledger import FREE, LIFE_BYTES, LIFE_START, SKIP
from sim.schedules.replay import Walk
from sim.schedules.schedule import Schedule
from sim.schedules.table import Table
from sim.schedules.values import ACCUMULATE, CONSUME, SAVE, TIERS

COMPUTE = 0
STREAMS = ("compute", "device_to_host", "host_to_device", "host_to_disk", "disk_to_host")
ENDS = ((0, 0), (0, 1), (1, 0), (1, 2), (2, 1))
"""The tiers that each stream reads from and writes to."""


class Allocations(NamedTuple):
    """Device bytes that each action takes when it starts and returns when it ends; workspace is in both."""

    taken: Ints
    freed: Ints


class Lives(NamedTuple):
    """The knowledge of streams about each flat action of a schedule with copies.

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


class Ends(NamedTuple):
    """The values that end with an action: freed after it, and (a residual that nobody reads) not even made."""

    freed: frozenset[int]
    unsaved: frozenset[int]


def ends(table: Table, rows: Ints4, flags: Bytes8) -> Iterator[Ends]:
    """The values whose life ends with each action of a sequence of rows, given the marks of `ledger.mark`."""
    c, e = table.columns, 0
    for row in rows.tolist():
        values = c.value[c.ptr[row] : c.ptr[row + 1]]
        marks = flags[e : e + len(values)]
        e += len(values)
        yield Ends(frozenset(values[marks == FREE].tolist()), frozenset(values[marks == SKIP].tolist()))


def allocations(walked: Walk) -> Allocations:
    """The bytes that each action takes and returns on the device, of a walk that has the bytes of actions."""
    during, after = walked.record.during, walked.record.after
    before = np.concatenate([[0], after[:-1]])
    return Allocations(during - before, during - after)


def lives(schedule: Schedule, walked: Walk, streams: NDArray[np.int8]) -> Lives:
    """Allocations, lives and dependencies of a schedule whose action k runs on `streams[k]`.

    `walked` has its lives and the bytes of its actions.
    """
    c, begun = schedule.table.columns, walked.record.lives
    taken = np.zeros(len(streams), dtype=np.int64)
    on_device = c.value_tier[begun[:, 0]] == 0
    np.add.at(taken, begun[on_device, LIFE_START], begun[on_device, LIFE_BYTES])
    workspace = allocations(walked).taken - taken
    np.add.at(taken, begun[~on_device, LIFE_START], begun[~on_device, LIFE_BYTES])
    freed_from, freed_to, unmet, share_action, share_life, sizes, tiers, counts, before, after = _streamed(
        schedule.flat.rows, streams, schedule.flags, c, begun, workspace, np.array(ENDS, dtype=np.int64)
    )
    share_ptr, shares = _csr(share_action, share_life, len(streams))
    dependent_ptr, dependents = _csr(before, after, len(streams))
    return Lives(
        taken + workspace, freed_from, freed_to, share_ptr, shares, sizes, tiers, counts, unmet, dependent_ptr,
        dependents,
    )  # fmt: skip


def streams_of(table: Table) -> NDArray[np.int8]:
    """The stream of each row of a table: that of its copy, or compute; -1 for a copy that has no link."""
    streams = np.zeros(len(table), dtype=np.int8)
    copies, source, target = table.copies
    by_ends = np.full((len(TIERS), len(TIERS)), -1, dtype=np.int8)
    for s, ends_of_stream in enumerate(ENDS):
        by_ends[ends_of_stream] = s if s != COMPUTE else -1
    tier = table.columns.value_tier
    streams[copies] = by_ends[tier[source], tier[target]]
    return streams


def _csr(keys: Ints, values: Ints, length: int) -> tuple[Ints, Ints]:
    order = np.argsort(keys, kind="stable")
    return np.searchsorted(keys[order], np.arange(length + 1)), values[order]


@compiled
def _streamed(
    rows: Ints4, streams: NDArray[np.int8], flags: Bytes8, columns: Columns, begun: Ints, workspace: Ints, ends: Ints
) -> Any:
    """Follow each life over the streams that touch it.

    A stream does its actions in order, so of each other stream an action waits for one at most: the
    latest that wrote what it reads (or, if it adds to a value, the latest that touched it). A copy
    also waits for the computation before it in the schedule.
    """
    ptr, value, access, value_tier = columns.ptr, columns.value, columns.access, columns.value_tier
    many, n_streams = len(rows), len(ends)
    life_of = np.full(len(columns.value_bytes), -1, dtype=np.int64)  # -1: not in memory
    began = 0
    writer = np.zeros(len(columns.value_bytes), dtype=np.int32)
    last = np.empty((len(columns.value_bytes), n_streams), dtype=np.int32)
    for v in range(len(columns.value_bytes)):
        for other in range(n_streams):
            last[v, other] = -1
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
        if stream == COMPUTE:
            computed = k
        else:
            need[COMPUTE] = computed
        freed[0, k] = workspace[k]
        for t in range(start, stop):
            v, how = value[t], access[t]
            if how == SAVE and flags[e + t - start] == SKIP:
                continue
            if how >= ACCUMULATE and life_of[v] < 0:
                life_of[v] = began
                began += 1
                for other in range(n_streams):
                    last[v, other] = -1
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
            if flags[e + t - start] != FREE or life_of[v] < 0:
                continue
            size = begun[life_of[v], LIFE_BYTES]
            life_of[v] = -1
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
        freed[0], freed[1], unmet, share_action[:shares], share_life[:shares], sizes[:shared], tiers[:shared],
        counts[:shared], before[:pairs], after[:pairs],
    )  # fmt: skip
