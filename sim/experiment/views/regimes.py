"""The map of winners: the points of a scenario in each cell of a map over two of its keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from sim.base.json import LARGEST_NUMBER, Amount, Number, Plain
from sim.base.store import opened
from sim.experiment.cells import Outcome, Outcomes, keepable
from sim.experiment.measurements import Measurements
from sim.experiment.views import view
from sim.scenario.axes import Axis, Measure


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
        If the graph of a cell cannot be built, or ends its worker; it says of which.
    """
    scenario, grid = run.scenario, run.scenario.regimes
    if grid is None:
        return None
    with opened(shared=keepable(scenario)) as store:
        measured = Outcomes(scenario, store, timed=grid.by == "seconds")
        measured.measure(run.workers, fresh=run.fresh, progress=_steps(run))
        values = [[_value(found, grid.by) for found in cell] for cell in measured]
    columns = len(grid.x)
    rows = [values[j * columns : (j + 1) * columns] for j in range(len(grid.y))]
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


def _steps(run: Measurements) -> Callable[[int], None]:
    """A step of the run for each cell of which all is known."""
    each, known = len(run.scenario.points), 0

    def progress(found: int) -> None:
        nonlocal known
        cells = known // each
        known += found
        for _ in range(known // each - cells):
            run.step()

    return progress


def _value(found: Outcome, by: Measure) -> Number | None:
    """The least that the points of a strategy take in a cell, of those that fit."""
    fitting = (p for p in found.points if p["fits"])
    return min((p["flops"]["total"] if by == "flops" else p[by] for p in fitting), default=None)


def _described(axis: Axis) -> Varied:
    return Varied(key=axis.keys[0], label=axis.label, values=[value for (value,) in axis.values])
