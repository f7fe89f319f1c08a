"""Plans for graphs that are no chains: node by node as if along a chain, with what crosses each cut kept.

Every node is a stage and every boundary between nodes a cut. What crosses a cut (inside a residual
block: the running activation and the skip) is what a checkpoint there holds, and each node's residual
may be kept or dropped on its own, so that a block's choices (keep all, keep nothing, keep what is
costly to compute again) are breakpoints of its own. The memory model counts a skip
twice while both a checkpoint and a later state hold it, so plans are estimates: replay has the word.
"""

from __future__ import annotations

from sim.graphs.graph import Graph, Ints
from sim.strategies.optimal.planner import Plans, best_plans
from sim.strategies.optimal.stages import stages_of

LONGEST_SEARCHED = 400
"""Nodes up to which estimates are searched exactly; above (unless many are alike) bounds lead to good plans."""


def planned(graph: Graph, *, width: int, tolerance: float = 0.0, costs: Ints | None = None) -> Plans:
    """The plans of a graph that is no chain: estimates to be replayed."""
    stages = stages_of(graph, width=width, costs=costs)
    return best_plans(stages, tolerance=tolerance, search=len(stages) <= LONGEST_SEARCHED)
