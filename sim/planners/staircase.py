"""The exact trade-off between memory and recomputation on a chain: all breakpoints, no slots.

`staircase` finds, for every memory, the least cost of the plans of `sim.planners.recurrence`, and
`Staircase.plan` the plan of each breakpoint. On a chain the promise is what replay says of the plan,
to the unit; on other graphs it is an estimate, and what counts is the replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.errors import CountOverflow
from sim.kernels import compiled, put
from sim.planners import merging
from sim.planners.recurrence import (
    BASE,
    CUT,
    DROP,
    INFINITE,
    KEEP,
    KIND,
    LOW,
    NOW,
    OFFSET1,
    OFFSET2,
    PRICE,
    S1,
    S2,
    SPLIT,
    SPLIT_HELD,
    T1,
    T2,
    V1,
    V2,
    WAY_FIELDS,
    equal_stages,
    level_at,
    ways_of,
)
from sim.planners.stages import COST, GRADIENTS, READS, READS_OUTPUT, RESIDUAL, SAVING, SIZES, VJP_PEAK, Stages

CELLS, CELLS_PER_STAGE = (128, 512), 5
"""How finely memory is cut for a coarse look: fastest as measured, more cells where staircases are longer."""
COARSE_BYTES = 5 * 10**8
DENSE_WORK, DENSE_BYTES = 10**10, 4 * 10**8
"""What looking at every memory, in units that divide all sizes, may take instead of cells."""
LONGEST_EXACT = 200
"""Stages up to which no tolerance makes a planner faster: exact staircases take less than two rounded ones."""
MOST_BREAKPOINTS = 100_000_000
"""Breakpoints kept for all states together: 1.6 GB."""


@dataclass(frozen=True, eq=False)
class Staircase:
    """Breakpoints of (working bytes, cost of forwards): rising memory, falling cost.

    `cost` counts every evaluation of a forward; VJPs cost the same in every plan. `lower` (breakpoints
    of the same form, equal to these where nothing was rounded) is below the best plan of the class.
    """

    stages: Stages
    reach: int
    memory: NDArray[np.int64]
    cost: NDArray[np.int64]
    lower: tuple[NDArray[np.int64], NDArray[np.int64]]
    _tables: tuple[Any, ...]  # the unit of bytes, then what `_plan` reads

    def __len__(self) -> int:
        return len(self.memory)

    def plan(self, index: int) -> NDArray[np.int32]:
        """The plan of a breakpoint, as rows of the graph's table: i evaluates node i, n + i is its VJP."""
        unit, *tables = self._tables
        arguments: Any = (*tables, self.reach, int(self.memory[index]) // unit)
        rows: NDArray[np.int32] = _plan(*arguments)
        return rows


def staircase(
    stages: Stages,
    *,
    reach: int = 0,
    tolerance: float = 0.0,
    certified: bool = True,
    most_breakpoints: int = MOST_BREAKPOINTS,
    longest_exact: int = LONGEST_EXACT,
) -> Staircase:
    """All breakpoints of the best plans, or with `tolerance` enough of them to be within it everywhere.

    `reach` widens the class: how many stages beyond a checkpoint may be left for later when it is
    dropped. Time grows with its square; 0 is what long chains can pay for. With a tolerance ε the cost
    is at most 1 + ε times the best of the class at every memory, by the lower staircase that is computed
    beside it (unless not `certified`: then staircases are thinned by ε at once, and nothing is known of
    the optimum). Up to `longest_exact` stages a certified tolerance is met by the exact staircase, which
    is found sooner.

    Raises
    ------
    CountOverflow
        If more breakpoints were needed than memory allows.
    """
    n = len(stages)
    reach = max(0, min(reach, n - 2))
    unit = _unit(stages)
    table, crossing = stages.table.copy(), stages.crossing // unit
    table[:, SIZES] = np.where(table[:, SIZES] > 0, table[:, SIZES] // unit, table[:, SIZES])
    cost_before = np.concatenate([[0], np.cumsum(table[:, COST])])
    gradients_before = np.concatenate([[0], np.cumsum(table[:, GRADIENTS])])
    same = equal_stages(_signatures(stages), reach)
    most = full_store_bytes(stages) // unit
    cells = most + 1 if _is_dense(same, reach, most) else _cells(same, reach)

    def solved(rounding: int, spacing: float) -> tuple[Any, ...]:
        done = merging.staircases(
            table, crossing, cost_before, gradients_before, same, reach, most, cells, spacing, rounding,
            cost_before, most_breakpoints,
        )  # fmt: skip
        if not len(done[2]):
            raise CountOverflow(
                f"the exact front of {n} stages has more than {most_breakpoints:,} breakpoints in its parts; "
                "give a tolerance (or a larger one)"
            )
        return tuple(done)

    def root(done: tuple[Any, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        ids, starts, sizes, memory, cost = done
        at = int(ids[0, n - 1]) * 4 * (reach + 1)
        start, stop = int(starts[at]), int(starts[at]) + int(sizes[at])
        return memory[start:stop] * unit, cost[start:stop].copy()

    def tables(done: tuple[Any, ...]) -> tuple[Any, ...]:
        return (unit, table, crossing, cost_before, gradients_before, *done)

    if tolerance == 0 or (certified and n <= longest_exact):
        done = solved(merging.EXACT, 0.0)
        memory, cost = root(done)
        return Staircase(stages, reach, memory, cost, (memory, cost), tables(done))
    if not certified:
        done = solved(merging.UPPER, tolerance)
        memory, cost = root(done)
        return Staircase(stages, reach, memory, cost, (memory[:0], cost[:0]), tables(done))
    spacing = tolerance / max(10, n / 10)  # errors add up over the levels of a plan
    while True:
        lower = root(solved(merging.LOWER, spacing))
        done = solved(merging.UPPER, spacing)
        memory, cost = root(done)
        if largest_ratio(memory, cost, *lower) <= 1 + tolerance:
            return Staircase(stages, reach, memory, cost, lower, tables(done))
        spacing /= 2


def largest_ratio(
    memory: NDArray[np.int64], cost: NDArray[np.int64], lower_memory: NDArray[np.int64], lower: NDArray[np.int64]
) -> float:
    """The largest ratio of one staircase to another below it, over all memories at which there is one."""
    at = np.union1d(memory, lower_memory)
    at = at[at >= memory[0]]
    above = cost[np.searchsorted(memory, at, side="right") - 1]
    below = lower[np.searchsorted(lower_memory, at, side="right") - 1]
    return float((above / below).max())


def full_store_bytes(stages: Stages) -> int:
    """Working bytes of the plan that evaluates every stage once."""
    table, crossing, n = stages.table, stages.crossing, len(stages)
    gradients = np.concatenate([[0], np.cumsum(table[:, GRADIENTS])]).tolist()
    peaks = [0, 0]  # of the stages after s, without and with what crosses the cut before them outliving them
    for s in range(n - 1, -1, -1):
        r, reads = int(table[s, RESIDUAL]), int(table[s, READS])
        forward = int(crossing[s, n - 1] + table[s, SAVING])
        vjp = int(table[s, VJP_PEAK]) + gradients[n] - gradients[s + 1]
        after = peaks[int(table[s, READS_OUTPUT])]
        outlives = max(0, int(crossing[s, s]) - reads)
        peaks = [
            max(forward, vjp + h * outlives, r + (int(crossing[s, n - 1]) if h else reads) + after if s < n - 1 else 0)
            for h in (0, 1)
        ]
    return peaks[0]


def _cells(same: NDArray[np.int32], reach: int) -> int:
    states = 4 * (reach + 1) * int(np.triu(same == np.arange(len(same))[:, None]).sum())
    fewest, most = CELLS
    return max(fewest, min(most, CELLS_PER_STAGE * len(same), COARSE_BYTES // (12 * states)))


def _is_dense(same: NDArray[np.int32], reach: int, most: int) -> bool:
    s, t = np.nonzero(np.triu(same == np.arange(len(same))[:, None]))
    states = 4 * (reach + 1) * len(s)
    ways = states * 2 * (reach + 1) * float((t - s).mean())
    return ways / 2 * most < DENSE_WORK and 12.0 * states * most < DENSE_BYTES


def _unit(stages: Stages) -> int:
    """The largest number of bytes that divides every size."""
    sizes = stages.table[:, SIZES]
    divisor = int(np.gcd.reduce([*sizes[sizes > 0], *np.unique(stages.crossing)], initial=0))
    return max(1, divisor)


def _signatures(stages: Stages) -> NDArray[np.int64]:
    """Numbers that are equal for stages that cost the same and read the same of what lies before them."""
    table, n = stages.table, len(stages)
    before = np.concatenate([[0], table[:-1, READS_OUTPUT]])
    columns = [table, before[:, None], stages.crossing.diagonal()[:, None], (np.arange(n) == n - 1)[:, None]]
    return np.unique(np.concatenate(columns, axis=1), axis=0, return_inverse=True)[1].astype(np.int64).reshape(-1)


@compiled
def _plan(
    table: Any, crossing: Any, cost_before: Any, gradients_before: Any,
    ids: Any, starts: Any, sizes: Any, memory: Any, cost: Any, reach: Any, limit: Any,
) -> Any:  # fmt: skip
    n = len(table)
    variants = 4 * (reach + 1)
    rows = np.empty(4 * n + 16, dtype=np.int32)
    done = 0
    stack = np.empty((4 * n + 16, 4), dtype=np.int64)  # a state (s, t, v, memory), or (-1, i, ·, ·): VJP i
    put(stack, 0, 0, n - 1, 0, limit)
    top = 1
    ways = np.empty((2 * (reach + 1) * n + 4, WAY_FIELDS), dtype=np.int64)
    while top:
        top -= 1
        s, t, v, limit = stack[top]
        if done + n + 4 > len(rows):
            bigger = np.empty(2 * len(rows), dtype=np.int32)
            for i in range(done):
                bigger[i] = rows[i]
            rows = bigger
        if s < 0:
            if table[t, VJP_PEAK] >= 0:
                rows[done] = n + t
                done += 1
            continue
        here = ids[s, t] * variants + v
        point = level_at(memory, starts[here], sizes[here], limit)
        limit, wanted = memory[point], cost[point]
        count = ways_of(table, crossing, cost_before, gradients_before, reach, s, t, v, ways)
        for j in range(count):
            w = ways[j]
            total = w[PRICE]
            if w[LOW] > limit:
                continue
            if w[S1] >= 0:
                a = ids[w[S1], w[T1]] * variants + w[V1]
                p = level_at(memory, starts[a], sizes[a], limit - w[OFFSET1])
                total += cost[p] if p >= starts[a] else INFINITE
            if w[S2] >= 0:
                b = ids[w[S2], w[T2]] * variants + w[V2]
                p = level_at(memory, starts[b], sizes[b], limit - w[OFFSET2])
                total += cost[p] if p >= starts[b] else INFINITE
            if total == wanted:
                break
        kind, k = w[KIND], w[CUT]
        u = s if v < 4 else s - v // 4
        if kind == BASE:
            if w[PRICE] or not (v >> 1) & 1:
                rows[done] = s
                done += 1
            put(stack, top, -1, s, 0, 0)
            top += 1
            continue
        if kind == NOW and table[t, VJP_PEAK] >= 0:
            rows[done] = n + t
            done += 1
        if kind in (DROP, KEEP):
            rows[done] = k
            done += 1
        if kind in (SPLIT, SPLIT_HELD):
            for i in range(u, k):
                rows[done] = i
                done += 1
        if kind == KEEP:
            put(stack, top, -1, s, 0, 0)
            top += 1
        if w[S2] >= 0:
            put(stack, top, w[S2], w[T2], w[V2], limit - w[OFFSET2])
            top += 1
        put(stack, top, w[S1], w[T1], w[V1], limit - w[OFFSET1])
        top += 1
    return rows[:done]
