"""Moves on a sequence: runs taken out (ruin), rows moved to another place (order), and the search made of them.

The search is ruin and recreate (Schrimpf et al. 2000, doi:10.1006/jcph.1999.6413) with record-to-record travel
(Dueck 1993, doi:10.1006/jcph.1993.1010): a move, then the greedy of `sim.strategies.general.insertion` with
weights and noise of its own, then runs that are not needed taken out; what costs no more than the best so far
and a threshold is where the next move starts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sim.base.compiled import borrowing, compiled
from sim.schedules.values import ACCUMULATE, CONSUME, WRITE
from sim.strategies.general.insertion import Taste, prune, repair
from sim.strategies.general.problem import Rows
from sim.strategies.general.sequence import State, Words, below, load, measure, uniform


class Pace(NamedTuple):
    """A stretch of the search: thresholds fall geometrically from `warm` to `cold` over `rounds` rounds."""

    unit: float  # cost of one evaluation of everything that may run again
    warm: float  # in units
    cold: float
    rounds: int
    order_share: float  # of moves that change the order


class Found(NamedTuple):
    """The state of a search: its current sequence and the best one, with cost and overflow of each."""

    current: Rows
    best: Rows
    cost: float
    best_cost: float
    overflow: float
    best_overflow: float


@compiled
def search(
    s: State, found: Found, budget: int, pace: Pace, movable: Rows, random: Words, begin: int, end: int
) -> Found:
    """Rounds `begin` … `end` - 1 of a stretch, from where a search stands."""
    current, best = found.current, found.best
    cost, best_cost = found.cost, found.best_cost
    overflow, best_overflow = found.overflow, found.best_overflow
    for k in range(begin, end):
        threshold = pace.unit * pace.warm * (pace.cold / pace.warm) ** (k / max(1, pace.rounds - 1))
        load(s, current)
        if uniform(random) < pace.order_share:
            measure(s, budget)
            for _ in range(1 + below(random, 3)):
                reorder(s, 0.03 * budget, movable, random)
            if uniform(random) < 0.5:
                ruin(s, random)
        else:
            ruin(s, random)
        taste = _taste(s, random, pace.unit, math.inf if overflow > 0 else best_cost + threshold)
        left = repair(s, budget, taste)
        for r in range(len(s.rows)):
            s.rows[r].weight = 1.0
        if left > 0 and overflow > 0:
            left = measure(s, budget)
        if left == 0:
            for r in range(len(s.rows)):
                s.rows[r].dearness = s.rows[r].cost * (0.5 + uniform(random))
            prune(s)
        new_cost = s.now[0].cost
        if left < best_overflow or (left == best_overflow and new_cost < best_cost):
            best, best_cost, best_overflow = _sequence(s), new_cost, left
            current, cost, overflow = best, new_cost, left
        elif new_cost <= best_cost + threshold if left == 0 else left <= 1.03 * best_overflow:
            current, cost, overflow = _sequence(s), new_cost, left
    return Found(current, best, cost, best_cost, overflow, best_overflow)


@compiled
def fit(s: State, rows: Rows, budget: int, unit: float, most_work: float) -> tuple[Rows, float]:
    """Repair a sequence without noise and take out what is not needed: (what came of it, its overflow).

    The greedy gives up where the state's work is done.
    """
    for r in range(len(s.rows)):
        s.rows[r].weight, s.rows[r].dearness = 1.0, s.rows[r].cost
    for v in range(len(s.values)):
        s.values[v].noise = 1.0
    load(s, rows)
    left = repair(s, budget, Taste(1.0, 1e-5 * unit, math.inf, 0.05, most_work))
    if left > 0:
        load(s, rows)
        left = repair(s, budget, Taste(2.0, 0.1 * unit, math.inf, 0.05, most_work))
    if left == 0:
        prune(s)
    return _sequence(s), left


@compiled
def _sequence(s: State) -> Rows:
    start = s.now[0].start
    out = np.empty(s.now[0].end - start, dtype=np.int32)
    for k in range(len(out)):
        out[k] = s.places[start + k].row
    return out


@borrowing
def _normal(random: Words) -> float:
    return math.sqrt(-2.0 * math.log(1.0 - uniform(random))) * math.cos(2.0 * math.pi * uniform(random))


@borrowing
def _taste(s: State, random: Words, unit: float, most_cost: float) -> Taste:
    """Draws how the greedy of a round weighs things, with noise and weights in the state."""
    plain = uniform(random) < 0.3
    spread = 0.0 if plain else uniform(random)
    noise = 0.0 if plain and uniform(random) < 0.5 else 0.5 * uniform(random)
    for r in range(len(s.rows)):
        s.rows[r].weight = math.exp(spread * _normal(random)) if spread > 0 else 1.0
    for v in range(len(s.values)):
        s.values[v].noise = math.exp(noise * _normal(random)) if noise > 0 else 1.0
    s.now[0].work += 2 * (len(s.rows) + len(s.values))
    s.now[0].work += (60 * len(s.rows) if spread > 0 else 0) + (60 * len(s.values) if noise > 0 else 0)
    power, floor = 0.6 + 0.8 * uniform(random), 1e-5
    if most_cost == math.inf:  # nothing fits yet, and cost is no matter
        power, floor = 0.6 + 2.4 * uniform(random), 10 ** (-5 * uniform(random))
    return Taste(power, floor * unit, most_cost, 0.3 * uniform(random) ** 2, math.inf)


@borrowing
def ruin(s: State, random: Words) -> None:
    """Takes out runs beyond the first: those in a window of positions, of a window of rows, or anywhere."""
    start, stop = s.now[0].start, s.now[0].end
    kind = uniform(random)
    share = 1.0 if uniform(random) < 0.5 else 0.3 + 0.6 * uniform(random)
    if kind < 0.45:
        width = int((stop - start) * (0.03 + 0.3 * uniform(random) ** 2)) + 1
        low = start - width // 2 + below(random, stop - start)
    elif kind < 0.85:
        width = int(len(s.rows) * (0.02 + 0.2 * uniform(random) ** 2)) + 1
        low = below(random, len(s.rows)) - width // 2
    else:
        share, low, width = 0.05 + 0.4 * uniform(random), 0, 1 << 30
    s.now[0].stamp += 1
    kept = 0
    for k in range(start, stop):
        row = s.places[k].row
        at = k if kind < 0.45 else s.rows[row].rank
        again = s.rows[row].chosen_stamp == s.now[0].stamp
        s.rows[row].chosen_stamp = s.now[0].stamp
        if again and not s.rows[row].once and low <= at < low + width and uniform(random) < share:
            s.rows[row].count -= 1
            continue
        s.places[start + kept].row, s.places[start + kept].ident = row, s.places[k].ident
        kept += 1
    gone = stop - start - kept
    for k in range(start + kept - 1, start - 1, -1):
        s.places[k + gone].row, s.places[k + gone].ident = s.places[k].row, s.places[k].ident
    s.now[0].start = start + gone
    s.now[0].work += 5 * (stop - start)


@borrowing
def reorder(s: State, slack: float, movable: Rows, random: Words) -> None:
    """Moves an action, with what must go along: earlier, with the rows it reads from, or later, with its readers.

    It is one of the rows whose order is free, one at which memory is full but for `slack` by the last pass, or any.
    """
    start, stop = s.now[0].start, s.now[0].end
    place = start + below(random, stop - start)
    kind = uniform(random)
    if kind < 0.5 and len(movable):
        row = movable[below(random, len(movable))]
        for k in range(start, stop):
            if s.places[k].row == row:
                place = k
    elif kind < 0.8:
        for i in range(stop - start):
            k = place + i if place + i < stop else place + i - (stop - start)
            if s.over[k].excess > -slack:
                place = k
                break
    s.now[0].work += stop - start
    reach = 1 + int(math.exp(uniform(random) * math.log(min(stop - start, 100))))
    if uniform(random) < 0.5:
        pull(s, place, max(start, place - reach))
    else:
        push(s, place, min(stop - 1, place + reach))


@borrowing
def pull(s: State, place: int, to: int) -> None:
    """Moves the action at a position to an earlier one, and before it what it needs of those between."""
    s.now[0].stamp += 1
    mark = 2 * s.now[0].stamp + 1
    for k in range(place, to - 1, -1):
        row = s.places[k].row
        joins = k == place
        for t in range(s.ptr[row], s.ptr[row + 1]):
            if s.access[t] >= ACCUMULATE and s.values[s.touched[t]].need_stamp == mark:
                joins = True
        s.places[k].trial = 1 if joins else 0
        if joins:
            for t in range(s.ptr[row], s.ptr[row + 1]):
                if s.access[t] >= WRITE:
                    s.values[s.touched[t]].need_stamp = 0
            for t in range(s.ptr[row], s.ptr[row + 1]):
                if s.access[t] <= CONSUME:
                    s.values[s.touched[t]].need_stamp = mark
    _split(s, to, place, 1)


@borrowing
def push(s: State, place: int, to: int) -> None:
    """Moves the action at a position to a later one, and after it what needs it of those between."""
    s.now[0].stamp += 1
    mark = 2 * s.now[0].stamp + 1
    begin = place
    if s.rows[s.places[place].row].once:
        while (
            begin > s.now[0].start
            and not s.rows[s.places[begin - 1].row].once
            and s.rows[s.places[begin - 1].row].count > 1
        ):
            begin -= 1
    for k in range(begin, to + 1):
        row = s.places[k].row
        joins = k <= place
        for t in range(s.ptr[row], s.ptr[row + 1]):
            if s.access[t] <= CONSUME and s.values[s.touched[t]].need_stamp == mark:
                joins = True
        s.places[k].trial = 0 if joins else 1
        for t in range(s.ptr[row], s.ptr[row + 1]):
            if s.access[t] >= ACCUMULATE and joins:
                s.values[s.touched[t]].need_stamp = mark
            elif s.access[t] >= WRITE:
                s.values[s.touched[t]].need_stamp = 0
    _split(s, begin, to, 1)


@borrowing
def _split(s: State, low: int, high: int, leading: int) -> None:
    """Puts those of positions low … high whose `State.trial` is `leading` before the others."""
    at = low
    for k in range(low, high + 1):
        if s.places[k].trial == leading:
            s.places[at].spare_row, s.places[at].spare_ident = s.places[k].row, s.places[k].ident
            at += 1
    for k in range(low, high + 1):
        if s.places[k].trial != leading:
            s.places[at].spare_row, s.places[at].spare_ident = s.places[k].row, s.places[k].ident
            at += 1
    for k in range(low, high + 1):
        s.places[k].row, s.places[k].ident = s.places[k].spare_row, s.places[k].spare_ident


@compiled
def arrange(
    s: State, rows: Rows, budget: int, unit: float, rounds: int, movable: Rows, random: Words
) -> tuple[Rows, float]:
    """Anneal the order of a sequence alone: (the best order, its overflow); ends early where it fits.

    `unit` are the bytes of overflow at which the threshold starts; it falls to a thousandth.
    """
    for r in range(len(s.rows)):
        s.rows[r].weight = 1.0
    load(s, rows)
    overflow = best_overflow = measure(s, budget)
    current = best = _sequence(s)
    for k in range(rounds):
        if best_overflow == 0:
            break
        threshold = unit * 0.001 ** (k / rounds)
        load(s, current)
        reorder(s, math.inf, movable, random)
        left = measure(s, budget)
        if left <= overflow - threshold * math.log(1.0 - uniform(random)):
            current, overflow = _sequence(s), left
            if left < best_overflow:
                best, best_overflow = current, left
    return best, best_overflow
