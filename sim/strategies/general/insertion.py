"""Recomputation decided value by value: what an insertion changes, exactly, and the greedy that inserts until all fits.

A *gap* is a stretch in which a value lies untouched until a reader needs it. A candidate closes it: right before
the reader, the row that makes the value runs again, and with it rows that make what that row reads and is no
longer in memory, down to some depth; what is not made again stays in memory for longer. The greedy takes the
candidate with the largest fall of the overflow for its cost.
"""

from __future__ import annotations

from typing import NamedTuple

from sim.base.compiled import borrowing
from sim.schedules.values import READ, SAVE, WRITE
from sim.strategies.general.runs import insert_chosen, take_out
from sim.strategies.general.sequence import (
    ALIVE,
    SAVES,
    WRITES,
    State,
    last_touch,
    measure,
    note_change,
    overflow_change,
)

DEPTHS = (0, 1, 2, 3, 5, 8, 13, 21, 34, 1 << 30)
END = -1  # the reader of what remains


class Taste(NamedTuple):
    """The greedy's weight of a fall of overflow against its cost: (share of the overflow)^power / (cost + floor)."""

    power: float
    floor: float
    most_cost: float  # of the whole sequence; the greedy gives up above
    patience: float  # insertions until all candidates are priced anew, as a share of their number
    most_work: float  # of the state, at which the greedy gives up


@borrowing
def repair(s: State, budget: int, taste: Taste) -> float:
    """Insert runs until the sequence fits; return the overflow that is left, 0 if it does.

    Scores are found when a candidate is met and again when it comes to the top of the list, as they mostly
    fall (Minoux 1978, doi:10.1007/BFb0006528); now and then all are found anew, as some rise.
    """
    overflow = measure(s, budget)
    s.now[0].candidates = 0
    listed_at, priced, waiting = 0, 0, 0  # the pass at which the list was made; how many have a score, how many wait
    while overflow > 0 and s.now[0].cost <= taste.most_cost and s.now[0].work < taste.most_work:
        while priced < s.now[0].candidates:
            _price(s, budget, taste, priced)
            if s.candidates[priced].score > 0:
                waiting = _push(s, waiting, priced)
            priced += 1
        late = s.now[0].passes - listed_at > 3 + taste.patience * priced
        if waiting == 0 or late:
            if listed_at == s.now[0].passes:
                break
            s.now[0].candidates = priced = waiting = 0
            for k in range(s.now[0].start, s.now[0].end + 1):
                _offer(s, k)
            listed_at = s.now[0].passes
            continue
        best = s.candidates[0].heap
        fresh = s.candidates[best].priced == s.now[0].passes
        if not fresh:
            _price(s, budget, taste, best)
        if fresh or s.candidates[best].score == 0:
            waiting -= 1
            s.candidates[0].heap = s.candidates[waiting].heap
        if waiting:
            _sift(s, waiting)
        if fresh:
            place, ident = _place_of(s, best), s.now[0].next_ident
            _choose(s, place, s.candidates[best].value, s.candidates[best].depth)
            if not insert_chosen(s, place):
                break
            overflow = s.over[s.now[0].start].overflow
            for i in range(ident, s.now[0].next_ident):
                if s.occurrence[i] >= 0:
                    _offer(s, s.occurrence[i])
    return overflow


@borrowing
def _place_of(s: State, c: int) -> int:
    reader = s.candidates[c].reader
    return int(s.now[0].end if reader == END else s.occurrence[reader])


@borrowing
def _before(s: State, a: int, b: int) -> bool:
    """Tell whether candidate a comes before b: it has the higher score, or the same and was listed earlier."""
    return bool(
        s.candidates[a].score > s.candidates[b].score or (s.candidates[a].score == s.candidates[b].score and a < b)
    )


