"""Recomputation decided value by value: what an insertion changes, exactly, and the greedy that inserts until all fits.

A *gap* is a stretch in which a value lies untouched until a reader needs it. A candidate closes it: right before
the reader, the row that makes the value runs again, and with it rows that make what that row reads and is no
longer in memory, down to some depth; what is not made again stays in memory for longer. The greedy takes the
candidate with the largest fall of the overflow for its cost.
"""

from __future__ import annotations

from typing import NamedTuple

from sim.base.compiled import compiled
from sim.schedules.values import READ, SAVE, WRITE
from sim.strategies.general.sequence import ALIVE, SAVES, WRITES, State, last_touch, measure, overflow_change

DEPTHS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 1 << 30)
TOGETHER = 2000
"""Candidates in the list for each one that is inserted between two passes, beyond the first."""
END = -1  # the reader of what remains


class Taste(NamedTuple):
    """How the greedy weighs a fall of the overflow against its cost: (share of the overflow)^power / (cost + floor)."""

    power: float
    floor: float
    most_cost: float  # of the whole sequence; the greedy gives up above
    patience: float  # insertions until all candidates are priced anew, as a share of their number


@compiled
def repair(s: State, budget: int, taste: Taste) -> float:
    """Insert runs until the sequence fits; return the overflow that is left, 0 if it does.

    Scores are found when a candidate is met and again when it comes to the top of the list, as they mostly
    fall (Minoux 1978, doi:10.1007/BFb0006528); now and then all are found anew, as some rise.
    """
    overflow = measure(s, budget)
    listed_at, priced = 0, 0  # the pass at which the list was made; how many of it have a score
    taken, fall, top = 0, 0.0, 0.0  # how many candidates wait to be inserted together, their fall, the best score
    while overflow > 0 and s.now[0].cost <= taste.most_cost:
        best = priced
        if priced == s.now[0].candidates or listed_at == 0:
            best, score = -1, 0.0
            for c in range(priced):
                if s.candidates[c].score > score:
                    best, score = c, s.candidates[c].score
            late = s.now[0].passes - listed_at > 3 + taste.patience * priced
            if taken == 0 and (best < 0 or late):
                if listed_at == s.now[0].passes:
                    break
                s.now[0].candidates = priced = 0
                for k in range(s.now[0].start, s.now[0].end + 1):
                    _offer(s, k)
                listed_at = s.now[0].passes
                continue
        if best >= 0:
            place = _place_of(s, best)
            if place < 0:
                s.candidates[best].score = 0.0
            elif s.candidates[best].priced != s.now[0].passes:
                _price(s, budget, taste, place, best)
            else:
                top = s.candidates[best].score if taken == 0 else top
                fall += s.candidates[best].fall
                s.places[taken].trial = best
                taken += 1
            if best == priced:
                priced += 1
            elif taken and s.places[taken - 1].trial == best:
                s.candidates[best].score = 0.0
        together = 1 + priced // TOGETHER
        if taken and (best < 0 or taken == together or fall > 0.2 * overflow or score < 0.3 * top):
            ident = s.now[0].next_ident
            if not _insert_taken(s, taken):
                break
            overflow = measure(s, budget)
            for i in range(ident, s.now[0].next_ident):
                if s.occurrence[i] >= 0:
                    _offer(s, s.occurrence[i])
            taken, fall = 0, 0.0
    return overflow


@compiled
def _insert_taken(s: State, taken: int) -> bool:
    """Inserts the first `taken` candidates of `trial`, from left to right; returns whether there was room.

    Positions to the right of an insertion do not change, so that what the last pass found holds for the next one.
    """
    for i in range(1, taken):
        c, j = s.places[i].trial, i
        while j > 0 and _place_of(s, s.places[j - 1].trial) > _place_of(s, c):
            s.places[j].trial = s.places[j - 1].trial
            j -= 1
        s.places[j].trial = c
    for i in range(taken):
        c = s.places[i].trial
        place = _place_of(s, c)
        _choose(s, place, s.candidates[c].value, s.candidates[c].depth)
        if not _insert(s, place):
            return False
    return True


@compiled
def _place_of(s: State, c: int) -> int:
    reader = s.candidates[c].reader
    return int(s.now[0].end if reader == END else s.occurrence[reader])


@compiled
def _offer(s: State, place: int) -> None:
    """Lists the gaps before the action at a position, or before the end; their candidates have no score yet."""
    if place < s.now[0].end:
        row = s.places[place].row
        for t in range(s.ptr[row], s.ptr[row + 1]):
            if s.access[t] == READ:
                _list(s, s.places[place].ident, s.touched[t])
    else:
        for v in range(len(s.values)):
            if s.values[v].remains:
                _list(s, END, v)


