"""How finely to look before staircases are made: levels of `sim.strategies.optimal.inside`, and what they prove.

Each level halves the grid twice where something can still matter. Plans found on the way bound the
optimum from above; what is left at the end is worth an exact search. With a tolerance, memories at
which the bounds are that close are left out, so that often nothing remains to be searched.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.strategies.optimal import inside as coarse
from sim.strategies.optimal import outside
from sim.strategies.optimal import traceback as descent
from sim.strategies.optimal.recurrence import INFINITE, Problem
from sim.strategies.optimal.stages import READS, READS_OUTPUT, RESIDUAL

FINENESS = 21
"""Cells of the first level for each stage: as measured, with what an exact search of the rest takes."""
MOST_POINTS = 330_000_000, 160_000_000
"""Points of a grid for all states together, with bounds from inside alone and with both: 1.3 GB."""
ENOUGH, LITTLE_LESS = 2_000_000, 0.7
"""The rest is searched when fewer points are left, or not much fewer than before."""
SAMPLES = 400, 300
"""Plans tried at a level: where they are all there will be, and where a search follows."""

SHORTEST_TILED, TILES = 150, 16
"""Stages from which tiles of rows are bounded at the same time, and how many there are along s and t."""

Ints = NDArray[np.int64]
Steps = tuple[Ints, Ints]
"""Rising memories, and the cost from each of them on."""


@dataclass(frozen=True, eq=False)
class Guide:
    """What is left to search, and bounds of the optimum for all memories.

    `cells` is what `outside.ceilings` gives, on cells of 2^shift bytes; nothing is left if no state has a
    cell. `plans` are (bytes, cost, ways) of plans found; no plan that was left out costs less than `beaten`,
    and none at all less than each of the `proven`.
    """

    shift: int
    cells: tuple[Ints, Ints, Ints, Ints]
    plans: list[tuple[int, int, Any]]
    proven: list[Steps]
    beaten: Steps


def guide(problem: Problem, most: int, ids: Any, count: int, tolerance: float, *, search: bool = True) -> Guide:
    """Where the states numbered by `ids` (`count` numbers) must be searched for the optimum, or for what is near it.

    `most` is the working bytes beyond which no plan is cheaper. Without a search nothing is left, and the plans
    are good but proven to be within no tolerance: the cost of a level's outside bounds is saved.
    """
    table, _, cost_before, gradients_before, reach = problem
    n, variants = len(table), 4 * (reach + 1)
    scale = float(cost_before[-1])
    outlives = np.concatenate([[False], table[:-1, READS_OUTPUT] > 0])  # what a stage reads is read after it again
    kept = table[:, RESIDUAL] + np.where(outlives, problem.crossing[:, n - 1], table[:, READS])
    anchor = np.concatenate([[0], np.cumsum(kept)])
    row, windows = coarse.rows_of(table, reach)
    whole = (n - 1) * variants
    root = row[whole]
    shift = max(1, (most // (FINENESS * n)).bit_length())
    plans: list[tuple[int, int, Any]] = []
    proven: list[Steps] = []
    beaten: Steps = (np.zeros(1, dtype=np.int64), np.full(1, INFINITE))
    before = float("inf")
    while True:
        places, smallest, size = coarse.extents(*problem, anchor, shift, row, windows)
        while size > MOST_POINTS[search]:
            shift += 1
            places, smallest, size = coarse.extents(*problem, anchor, shift, row, windows)
        if row[whole] < 0:  # it was within the slack alone
            return Guide(shift, _no_cells(count), plans, proven, beaten)
        lower = np.empty(size, dtype=np.float32)  # arrays from here: numpy asks for large pages
        _inside(problem, anchor, shift, row, places, lower)
        start, first, last = places[root].tolist()
        if not proven:
            enough = windows[root, 1]
        phase = int(coarse.phase_of(anchor, gradients_before, 0, n - 1, shift))
        ends = (np.arange(first, last + 1) << shift) - phase
        begins = np.maximum(ends - (1 << shift), smallest[root])
        bounds = _rounded_down(lower[start : start + len(ends)], n, scale)
        proven.append(_proven(begins, bounds, int(ends[-1]), windows[root, 1] == enough, beaten))
        for memory in _samples(begins[value_at(beaten, begins) > bounds], SAMPLES[search]):
            ways = descent.guided_ways(*problem, anchor, shift, row, places, smallest, lower, memory)
            cost, peak = descent.cost_and_peak(ways, n)
            plans.append((peak, cost, ways if tolerance or not search else None))
        if not search:
            return Guide(shift, _no_cells(count), plans, proven, (np.zeros(1, dtype=np.int64),) * 2)
        known = lowest([plan[:2] for plan in plans])
        beaten = known[0], np.ceil(known[1] / (1 + tolerance)).astype(np.int64)
        to_beat = (value_at(beaten, begins) / scale).astype(np.float32)
        slack = np.float32(coarse.margin(n, float(to_beat.max())))
        beyond = np.empty(size + outside.largest_block(n, reach, row, places), dtype=np.float32)
        left = outside.outside(*problem, anchor, shift, row, windows, places, lower, to_beat, slack, beyond)
        if row[whole] < 0 or left < ENOUGH or left > LITTLE_LESS * before or shift < 3:
            break
        before, shift = left, shift - 2
        del lower, beyond  # before the next are made
    left_over = outside.ceilings(
        anchor, gradients_before, scale, shift, row, places, lower, beyond, slack, ids, variants, count
    )
    return Guide(shift, tuple(left_over), plans, proven, beaten)


def _inside(problem: Problem, anchor: Any, shift: int, row: Any, places: Any, lower: Any) -> None:
    """Fills `lower` (see `coarse.inside`); tiles that need nothing of each other at the same time."""
    n = len(problem.table)
    lower[0] = 0.0
    tile = n if n < SHORTEST_TILED else -(-n // TILES // coarse.BLOCK) * coarse.BLOCK
    edges = range(0, n, tile)

    def fill(s: int, t: int) -> None:
        ends = min(n, t + tile), min(n, s + tile)
        coarse.inside(*problem, anchor, shift, row, places, lower, t, ends[0], s, ends[1])

    with ThreadPoolExecutor() as pool:
        for step in range(len(edges)):
            list(pool.map(lambda s, step=step: fill(edges[s], edges[s + step]), range(len(edges) - step)))


def _no_cells(count: int) -> tuple[Ints, Ints, Ints, Ints]:
    zeros = np.zeros(count, dtype=np.int64)
    return zeros, zeros, zeros, zeros[:0]


def value_at(steps: Steps, at: Ints) -> Ints:
    """The cost of steps at each of some memories; INFINITE below the first."""
    memory, cost = steps
    found: Ints = np.concatenate([[INFINITE], cost])[np.searchsorted(memory, at, side="right")]
    return found


def lowest(points: list[tuple[int, int]]) -> Steps:
    """The least cost of points (bytes, cost) for each memory."""
    memory, cost = np.array(sorted(points), dtype=np.int64).T
    cost = np.minimum.accumulate(cost)
    first = np.flatnonzero(np.diff(cost, prepend=cost[0] + 1))
    return memory[first], cost[first]


def _rounded_down(bounds: NDArray[np.float32], stages: int, scale: float) -> Ints:
    """Bounds on the grid as whole costs, none higher than it was meant to be; INFINITE where no plan is left."""
    finite = np.isfinite(bounds)
    known = np.where(finite, bounds, 0.0).astype(np.float64)
    down = np.floor((known - coarse.margin(stages, float(known.max()))) * scale)
    out: Ints = np.where(finite, down, INFINITE).astype(np.int64)
    return out


def _proven(begins: Ints, bounds: Ints, end: int, open_ended: bool, beaten: Steps) -> Steps:
    """Lower bounds: in the window what the grid says, elsewhere and at most what was beaten before."""
    memory = np.concatenate([begins[:1], begins[1:] + 1, [end + 1]])
    steps = memory, np.append(bounds, bounds[-1] if open_ended else INFINITE)
    at = np.union1d(memory, beaten[0])
    return at, np.minimum(value_at(steps, at), value_at(beaten, at))


def _samples(memory: Ints, most: int) -> Ints:
    """At most so many of the memories, closer together where memory is scarce."""
    if not len(memory):
        return memory
    out: Ints = memory[np.unique(np.geomspace(1, len(memory), most).astype(np.int64)) - 1]
    return out
