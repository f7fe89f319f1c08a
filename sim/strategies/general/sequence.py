"""A sequence of rows in a buffer, and one backward pass over it: what is in memory, and who touches what.

The search's only state. The sequence fills the right end of the buffer, so that the pass, which goes from
the last row to the first, can leave out runs whose outputs nobody reads as it goes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.base.compiled import borrowing
from sim.schedules.effects import Bytes8
from sim.schedules.values import ACCUMULATE, CONSUME, SAVE, WRITE
from sim.strategies.general.problem import Problem, Rows

Words = NDArray[np.uint64]

ALIVE, WRITES, SAVES = 1, 2, 4
"""Flags of a touch: the value is read later, the touch writes it, it writes only what is read later."""

Records = NDArray[np.void]

ROW = np.dtype(
    [
        ("cost", "i8"), ("workspace", "i8"), ("saving_workspace", "i8"), ("once", "?"),
        ("rank", "i4"),  # place in the order given
        ("count", "i4"),  # occurrences in the sequence
        ("earlier", "i4"),  # those before the one that a pass is at
        ("weight", "f8"),  # of bytes above the budget while it runs
        ("dearness", "f8"),  # what is taken out first
        ("chosen_stamp", "i8"),
        ("chosen", "i4"), ("sorted", "i4"),  # entry i of the rows to insert, level by level and as they run
    ],
    align=True,
)  # fmt: skip
VALUE = np.dtype(
    [
        ("size", "i8"), ("remains", "?"),
        ("adds", "i4"),  # accumulations that make it complete
        ("remaker", "i4"),  # the row that can write it again, or -1
        ("needed", "?"), ("missing", "i4"),  # read later; accumulations not yet met, while a pass goes on
        ("first", "i4"),  # its first touch, or -1
        ("noise", "f8"),  # factor on the score of what makes it again
        ("live_stamp", "i8"),  # twice a stamp, plus one if it is in memory at the reader in question
        ("touch", "i4"),  # its last before that reader
        ("need_stamp", "i8"),  # the same while rows to insert are walked through
        ("concerned", "i4"),  # entry i of the values whose time in memory an insertion may change
    ],
    align=True,
)  # fmt: skip
PLACE = np.dtype(
    [
        ("row", "i4"), ("ident", "i4"),  # an occurrence is named, as positions shift
        ("trial", "i4"), ("spare_row", "i4"), ("spare_ident", "i4"),
        ("doubt", "i4"),  # entry i of the occurrences that may be of no use
    ],
    align=True,
)  # fmt: skip
OVER = np.dtype(
    [
        ("excess", "i8"), ("weight", "f8"),  # bytes above the budget during an action, or below (negative)
        ("before", "i8"),  # bytes in memory before it
        ("overflow", "f8"),  # of all positions from here on
        ("crowded", "i4"),  # the first position from here on with an excess, or the end
    ],
    align=True,
)  # fmt: skip
BLOCK = np.dtype([("least", "i8"), ("most", "i8"), ("weight", "f8")], align=True)
CHANGE = np.dtype([("place", "i4"), ("size", "i8")], align=True)
TOUCH = np.dtype([("ident", "i4"), ("next", "i4"), ("flags", "i4")], align=True)
CANDIDATE = np.dtype(
    [
        ("reader", "i4"), ("value", "i4"), ("depth", "i4"),
        ("score", "f8"), ("fall", "f8"), ("priced", "i8"),  # and at which pass that was
        ("heap", "i4"),  # entry i of a heap of candidates, the highest score first
    ],
    align=True,
)  # fmt: skip
NOW = np.dtype(
    [
        ("listed", "?"),  # whether first runs keep the order given
        ("start", "i8"), ("end", "i8"),  # the sequence is at these positions
        ("touches", "i8"), ("next_ident", "i8"), ("passes", "i8"), ("peak", "i8"), ("cost", "i8"),
        ("work", "i8"),  # nanoseconds that all this takes, by counts of what is walked over: the same everywhere
        ("candidates", "i8"), ("chosen", "i8"), ("doubts", "i8"),  # how many there are
        ("budget", "i8"), ("remaining", "i8"),  # of the last pass, and bytes in memory at the end
        ("stamp", "i8"), ("live_stamp", "i8"),  # the last given, and that of what is known of the reader in question
    ],
    align=True,
)  # fmt: skip


class State(NamedTuple):
    """A problem and a sequence of its rows, with what the last pass found and room for the moves on it.

    `ptr`, `touched` and `access` are the problem's; the others are records, one for each row, value, position
    in the buffer (and the end; `over` is what scans read), block of positions (the range of their excess and the sum
    of their weights), touch (of a value by an action, linked from the first to the last), candidate, change of
    memory that a move makes from a position on, and one (`now`) for the whole. `occurrence` has the position of
    each named occurrence, -1 if it is gone.
    """

    ptr: Rows
    touched: Rows
    access: Bytes8
    rows: Records
    values: Records
    places: Records
    over: Records
    blocks: Records
    touches: Records
    candidates: Records
    changes: Records
    occurrence: Rows
    now: Records


WIDTH = 32
"""Positions of a block."""
ROOM = 6
"""Times that the buffer can hold the rows that may run again, beyond the order given."""


def state_of(problem: Problem, *, listed: bool = False) -> State:
    """A state for the plans of a problem, its buffer empty; `listed`: first runs keep the order given."""
    again = problem.must & ~problem.once
    widths = np.diff(problem.ptr)
    capacity = len(problem.order) + ROOM * int(again.sum()) + 64
    touches = int(widths[problem.must].sum() + ROOM * widths[again].sum()) + 64 * int(widths.max())
    rows, values = np.zeros(len(problem), dtype=ROW), np.zeros(len(problem.value_bytes), dtype=VALUE)
    rows["cost"], rows["once"], rows["weight"] = problem.cost, problem.once, 1.0
    rows["workspace"], rows["saving_workspace"] = problem.workspace, problem.saving_workspace
    rows["rank"][problem.order] = np.arange(len(problem.order))
    values["size"], values["remains"], values["noise"] = problem.value_bytes, problem.remains, 1.0
    values["adds"], values["remaker"] = problem.accumulations, problem.remaker
    now = np.zeros(1, dtype=NOW)
    now["listed"], now["start"], now["end"] = listed, capacity, capacity
    return State(
        ptr=np.ascontiguousarray(problem.ptr),
        touched=np.ascontiguousarray(problem.value),
        access=np.ascontiguousarray(problem.access),
        rows=rows,
        values=values,
        places=np.zeros(capacity + 1, dtype=PLACE),
        over=np.zeros(capacity + 1, dtype=OVER),
        blocks=np.zeros(capacity // WIDTH + 1, dtype=BLOCK),
        touches=np.zeros(touches, dtype=TOUCH),
        candidates=np.zeros(touches, dtype=CANDIDATE),
        changes=np.zeros(len(values) + 1, dtype=CHANGE),
        occurrence=np.zeros(4 * capacity, dtype=np.int32),
        now=now,
    )


@borrowing
def load(s: State, rows: Rows) -> None:
    """Puts a sequence into the buffer, its occurrences named 0, 1, 2, …"""
    start = s.now[0].end - len(rows)
    for r in range(len(s.rows)):
        s.rows[r].count = 0
    for k in range(len(rows)):
        s.places[start + k].row = rows[k]
        s.places[start + k].ident = k
        s.rows[rows[k]].count += 1
    s.now[0].start, s.now[0].next_ident = start, len(rows)
    s.now[0].work += 2 * len(rows) + len(s.rows)


@borrowing
def measure(s: State, budget: int) -> float:
    """Find the memory, touches and cost of the sequence, without runs that nobody needs; return its overflow.

    The overflow is the sum over actions of weight times bytes above the budget; 0 exactly if it fits.
    """
    for v in range(len(s.values)):
        s.values[v].needed = s.values[v].remains
        s.values[v].missing = s.values[v].adds
        s.values[v].first = -1
    for r in range(len(s.rows)):
        s.rows[r].earlier = s.rows[r].count
    for i in range(s.now[0].next_ident):
        s.occurrence[i] = -1
    level = np.int64(0)
    for v in range(len(s.values)):
        if s.values[v].remains:
            level += s.values[v].size
    s.now[0].budget, s.now[0].remaining = budget, level
    peak, cost, overflow = np.int64(0), np.int64(0), 0.0
    e = 0
    w = s.now[0].end
    for k in range(s.now[0].end - 1, s.now[0].start - 1, -1):
        row = s.places[k].row
        start, stop = s.ptr[row], s.ptr[row + 1]
        s.rows[row].earlier -= 1
        if not s.rows[row].once and s.rows[row].count > 1 and (s.rows[row].earlier > 0 or not s.now[0].listed):
            useful = False
            for t in range(start, stop):
                if s.access[t] >= WRITE and s.values[s.touched[t]].needed:
                    useful = True
            if not useful:
                s.rows[row].count -= 1
                continue
        w -= 1
        s.places[w].row = row
        s.places[w].ident = s.places[k].ident
        s.occurrence[s.places[w].ident] = w
        now, before, held = level, level, s.rows[row].workspace
        for t in range(start, stop):
            access, v = s.access[t], s.touched[t]
            if access < ACCUMULATE:
                continue
            flags = ALIVE if s.values[v].needed else 0
            if access == ACCUMULATE:
                if s.values[v].needed:
                    s.values[v].missing -= 1
                    if s.values[v].missing == 0:
                        before -= s.values[v].size
                        s.values[v].needed = False
                else:
                    now += s.values[v].size
            else:
                flags |= WRITES
                if access == SAVE:
                    flags |= SAVES
                if s.values[v].needed:
                    before -= s.values[v].size
                    if access == SAVE:
                        held = s.rows[row].saving_workspace
                    s.values[v].needed = False
                elif access != SAVE:
                    now += s.values[v].size
            s.touches[e].ident, s.touches[e].flags, s.touches[e].next = s.places[w].ident, flags, s.values[v].first
            s.values[v].first = e
            e += 1
        for t in range(start, stop):
            access, v = s.access[t], s.touched[t]
            if access > CONSUME:
                continue
            flags = ALIVE
            if not s.values[v].needed:
                flags = 0
                s.values[v].needed = True
                now += s.values[v].size
                before += s.values[v].size
                if access == CONSUME:
                    s.values[v].missing = s.values[v].adds
            s.touches[e].ident, s.touches[e].flags, s.touches[e].next = s.places[w].ident, flags, s.values[v].first
            s.values[v].first = e
            e += 1
        now += held
        level = before
        peak = max(peak, now)
        cost += s.rows[row].cost
        s.over[w].excess, s.over[w].weight, s.over[w].before = now - budget, s.rows[row].weight, before
        if now > budget:
            overflow += s.rows[row].weight * (now - budget)
    s.now[0].start, s.now[0].touches, s.now[0].peak, s.now[0].cost = w, e, peak, cost
    s.now[0].passes += 1
    s.now[0].work += 8 * e + 200
    summarise(s, s.now[0].end)
    return overflow


@borrowing
def last_touch(s: State, v: int, place: int) -> int:
    """The last touch of a value before a position; -1 if there is none."""
    found, e = -1, s.values[v].first
    while e >= 0 and s.occurrence[s.touches[e].ident] < place:
        found = e
        e = s.touches[e].next
    return found


@borrowing
def summarise(s: State, high: int) -> None:
    """Find what holds for whole blocks and for all from each position on; from `high` on nothing has changed."""
    start, end = s.now[0].start, s.now[0].end
    s.over[end].overflow, s.over[end].crowded = 0.0, end
    high = min(end, (high + WIDTH - 1) // WIDTH * WIDTH)
    s.now[0].work += 3 * (high - start)
    overflow, crowded = s.over[high].overflow, s.over[high].crowded
    for k in range(high - 1, start - 1, -1):
        excess, b = s.over[k].excess, k // WIDTH
        if k == high - 1 or k % WIDTH == WIDTH - 1:
            s.blocks[b].least, s.blocks[b].most, s.blocks[b].weight = excess, excess, 0.0
        s.blocks[b].least = min(s.blocks[b].least, excess)
        s.blocks[b].most = max(s.blocks[b].most, excess)
        s.blocks[b].weight += s.over[k].weight
        if excess > 0:
            crowded = k
            overflow += s.over[k].weight * excess
        s.over[k].overflow, s.over[k].crowded = overflow, crowded


@borrowing
def note_change(s: State, count: int, place: int, size: int) -> int:
    """Notes that memory changes from a position on, by position; returns how many changes there are then."""
    j = count
    while j > 0 and s.changes[j - 1].place > place:
        s.changes[j].place, s.changes[j].size = s.changes[j - 1].place, s.changes[j - 1].size
        j -= 1
    s.changes[j].place, s.changes[j].size = place, size
    return count + 1


@borrowing
def overflow_change(s: State, count: int, end: int) -> float:
    """By how much the overflow changes with the changes noted, which last up to a position."""
    total, change = 0.0, np.int64(0)
    s.now[0].work += 10 * count
    for i in range(count):
        change += s.changes[i].size
        stop = s.changes[i + 1].place if i + 1 < count else end
        if change != 0:
            total += _changed(s, s.changes[i].place, stop, change)
    return total


@borrowing
def _changed(s: State, low: int, high: int, change: int) -> float:
    """By how much the overflow changes if so many bytes more are in memory at positions low … high - 1."""
    total, k = 0.0, low
    rise, fall = max(change, 0), min(change, 0)
    while k < high:
        b = k // WIDTH
        stop = (b + 1) * WIDTH
        s.now[0].work += 2
        if k % WIDTH == 0 and stop <= high:
            if s.blocks[b].most + rise <= 0:
                k = stop
                continue
            if s.blocks[b].least + fall >= 0:
                total += change * s.blocks[b].weight
                k = stop
                continue
        stop = min(stop, high)
        s.now[0].work += (stop - k) * 3 // 2
        for i in range(k, stop):
            was, now = max(s.over[i].excess, 0), max(s.over[i].excess + change, 0)
            if was != now:
                total += s.over[i].weight * (now - was)
        k = stop
    return total


@borrowing
def uniform(random: Words) -> float:
    """A number from 0 to 1, the next of a stream (xorshift64*, Vigna 2016, doi:10.1145/2845077)."""
    x = random[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    random[0] = x
    return float((x * np.uint64(2685821657736338717)) >> np.uint64(11)) / 9007199254740992.0


@borrowing
def below(random: Words, count: int) -> int:
    """A whole number from 0 to count - 1."""
    return int(uniform(random) * count)
