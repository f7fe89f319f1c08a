"""The map of winners: the points of a scenario in each cell of a map over two of its keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from sim.base.document import DocumentError
from sim.base.json import LARGEST_NUMBER, Amount, Number, Plain
from sim.experiment.measure import measure
from sim.experiment.measurements import Measurements
from sim.experiment.views import view
from sim.graphs.graph import Graph
from sim.scenario.axes import Axis, Measure
from sim.scenario.points import REFUSALS
from sim.scenario.scenario import Scenario


class Varied(TypedDict):
    """A key of the scenario, what the axis is called, and the values."""

    key: str
    label: str
    values: Annotated[list[Plain], Field(min_length=1)]


class Contender(TypedDict):
    """One of the points that take part."""

    label: str
    strategy: str
    parameters: Mapping[str, Plain]


class Map(TypedDict):
    """The winner of each cell; matrices are lists of rows, a row for each value of y.

    `winner` is an index into `strategies`: the one with the least of what `by` says among those that fit
    the budget, on equal terms the one written first; `None` where none applies or fits. `factor` is what
    the next best takes over what the winner takes, those on equal terms with the winner left out; `None`
    where there is no other, or the winner takes nothing. `values` has a matrix for each strategy, `None`
    where it does not apply or fit.
    """

    by: Measure
    x: Varied
    y: Varied
    strategies: Annotated[list[Contender], Field(min_length=1)]
    winner: list[list[Amount | None]]
    factor: list[list[Annotated[float, Field(ge=1, le=LARGEST_NUMBER)] | None]]
    values: list[list[list[Number | None]]]


def _fitting(section: Map) -> Map:
    rows, columns, count = len(section["y"]["values"]), len(section["x"]["values"]), len(section["strategies"])
    matrices: list[list[Any]] = [section["winner"], section["factor"], *section["values"]]
    if any(len(m) != rows or any(len(row) != columns for row in m) for m in matrices):
        raise ValueError(f"matrices of {rows} rows with {columns} entries, as y and x have values")
    if len(section["values"]) != count or any(w is not None and w >= count for row in section["winner"] for w in row):
        raise ValueError(f"values and winners of the {count} strategies")
    return section


@view("regimes", place=2)
def regimes(run: Measurements) -> Annotated[Map, AfterValidator(_fitting)] | None:
    """The winner of each cell of the map, if the scenario asks for one.

    Raises
    ------
    DocumentError
        If the graph of a cell cannot be built; it says of which.
    """
    scenario, grid = run.scenario, run.scenario.regimes
    if grid is None:
        return None
    rows: list[list[list[Number | None]]] = []
    for j in range(len(grid.y.values)):
        rows.append([])
        for i in range(len(grid.x.values)):
            where = f"{grid.x.key} = {grid.x.values[i]}, {grid.y.key} = {grid.y.values[j]}"
            try:
                cell = scenario.cell(i, j)
                graph = cell.build_graph()
            except DocumentError as error:
                first = error.findings[0]
                raise scenario.error(("regimes",), f"{where}: {first.path}: {first.message}") from None
            rows[-1].append(_values(cell, graph, grid.by))
            run.step()
    outcomes = [[outcome(cell) for cell in row] for row in rows]
    return Map(
        by=grid.by,
        x=_described(grid.x),
        y=_described(grid.y),
        strategies=[
            Contender(label=p.label, strategy=p.strategy, parameters=dict(p.parameters)) for p in scenario.points
        ],
        winner=[[winner for winner, _ in row] for row in outcomes],
        factor=[[factor for _, factor in row] for row in outcomes],
        values=[[[cell[k] for cell in row] for row in rows] for k in range(len(scenario.points))],
    )


def outcome(values: Sequence[Number | None]) -> tuple[int | None, float | None]:
    """The index of the least value, the first of equal ones, and the next larger value in units of it.

    >>> outcome([6, 2, None, 2, 3])
    (1, 1.5)
    """
    numbers = [v for v in values if v is not None]
    if not numbers:
        return None, None
    least = min(numbers)
    others = [v for v in numbers if v > least]
    return list(values).index(least), min(others) / least if others and least else None


def _values(scenario: Scenario, graph: Graph, by: Measure) -> list[Number | None]:
    device = scenario.device if by == "seconds" else None
    values: list[Number | None] = []
    for request in scenario.points:
        try:
            point, _ = measure(request, request.schedule(graph), device, scenario.budget_bytes)
        except REFUSALS:
            values.append(None)
            continue
        value = {"flops": point.flops["total"], "peak_bytes": point.peak_bytes, "seconds": point.seconds}[by]
        values.append(value if point.fits else None)
    return values


def _described(axis: Axis) -> Varied:
    return Varied(key=axis.key, label=axis.label, values=list(axis.values))
