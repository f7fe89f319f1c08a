"""Plans for graphs that are no chains: node by node along the staircase, with what crosses each cut kept.

Every node is a stage and every boundary between nodes a cut. What crosses a cut (inside a residual
block: the running activation and the skip) is what a checkpoint there holds, and each node's residual
may be kept or dropped on its own, so that a block's choices (keep all, keep nothing, keep what is
costly to compute again) are breakpoints of its own small staircase. The memory model counts a skip
twice while both a checkpoint and a later state hold it, so plans are estimates: replay has the word.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.graphs.graph import Graph, Ints
from sim.strategies.optimal.front import Staircase, staircase
from sim.strategies.optimal.stages import stages_of

LONGEST_SEARCHED = 400
"""Nodes up to which estimates are searched exactly; above (unless many are alike) bounds lead to good plans."""
REACHES = (20, 20), (40, 3), (80, 1)
"""Lengths of chains up to which a class so wide takes a second; (20, 20) is the widest there is for them."""


def reach_for(length: int) -> int:
    """How wide a class is searched for a chain of that length without asking."""
    return next((reach for longest, reach in REACHES if length <= longest), 0)


def planned(graph: Graph, *, width: int, tolerance: float = 0.0, costs: Ints | None = None) -> Staircase:
    """The staircase of a graph: exact on chains (within the tolerance), estimates to be replayed elsewhere."""
    stages = stages_of(graph, width=width, costs=costs)
    if stages.exact:
        return staircase(stages, reach=reach_for(len(stages)), tolerance=tolerance)
    return staircase(stages, tolerance=tolerance, search=len(stages) <= LONGEST_SEARCHED)


def spread(costs: NDArray[np.int64], count: int) -> list[int]:
    """At most `count` indices of breakpoints, both ends among them, as far apart in cost as may be."""
    if len(costs) <= count:
        return list(range(len(costs)))
    if count == 1:
        return [len(costs) - 1]
    logs = np.log(np.maximum(costs, 1).astype(np.float64))[::-1]
    wanted = np.linspace(logs[0], logs[-1], count)
    found = len(costs) - 1 - np.searchsorted(logs, wanted).clip(0, len(costs) - 1)
    return sorted({0, len(costs) - 1, *found.tolist()})[-count:] if count > 1 else []
