"""Points that stand for a whole front: a planner asked without a budget becomes several with one each.

The full curves go into the results beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sim.base.pareto import landmarks
from sim.graphs.graph import Graph
from sim.scenario.points import StrategyPoint
from sim.simulation.device import Device
from sim.strategies.checkpointing.multilevel import link_costs
from sim.strategies.jacobians.memory import chaining_front
from sim.strategies.optimal.strategy import Front, optimal_front

POINTS = 12
"""How many points of a front are simulated unless `points` says."""


def stand_ins(wanted: StrategyPoint, graph: Graph, device: Device | None) -> list[StrategyPoint]:
    """The points that are run for a point that a scenario asks for; mostly that point alone.

    `optimal` and `optimal_in_memory` without a budget become points spread over their front, each with
    its peak as its budget. Copies of `multilevel` and `disk` get their costs from the device's links,
    unless they are given.
    """
    given = {k: v for k, v in wanted.parameters.items() if v is not None}
    planner = given.get("schedule") or given.get("order")
    if planner == "optimal" and wanted.strategy == "reverse_checkpointed" and not {"budget", "point"} & set(given):
        front = _front(graph, given)
        budgets = [front.peak_bytes[i] for i in front.spread(given.pop("points", POINTS))]
        return [dataclasses.replace(wanted, parameters=given | {"budget": b}) for b in budgets]
    if planner == "optimal_in_memory" and "budget" not in given:
        pairs = [(p.peak_bytes, p.flops) for p in chaining_front(graph, **_only(given, "tape", "tolerance"))]
        chosen = sorted(landmarks(pairs, [0] * len(pairs), count=POINTS)) if len(pairs) > POINTS else range(len(pairs))
        return [dataclasses.replace(wanted, parameters=given | {"budget": pairs[i][0]}) for i in chosen]
    if device is not None and planner in ("multilevel", "disk", "disk_periodic"):
        prices = _link_costs(graph, device, str(planner), given)
        return [dataclasses.replace(wanted, parameters=given | prices, derived=frozenset(prices))]
    return [wanted]


def curves(points: Sequence[StrategyPoint], graph: Graph) -> list[dict[str, Any]]:
    """Every breakpoint of the fronts that the points ask for, with its lower bound: (total bytes, flops)."""
    found: dict[str, dict[str, Any]] = {}
    for wanted in points:
        for label, kind, breakpoints in _curves_of(wanted, graph):
            found.setdefault(label, {"label": label, "kind": kind, "breakpoints": breakpoints})
    return list(found.values())


def _curves_of(wanted: StrategyPoint, graph: Graph) -> Iterator[tuple[str, str, list[list[int]]]]:
    given = {k: v for k, v in wanted.parameters.items() if v is not None}
    if given.get("schedule") == "optimal" and given.get("minimize", "flops") == "flops":
        front = _front(graph, given)
        within = f" within {front.tolerance:.2%}" if front.tolerance else ""
        label = f"exact optimum of its class{within}" if front.exact else "best found by the block planner"
        yield label, "exact", [list(pair) for pair in zip(front.peak_bytes, front.cost, strict=True)]
        yield "lower bound", "bound", [list(pair) for pair in zip(front.peak_bytes, front.lower_bound, strict=True)]
    if given.get("order") == "optimal_in_memory":
        front_of_orders = chaining_front(graph, **_only(given, "tape", "tolerance"))
        yield "orders of products", "exact", [[p.peak_bytes, p.flops] for p in front_of_orders]


def _front(graph: Graph, given: Mapping[str, Any]) -> Front:
    return optimal_front(graph, **_only(given, "tolerance", "minimize"))


def _only(given: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {k: given[k] for k in keys if k in given}


def _link_costs(graph: Graph, device: Device, planner: str, given: Mapping[str, Any]) -> dict[str, Any]:
    prices = link_costs(graph, device)
    if planner != "multilevel":
        of_disk = given.get("tier", "disk") == "disk"
        prices = {k: prices[f"disk_{k}" if of_disk else k] for k in ("write_cost", "read_cost")}
    return {k: float(f"{v:.3g}") for k, v in prices.items()} if not prices.keys() & given.keys() else {}