@borrowing
def _push(s: State, waiting: int, c: int) -> int:
    """Puts a candidate into the heap; returns how many there are."""
    i = waiting
    while i > 0 and _before(s, c, s.candidates[(i - 1) // 2].heap):
        s.candidates[i].heap = s.candidates[(i - 1) // 2].heap
        i = (i - 1) // 2
    s.candidates[i].heap = c
    return waiting + 1


@borrowing
def _sift(s: State, waiting: int) -> None:
    """Moves the first candidate of the heap to its place."""
    i, c = 0, s.candidates[0].heap
    while 2 * i + 1 < waiting:
        child = 2 * i + 1
        if child + 1 < waiting and _before(s, s.candidates[child + 1].heap, s.candidates[child].heap):
            child += 1
        if not _before(s, s.candidates[child].heap, c):
            break
        s.candidates[i].heap = s.candidates[child].heap
        i = child
        s.now[0].work += 10
    s.candidates[i].heap = c


@borrowing
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


@borrowing
def _list(s: State, reader: int, v: int) -> None:
    c = s.now[0].candidates
    if c < len(s.candidates) and s.values[v].remaker >= 0 and s.values[v].size > 0:
        s.candidates[c].reader, s.candidates[c].value, s.candidates[c].priced = reader, v, -1
        s.now[0].candidates += 1


@borrowing
def _price(s: State, budget: int, taste: Taste, c: int) -> None:
    """Writes the best depth of a candidate and its score, 0 where the overflow does not fall or the reader is gone."""
    v, place = s.candidates[c].value, _place_of(s, c)
    s.candidates[c].score, s.candidates[c].priced = 0.0, s.now[0].passes
    s.now[0].work += 50
    if place < 0:
        return
    e = last_touch(s, v, place)
    if s.over[_left_at(s, e)].crowded >= place:
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
        most = s.over[s.now[0].start].overflow - s.over[place].overflow
        if most**taste.power / (cost + taste.floor) * s.values[v].noise < s.candidates[c].score:
            break  # more rows cost more, and more than all that overflows before the reader cannot fall


@borrowing
def _choose(s: State, place: int, v: int, depth: int) -> None:
    """Fills `State.sorted_rows` with the rows of a candidate."""
    _start(s, v)
    begin = 0
    while depth > 0 and begin < s.now[0].chosen:
        begin = _widen(s, place, begin)
        depth -= 1


@borrowing
def _start(s: State, v: int) -> None:
    maker = s.values[v].remaker
    s.now[0].stamp += 1
    s.now[0].live_stamp = s.now[0].stamp
    s.rows[0].chosen = s.rows[0].sorted = maker
    s.rows[maker].chosen_stamp = s.now[0].live_stamp
    s.now[0].chosen = 1


@borrowing
def _widen(s: State, place: int, begin: int) -> int:
    """Adds the makers of what the chosen rows from `begin` on read and is not in memory; returns where they begin."""
    stop = end = s.now[0].chosen
    for i in range(begin, stop):
        row = s.rows[i].chosen
        s.now[0].work += 6 * (s.ptr[row + 1] - s.ptr[row])
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
                s.now[0].work += 2 * (end - j)
                end += 1
    s.now[0].chosen = end
    return int(stop)


@borrowing
def _left_at(s: State, e: int) -> int:
    """The first position at which a value lies untouched after a touch: that of the touch if it saves for a reader."""
    return int(s.occurrence[s.touches[e].ident] + (0 if s.touches[e].flags & SAVES else 1))


@borrowing
def _is_live(s: State, v: int, place: int) -> bool:
    """Tell whether a value is in memory right before the action at a position, by the last pass."""
    if s.values[v].live_stamp >> 1 != s.now[0].live_stamp:
        e = last_touch(s, v, place)
        live = e >= 0 and s.touches[e].flags & ALIVE != 0
        s.values[v].touch = e
        s.values[v].live_stamp = 2 * s.now[0].live_stamp + (1 if live else 0)
    return bool(s.values[v].live_stamp & 1)


@borrowing
def _is_needed(s: State, v: int, place: int, concerned: int) -> int:
    """Meets a value on the walk back over rows to insert; returns how many values were met."""
    if s.values[v].need_stamp >> 1 != s.now[0].stamp:
        s.values[v].need_stamp = 2 * s.now[0].stamp + (1 if _is_live(s, v, place) else 0)
        s.values[concerned].concerned = v
        return concerned + 1
    return concerned


@borrowing
def _effect(s: State, budget: int, place: int) -> tuple[float, int]:
    """(fall of the overflow, rise of the cost) if the chosen rows run right before a position."""
    s.now[0].stamp += 1
    level = s.over[place].before if place < s.now[0].end else s.now[0].remaining
    concerned, added, cost = 0, 0.0, 0
    for i in range(s.now[0].chosen - 1, -1, -1):
        row = s.rows[i].sorted
        s.now[0].work += 10 * (s.ptr[row + 1] - s.ptr[row])
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
            e = s.values[v].touch
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
    changes = 0
    for i in range(concerned):
        v = s.values[i].concerned
        change = (s.values[v].need_stamp & 1) - (s.values[v].live_stamp & 1)
        if change:
            changes = note_change(s, changes, _left_at(s, s.values[v].touch), change * s.values[v].size)
    return -added - overflow_change(s, changes, place), cost


@borrowing
def prune(s: State) -> None:
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
            s.now[0].work += 5 * (count - j)
            count += 1
    for i in range(count):
        k = s.occurrence[s.places[i].trial]
        if k >= 0 and s.rows[s.places[k].row].count > 1 and _fits_without(s, k):
            take_out(s, k)


@borrowing
def _fits_without(s: State, place: int) -> bool:
    """Tell whether the sequence still fits if the run at a position is left out."""
    row, changes = s.places[place].row, 0
    s.now[0].work += 10 * (s.ptr[row + 1] - s.ptr[row])
    for t in range(s.ptr[row], s.ptr[row + 1]):
        v, access = s.touched[t], s.access[t]
        e = last_touch(s, v, place)
        own = s.values[v].first if e < 0 else s.touches[e].next
        alive = s.touches[own].flags & ALIVE
        if access >= WRITE and (alive or s.now[0].listed):
            if e < 0:
                return False
            changes = note_change(s, changes, _left_at(s, e), s.values[v].size if alive else 0)
        elif access == READ and not alive:
            changes = note_change(s, changes, _left_at(s, e), -s.values[v].size)
    return overflow_change(s, changes, place) <= 0
