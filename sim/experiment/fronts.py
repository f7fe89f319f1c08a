"""Fronts: the points that stand for a planned one, and which of measured points are on one."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence

from sim.base.pareto import front
from sim.base.registry import keywords
from sim.experiment.point import OnFront, Point, coordinates
from sim.graphs.graph import Graph
from sim.scenario.points import StrategyPoint
from sim.simulation.device import Device
from sim.strategies.front import Front

POINTS = 12
"""Points of a front that are simulated unless `points` says."""


def stand_ins(request: StrategyPoint, graph: Graph, device: Device | None) -> list[StrategyPoint]:
    """The points that are run for a point that a scenario asks for; mostly that point alone.

    A planner with a front (`Entry.front`) becomes points spread over it, each with its peak as its budget,
    unless a parameter beyond the front's own picks one of them. Copies with `Entry.prices` get them from
    the device's links, unless they are given.
    """
    entry, parameters = request.entry, {k: v for k, v in request.parameters.items() if v is not None}
    own = {k: v for k, v in parameters.items() if k in entry.model.model_fields}
    if entry.front is not None and own.keys() <= {"points", *keywords(entry.front, own)}:
        planned: Front = entry.front(graph, **keywords(entry.front, own))
        budgets = [planned.peak_bytes[i] for i in planned.spread(parameters.pop("points", POINTS))]
        return [dataclasses.replace(request, parameters=parameters | {"budget": b}) for b in budgets]
    if device is not None and entry.prices is not None:
        prices = {k: float(f"{v:.3g}") for k, v in entry.prices(graph, device, **keywords(entry.prices, own)).items()}
        if prices.keys() & parameters.keys():
            prices = {}
        return [dataclasses.replace(request, parameters=parameters | prices, derived=frozenset(prices))]
    return [request]


def with_fronts(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points, each told the fronts that it is on among them."""
    return tuple(dataclasses.replace(p, pareto=on) for p, on in zip(points, on_fronts(points), strict=True))


def on_fronts(points: Sequence[Point]) -> list[OnFront]:
    """The fronts that each point is on among them."""
    if any(p.ranks for p in points):
        costs = [(p.peak_bytes or max(r["in_flight"] for r in p.ranks), p.seconds or 0.0) for p in points]
        best = set(front(costs))
        return [OnFront(flops=False, seconds=i in best) for i in range(len(points))]
    timed = [i for i, p in enumerate(points) if p.seconds is not None]
    by_flops = _front_over_work(points)
    by_seconds = {timed[k] for k in front([coordinates(points[i], "seconds") for i in timed])}
    return [OnFront(flops=i in by_flops, seconds=i in by_seconds) for i in range(len(points))]


def _front_over_work(points: Sequence[Point]) -> set[int]:
    """The points that none beats in memory, flops and copied bytes; copying saves memory without any work."""
    costs = [(*coordinates(p, "flops"), sum(p.copied_bytes.values())) for p in points]
    plain = [i for i, cost in enumerate(costs) if not cost[2]]
    best = {plain[k] for k in front([costs[i][:2] for i in plain])}
    for i, cost in enumerate(costs):
        beaten = (other != cost and all(map(operator.le, other, cost)) for other in costs)
        if cost[2] and not any(beaten):
            best.add(i)
    return best