@compiled
def _list(s: State, reader: int, v: int) -> None:
    c = s.now[0].candidates
    if c < len(s.candidates) and s.values[v].remaker >= 0 and s.values[v].size > 0:
        s.candidates[c].reader, s.candidates[c].value, s.candidates[c].priced = reader, v, -1
        s.now[0].candidates += 1


@compiled
def _price(s: State, budget: int, taste: Taste, place: int, c: int) -> None:
    """Writes the best depth of a candidate and its score, 0 where the overflow does not fall."""
    v = s.candidates[c].value
    s.candidates[c].score, s.candidates[c].priced = 0.0, s.now[0].passes
    e = last_touch(s, v, place)
    crowded = False
    for k in range(s.touches[e].place + (0 if s.touches[e].flags & SAVES else 1), place):
        if s.places[k].during > budget:
            crowded = True
            break
    if not crowded:
        return
    _start(s, v)
    begin, depth = 0, 0
    for wanted in DEPTHS:
        known = s.now[0].chosen
        while depth < wanted and begin < s.now[0].chosen:
            begin = _widen(s, place, begin)
            depth += 1
        if wanted and s.now[0].chosen == known:
            break
        fall, cost = _effect(s, budget, place)
        if fall > 0:
            score = fall**taste.power / (cost + taste.floor) * s.values[v].noise
            if score > s.candidates[c].score:
                s.candidates[c].score, s.candidates[c].fall, s.candidates[c].depth = score, fall, wanted


@compiled
def _choose(s: State, place: int, v: int, depth: int) -> None:
    """Fills `State.sorted_rows` with the rows of a candidate."""
    _start(s, v)
    begin = 0
    while depth > 0 and begin < s.now[0].chosen:
        begin = _widen(s, place, begin)
        depth -= 1


@compiled
def _start(s: State, v: int) -> None:
    maker = s.values[v].remaker
    s.now[0].stamp += 1
    s.now[0].live_stamp = s.now[0].stamp
    s.rows[0].chosen = s.rows[0].sorted = maker
    s.rows[maker].chosen_stamp = s.now[0].live_stamp
    s.now[0].chosen = 1


@compiled
def _widen(s: State, place: int, begin: int) -> int:
    """Adds the makers of what the chosen rows from `begin` on read and is not in memory; returns where they begin."""
    stop = end = s.now[0].chosen
    for i in range(begin, stop):
        row = s.rows[i].chosen
        for t in range(s.ptr[row], s.ptr[row + 1]):
            u = s.touched[t]
            if s.access[t] != READ or s.values[u].remaker < 0:
                continue
            maker = s.values[u].remaker
            if s.rows[maker].chosen_stamp != s.now[0].live_stamp and not _is_live(s, u, place):
                s.rows[maker].chosen_stamp = s.now[0].live_stamp
                s.rows[end].chosen = maker
                j = end
                while j > 0 and s.rows[s.rows[j - 1].sorted].rank > s.rows[maker].rank:
                    s.rows[j].sorted = s.rows[j - 1].sorted
                    j -= 1
                s.rows[j].sorted = maker
                end += 1
    s.now[0].chosen = end
    return int(stop)


@compiled
def _is_live(s: State, v: int, place: int) -> bool:
    """Whether a value is in memory right before the action at a position, by the last pass."""
    if s.values[v].live_stamp >> 1 != s.now[0].live_stamp:
        e = last_touch(s, v, place)
        live = e >= 0 and s.touches[e].flags & ALIVE != 0
        s.values[v].live_stamp = 2 * s.now[0].live_stamp + (1 if live else 0)
    return bool(s.values[v].live_stamp & 1)


@compiled
def _is_needed(s: State, v: int, place: int, concerned: int) -> int:
    """Meets a value on the walk back over rows to insert; returns how many values were met."""
    if s.values[v].need_stamp >> 1 != s.now[0].stamp:
        s.values[v].need_stamp = 2 * s.now[0].stamp + (1 if _is_live(s, v, place) else 0)
        s.values[concerned].concerned = v
        return concerned + 1
    return concerned


