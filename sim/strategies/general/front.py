"""The front of a graph that is no chain: the plans that the search finds, replayed, and a bound from below."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np

from sim.base import searches
from sim.base.errors import CountOverflow
from sim.graphs.graph import Graph
from sim.graphs.node import Ints
from sim.schedules.schedule import Builder, Schedule
from sim.strategies.checkpointing.binomial import binomial, forward_count
from sim.strategies.checkpointing.segments import periodic, uniform
from sim.strategies.front import (
    BoundClass,
    Front,
    Recipe,
    adjoint_cost,
    below_next,
    in_chunks,
    replayed,
    spread,
    unbeaten,
)
from sim.strategies.general.bound import block_lower_bound
from sim.strategies.general.certificate import Level, available, certificate, with_word
from sim.strategies.general.planner import Order, plan
from sim.strategies.general.problem import Problem, Rows, graph_problem
from sim.strategies.optimal.planner import best_plans
from sim.strategies.optimal.stages import stages_of
from sim.strategies.reverse import reverse_full
from sim.strategies.selective import selective, worth_keeping

MOST_STAGES = 400
"""Nodes up to which a graph is planned as a chain of them: that takes a second or two."""
MOST_REPLAYS = 4000
"""Plans of stages that are replayed."""
MOST_ROWS, LONGEST = 5_000_000, 8
"""Rows of all fixed schedules together, about; and how often a step may run in a binomial plan if they are more."""


def general_front(
    graph: Graph,
    *,
    tolerance: float = 0.0,
    costs: tuple[Ints, Ints] | None = None,
    order: Order = "free",
    rounds: int | None = None,
    effort: float | None = None,
    seed: int = 0,
) -> Front:
    """The best schedules found for each peak, by replay; the fixed and the selective ones are where the search starts.

    `costs` of forwards and of VJPs (of all cotangents) stand in for flops; for `order`, `rounds`, `effort` and
    `seed` see `sim.strategies.general.planner.plan`.
    """
    problem, width = graph_problem(graph, costs=costs, outputs_first=True), graph.output_scalars
    evaluations = graph.columns.forward_flops if costs is None else costs[0]
    known: list[Recipe] = [
        *_fixed(graph),
        *_by_stages(graph, width, None if costs is None else costs[0], tolerance),
        *(partial(selective, kept=kept) for kept in worth_keeping(graph, evaluations)),
    ]
    starts = [recipe(graph).rows for recipe in known]
    plans = plan(problem, order=order, rounds=rounds, effort=effort, seed=seed, starts=starts)
    # those known are among the candidates again: the search cannot start from one that is too long for its buffers
    recipes: list[Recipe] = [*(partial(schedule_of, rows=p.rows, width=width) for p in plans), *known]
    if costs is None:
        recipes += in_chunks(width)
    kept = unbeaten(replayed(graph, recipes, costs))
    return Front(
        peak_bytes=tuple(c.peak_bytes for c in kept),
        cost=tuple(c.cost for c in kept),
        recipes=tuple(c.recipe for c in kept),
        label="best plan found",
        schedules="schedule",
        exact=False,
        tolerance=tolerance,
        unit="flops" if costs is None else "picoseconds",
    )


def with_bound(front: Front, graph: Graph, *, costs: tuple[Ints, Ints] | None, level: Level) -> Front:
    """The front with a cost that no plan comes below at each point, in any order of VJPs where it can be proven.

    It holds for any number of cotangents at once: a plan of several sweeps contains one of a single cotangent.
    """
    forward = graph.columns.forward_flops if costs is None else costs[0]
    adjoint = adjoint_cost(graph, graph.output_scalars, costs)
    working = below_next(graph, front.peak_bytes)
    problem = graph_problem(graph, costs=costs, width=1)
    proven = certificate(problem, working, level=level)
    front = replace(
        front,
        smallest_proven=graph.resident_bytes + proven.smallest_peak,
        needed_by=needed_by(graph, problem, proven.smallest_peak),
    )
    if level == "none":
        return front
    bounds = [np.array(front.lower_bound)] if front.lower_bound else []
    holds_for = front.bound_class or bound_class(graph)
    if not bounds and (holds_for == "any order" or not available()):
        bounds.append(adjoint + block_lower_bound(graph, stages_of(graph, costs=forward), working))
    if available():
        holds_for = "any order"
        bounds.append(adjoint + sum(forward.tolist()) - problem.base_cost + proven.at(working))
    bound = np.max(bounds, axis=0)
    if holds_for == "listed order":  # plans in another order may be below it
        bound = np.minimum(bound, front.cost)
    return replace(front, lower_bound=tuple(bound.tolist()), bound_class=holds_for)


def proven_flops(graph: Graph, working_bytes: int, *, level: Level, seconds: float) -> tuple[int, int | None]:
    """Flops that no schedule of any order takes less than, and with `proof` the solver's word in about so many seconds.

    Without the solver it is one evaluation of each node.
    """
    problem = graph_problem(graph, width=1)
    bound = certificate(problem, np.array([working_bytes]), level=level)
    other = adjoint_cost(graph, graph.output_scalars, None) + graph.forward_flops - problem.base_cost
    proven = problem.base_cost + bound.recomputed(working_bytes) + other
    if level != "proof" or searches.ended() or not available():
        return proven, None
    return proven, with_word(problem, bound, working_bytes, seconds=seconds).word_at(working_bytes) + other


def bound_class(graph: Graph) -> BoundClass:
    """The class of a graph's bound: whether its VJPs can run in the listed order alone, each after the next node's."""
    m, c = len(graph.inputs), graph.columns
    active = [i for i in range(len(graph)) if graph.active[m + i]]
    forced = all(m + i in c.input_index[c.input_ptr[j] : c.input_ptr[j + 1]] for i, j in pairwise(active))
    return "any order" if forced else "listed order"


def needed_by(graph: Graph, problem: Problem, working_bytes: int) -> str | None:
    """The name of a row that takes so much by itself, if one does."""
    rows = np.flatnonzero(problem.must & (problem.alone >= working_bytes))
    if not len(rows):
        return None
    turn, node = divmod(int(rows[0]), len(graph))
    return f"{'the VJP of ' if turn else ''}'{graph.nodes[node].name}'"


def schedule_of(graph: Graph, *, rows: Rows, width: int = 1) -> Schedule:
    """The schedule that runs a sequence of rows, each for `width` cotangents."""
    builder = Builder(graph)
    builder.rows(rows, width=width)
    return builder.build()


def _by_stages(graph: Graph, width: int, costs: Ints | None, tolerance: float) -> list[Recipe]:
    """The plans of the graph as if it were a chain of its nodes, each with all that crosses its cut: estimates."""
    if len(graph) > MOST_STAGES:
        return []
    try:
        plans = best_plans(stages_of(graph, width=width, costs=costs), tolerance=tolerance)
    except CountOverflow:
        return []
    out: list[Recipe] = []
    for k in spread(plans.cost, MOST_REPLAYS):
        builder = Builder(graph)
        builder.rows(plans.plan(k), width=width)
        out.append(partial(schedule_of, rows=builder.build(prune=True).rows, width=width))
    return out


def _fixed(graph: Graph) -> Iterator[Recipe]:
    """Fixed schedules: full store, segments, periods and binomial plans of all sizes; of large graphs of some sizes."""
    steps = len(graph.step_starts) - 1
    sizes, most = list(range(1, steps + 1)), MOST_ROWS // (6 * len(graph))
    some = steps > most
    if some:
        sizes = sorted({round(size) for size in np.geomspace(1, steps, max(2, most)).tolist()})
    yield partial(reverse_full, chunk=graph.output_scalars)
    yield from (partial(uniform, segments=size) for size in sizes)
    yield from (partial(periodic, every=size) for size in sizes if steps % size or size == 1)
    yield from (
        partial(binomial, slots=size) for size in sizes if not some or forward_count(steps, size) <= LONGEST * steps
    )
