"""The schedule with the least flops for a byte budget, and the whole front of them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from sim.base.errors import CountOverflow, NotApplicable, ParameterError
from sim.base.memo import remembered
from sim.base.registry import Count
from sim.base.units import Bytes
from sim.graphs.graph import Graph
from sim.graphs.node import LARGEST, Ints
from sim.schedules.schedule import Builder, Schedule
from sim.strategies.checkpointing.segments import schedules
from sim.strategies.front import Candidate, Front, adjoint_cost, below_next, in_chunks, replayed, unbeaten
from sim.strategies.general.certificate import Level
from sim.strategies.general.front import general_front, with_bound
from sim.strategies.general.planner import Order
from sim.strategies.optimal.bound import lower_bound
from sim.strategies.optimal.planner import Plans, best_plans
from sim.strategies.optimal.stages import is_path, stages_of

LONGEST_CHAIN = 4000
"""Nodes up to which the exact tables of a chain take minutes; longer ones are searched as other graphs are."""
MOST_NODES = 20_000
"""Nodes up to which a front is searched in minutes."""
PICOSECONDS = 1e12
REACHES = (20, 20), (40, 3), (80, 1)
"""Lengths of chains up to which a class so wide takes a second; (20, 20) is the widest there is for them."""

Minimize = Literal["flops", "seconds"]


class Search(NamedTuple):
    """The search for plans of a graph that has no exact tables."""

    order: Order = "free"
    effort: float | None = None
    seed: int = 0


Costs = tuple[tuple[int, ...], tuple[int, ...]]
"""The costs of the forward and the VJP of each node, in any whole unit."""


def optimal_front(
    graph: Graph,
    *,
    tolerance: float = 0.0,
    minimize: Minimize = "flops",
    bound: Level = "fast",
    order: Order = "free",
    effort: float | None = None,
    seed: int = 0,
    costs: tuple[Ints, Ints] | None = None,
) -> Front:
    """The front of reverse mode with all cotangents at once; planned once for each graph and parameters.

    `order`, `effort` (seconds) and `seed` are of the search on graphs that are no chains, and on chains of more
    than 4,000 nodes (see `sim.strategies.general.planner.plan`); on other chains nothing is searched.
    `costs` are those of each node's forward and VJP in any whole unit, such as picoseconds on a device;
    they stand in for flops. `minimize="seconds"` takes the graph's measured times.

    Raises
    ------
    NotApplicable
        If the graph has too many nodes.
    ParameterError
        If seconds are asked for, and the graph has no measured times.
    CountOverflow
        If the exact front has too many breakpoints (a tolerance helps), or counts are too large to plan with.
    """
    check_planned(graph)
    if costs is None and minimize == "seconds":
        costs = _measured(graph)
    ticks = None if costs is None else (tuple(costs[0].tolist()), tuple(costs[1].tolist()))
    search = Search() if is_exact(graph) else Search(order, effort, seed)
    return _bounded_front(graph, tolerance, ticks, bound, search)


def check_planned(graph: Graph, *, minimize: Minimize = "flops") -> None:
    """Raise a refusal for a graph with too many nodes, or without the times that are to be minimised."""
    if len(graph) > MOST_NODES:
        raise NotApplicable(
            f"optimal plans at most {MOST_NODES:,} nodes, the graph has {len(graph):,}; schedule: binomial has no limit"
        )
    if minimize == "seconds":
        _measured(graph)


@schedules.register("optimal", front=optimal_front, requires=check_planned)
def optimal(
    graph: Graph,
    *,
    budget: Annotated[Bytes | None, Field(description="peak bytes, resident ones included")] = None,
    points: Annotated[Count | None, Field(description="how many points of the front to take")] = None,
    point: Annotated[
        Count | None, Field(description="which of them, the smallest peak first; the first if not given")
    ] = None,
    tolerance: Annotated[float, Field(ge=0, le=1, description="how far above the optimum, relatively")] = 0.0,
    minimize: Annotated[Minimize, Field(description="what the budget is spent on saving")] = "flops",
    bound: Annotated[Level, Field(description="how much is spent on proving what no schedule comes below")] = "fast",
    order: Annotated[Order, Field(description="whether VJPs and forwards may leave the order of the list")] = "free",
    effort: Annotated[
        float | None, Field(gt=0, description="seconds of search on two cores; by the size of the graph if not given")
    ] = None,
    seed: Annotated[int, Field(ge=0, description="of the random numbers of the search")] = 0,
) -> Schedule:
    """Least flops for a budget on heterogeneous chains, all breakpoints exact; near it on other graphs.

    Without a budget it is the schedule with the smallest peak, or point `point` of `points` spread over
    the front (see `optimal_front`). The class of schedules is that of `sim.strategies.optimal`, with all
    cotangents at once; on chains it contains the fixed schedules. Full store in smaller chunks of
    cotangents is considered as well. `order`, `effort` and `seed` are of the search on other graphs;
    effort is counted by what the search walks over, so that a result is the same everywhere.

    Raises
    ------
    ParameterError
        If nothing fits the budget (the message says what would), or seconds are asked for and not known.
    """
    front = optimal_front(
        graph, tolerance=tolerance, minimize=minimize, bound=bound, order=order, effort=effort, seed=seed
    )
    if budget is not None:
        return front.schedule(graph, front.within(budget))
    chosen = front.spread(points) if points else [0]
    at = (point or 1) - 1
    if at >= len(chosen):
        raise ParameterError(
            f"the front has only {len(chosen)} points to choose from, got point {at + 1}", parameter=("point",)
        )
    return front.schedule(graph, chosen[at])


@remembered
def _bounded_front(graph: Graph, tolerance: float, costs: Costs | None, level: Level, search: Search) -> Front:
    front = _front(graph, tolerance, costs, search)
    return (
        front if is_exact(graph) and level != "proof" else with_bound(front, graph, costs=_arrays(costs), level=level)
    )


def _arrays(costs: Costs | None) -> tuple[Ints, Ints] | None:
    return None if costs is None else (np.array(costs[0], dtype=np.int64), np.array(costs[1], dtype=np.int64))


@remembered
def _front(graph: Graph, tolerance: float, costs: Costs | None, search: Search) -> Front:
    ticks = _arrays(costs)
    if not is_exact(graph):
        return general_front(graph, tolerance=tolerance, costs=ticks, **search._asdict())
    width, forward = graph.output_scalars, None if ticks is None else ticks[0]
    stages = stages_of(graph, width=width, costs=forward)
    plans = best_plans(stages, reach=reach_for(len(stages)), tolerance=tolerance)
    adjoint = adjoint_cost(graph, width, ticks)
    recipes = [partial(_schedule, plans=plans, index=i, width=width) for i in range(len(plans))]
    if plans.exact:
        costs_of = zip(plans.memory.tolist(), plans.cost.tolist(), recipes, strict=True)
        candidates = [Candidate(graph.resident_bytes + m, c + adjoint, recipe) for m, c, recipe in costs_of]
    else:
        candidates = replayed(graph, recipes, ticks)
    if ticks is None:
        candidates += replayed(graph, in_chunks(width), None)
    kept = unbeaten(candidates)
    one = stages if width == 1 else stages_of(graph, costs=forward)
    bounds = lower_bound(one, below_next(graph, [c.peak_bytes for c in kept]))
    within = f" within {tolerance:.2%}" if tolerance else ""
    return Front(
        peak_bytes=tuple(c.peak_bytes for c in kept),
        cost=tuple(c.cost for c in kept),
        recipes=tuple(c.recipe for c in kept),
        label=f"exact optimum of its class{within}",
        schedules="schedule of nested checkpoints",
        exact=True,
        tolerance=tolerance,
        unit="flops" if ticks is None else "picoseconds",
        lower_bound=tuple(b + adjoint for b in bounds.tolist()),
        bound_class="any order",
    )


def is_exact(graph: Graph) -> bool:
    """Whether a graph is a chain whose exact tables are filled in minutes."""
    return len(graph) <= LONGEST_CHAIN and is_path(graph)


def reach_for(length: int) -> int:
    """The reach of the class that is searched for a chain of that length without asking."""
    return next((reach for longest, reach in REACHES if length <= longest), 0)


def _schedule(graph: Graph, *, plans: Plans, index: int, width: int) -> Schedule:
    builder = Builder(graph)
    builder.rows(plans.plan(index), width=width)
    return builder.build()


def _measured(graph: Graph) -> tuple[Ints, Ints]:
    seconds = graph.columns.seconds
    if seconds is None or np.isnan(seconds[:, [0, 2]]).any():
        raise ParameterError(
            "minimize: seconds needs measured times of every node (a profiled model); got a graph without them",
            parameter=("minimize",),
        )
    if float(seconds[:, [0, 2]].max(initial=0)) * PICOSECONDS >= LARGEST:
        raise CountOverflow(f"a node takes {seconds[:, [0, 2]].max():g} seconds; times are planned up to 4.6e6 each")
    ticks = np.rint(seconds * PICOSECONDS).astype(np.int64)
    return ticks[:, 0], ticks[:, 2]
