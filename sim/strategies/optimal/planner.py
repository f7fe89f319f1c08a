"""The exact trade-off between memory and recomputation on a chain: all breakpoints, no slots.

`best_plans` finds, for every memory, the least cost of the plans of `sim.strategies.optimal.recurrence`. On a
chain the promise is what replay says of the plan, to the unit; on other graphs it is an estimate, and what
counts is the replay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from sim.base.errors import CountOverflow
from sim.graphs.node import Ints
from sim.strategies.optimal.envelope import Cells, Envelopes, envelopes, every_cell
from sim.strategies.optimal.policy import Policy
from sim.strategies.optimal.recurrence import Ints32, States, problem_of, states_of, variants
from sim.strategies.optimal.refine import Refinement, Steps, Traced, lowest, refine
from sim.strategies.optimal.stages import (
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
from sim.strategies.optimal.traceback import rows_of_plan, trace


@dataclass(frozen=True, eq=False)
class Plans:
    """The best plans of some stages: rising working bytes, falling cost of forwards.

    `cost` counts every evaluation of a forward; VJPs cost the same in every plan. Where they are not
    `exact`, a plan may take less memory than its breakpoint says, never more. `lower` (equal to them where they
    are exact) is below the best plan of the class at every memory.
    """

    stages: Stages
    reach: int
    memory: Ints
    cost: Ints
    exact: bool
    lower: Steps
    _transitions: Sequence[Callable[[], Ints]]

    def __len__(self) -> int:
        return len(self.memory)

    @property
    def gap(self) -> float:
        """The most that a cost is above the best of the class, relatively: the largest over all memories."""
        at = np.union1d(self.memory, self.lower.memory)
        at = at[at >= self.memory[0]]
        return float((Steps(self.memory, self.cost).at(at) / self.lower.at(at)).max()) - 1

    def plan(self, index: int) -> Ints32:
        """The plan of a breakpoint, as rows of the graph's table: i evaluates node i, n + i is its VJP."""
        return rows_of_plan(self.stages.table, self._transitions[index]())


def best_plans(
    stages: Stages, *, reach: int = 0, tolerance: float = 0.0, search: bool = True, policy: Policy | None = None
) -> Plans:
    """All breakpoints of the best plans, or with `tolerance` enough of them to be within it everywhere.

    `reach` widens the class: how many stages beyond a checkpoint may be left for later when it is
    dropped. Time grows with its square; 0 is what long chains can pay for. With a tolerance ε the cost
    is at most 1 + ε times the best of the class at every memory, by the `lower` steps that come with it.
    Without `search`, where there are many different stages, it is as near as bounds on a grid lead.

    Raises
    ------
    CountOverflow
        If more breakpoints were needed than memory allows, or sizes are too large to plan with.
    """
    n, policy = len(stages), policy or Policy()
    unit = _unit(stages)
    sizes = (abs(stages.table[:, SIZES].astype(np.float64)), stages.crossing[:, -1].astype(np.float64))
    check_bytes(sum(float(x.sum()) for x in sizes), LARGEST_BYTES, unit)
    problem = problem_of(stages, unit, max(0, min(reach, n - 2)))
    states = states_of(problem)
    most = full_store_bytes(stages) // unit
    root = int(states.ids[0, n - 1]) * variants(problem.reach)

    def searched(cells: Cells) -> tuple[Steps, Envelopes]:
        tables = envelopes(problem, states, cells, most_breakpoints=policy.most_breakpoints)
        if tables is None:
            raise CountOverflow(
                f"the exact front of {n} stages has more than {policy.most_breakpoints:,} breakpoints in its parts; "
                "give a tolerance (or a larger one)"
            )
        at = slice(int(tables.starts[root]), int(tables.starts[root]) + int(tables.sizes[root]))
        return Steps(tables.memory[at].copy(), tables.cost[at].copy()), tables

    def everywhere(shift: int) -> Plans:
        nothing = np.zeros(0, dtype=np.int64)
        begins, ends = every_cell(problem, states, shift)
        return exact(*searched(Cells(shift, begins, ends, np.zeros(states.number, dtype=np.int64), nothing)))

    def exact(best: Steps, tables: Envelopes) -> Plans:
        traces = [partial(trace, problem, states, tables, limit) for limit in best.memory.tolist()]
        steps = Steps(best.memory * unit, best.cost)
        return Plans(stages, problem.reach, *steps, exact=True, lower=steps, _transitions=traces)

    if _is_dense(states, problem.reach, most, policy):
        return everywhere(0)
    alike = states.number < policy.most_alike * variants(problem.reach) * n * (n + 1) / 2
    if n < policy.shortest_refined or alike or not problem.cost_before[n]:
        try:
            return everywhere(_shift(most, _cells(states, policy)))
        except CountOverflow:
            if not tolerance:
                raise
    left = refine(problem, states, most, tolerance=tolerance, search=search, policy=policy)
    best, tables = searched(left.cells)
    if search and not tolerance:
        return exact(best, tables)
    traces: dict[tuple[int, int], Callable[[], Ints]] = {plan[:2]: partial(_kept, plan) for plan in left.plans}
    traces |= {(m, c): partial(trace, problem, states, tables, m) for m, c in best.pairs()}
    lower = _lower(left, best)
    steps = lowest(list(traces))
    if search:
        steps = _enough(steps, lower, tolerance)
    chosen = [traces[point] for point in steps.pairs()]
    lower = lower._replace(memory=lower.memory * unit)
    return Plans(stages, problem.reach, steps.memory * unit, steps.cost, exact=False, lower=lower, _transitions=chosen)


