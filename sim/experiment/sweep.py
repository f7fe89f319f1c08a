"""The results of a sweep: the points of every cell, and the few of them that its figure draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from sim.base.json import Amount, Measured, Plain
from sim.experiment.cells import Outcome, Outcomes
from sim.experiment.fronts import on_fronts
from sim.experiment.spool import Spool, point_of
from sim.scenario.axes import Axis, Grid, coordinate
from sim.scenario.points import StrategyPoint
from sim.scenario.scenario import Scenario

MOST_PANELS = 4
MOST_LINES = 400


class SweptAxis(TypedDict):
    """Keys that take their values together: `values[i]` has one for each."""

    keys: Annotated[list[str], Field(min_length=1)]
    values: Annotated[list[list[Plain]], Field(min_length=1)]


class Refusal(TypedDict):
    """A request that has no points in some cells: in how many, the first of them, and why there."""

    label: str
    cells: Amount
    first: Mapping[str, Plain]
    why: str


class Line(TypedDict):
    """One request along the axis `x` in one panel: a point for each place where there is one.

    It is the cheapest that fits, or the smallest where none does, of a planner that makes several; without
    a budget or a device the smallest.
    """

    panel: Amount
    label: str
    strategy: str
    parameters: Mapping[str, Plain]
    x: list[Amount]
    peak_bytes: list[Amount]
    work: list[Measured]
    seconds: list[Measured | None]
    fits: list[bool]


class Chart(TypedDict):
    """The plane through the sweep that its figure shows: along axis `x`, for some places of another axis.

    `panels` are places on axis `panel`; `fixed` says where the plane stands on the others. `work` is in units
    of what is evaluated first, once.
    """

    x: Amount
    panel: Amount | None
    panels: list[Amount]
    fixed: Mapping[str, Plain]
    lines: Annotated[list[Line], Field(max_length=MOST_LINES)]


class Swept(TypedDict):
    """What was varied, how many cells there are and points that fit, what is refused where, and the figure's plane."""

    axes: Annotated[list[SweptAxis], Field(min_length=1)]
    cells: Amount
    fitting: Amount
    refused: list[Refusal]
    chart: Chart


def _fitting(swept: Swept) -> Swept:
    axes, chart = swept["axes"], swept["chart"]
    if any(len(row) != len(axis["keys"]) for axis in axes for row in axis["values"]):
        raise ValueError("a value for each key of an axis")
    panel = chart["panel"]
    if max(chart["x"], panel or 0) >= len(axes):
        raise ValueError("axes of the chart that there are")
    places = len(axes[chart["x"]]["values"])
    panels = 1 if panel is None else len(axes[panel]["values"])
    if any(place >= panels for place in chart["panels"]):
        raise ValueError("panels on their axis")
    for line in chart["lines"]:
        columns: list[Sequence[object]] = [line[k] for k in ("peak_bytes", "work", "seconds", "fits")]
        if any(len(column) != len(line["x"]) for column in columns) or any(x >= places for x in line["x"]):
            raise ValueError("lines with a value for each place on the axis x")
        if line["panel"] >= len(chart["panels"]):
            raise ValueError("lines in panels that there are")
    return swept


CheckedSwept = Annotated[Swept, AfterValidator(_fitting)]


def collected(scenario: Scenario, outcomes: Outcomes) -> tuple[Spool, Swept]:
    """The points of all cells in order, each on the fronts of its own cell, and what the sweep is."""
    assert scenario.sweep is not None, "a scenario without a sweep has no cells"
    grid = scenario.sweep
    spool, refused, plane, fitting = Spool(), _Refusals(), _Plane(scenario, grid), 0
    for cell, found in enumerate(outcomes):
        coordinates = grid.coordinates(cell)
        data = [point for outcome in found for point in outcome.points]
        for point, pareto in zip(data, on_fronts([point_of(point) for point in data]), strict=True):
            del point["pareto"]  # its place is behind the cell
            spool.append({**point, "cell": coordinates, "pareto": pareto})
        fitting += sum(point["fits"] for point in data)
        if any(outcome.refused for outcome in found):
            refused.add(outcomes.cells[cell].requests, found, coordinates)
        plane.add(cell, outcomes, found)
    axes = [SweptAxis(keys=[*a.keys], values=[[coordinate(v) for v in row] for row in a.values]) for a in grid.axes]
    return spool, Swept(
        axes=axes, cells=len(grid), fitting=fitting, refused=[*refused.found.values()], chart=plane.chart()
    )


