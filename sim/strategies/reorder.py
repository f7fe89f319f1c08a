"""Another order of the same computations: a smaller peak at no work."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sim.base.registry import Count
from sim.graphs.graph import Graph
from sim.schedules.schedule import Schedule
from sim.strategies import strategies
from sim.strategies.general.front import schedule_of
from sim.strategies.general.planner import Planner, orderings
from sim.strategies.general.problem import problem_of


@strategies.register("reorder", accepts="any")
def reorder(
    graph: Graph,
    *,
    rounds: Annotated[
        Count | None, Field(description="moves at each step; by the size of the graph if not given")
    ] = None,
    seed: Annotated[int, Field(ge=0, description="of the random numbers of the search")] = 0,
) -> Schedule:
    """Everything once, forwards and VJPs in the order with the smallest peak that the search finds.

    Full-store work: an order decides how long values stay in memory. On a graph with derivatives it is reverse mode
    with all cotangents at once; on a plain graph every node runs once.
    """
    problem = problem_of(graph)
    planner = Planner(problem, seed=seed)
    plan = planner.reorder(orderings(problem) if rounds is None else rounds)
    return schedule_of(graph, rows=plan.rows, width=problem.width)
