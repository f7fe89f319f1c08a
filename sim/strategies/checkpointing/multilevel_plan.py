"""Checkpoints in several tiers: device slots are free, the others cost something to write and to read.

Costs are in evaluations of one step. The adjoint of a step is done exactly once in every plan, so
its cost has no influence. Sources: H-Revolve (Herrmann & Pallez, ACM TOMS 46(2), 2020), Disk-Revolve
(Aupy, Herrmann, Hovland & Robert, SIAM J. Sci. Comput. 38(3), 2016), periodic Disk-Revolve (Aupy &
Herrmann, Optim. Methods Softw. 32(3), 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.base.compiled import compiled
from sim.base.errors import CountOverflow
from sim.strategies.checkpointing import binomial
from sim.strategies.checkpointing.binomial import repetitions
from sim.strategies.checkpointing.mixed_plan import MOST_ACTIONS, check_work

FORWARD, ADJOINT = 0, 1
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A tier behind the device: how many checkpoints it holds (`None`: any number) and what they cost."""

    slots: int | None
    write_cost: float
    read_cost: float


class LevelPlan(NamedTuple):
    """What is done, in order: `kind` 0 evaluates `step`, 1 is its adjoint, 2·l stores what it starts from in level l,
    2·l + 1 loads that (levels count from 1)."""

    kind: NDArray[np.int8]
    step: NDArray[np.int32]

    def counts(self, level: int = 1) -> tuple[int, int, int, int]:
        """(evaluations, adjoints, writes to the level, reads from it)."""
        evaluations, adjoints, writes, reads = (
            int(np.count_nonzero(self.kind == k)) for k in (FORWARD, ADJOINT, 2 * level, 2 * level + 1)
        )
        return evaluations, adjoints, writes, reads


def device_costs(length: int, slots: int) -> Floats:
    """Evaluations before the taping one for 0 … `length` steps, binomial: r·l - C(s+r, s+1).

    >>> device_costs(5, 1).tolist()
    [0.0, 0.0, 1.0, 3.0, 6.0, 10.0]
    """
    cost = np.zeros(length + 1)
    r, done = 0, 0
    while done < length:
        reach = min(comb(slots + r, slots), length)
        cost[done + 1 : reach + 1] = r * np.arange(done + 1, reach + 1) - comb(slots + r, slots + 1)
        r, done = r + 1, reach
    return cost


def multilevel_cost(length: int, slots: int, levels: Sequence[Level]) -> float:
    """The cost of `multilevel_plan` without taping evaluations and adjoints, in evaluations of a step.

    >>> multilevel_cost(10, 1, [Level(slots=1, write_cost=2, read_cost=2)])
    27.0
    """
    return float(_tables(length, slots, levels)[1][-1, -1, length])


def multilevel_plan(length: int, slots: int, levels: Sequence[Level]) -> LevelPlan:
    """The plan of least cost for `length` equal steps whose input stands in no slot yet.

    D_l(n, d) = min(D_{l-1}(n), w_l + P_l(n, d)) without, and P_l(n, d) = min(D_{l-1}(n),
    min_j j + D_l(n-j, d-1) + r_l + P_l(j, d)) with the input stored in level l, d slots being left;
    level 0 is the device's binomial schedule. The input takes a slot wherever it is stored.

    Raises
    ------
    NotApplicable
        If the dynamic program would run for more than some minutes.
    CountOverflow
        If the plan would have more than 2^31 - 1 actions.
    """
    free, best, stored, split = _tables(length, slots, levels)
    limited = np.array([_limited(length, level) for level in levels], dtype=np.bool_)
    room = np.array([_rows(length, level) for level in levels], dtype=np.int64)
    write = np.array([level.write_cost for level in levels])
    r = repetitions(length, min(slots, length))
    reach = np.array(
        [[min(comb(a + b, a), length) for b in range(r + 1)] for a in range(min(slots, length) + 1)], dtype=np.int64
    )
    arguments = (length, free, best, stored, split, limited, room, write, reach)
    total = _emit(*arguments, np.empty(0, dtype=np.int8), np.empty(0, dtype=np.int32))
    if total > MOST_ACTIONS:
        raise CountOverflow(f"{length} steps take {total:,} actions, more than 2^31 - 1; use more slots")
    plan = LevelPlan(np.empty(total, dtype=np.int8), np.empty(total, dtype=np.int32))
    _emit(*arguments, *plan)
    return plan