def _kept(plan: Traced) -> Ints:
    assert plan.transitions is not None
    return plan.transitions


def _shift(most: int, cells: int) -> int:
    """The smallest power of two of bytes of which `most` bytes are fewer than `cells`."""
    return max(1, most.bit_length() - cells.bit_length() + 1)


def _lower(left: Refinement, best: Steps) -> Steps:
    """The largest cost proven for each memory; the `best` plans are those of all that were not beaten before."""
    at = np.unique(np.concatenate([steps.memory for steps in (*left.proven, left.beaten, best)]))
    at = at[at >= left.proven[0].memory[0]]
    remaining = np.minimum(best.at(at), left.beaten.at(at))
    most = np.max([*(steps.at(at) for steps in left.proven), remaining], axis=0)
    return Steps(at, np.maximum.accumulate(most[::-1])[::-1])


def _enough(steps: Steps, lower: Steps, tolerance: float) -> Steps:
    """Of the steps those without which some cost would be more than `tolerance` above the lower one."""
    at = np.union1d(steps.memory, lower.memory)
    at = at[at >= steps.memory[0]]
    best = (np.searchsorted(steps.memory, at, side="right") - 1).tolist()
    most = (lower.at(at) * (1 + tolerance)).tolist()
    cost = steps.cost.tolist()
    kept = [0]
    for i, limit in zip(best, most, strict=True):
        if cost[kept[-1]] > limit:
            kept.append(i)
    chosen = sorted({*kept, len(cost) - 1})
    return Steps(steps.memory[chosen], steps.cost[chosen])


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


def _cells(states: States, policy: Policy) -> int:
    by_stages = policy.cells_per_stage * len(states.same)
    return max(policy.fewest_cells, min(policy.most_cells, by_stages, policy.cell_bytes // (12 * states.number)))


def _is_dense(states: States, reach: int, most: int, policy: Policy) -> bool:
    s, t = np.nonzero(np.triu(states.same == np.arange(len(states.same))[:, None]))
    transitions = states.number * 2 * (reach + 1) * float((t - s).mean())
    return transitions / 2 * most < policy.dense_work and 12.0 * states.number * most < policy.dense_bytes


def _unit(stages: Stages) -> int:
    """The largest number of bytes that divides every size."""
    sizes = stages.table[:, SIZES]
    divisor = int(np.gcd.reduce([*sizes[sizes > 0], *np.unique(stages.crossing)], initial=0))
    return max(1, divisor)
