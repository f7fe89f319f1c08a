"""The cheapest plan that fits: among a scenario's strategies and the optimal planner.

Cheapest means least seconds where there is a device, least flops where there is none; a plan that
copies to other tiers comes after all others then, for its price is time alone.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from sim.base.errors import SimError
from sim.base.registry import Problem
from sim.base.units import format_bytes
from sim.experiment.measure import measure
from sim.experiment.point import Point
from sim.graphs.graph import Graph
from sim.scenario.points import REFUSALS, StrategyPoint, baseline, planner
from sim.scenario.scenario import Scenario
from sim.simulation.device import Device
from sim.strategies.front import BoundClass, Front
from sim.strategies.general.certificate import Level
from sim.strategies.general.front import proven_flops

PROOF_SECONDS = 30.0
"""The most seconds of branch and bound."""
SPREAD = 24
"""Points of the optimal front that are measured, beside those next to the budget."""


class NothingFits(SimError):
    """No plan fits; `smallest` is the one with the least peak, or the least of those cheap enough."""

    def __init__(self, message: str, *, smallest: Candidate | None = None) -> None:
        super().__init__(message)
        self.smallest = smallest


@dataclass(frozen=True)
class Candidate:
    """A plan that was considered: what asks for it, and what it takes."""

    request: StrategyPoint
    point: Point

    @property
    def flops(self) -> int:
        return self.point.flops["total"]

    @property
    def peak_bytes(self) -> int:
        return self.point.peak_bytes

    @property
    def copied_bytes(self) -> int:
        return sum(self.point.copied_bytes.values())


class Proof(NamedTuple):
    """Flops that no reverse sweep on the device, without copies, takes less than within `bytes` at the peak.

    `word` is what the solver's branch and bound says beyond that, in floating point.
    """

    bytes: int
    flops: int
    holds_for: BoundClass
    word: int | None


@dataclass(frozen=True)
class Choice:
    """The plan chosen, full store to compare with, and its neighbours.

    `cheaper` is the one with the least peak of those that cost less, `smaller` the cheapest of those
    with a smaller peak; `None` where there is none. `considered` counts them all. `proof` is there for
    plans of one reverse sweep without copies.
    """

    chosen: Candidate
    full_store: Candidate
    cheaper: Candidate | None
    smaller: Candidate | None
    budget_bytes: int | None
    device: Device | None
    considered: int
    proof: Proof | None = None


def choose(
    scenario: Scenario,
    graph: Graph,
    *,
    budget_bytes: int | None = None,
    max_overhead: Fraction | None = None,
    device: Device | None = None,
    bound: Level = "fast",
    progress: Callable[[int, int], object] | None = None,
) -> Choice:
    """The cheapest plan within a budget, the smallest within an overhead over full store, or the former of both.

    Raises
    ------
    NothingFits
        If no plan does.
    DocumentError
        If strategies of the scenario do not work on the graph.
    """
    candidates = _measured(scenario, graph, budget_bytes, device, progress)
    price = _seconds if device is not None else _flops
    by_price = sorted(candidates, key=lambda c: (*price(c), c.peak_bytes))
    full_store = next(c for c in candidates if c.request == baseline(graph))
    allowed = _within_overhead(by_price, full_store, max_overhead, timed=device is not None)
    fitting = [c for c in allowed if budget_bytes is None or c.peak_bytes <= budget_bytes]
    if not fitting:
        smallest = min(allowed, key=lambda c: c.peak_bytes)
        raise NothingFits(_nothing(smallest, budget_bytes, max_overhead), smallest=smallest)
    chosen = fitting[0] if budget_bytes is not None else min(fitting, key=lambda c: (c.peak_bytes, price(c)))
    cheaper = [c for c in by_price if price(c) < price(chosen) and c.peak_bytes > chosen.peak_bytes]
    smaller = [c for c in by_price if c.peak_bytes < chosen.peak_bytes]
    return Choice(
        chosen=chosen,
        full_store=full_store,
        cheaper=min(cheaper, key=lambda c: c.peak_bytes, default=None),
        smaller=next(iter(smaller), None),
        budget_bytes=budget_bytes,
        device=device,
        considered=len(candidates),
        proof=_proof(graph, chosen, budget_bytes, bound),
    )


def _proof(graph: Graph, chosen: Candidate, budget_bytes: int | None, level: Level) -> Proof | None:
    reverse = chosen.request.strategy.startswith("reverse")
    if not (reverse or graph.plain) or chosen.copied_bytes or level == "none":
        return None
    try:
        front = planned_front(graph)
    except REFUSALS:
        return None
    most = chosen.peak_bytes if budget_bytes is None else budget_bytes
    at = max(0, bisect_right(front.peak_bytes, most) - 1)
    if front.bound_class is None:
        return None
    if graph.plain:
        return Proof(most, front.lower_bound[at], front.bound_class, None)
    flops, word = proven_flops(graph, most - graph.resident_bytes, level=level, seconds=PROOF_SECONDS)
    if flops > front.lower_bound[at]:
        return Proof(most, flops, "any order", word)
    return Proof(most, front.lower_bound[at], front.bound_class, word)


def _flops(c: Candidate) -> tuple[float, float]:
    return c.copied_bytes > 0, c.flops


def _seconds(c: Candidate) -> tuple[float, float]:
    return c.point.seconds is None, c.point.seconds or 0.0


def _within_overhead(
    candidates: list[Candidate], full_store: Candidate, most: Fraction | None, *, timed: bool
) -> list[Candidate]:
    if most is None:
        return candidates
    if timed and full_store.point.seconds is not None:
        limit = full_store.point.seconds * float(1 + most)
        return [c for c in candidates if c.point.seconds is not None and c.point.seconds <= limit]
    return [c for c in candidates if c.flops <= full_store.flops * (1 + most) and not (c.copied_bytes and not timed)]


def _nothing(smallest: Candidate, budget_bytes: int | None, max_overhead: Fraction | None) -> str:
    what = f"the budget of {format_bytes(budget_bytes or 0)}"
    among = "peak" if max_overhead is None else f"peak within {float(max_overhead * 100):g} % of full store"
    size = f"{format_bytes(smallest.peak_bytes)} ({smallest.peak_bytes} bytes)"
    return f"nothing fits {what}; the smallest {among} is {size}, of {smallest.request.label}"


def _measured(
    scenario: Scenario,
    graph: Graph,
    budget_bytes: int | None,
    device: Device | None,
    progress: Callable[[int, int], object] | None,
) -> list[Candidate]:
    """Every candidate once; simulated memory is unlimited, or the budget where copies may have to wait for it."""
    unlimited = dataclasses.replace(device, memory_bytes=None) if device else None
    problems: list[Problem] = []
    candidates: list[Candidate] = []
    requests = _distinct([baseline(graph), *scenario.points, *_planned(graph, budget_bytes)])
    for done, one in enumerate(requests):
        try:
            schedule = one.schedule(graph)
        except REFUSALS as error:
            if one == baseline(graph):
                raise
            if one.path:
                problems.append(one.problem(error))
            continue
        finally:
            if progress is not None:
                progress(done + 1, len(requests))
        point, _ = measure(one, schedule, device=unlimited)
        if point.copied_bytes and budget_bytes is not None and point.peak_bytes <= budget_bytes:
            point, _ = measure(one, schedule, device=unlimited, budget_bytes=budget_bytes)
        candidates.append(Candidate(one, point))
    if problems:
        raise scenario.document.error(problems)
    return candidates


def _planned(graph: Graph, budget_bytes: int | None) -> list[StrategyPoint]:
    """The requests to the planner: the budget, the ends of its front, a spread, and the neighbours of the budget."""

    def within(peak: int) -> StrategyPoint:
        request = planner(graph)
        return dataclasses.replace(request, parameters={**request.parameters, "budget": peak})

    if graph.plain and budget_bytes is not None:
        with suppress(*REFUSALS):
            within(budget_bytes).schedule(graph)
    try:
        front = planned_front(graph)
    except REFUSALS:
        return []
    peaks = {front.peak_bytes[i] for i in front.spread(SPREAD)}
    if budget_bytes is not None:
        at = bisect_right(front.peak_bytes, budget_bytes) - 1
        peaks |= set(front.peak_bytes[max(0, at - 1) : at + 2])
    return [within(peak) for peak in sorted(peaks)]


def planned_front(graph: Graph) -> Front:
    """The front of the planner for a graph, plain or with derivatives."""
    plan = planner(graph).entry.front
    assert plan is not None, "planners have fronts"
    front: Front = plan(graph)
    return front


def _distinct(points: Iterable[StrategyPoint]) -> list[StrategyPoint]:
    """The points, each once; the first of those that ask for the same stands."""
    distinct: dict[str, StrategyPoint] = {}
    for p in points:
        distinct.setdefault(repr((p.strategy, sorted(p.parameters.items()))), p)
    return list(distinct.values())