class _Refusals:
    def __init__(self) -> None:
        self.found: dict[str, Refusal] = {}

    def add(self, requests: Sequence[Any], found: Sequence[Outcome], cell: Mapping[str, Any]) -> None:
        for request, outcome in zip(requests, found, strict=True):
            if outcome.refused is not None:
                first = Refusal(label=request.label, cells=0, first=dict(cell), why=outcome.refused)
                self.found.setdefault(request.label, first)["cells"] += 1


class _Plane:
    """The plane of the figure: the longest axis of numbers, and the next one for panels."""

    def __init__(self, scenario: Scenario, grid: Grid) -> None:
        self.grid = grid
        self.limited = scenario.budget_bytes is not None or scenario.device is not None
        ranked = sorted(range(len(grid.axes)), key=lambda k: (not _numeric(grid.axes[k]), -len(grid.axes[k]), k))
        self.x = ranked[0]
        self.panel = next((k for k in range(len(grid.axes)) if k != self.x and len(grid.axes[k]) > 1), None)
        count = 1 if self.panel is None else len(grid.axes[self.panel])
        shown = min(count, MOST_PANELS)
        self.panels = [i * (count - 1) // max(shown - 1, 1) for i in range(shown)]
        self.middle = [(len(axis) - 1) // 2 for axis in grid.axes]
        self.lines: dict[tuple[int, int], Line] = {}

    def add(self, cell: int, outcomes: Outcomes, found: Sequence[Outcome]) -> None:
        at = self.grid.at(cell)
        others = (k for k in range(len(at)) if k not in (self.x, self.panel))
        place = 0 if self.panel is None else at[self.panel]
        if place not in self.panels or any(at[k] != self.middle[k] for k in others):
            return
        panel = self.panels.index(place)
        requests = outcomes.cells[cell].requests
        for i, (request, outcome) in enumerate(zip(requests, found, strict=True)):
            if outcome.points and (len(self.lines) < MOST_LINES or (panel, i) in self.lines):
                self._extend(panel, i, request, at[self.x], self._representative(outcome.points))

    def _extend(self, panel: int, i: int, request: Any, x: int, point: Mapping[str, Any]) -> None:
        parameters = dict(request.parameters) if isinstance(request, StrategyPoint) else {}
        line = self.lines.get((panel, i))
        if line is None:
            line = Line(
                panel=panel, label=request.label, strategy=point["strategy"], parameters=parameters, x=[],
                peak_bytes=[], work=[], seconds=[], fits=[],
            )  # fmt: skip
            self.lines[panel, i] = line
        if line["label"] != request.label:  # the axis varies a parameter
            line["parameters"] = {k: v for k, v in line["parameters"].items() if parameters.get(k) == v}
            line["label"] = StrategyPoint(line["strategy"], line["parameters"]).label
        primal = point["flops"]["primal"]
        line["x"].append(x)
        line["peak_bytes"].append(point["peak_bytes"])
        line["work"].append(point["flops"]["total"] / primal if primal else 0.0)
        line["seconds"].append(point["seconds"])
        line["fits"].append(point["fits"])

    def _representative(self, points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        fitting = [p for p in points if p["fits"]] if self.limited else []
        if fitting:
            return min(fitting, key=lambda p: (p["seconds"] or 0.0, p["flops"]["total"], p["peak_bytes"]))
        return min(points, key=lambda p: (p["peak_bytes"], p["flops"]["total"]))

    def chart(self) -> Chart:
        fixed: dict[str, Any] = {}
        for k, axis in enumerate(self.grid.axes):
            if k not in (self.x, self.panel):
                row = axis.values[self.middle[k]]
                fixed |= {key: coordinate(v) for key, v in zip(axis.keys, row, strict=True)}
        return Chart(x=self.x, panel=self.panel, panels=self.panels, fixed=fixed, lines=[*self.lines.values()])


def _numeric(axis: Axis) -> bool:
    return all(isinstance(row[0], int | float) and not isinstance(row[0], bool) for row in axis.values)