def periodic_plan(length: int, slots: int, level: Level, *, period: int | None = None) -> LevelPlan:
    """A checkpoint in `level` every `period` steps, the last stretch and each one read back with device slots.

    Without `period`, the best one. The last stretch may be longer than a period where that is cheaper.
    """
    free = device_costs(length, min(slots, length))
    best = (np.inf, 1, 0)
    for m in range(1, length + 1) if period is None else [period]:
        stretches = np.arange((length - 1) // m + 1)
        each = level.write_cost + m + level.read_cost + (free[m] if m <= length else 0.0)
        cost = stretches * each + free[length - stretches * m]
        q = int(np.argmin(cost))
        best = min(best, (float(cost[q]), m, q))
    _, m, q = best
    pieces = []
    for k in range(q):
        pieces += [_only(2, k * m), (np.zeros(m), np.arange(k * m, (k + 1) * m))]
    pieces.append(_on_device(q * m, length - q * m, slots))
    for k in range(q - 1, -1, -1):
        pieces += [_only(3, k * m), _on_device(k * m, m, slots)]
    kind, step = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return LevelPlan(kind.astype(np.int8), step.astype(np.int32))


def _only(kind: int, step: int) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.array([kind]), np.array([step])


def _on_device(first: int, length: int, slots: int) -> tuple[NDArray[Any], NDArray[Any]]:
    plan = binomial.binomial_plan(length, slots)
    return plan < 0, first + np.where(plan < 0, ~plan, plan)


def _limited(length: int, level: Level) -> bool:
    """Whether a level may run out of slots; no plan stores more than a checkpoint for each step."""
    return level.slots is not None and level.slots < length


def _rows(length: int, level: Level) -> int:
    return level.slots if level.slots is not None and level.slots < length else 1


def _tables(length: int, slots: int, levels: Sequence[Level]) -> tuple[Floats, Floats, Floats, NDArray[np.int32]]:
    """The device's costs, and by (level, slots, steps): D, P and the split of P (0: the level below)."""
    check_work(length, sum(_rows(length, level) for level in levels), "multilevel")
    free = device_costs(length, min(slots, length))
    shape = (len(levels), max(_rows(length, level) for level in levels) + 1, length + 1)
    best, stored, split = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int32)
    below = free
    for i, level in enumerate(levels):
        _solve(
            below, _rows(length, level), _limited(length, level), float(level.write_cost), float(level.read_cost),
            best[i], stored[i], split[i],
        )  # fmt: skip
        rows = _rows(length, level)
        best[i, rows:] = best[i, rows]
        below = best[i, rows]
    return free, best, stored, split


@compiled
def _solve(below: Any, slots: Any, limited: Any, write: Any, read: Any, best: Any, stored: Any, split: Any) -> None:
    """One level's tables, given the costs of the level below with all its slots."""
    length = len(below) - 1
    free = write == 0 and read == 0
    best[0, :] = below
    after = np.empty(length + 1)
    for d in range(1, slots + 1):
        rest = best[d - 1] if limited else best[d]
        after[1] = 1 + read
        for n in range(2, length + 1):
            least, at = below[n], 0
            for j in range(1, n):
                c = after[j] + rest[n - j]
                # of equals the level below, unless this one is free (a resident input is not stored again)
                if c < least or (free and at == 0 and c == least):
                    least, at = c, j
            stored[d, n], split[d, n] = least, at
            after[n] = n + read + least
            best[d, n] = min(below[n], write + least)


@compiled
def _emit(
    length: Any, free: Any, best: Any, stored: Any, split: Any, limited: Any, room: Any, write: Any, reach: Any,
    kind: Any, step: Any,
) -> Any:  # fmt: skip
    """How many actions the plan has; fills `kind` and `step` if they are long enough.

    A stack entry is (a, n, level, d, stored): n steps from a with d slots of the level left; level -1
    is the device. n = 0 stands for loading what step a starts from.
    """
    stack = np.empty((2 * length + 8, 5), dtype=np.int64)
    stack[0] = (0, length, len(room) - 1, room[-1], 0)
    top, out, filling = 1, 0, len(kind) > 0
    while top:
        top -= 1
        a, n, level, d, held = stack[top]
        if n == 0:
            if filling:
                kind[out], step[out] = 2 * level + 3, a
            out += 1
        elif n == 1 or level < 0:
            actions = int(free[n]) + 2 * n
            if filling:
                plan = binomial.emit(n, len(reach) - 1, reach.shape[1] - 1, reach, actions)
                for i in range(actions):
                    adjoint = plan[i] < 0
                    kind[out + i], step[out + i] = adjoint, a + (~plan[i] if adjoint else plan[i])
            out += actions
        elif (held == 0 and (d == 0 or best[level, d, n] < write[level] + stored[level, d, n])) or (
            held == 1 and split[level, d, n] == 0
        ):
            stack[top] = (a, n, level - 1, room[level - 1] if level > 0 else 0, 0)
            top += 1
        elif held == 0:
            if filling:
                kind[out], step[out] = 2 * level + 2, a
            out += 1
            stack[top] = (a, n, level, d, 1)
            top += 1
        else:
            j: Any = np.int64(split[level, d, n])
            if filling:
                for i in range(j):
                    kind[out + i], step[out + i] = 0, a + i
            out += j
            stack[top] = (a, j, level, d, 1)
            stack[top + 1] = (a, 0, level, 0, 0)
            stack[top + 2] = (a + j, n - j, level, d - 1 if limited[level] else d, 0)
            top += 3
    return out
