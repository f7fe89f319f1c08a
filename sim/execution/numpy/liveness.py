"""The order in which actions really happen, and when each value dies: a plain interpreter of its own.

`sim.schedules.ledger` answers the same questions for replay, on at most three turns of each loop; here every
turn is written out and sets are used, so that the two check each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.graphs.graph import Ints
from sim.schedules.actions import ACCUMULATE, CONSUME, GRADIENT, READ
from sim.schedules.schedule import TURNS, Loop, Schedule
from sim.schedules.table import Table

Touched = dict[int, int]
"""What a row touches: the access of each value."""


def unrolled(schedule: Schedule) -> tuple[Ints, Ints]:
    """(actions, flat): the action done at each moment, every turn of every loop written out, and where
    `schedule.flat` has the turn that stands for it."""
    loops = sorted(schedule.loops, key=lambda loop: (loop.start, -loop.stop))
    actions, flat, _ = _unrolled(0, len(schedule), loops, 0)
    return np.array(actions, dtype=np.int64), np.array(flat, dtype=np.int64)


def _unrolled(start: int, stop: int, loops: Sequence[Loop], flat_start: int) -> tuple[list[int], list[int], int]:
    """Actions, their flat places, and the first flat place behind them."""
    actions: list[int] = []
    flat: list[int] = []
    at, place, i = start, flat_start, 0
    while i < len(loops):
        loop = loops[i]
        inner = [x for x in loops[i + 1 :] if x.start < loop.stop]
        actions += range(at, loop.start)
        flat += range(place, place + loop.start - at)
        place += loop.start - at
        body, in_body, length = _unrolled(loop.start, loop.stop, inner, 0)
        for turn in range(loop.turns):
            copy = turn if loop.turns <= TURNS else 0 if turn == 0 else TURNS - 1 if turn == loop.turns - 1 else 1
            actions += body
            flat += [place + copy * length + f for f in in_body]
        place += min(loop.turns, TURNS) * length
        at, i = loop.stop, i + 1 + len(inner)
    actions += range(at, stop)
    flat += range(place, place + stop - at)
    return actions, flat, place + stop - at


def touched(table: Table, row: int) -> Touched:
    """What a row touches, value by value."""
    start, stop = int(table.ptr[row]), int(table.ptr[row + 1])
    return dict(zip(table.value[start:stop].tolist(), table.access[start:stop].tolist(), strict=True))


def dying(table: Table, touches: Sequence[Touched]) -> list[frozenset[int]]:
    """For each of a sequence of actions, the touched values that nobody reads later before they are written again.

    Parameter gradients live to the end; a residual in the set is not even made by its forward.
    """
    needed = set(np.flatnonzero(table.value_kind == GRADIENT).tolist())
    dead: list[frozenset[int]] = []
    for values in reversed(touches):
        dead.append(frozenset(v for v, access in values.items() if access == CONSUME or v not in needed))
        needed -= {v for v, access in values.items() if access > ACCUMULATE}
        needed |= {v for v, access in values.items() if access in (READ, CONSUME)}
    return dead[::-1]
