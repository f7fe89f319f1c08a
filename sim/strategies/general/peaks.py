"""The smallest peak that is proven: working bytes below which no order of rows, however often they run, has a plan."""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.base.compiled import compiled
from sim.strategies.general.moments import Rows, all_moments, fixed_bytes


def smallest_peak(rows: Rows) -> int:
    """Bytes that every plan has in memory at some time.

    Along the moments that all orders share: in the stage after moment g, what every order holds of values made
    once is in memory all the time. A row that runs in it takes that and what it touches; what it reads
    was in memory over the moment, beside what that takes, or was made in the stage, and so on. Of these
    choices the plan makes the best one, for each value by itself.
    """
    moments = all_moments(rows)
    fixed = fixed_bytes(rows, moments)
    value, start, stop = rows.held.T
    over = np.zeros(len(moments), dtype=np.int64)  # made once, in memory through the stage that begins with each moment
    for g in range(len(moments) - 1):
        ends = moments.later[g, stop] & ((stop == moments.rows[g + 1]) | moments.later[g + 1, stop])
        over[g] = rows.sizes[np.unique(value[moments.done[g, start] & ends])].sum()
    touches_held = np.zeros(len(rows), dtype=np.bool_)
    of_touch = np.repeat(np.arange(len(rows)), np.diff(rows.touch_ptr))
    touches_held[of_touch[np.isin(rows.touch, value)]] = True
    least = _least(
        rows.bytes, rows.sizes, rows.maker, rows.read_ptr, rows.read, rows.touch_ptr, rows.touch, moments.rows,
        moments.done, moments.later, fixed, over, touches_held,
    )  # fmt: skip
    return int(max(fixed.max(), least))


@compiled
def _least(
    size: Any, sizes: Any, maker: Any, read_ptr: Any, read: Any, touch_ptr: Any, touch: Any, moments: Any, done: Any,
    later: Any, fixed: Any, over: Any, touches_held: Any,
) -> Any:  # fmt: skip
    n, endless = len(size), np.int64(1) << 62
    there = np.full(len(sizes), endless)  # the least memory with which a value can be in memory in the stage
    first = np.full(n, endless)  # the least with which a row can run first
    touched = np.zeros(len(sizes), dtype=np.bool_)
    needed = np.int64(0)
    for g in range(-1, len(moments) - 1):
        if g >= 0:  # what can be kept over the moment
            for t in range(touch_ptr[moments[g]], touch_ptr[moments[g] + 1]):
                touched[touch[t]] = True
            for v in range(len(sizes)):
                there[v] = max(there[v], fixed[g] + (0 if touched[v] else sizes[v]))
            for t in range(touch_ptr[moments[g]], touch_ptr[moments[g] + 1]):
                touched[touch[t]] = False
        for r in range(n):
            if later[g + 1, r]:
                continue
            beside = over[g] if g >= 0 else 0
            takes = max(size[r], beside) if touches_held[r] else size[r] + beside
            for t in range(read_ptr[r], read_ptr[r + 1]):
                takes = max(takes, there[read[t]])
            if g < 0 or not done[g, r]:
                first[r] = min(first[r], takes)
            for t in range(touch_ptr[r], touch_ptr[r + 1]):
                if maker[touch[t]] == r:
                    there[touch[t]] = min(there[touch[t]], takes)
    for r in range(n):
        needed = max(needed, first[r])
    return needed
