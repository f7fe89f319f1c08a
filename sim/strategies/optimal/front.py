"""The exact trade-off between memory and recomputation on a chain: all breakpoints, no slots.

`staircase` finds, for every memory, the least cost of the plans of `sim.strategies.optimal.recurrence`, and
`Staircase.plan` the plan of each breakpoint. On a chain the promise is what replay says of the plan,
to the unit; on other graphs it is an estimate, and what counts is the replay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.base.errors import CountOverflow
from sim.strategies.optimal import envelope as merging
from sim.strategies.optimal import traceback as descent
from sim.strategies.optimal.recurrence import Problem, cells_of, equal_stages, numbered
from sim.strategies.optimal.refine import Guide, Steps, guide, lowest, value_at
from sim.strategies.optimal.stages import (
    COST,
    GRADIENTS,
    LARGEST_BYTES,
    READS,
    READS_OUTPUT,
    RESIDUAL,
    SAVING,
    SIZES,
    VJP_PEAK,
    Stages,
    check_bytes,
)

CELLS, CELLS_PER_STAGE = (128, 512), 5
"""How finely memory is cut for a coarse look: fastest as measured, more cells where staircases are longer."""
COARSE_BYTES = 5 * 10**8
DENSE_WORK, DENSE_BYTES = 10**10, 4 * 10**8
"""What looking at every memory, in units that divide all sizes, may take instead of cells."""
MOST_BREAKPOINTS = 100_000_000
"""Breakpoints kept for all states together: 1.6 GB."""
SHORTEST_GUIDED, SHARED = 24, 0.5
"""Stages, and share of different pairs of stages, from which bounds on a grid come first."""


Tables = tuple[Any, Any, Any, Any, Any]
"""Numbers of the states, and their staircases as `merging.staircases` gives them."""


@dataclass(frozen=True, eq=False)
class Staircase:
    """Breakpoints of (working bytes, cost of forwards): rising memory, falling cost.

    `cost` counts every evaluation of a forward; VJPs cost the same in every plan. If the staircase is
    not `exact`, a plan may take less memory than its breakpoint says, never more. `lower` (steps of the same form,
    equal to these where they are exact) is below the best plan of the class.
    """

    stages: Stages
    reach: int
    memory: NDArray[np.int64]
    cost: NDArray[np.int64]
    exact: bool
    lower: Steps
    _ways: Sequence[Callable[[], Any]]  # of the plan of each breakpoint

    def __len__(self) -> int:
        return len(self.memory)

    def plan(self, index: int) -> NDArray[np.int32]:
        """The plan of a breakpoint, as rows of the graph's table: i evaluates node i, n + i is its VJP."""
        rows: NDArray[np.int32] = descent.emitted(self.stages.table, self._ways[index]())
        return rows


def staircase(
    stages: Stages,
    *,
    reach: int = 0,
    tolerance: float = 0.0,
    search: bool = True,
    most_breakpoints: int = MOST_BREAKPOINTS,
) -> Staircase:
    """All breakpoints of the best plans, or with `tolerance` enough of them to be within it everywhere.

    `reach` widens the class: how many stages beyond a checkpoint may be left for later when it is
    dropped. Time grows with its square; 0 is what long chains can pay for. With a tolerance ε the cost
    is at most 1 + ε times the best of the class at every memory, by the `lower` staircase that comes with it.
    Without `search`, where there are many different stages, it is as near as bounds on a grid lead.

    Raises
    ------
    CountOverflow
        If more breakpoints were needed than memory allows.
    """
    n = len(stages)
    problem, unit = _problem(stages, max(0, min(reach, n - 2)))
    same = equal_stages(_signatures(stages), problem.reach)
    ids, distinct = numbered(same)
    count = distinct * 4 * (problem.reach + 1)
    most = full_store_bytes(stages) // unit
    root = int(ids[0, n - 1]) * 4 * (problem.reach + 1)

    def searched(cells: Any, shift: int) -> tuple[Steps, Tables]:
        begins, ends, places, ceilings = cells
        starts, sizes, memory, cost = merging.staircases(
            *problem, same, ids, begins, ends, places, ceilings, shift, most_breakpoints
        )
        if not len(sizes):
            raise CountOverflow(
                f"the exact front of {n} stages has more than {most_breakpoints:,} breakpoints in its parts; "
                "give a tolerance (or a larger one)"
            )
        at = slice(int(starts[root]), int(starts[root]) + int(sizes[root]))
        return (memory[at].copy(), cost[at].copy()), (ids, starts, sizes, memory, cost)

    def unguided(shift: int) -> tuple[Steps, Tables]:
        nothing = np.zeros(0, dtype=np.int64)
        return searched((*cells_of(*problem, same, ids, count, shift), np.zeros(count, dtype=np.int64), nothing), shift)

    if _is_dense(same, problem.reach, most):
        return _exact(stages, problem, unit, *unguided(0))
    if n < SHORTEST_GUIDED or distinct < SHARED * n * (n + 1) / 2 or not problem.cost_before[n]:
        try:
            return _exact(stages, problem, unit, *unguided(_shift(most, _cells(same, problem.reach))))
        except CountOverflow:
            if not tolerance:
                raise
    found = guide(problem, most, ids, count, tolerance, search=search)
    best, tables = searched(found.cells, found.shift)
    if search and not tolerance:
        return _exact(stages, problem, unit, best, tables)
    ways = {(m, c): partial(_given, w) for m, c, w in found.plans}
    ways |= {(m, c): partial(descent.optimal_ways, *problem, *tables, m) for m, c in zip(*_lists(best), strict=True)}
    lower = _lower(found, best)
    memory, cost = lowest(list(ways))
    if search:
        memory, cost = _enough((memory, cost), lower, tolerance)
    chosen = [ways[point] for point in zip(*_lists((memory, cost)), strict=True)]
    return Staircase(stages, problem.reach, memory * unit, cost, False, (lower[0] * unit, lower[1]), chosen)


