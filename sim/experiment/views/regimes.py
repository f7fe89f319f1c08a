"""Who wins where: the points of a scenario in each cell of a map over two of its keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sim.base.document import DocumentError
from sim.base.pareto import Number
from sim.experiment.results import Point
from sim.graphs.graph import Graph
from sim.scenario.axes import Axis, Measure
from sim.scenario.points import REFUSALS, StrategyPoint
from sim.scenario.scenario import Scenario
from sim.schedules.schedule import Schedule
from sim.simulation.device import Device

Measurer = Callable[[StrategyPoint, Schedule, Device | None, int | None], Point]


def regimes(
    scenario: Scenario, measure: Measurer, *, progress: Callable[[int], object] | None = None
) -> dict[str, Any]:
    """The winner of each cell, and how much the best of the others takes in units of it.

    `measure` makes a point of a schedule, a device and a budget. Matrices are lists of rows, a row for
    each value of y. `winner` is an index into `strategies`: the one with the least of what `by` says
    among those that fit the budget, on equal terms the one written first; `None` where none applies or
    fits. `factor` is what the next best takes over what the winner takes, those on equal terms with the
    winner left out; `None` where there is no other, or the winner takes nothing. `values` has a matrix
    for each strategy, `None` where it does not apply or fit.

    Raises
    ------
    DocumentError
        If the graph of a cell cannot be built; it says of which.
    """
    wanted = scenario.regimes
    assert wanted is not None, "asked for by the scenario"
    rows: list[list[list[Number | None]]] = []
    for j in range(len(wanted.y.values)):
        rows.append([])
        for i in range(len(wanted.x.values)):
            where = f"{wanted.x.key} = {wanted.x.values[i]}, {wanted.y.key} = {wanted.y.values[j]}"
            try:
                cell = scenario.cell(i, j)
                graph = cell.build_graph()
            except DocumentError as error:
                first = error.findings[0]
                raise scenario.error(("regimes",), f"{where}: {first.path}: {first.message}") from None
            rows[-1].append(_values(cell, graph, measure, wanted.by))
            if progress is not None:
                progress(len(wanted.x.values) * j + i + 1)
    outcomes = [[outcome(cell) for cell in row] for row in rows]
    return {
        "by": wanted.by,
        "x": _described(wanted.x),
        "y": _described(wanted.y),
        "strategies": [
            {"label": p.label, "strategy": p.strategy, "parameters": dict(p.parameters)} for p in scenario.points
        ],
        "winner": [[winner for winner, _ in row] for row in outcomes],
        "factor": [[factor for _, factor in row] for row in outcomes],
        "values": [[[cell[k] for cell in row] for row in rows] for k in range(len(scenario.points))],
    }


def outcome(values: Sequence[Number | None]) -> tuple[int | None, float | None]:
    """The index of the least value, the first of equal ones, and the next larger value in units of it.

    >>> outcome([6, 2, None, 2, 3])
    (1, 1.5)
    """
    known = [v for v in values if v is not None]
    if not known:
        return None, None
    least = min(known)
    others = [v for v in known if v > least]
    return list(values).index(least), min(others) / least if others and least else None


def _values(scenario: Scenario, graph: Graph, measure: Measurer, by: Measure) -> list[Number | None]:
    device = scenario.device if by == "seconds" else None
    found: list[Number | None] = []
    for wanted in scenario.points:
        try:
            point = measure(wanted, wanted.schedule(graph), device, scenario.budget_bytes)
        except REFUSALS:
            found.append(None)
            continue
        value = {"flops": point.flops["total"], "peak_bytes": point.peak_bytes, "seconds": point.seconds}[by]
        found.append(value if point.fits else None)
    return found


def _described(axis: Axis) -> dict[str, Any]:
    return {"key": axis.key, "label": axis.label, "values": list(axis.values)}