@compiled
def _effect(s: State, budget: int, place: int) -> tuple[float, int]:
    """(fall of the overflow, rise of the cost) if the chosen rows run right before a position."""
    s.now[0].stamp += 1
    concerned, level, added, cost = 0, s.places[place].before, 0.0, 0
    for i in range(s.now[0].chosen - 1, -1, -1):
        row = s.rows[i].sorted
        now, before, held = level, level, s.rows[row].workspace
        replaces = True  # the run before this one, whose outputs nobody reads any more then
        for t in range(s.ptr[row], s.ptr[row + 1]):
            if s.access[t] < WRITE:
                continue
            v = s.touched[t]
            concerned = _is_needed(s, v, place, concerned)
            if s.values[v].need_stamp & 1:
                before -= s.values[v].size
                if s.access[t] == SAVE:
                    held = s.rows[row].saving_workspace
                s.values[v].need_stamp -= 1
            elif s.access[t] != SAVE:
                now += s.values[v].size
            e = last_touch(s, v, place)
            if e < 0 or not s.touches[e].flags & WRITES or (s.now[0].listed and e == s.values[v].first):
                replaces = False
        for t in range(s.ptr[row], s.ptr[row + 1]):
            if s.access[t] != READ:
                continue
            v = s.touched[t]
            concerned = _is_needed(s, v, place, concerned)
            if not s.values[v].need_stamp & 1:
                s.values[v].need_stamp += 1
                now += s.values[v].size
                before += s.values[v].size
        if now + held > budget:
            added += s.rows[row].weight * (now + held - budget)
        level = before
        if not replaces:
            cost += s.rows[row].cost
    low = place
    for i in range(concerned):
        v = s.values[i].concerned
        change = (s.values[v].need_stamp & 1) - (s.values[v].live_stamp & 1)
        if change:
            e = last_touch(s, v, place)
            at = s.touches[e].place + (0 if s.touches[e].flags & SAVES else 1)
            s.places[at].change += change * s.values[v].size
            s.places[place].change -= change * s.values[v].size
            low = min(low, at)
    return -added - overflow_change(s, budget, low, place), cost


@compiled
def _insert(s: State, place: int) -> bool:
    """Puts the chosen rows before a position; returns whether there was room."""
    count, begin, touches = s.now[0].chosen, s.now[0].start, s.now[0].touches
    for i in range(count):
        touches += s.ptr[s.rows[i].sorted + 1] - s.ptr[s.rows[i].sorted]
    ident = s.now[0].next_ident
    if begin < count or touches > len(s.touches) or ident + count > len(s.occurrence):
        return False
    for k in range(begin, place):
        s.places[k - count].row, s.places[k - count].ident = s.places[k].row, s.places[k].ident
    for i in range(count):
        row = s.rows[i].sorted
        s.places[place - count + i].row, s.places[place - count + i].ident = row, ident + i
        s.rows[row].count += 1
    s.now[0].start, s.now[0].next_ident = begin - count, ident + count
    return True


@compiled
def prune(s: State, budget: int) -> None:
    """Take out runs that are not needed for the sequence to fit, the dearest first.

    `dearness` of each row says in which order they are tried. The sequence must fit.
    """
    count = 0
    for k in range(s.now[0].start, s.now[0].end):
        row = s.places[k].row
        if not s.rows[row].once and s.rows[row].count > 1:
            s.places[count].trial = s.places[k].ident
            j = count
            while j > 0 and s.rows[s.places[s.occurrence[s.places[j - 1].trial]].row].dearness < s.rows[row].dearness:
                s.places[j].trial = s.places[j - 1].trial
                j -= 1
            s.places[j].trial = s.places[k].ident
            count += 1
    for i in range(count):
        k = s.occurrence[s.places[i].trial]
        if k >= 0 and s.rows[s.places[k].row].count > 1 and _fits_without(s, budget, k):
            _remove(s, k)
            measure(s, budget)


@compiled
def _fits_without(s: State, budget: int, place: int) -> bool:
    """Whether the sequence still fits if the run at a position is left out."""
    row, low = s.places[place].row, place
    possible = True
    for t in range(s.ptr[row], s.ptr[row + 1]):
        v, access = s.touched[t], s.access[t]
        e = last_touch(s, v, place)
        own = s.values[v].first if e < 0 else s.touches[e].next
        alive = s.touches[own].flags & ALIVE
        if access >= WRITE and (alive or s.now[0].listed):
            if e < 0:
                possible = False
                break
            at, size = s.touches[e].place + (0 if s.touches[e].flags & SAVES else 1), s.values[v].size if alive else 0
        elif access == READ and not alive:
            at, size = s.touches[e].place + (0 if s.touches[e].flags & SAVES else 1), -s.values[v].size
        else:
            continue
        s.places[at].change += size
        s.places[place].change -= size
        low = min(low, at)
    return overflow_change(s, budget, low, place) <= 0 and possible


@compiled
def _remove(s: State, place: int) -> None:
    s.rows[s.places[place].row].count -= 1
    for k in range(place, s.now[0].start, -1):
        s.places[k].row, s.places[k].ident = s.places[k - 1].row, s.places[k - 1].ident
    s.now[0].start += 1
