"""Runs put into a sequence and taken out of it: memory and touches follow without another pass.

What changes lies to the left: what a run reads stays in memory up to it, what it writes need not have been there
before. A run whose outputs nobody reads any more goes too, and with it what only it needed.
"""

from __future__ import annotations

from sim.base.compiled import borrowing
from sim.schedules.values import READ, SAVE, WRITE
from sim.strategies.general.sequence import ALIVE, SAVES, WRITES, State, last_touch, summarise


@borrowing
def insert_chosen(s: State, place: int) -> bool:
    """Put the chosen rows before a position; return whether there was room."""
    count, begin, e, ident = s.now[0].chosen, s.now[0].start, s.now[0].touches, s.now[0].next_ident
    touches = e
    for i in range(count):
        touches += s.ptr[s.rows[i].sorted + 1] - s.ptr[s.rows[i].sorted]
    if begin < count or touches > len(s.touches) or ident + count > len(s.occurrence):
        return False
    _shift(s, begin, place, -count)
    first = place - count
    s.now[0].start, s.now[0].next_ident, s.now[0].touches, s.now[0].doubts = begin - count, ident + count, touches, 0
    for k in range(first, place):
        row = s.rows[k - first].sorted
        s.places[k].row, s.places[k].ident, s.occurrence[ident + k - first] = row, ident + k - first, k
        s.rows[row].count += 1
        s.now[0].cost += s.rows[row].cost
        s.over[k].weight = s.rows[row].weight
        for t in range(s.ptr[row], s.ptr[row + 1]):
            v, access = s.touched[t], s.access[t]
            p = last_touch(s, v, k + 1)
            alive = p >= 0 and s.touches[p].flags & ALIVE != 0
            flags = ALIVE if alive else 0
            if access >= WRITE:
                flags |= WRITES | (SAVES if access == SAVE else 0)
                if alive:
                    _turn(s, v, p, first)
                _doubt(s, p)
            elif not alive:
                _turn(s, v, p, first)
            s.touches[e].ident, s.touches[e].flags = ident + k - first, flags
            if p >= 0:
                s.touches[e].next, s.touches[p].next = s.touches[p].next, e
            else:
                s.touches[e].next, s.values[v].first = s.values[v].first, e
            e += 1
    level = s.over[place].before if place < s.now[0].end else s.now[0].remaining
    for k in range(place - 1, first - 1, -1):
        row = s.places[k].row
        now, before, held = level, level, s.rows[row].workspace
        for t in range(s.ptr[row + 1] - 1, s.ptr[row] - 1, -1):
            e -= 1
            size = s.values[s.touched[t]].size
            alive = s.touches[e].flags & ALIVE != 0
            if s.access[t] >= WRITE:
                if alive:
                    before -= size
                    if s.access[t] == SAVE:
                        held = s.rows[row].saving_workspace
                elif s.access[t] != SAVE:
                    now += size
            elif not alive:
                now += size
                before += size
        s.over[k].excess, s.over[k].before = now + held - s.now[0].budget, before
        level = before
    _settle(s, place)
    return True


@borrowing
def take_out(s: State, place: int) -> None:
    """Take out the run at a position, and what is of no use then."""
    s.now[0].doubts = 0
    _drop(s, place)
    _settle(s, place + 1)


@borrowing
def _settle(s: State, high: int) -> None:
    """Takes out runs in doubt that nobody needs; positions from `high` on have not changed."""
    while s.now[0].doubts:
        s.now[0].doubts -= 1
        place = s.occurrence[s.places[s.now[0].doubts].doubt]
        if place >= 0 and _is_useless(s, place):
            _drop(s, place)
    s.now[0].passes += 1
    summarise(s, high)


@borrowing
def _is_useless(s: State, place: int) -> bool:
    row, ident = s.places[place].row, s.places[place].ident
    if s.rows[row].once or s.rows[row].count < 2:
        return False
    for t in range(s.ptr[row], s.ptr[row + 1]):
        if s.access[t] >= WRITE:
            e = s.values[s.touched[t]].first
            if s.now[0].listed and s.touches[e].ident == ident:
                return False
            while s.touches[e].ident != ident:
                e = s.touches[e].next
            if s.touches[e].flags & ALIVE:
                return False
    return True


@borrowing
def _drop(s: State, place: int) -> None:
    """Takes out a run; the positions before it move up."""
    row, ident = s.places[place].row, s.places[place].ident
    for t in range(s.ptr[row], s.ptr[row + 1]):
        v, p = s.touched[t], -1
        own = s.values[v].first
        while s.touches[own].ident != ident:
            p, own = own, s.touches[own].next
        if p >= 0:
            s.touches[p].next = s.touches[own].next
        else:
            s.values[v].first = s.touches[own].next
        alive = s.touches[own].flags & ALIVE != 0
        if s.access[t] >= WRITE:
            if alive:
                _turn(s, v, p, place)
        elif s.access[t] == READ and not alive:
            _turn(s, v, p, place)
            _doubt(s, p)
    s.rows[row].count -= 1
    s.now[0].cost -= s.rows[row].cost
    s.occurrence[ident] = -1
    _shift(s, s.now[0].start, place, 1)
    s.now[0].start += 1


@borrowing
def _turn(s: State, v: int, e: int, stop: int) -> None:
    """Keeps a value from a touch up to a position, or no longer does."""
    s.touches[e].flags ^= ALIVE
    place = s.occurrence[s.touches[e].ident]
    change = s.values[v].size if s.touches[e].flags & ALIVE else -s.values[v].size
    s.now[0].work += 1 + max(0, stop - place)
    for k in range(place + 1, stop):
        s.over[k].excess += change
        s.over[k].before += change
    if s.touches[e].flags & SAVES:
        row = s.places[place].row
        saved = s.rows[row].saving_workspace - s.rows[row].workspace
        for t in range(s.ptr[row], s.ptr[row + 1]):
            u = s.touched[t]
            if s.access[t] == SAVE and u != v:
                other = s.values[u].first
                while other >= 0 and s.touches[other].ident != s.touches[e].ident:
                    other = s.touches[other].next
                if other >= 0 and s.touches[other].flags & ALIVE:
                    saved = 0
        s.over[place].excess += change + (saved if s.touches[e].flags & ALIVE else -saved)


@borrowing
def _doubt(s: State, e: int) -> None:
    """Notes the run that a touch belongs to, if it wrote there: it may be of no use."""
    if e >= 0 and s.touches[e].flags & WRITES and s.now[0].doubts < len(s.places):
        s.places[s.now[0].doubts].doubt = s.touches[e].ident
        s.now[0].doubts += 1


@borrowing
def _shift(s: State, low: int, high: int, by: int) -> None:
    """Moves positions low … high - 1 by so many."""
    s.now[0].work += 2 * (high - low)
    for i in range(high - low):
        k = low + i if by < 0 else high - 1 - i
        s.places[k + by].row, s.places[k + by].ident = s.places[k].row, s.places[k].ident
        s.over[k + by].excess, s.over[k + by].weight = s.over[k].excess, s.over[k].weight
        s.over[k + by].before = s.over[k].before
        s.occurrence[s.places[k].ident] = k + by
