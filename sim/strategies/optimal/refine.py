"""Refinement: bounds on finer and finer grids that leave less and less of the problem to search.

Each level halves the grid of `sim.strategies.optimal.inside` twice where something can still matter. Plans
traced on the way bound the optimum from above; what is left at the end is worth an exact search. With a
tolerance, memories at which the bounds are that close are left out, so that often nothing remains.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.graphs.node import Ints
from sim.strategies.optimal.envelope import Cells
from sim.strategies.optimal.inside import BLOCK, Floats, Grid, inside, margin, phase_of, rows_of, set_points
from sim.strategies.optimal.outside import cells_within, largest_block, outside
from sim.strategies.optimal.policy import Policy
from sim.strategies.optimal.recurrence import INFINITE, Problem, States, place
from sim.strategies.optimal.stages import READS, READS_OUTPUT, RESIDUAL
from sim.strategies.optimal.traceback import cost_and_peak, trace_bounds


class Steps(NamedTuple):
    """A step function: rising memories, and the cost from each of them on."""

    memory: Ints
    cost: Ints

    def at(self, memory: Ints) -> Ints:
        """The cost at each of some memories; INFINITE below the first."""
        out: Ints = np.concatenate([[INFINITE], self.cost])[np.searchsorted(self.memory, memory, side="right")]
        return out

    def pairs(self) -> list[tuple[int, int]]:
        """The steps as (memory, cost)."""
        return list(zip(self.memory.tolist(), self.cost.tolist(), strict=True))


class Traced(NamedTuple):
    """A plan: its bytes, its cost, and its transitions where they are kept."""

    memory: int
    cost: int
    transitions: Ints | None


@dataclass(frozen=True, eq=False)
class Refinement:
    """The part left to search (nothing, if no state has a cell), and bounds of the optimum for all memories.

    No plan that was left out costs less than `beaten`, and none at all less than each of the `proven`.
    """

    cells: Cells
    plans: list[Traced]
    proven: list[Steps]
    beaten: Steps


def refine(
    problem: Problem, states: States, most: int, *, tolerance: float, search: bool, policy: Policy
) -> Refinement:
    """The regions in which states must be searched for the optimum, or for what is near it.

    `most` is the bytes beyond which no plan is cheaper. Without a search nothing is left, and the plans
    are good but proven to be within no tolerance: the cost of a level's outside bounds is saved.
    """
    n, scale = len(problem.table), float(problem.cost_before[-1])
    row, windows = rows_of(problem)
    whole = place(n, problem.reach, 0, n - 1, 0)
    root = row[whole]
    grid = Grid(
        anchor=_anchor(problem),
        shift=max(1, (most // (policy.points_per_stage * n)).bit_length()),
        row=row,
        windows=windows,
        places=np.zeros((len(windows), 3), dtype=np.int64),
        smallest=np.zeros(len(windows), dtype=np.int64),
    )
    plans: list[Traced] = []
    proven: list[Steps] = []
    beaten = Steps(np.zeros(1, dtype=np.int64), np.full(1, INFINITE))
    before = float("inf")
    most_points = policy.most_points if search else policy.most_inside_points
    while True:
        size = set_points(problem, grid)
        while size > most_points:
            grid = grid._replace(shift=grid.shift + 1)
            size = set_points(problem, grid)
        if row[whole] < 0:  # it was within the slack alone
            return Refinement(_no_cells(grid, states), plans, proven, beaten)
        lower = np.empty(size, dtype=np.float32)  # arrays from here: numpy asks for large pages
        _inside(problem, grid, lower, policy)
        start, first, last = grid.places[root].tolist()
        if not proven:
            enough = windows[root, 1]
        phase = int(phase_of(grid.anchor, problem.gradients_before, 0, n - 1, grid.shift))
        ends = (np.arange(first, last + 1) << grid.shift) - phase
        begins = np.maximum(ends - (1 << grid.shift), grid.smallest[root])
        bounds = _rounded_down(lower[start : start + len(ends)], n, scale)
        proven.append(_proven(begins, bounds, int(ends[-1]), bool(windows[root, 1] == enough), beaten))
        samples = policy.samples if search else policy.samples_alone
        for memory in _samples(begins[beaten.at(begins) > bounds], samples):
            chosen = trace_bounds(problem, grid, lower, memory)
            cost, peak = cost_and_peak(chosen, n)
            plans.append(Traced(peak, cost, chosen if tolerance or not search else None))
        if not search:
            nothing_left = Steps(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
            return Refinement(_no_cells(grid, states), plans, proven, nothing_left)
        best = lowest([plan[:2] for plan in plans])
        beaten = Steps(best.memory, np.ceil(best.cost / (1 + tolerance)).astype(np.int64))
        to_beat = (beaten.at(begins) / scale).astype(np.float32)
        slack = np.float32(margin(n, float(to_beat.max())))
        beyond = np.empty(size + largest_block(problem, grid), dtype=np.float32)
        left = outside(problem, grid, lower, to_beat, slack, beyond)
        if row[whole] < 0 or left < policy.few_points or left > policy.little_less * before or grid.shift < 3:
            break
        before, grid = left, grid._replace(shift=grid.shift - 2)
        del lower, beyond  # before the next are made
    within = cells_within(problem, grid, lower, beyond, slack, scale, states.ids, states.number)
    return Refinement(Cells(grid.shift, *within), plans, proven, beaten)


def _anchor(problem: Problem) -> Ints:
    table = problem.table
    outlives = np.concatenate([[False], table[:-1, READS_OUTPUT] > 0])  # what a stage reads is read after it again
    kept = table[:, RESIDUAL] + np.where(outlives, problem.crossing[:, -1], table[:, READS])
    return np.concatenate([[0], np.cumsum(kept)])


def _inside(problem: Problem, grid: Grid, lower: Floats, policy: Policy) -> None:
    """Fill `lower` (see `inside`); tiles that need nothing of each other at the same time."""
    n = len(problem.table)
    lower[0] = 0.0
    tile = n if n < policy.shortest_tiled else -(-n // policy.tiles // BLOCK) * BLOCK
    edges = range(0, n, tile)

    def fill(s: int, t: int) -> None:
        inside(problem, grid, lower, t, min(n, t + tile), s, min(n, s + tile))

    with ThreadPoolExecutor() as pool:
        for step in range(len(edges)):
            list(pool.map(lambda s, step=step: fill(edges[s], edges[s + step]), range(len(edges) - step)))


def _no_cells(grid: Grid, states: States) -> Cells:
    zeros = np.zeros(states.number, dtype=np.int64)
    return Cells(grid.shift, zeros, zeros, zeros, zeros[:0])


def lowest(points: list[tuple[int, int]]) -> Steps:
    """The least cost of points (bytes, cost) for each memory."""
    memory, cost = np.array(sorted(points), dtype=np.int64).T
    cost = np.minimum.accumulate(cost)
    first = np.flatnonzero(np.diff(cost, prepend=cost[0] + 1))
    return Steps(memory[first], cost[first])


def _rounded_down(bounds: NDArray[np.float32], stages: int, scale: float) -> Ints:
    """Bounds on the grid as whole costs, none higher than it was meant to be; INFINITE where no plan is left."""
    finite = np.isfinite(bounds)
    costs = np.where(finite, bounds, 0.0).astype(np.float64)
    down = np.floor((costs - margin(stages, float(costs.max()))) * scale)
    out: Ints = np.where(finite, down, INFINITE).astype(np.int64)
    return out


def _proven(begins: Ints, bounds: Ints, end: int, open_ended: bool, beaten: Steps) -> Steps:
    """Lower bounds: in the window what the grid says, elsewhere and at most what was beaten before."""
    memory = np.concatenate([begins[:1], begins[1:] + 1, [end + 1]])
    steps = Steps(memory, np.append(bounds, bounds[-1] if open_ended else INFINITE))
    at = np.union1d(memory, beaten.memory)
    return Steps(at, np.minimum(steps.at(at), beaten.at(at)))


def _samples(memory: Ints, most: int) -> Ints:
    """At most so many of the memories, closer together where memory is scarce."""
    if not len(memory):
        return memory
    out: Ints = memory[np.unique(np.geomspace(1, len(memory), most).astype(np.int64)) - 1]
    return out
