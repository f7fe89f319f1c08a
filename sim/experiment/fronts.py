"""Points that stand for a whole front: a planner asked without a budget becomes several with one each."""

from __future__ import annotations

import dataclasses

from sim.base.registry import keywords
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
        front: Front = entry.front(graph, **keywords(entry.front, own))
        budgets = [front.peak_bytes[i] for i in front.spread(parameters.pop("points", POINTS))]
        return [dataclasses.replace(request, parameters=parameters | {"budget": b}) for b in budgets]
    if device is not None and entry.prices is not None:
        prices = {k: float(f"{v:.3g}") for k, v in entry.prices(graph, device, **keywords(entry.prices, own)).items()}
        if prices.keys() & parameters.keys():
            prices = {}
        return [dataclasses.replace(request, parameters=parameters | prices, derived=frozenset(prices))]
    return [request]
