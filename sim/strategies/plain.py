"""Strategies of plain graphs, whose nodes are computations without derivatives."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PlainValidator, WithJsonSchema

from sim.base.memo import remembered
from sim.base.registry import Count
from sim.base.units import parse_bytes
from sim.graphs.graph import Graph
from sim.schedules.replay import replay
from sim.schedules.schedule import Builder, Schedule
from sim.strategies import strategies
from sim.strategies.front import Front, below_next, replayed, unbeaten
from sim.strategies.general.certificate import Bound, Level, certificate
from sim.strategies.general.front import needed_by, schedule_of
from sim.strategies.general.planner import Order, Plan, Planner, effort_for, plan
from sim.strategies.general.problem import problem_of

_SHARE = re.compile(r"\s*(\d{1,3}(?:\.\d{1,9})?)\s*%\s*")


def _budget(value: Any) -> int | float:
    written = _SHARE.fullmatch(value) if isinstance(value, str) else None
    share = float(Fraction(written[1]) / 100) if written else value
    if isinstance(share, float) and 0 < share <= 1:
        return share
    try:
        return parse_bytes(value)
    except ValueError as error:
        raise ValueError(f"{error}, or a share of the peak of the order given such as 80%") from None


Budget = Annotated[
    int | float,
    PlainValidator(_budget),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}]}),
]
"""Whole bytes, or a share of the peak of the order given: `80%`, which is 0.8."""
Effort = Annotated[
    float | None, Field(gt=0, description="seconds of search on two cores; by the graph's size if not given")
]
Rounds = Annotated[Count | None, Field(description="rounds of search at each budget, instead of an effort")]
Seed = Annotated[int, Field(ge=0, description="of the random numbers of the search")]


@strategies.register("in_order", accepts="plain")
def in_order(graph: Graph) -> Schedule:
    """Every node of a plain graph once, in the order given: nothing is computed again.

    The least work there is, and what other strategies of plain graphs are compared with.
    """
    builder = Builder(graph)
    builder.forward(range(len(graph)))
    return builder.build()


def plain_front(
    graph: Graph,
    *,
    bound: Level = "fast",
    order: Order = "free",
    effort: float | None = None,
    rounds: int | None = None,
    seed: int = 0,
) -> Front:
    """The plans found so far for a plain graph, for every peak the cheapest, with a bound from below.

    One search serves all budgets that are asked for: what is found for one is there for the others.
    """
    found = _search(graph, order, effort, rounds, seed)
    kept = unbeaten(replayed(graph, [partial(schedule_of, rows=p.rows) for p in found.planner.plans], None))
    proven = _proven(graph, order, bound)
    peaks = tuple(c.peak_bytes for c in kept)
    return Front(
        peak_bytes=peaks,
        cost=tuple(c.cost for c in kept),
        recipes=tuple(c.recipe for c in kept),
        label="best plan found",
        schedules="schedule",
        exact=False,
        lower_bound=() if bound == "none" else tuple(proven.at(below_next(graph, peaks)).tolist()),
        bound_class=None if bound == "none" else "any order" if order == "free" else "listed order",
        smallest_proven=graph.resident_bytes + proven.smallest_peak,
        needed_by=needed_by(graph, found.planner.problem, proven.smallest_peak),
    )


@strategies.register("rematerialize", accepts="plain", front=plain_front)
def rematerialize(
    graph: Graph,
    *,
    budget: Annotated[
        Budget | None, Field(description="peak bytes, or a share of the peak of the order given such as 80%")
    ] = None,
    points: Annotated[Count | None, Field(description="how many points of the front to take")] = None,
    bound: Annotated[Level, Field(description="how much is spent on proving what no plan comes below")] = "fast",
    order: Annotated[Order, Field(description="whether nodes may first run in another order than given")] = "free",
    effort: Effort = None,
    rounds: Rounds = None,
    seed: Seed = 0,
) -> Schedule:
    """The cheapest plan found for a plain graph within a budget; the one with the smallest peak without a budget.

    Every node runs at least once and may run again whenever what it reads is in memory. See
    `sim.strategies.general` for the search; effort is counted by what it walks over, so that a result is the same
    everywhere.

    Raises
    ------
    ParameterError
        If nothing that was found fits the budget; the message has the smallest peak found, and the smallest proven.
    """
    most = None if budget is None else _bytes(graph, budget)
    found = _search(graph, order, effort, rounds, seed).within(None if most is None else most - graph.resident_bytes)
    if found is None:
        assert most is not None
        front = plain_front(graph, bound=bound, order=order, effort=effort, rounds=rounds, seed=seed)
        return front.schedule(graph, front.within(most))  # refuses, and says what is proven
    return schedule_of(graph, rows=found.rows)


def _bytes(graph: Graph, budget: int | float) -> int:
    if isinstance(budget, int):
        return budget
    return int(Fraction(repr(budget)) * replay(in_order(graph)).peak_bytes)


@dataclass
class _Search:
    """The search on one graph: its plans, and the budgets that it has been through, in working bytes."""

    planner: Planner
    effort: float | None
    rounds: int | None
    budgets: set[int] = field(default_factory=set)

    def within(self, budget: int | None) -> Plan | None:
        """The cheapest plan within a budget that was searched for by itself; without a budget the smallest."""
        if budget is None:
            return self.planner.plans[0]
        self._search(budget)
        return self.planner.within(budget)

    def _search(self, budget: int) -> None:
        """Search for a budget from the plans on both sides of it, the first time that it is asked for."""
        peaks = [p.peak for p in self.planner.plans]
        if budget in self.budgets or budget in peaks or budget < peaks[0]:
            return
        self.budgets.add(budget)
        near = Planner(self.planner.problem, order=self.planner.order, seed=self.planner.seed)
        at = int(np.searchsorted(peaks, budget))
        for one in (*self.planner.plans[max(0, at - 1) : at + 1], self.planner.plans[-1]):
            near.offer(one.rows)
        near.descend([budget])
        near.improve(2**62 if self.rounds is None else self.rounds, effort=self.effort)
        for one in near.plans:
            self.planner.offer(one.rows)


@remembered
def _search(graph: Graph, order: Order, effort: float | None, rounds: int | None, seed: int) -> _Search:
    problem = problem_of(graph)
    planner = Planner(problem, order=order, seed=seed)
    for one in plan(problem, order=order, effort=effort, rounds=rounds, seed=seed):
        planner.offer(one.rows)
    if effort is None and rounds is None:
        effort = effort_for(problem)
    return _Search(planner, effort, rounds)


@remembered
def _proven(graph: Graph, order: Order, level: Level) -> Bound:
    problem = problem_of(graph)
    whole = Planner(problem).plans[0].peak
    return certificate(problem, np.linspace(0, whole, 60).astype(np.int64), order=order, level=level)