def _problem(stages: Stages, reach: int) -> tuple[Problem, int]:
    """The columns that the recurrence reads, and the unit of their sizes: what divides them all."""
    unit = _unit(stages)
    sizes = (abs(stages.table[:, SIZES].astype(np.float64)), stages.crossing[:, -1].astype(np.float64))
    check_bytes(sum(float(x.sum()) for x in sizes), LARGEST_BYTES, unit)
    table, crossing = stages.table.copy(), stages.crossing // unit
    table[:, SIZES] = np.where(table[:, SIZES] > 0, table[:, SIZES] // unit, table[:, SIZES])
    before = [np.concatenate([[0], np.cumsum(table[:, column])]) for column in (COST, GRADIENTS)]
    return Problem(table, crossing, before[0], before[1], reach), unit


def _exact(stages: Stages, problem: Problem, unit: int, best: Steps, tables: Tables) -> Staircase:
    memory, cost = best[0] * unit, best[1]
    ways = [partial(descent.optimal_ways, *problem, *tables, limit) for limit in best[0].tolist()]
    return Staircase(stages, problem.reach, memory, cost, True, (memory, cost), ways)


def _lists(steps: Steps) -> tuple[list[int], list[int]]:
    return steps[0].tolist(), steps[1].tolist()


def _given(ways: Any) -> Any:
    return ways


def _shift(most: int, cells: int) -> int:
    """The smallest power of two of bytes of which `most` bytes are fewer than `cells`."""
    return max(1, most.bit_length() - cells.bit_length() + 1)


def _lower(found: Guide, best: Steps) -> Steps:
    """The largest cost proven for each memory; the `best` plans are those of all that were not beaten before."""
    at = np.unique(np.concatenate([steps[0] for steps in (*found.proven, found.beaten, best)]))
    at = at[at >= found.proven[0][0][0]]
    left = np.minimum(value_at(best, at), value_at(found.beaten, at))
    most = np.max([*(value_at(steps, at) for steps in found.proven), left], axis=0)
    return at, np.maximum.accumulate(most[::-1])[::-1]


def _enough(steps: Steps, lower: Steps, tolerance: float) -> Steps:
    """Of the steps those without which some cost would be more than `tolerance` above the lower one."""
    at = np.union1d(steps[0], lower[0])
    at = at[at >= steps[0][0]]
    best = (np.searchsorted(steps[0], at, side="right") - 1).tolist()
    most = (value_at(lower, at) * (1 + tolerance)).tolist()
    cost = steps[1].tolist()
    kept = [0]
    for i, limit in zip(best, most, strict=True):
        if cost[kept[-1]] > limit:
            kept.append(i)
    last = len(cost) - 1
    chosen = sorted({*kept, last})
    return steps[0][chosen], steps[1][chosen]


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
