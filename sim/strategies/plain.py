"""Strategies of plain graphs, whose nodes are computations without derivatives."""

from __future__ import annotations

from sim.graphs.graph import Graph
from sim.schedules.schedule import Builder, Schedule
from sim.strategies import strategies


@strategies.register("in_order", accepts="plain")
def in_order(graph: Graph) -> Schedule:
    """Every node of a plain graph once, in the order given: nothing is computed again.

    The least work there is, and what other strategies of plain graphs are compared with.
    """
    builder = Builder(graph)
    builder.forward(range(len(graph)))
    return builder.build()
