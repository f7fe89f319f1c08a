"""Axes: keys of a scenario and the values they take, and the grid of cells that several axes span.

`sweep:` asks for the points of every cell, `regimes:` for the winner in each cell of two axes. A key is
written as messages and `--set` name places: `graph.widths[0]`, `device`, `budget`,
`strategies[1].reverse_checkpointed.slots`. The file stays a whole scenario without its axes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from sim.base.document import KeyPath
from sim.base.registry import Problem
from sim.base.units import parse_bytes
from sim.scenario.keys import place
from sim.scenario.points import listed

Measure = Literal["flops", "peak_bytes", "seconds"]
MOST_CELLS = 2_500
"""Cells of a map, which has to be readable."""
MOST_SWEPT = 1_000_000
"""Cells of a sweep."""
FIXED = ("version", "name", "description", "sweep", "regimes")
"""Keys that no axis varies."""


def _list_or_range(value: Any) -> Any:
    if not isinstance(value, list | dict):
        raise ValueError("a list of values, or a range such as {from: 1, to: 64, factor: 2}")
    return value


def _axes(value: Any) -> Any:
    if not isinstance(value, dict) or not value:
        raise ValueError("keys with their values, such as graph.batch: [16, 32, 64]")
    return value


Sweep = Annotated[
    Any,
    PlainValidator(_axes),
    WithJsonSchema({"type": "object", "minProperties": 1, "additionalProperties": {"type": "array", "minItems": 1}}),
]
"""The `sweep:` section as a file has it: axes by their keys."""


class AxisFile(BaseModel):
    """One key of the scenario and the values it takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    key: Annotated[str, Field(description="A key of the scenario, such as graph.widths[0], device or budget.")]
    values: Annotated[
        Any,
        PlainValidator(_list_or_range),
        WithJsonSchema({"type": "array", "minItems": 1, "items": {"type": ["number", "string"]}}),
        Field(description="A list, or a range."),
    ]
    label: Annotated[str, Field(description="What the axis is called on the figure; the key unless given.")] = ""


class RegimesFile(BaseModel):
    """A map of who wins where two keys are varied."""

    model_config = ConfigDict(extra="forbid", strict=True)

    x: Annotated[AxisFile, Field(description="Varied from left to right.")]
    y: Annotated[AxisFile, Field(description="Varied from bottom to top.")]
    by: Annotated[Measure, Field(description="What a strategy wins by: the least of it within the budget.")] = "flops"


@dataclass(frozen=True)
class Axis:
    """Keys that take their values together, mostly one; `values[i]` has one for each of them, from `places[i]`."""

    keys: tuple[str, ...]
    paths: tuple[KeyPath, ...]
    label: str
    values: tuple[tuple[Any, ...], ...]
    places: tuple[KeyPath, ...]

    def __len__(self) -> int:
        return len(self.values)

    def shown(self, i: int) -> str:
        """The keys with their values at one place of the axis: `graph.batch = 16`."""
        return ", ".join(f"{key} = {coordinate(v)}" for key, v in zip(self.keys, self.values[i], strict=True))


@dataclass(frozen=True)
class Grid:
    """The cells of several axes, by number: the last axis varies first."""

    axes: tuple[Axis, ...]

    def __len__(self) -> int:
        return math.prod(map(len, self.axes))

    def at(self, cell: int) -> tuple[int, ...]:
        """The place of a cell on each axis."""
        places = []
        for axis in reversed(self.axes):
            cell, i = divmod(cell, len(axis))
            places.append(i)
        return tuple(reversed(places))

    def number(self, at: Iterable[int]) -> int:
        """The number of the cell at a place on each axis."""
        cell = 0
        for axis, i in zip(self.axes, at, strict=True):
            cell = cell * len(axis) + i
        return cell

    def values(self, cell: int) -> dict[KeyPath, Any]:
        """The values of a cell by the paths of their keys."""
        return {
            path: value
            for axis, i in zip(self.axes, self.at(cell), strict=True)
            for path, value in zip(axis.paths, axis.values[i], strict=True)
        }

    def coordinates(self, cell: int) -> dict[str, Any]:
        """The values of a cell by their keys, each a number or text."""
        return {
            key: coordinate(value)
            for axis, i in zip(self.axes, self.at(cell), strict=True)
            for key, value in zip(axis.keys, axis.values[i], strict=True)
        }

    def corners(self, most: int = 64) -> list[int]:
        """The cells at the ends of axes, of at most as many axes as make `most` cells."""
        cells: list[tuple[int, ...]] = [()]
        for axis in self.axes:
            ends = sorted({0, len(axis) - 1})
            cells = [(*at, end) for at in cells for end in (ends if len(cells) * len(ends) <= most else ends[-1:])]
        return [self.number(at) for at in cells]


@dataclass(frozen=True)
class Regimes:
    """Two axes, and what a strategy wins by."""

    x: Axis
    y: Axis
    by: Measure

    @property
    def grid(self) -> Grid:
        """The cells of the map, row by row from below."""
        return Grid((self.y, self.x))

    def __len__(self) -> int:
        return len(self.grid)


def coordinate(value: Any) -> Any:
    """A value of an axis as a number or text, lists and mappings as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


@dataclass(frozen=True)
class _Written:
    """The place where a file has the keys of an axis, and that of its values."""

    keys: KeyPath
    values: KeyPath
    on_key: bool = False

    def problem(self, message: str) -> Problem:
        return Problem(self.keys, message, self.on_key)


def read_sweep(section: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[Grid | None, list[Problem]]:
    """The grid that a `sweep:` section asks for, or what is wrong with it; `data` is the whole file.

    Keys separated by commas take their values together: each value is then a list with one for each key.
    """
    problems: list[Problem] = []
    axes: list[Axis] = []
    for names, values in section.items():
        written = _Written(("sweep", names), ("sweep", names), on_key=True)
        axis = _axis(linked(names), values, written, data, problems)
        if axis is None:
            continue
        pairs = ((a, b) for other in axes for a in axis.paths for b in other.paths)
        if any(a[: len(b)] == b[: len(a)] for a, b in pairs):
            problems.append(written.problem("varies what another axis varies, expected different keys"))
        axes.append(axis)
    grid = Grid(tuple(axes))
    if len(grid) > MOST_SWEPT:
        message = f"makes {len(grid)} cells, expected at most {MOST_SWEPT}; give a larger step or factor"
        problems.append(Problem(("sweep",), message))
    return (None if problems else grid), problems


def linked(names: str) -> tuple[str, ...]:
    """The keys of an axis of a sweep: `graph.hidden, graph.heads` are two that take their values together."""
    return tuple(key.strip() for key in names.split(","))


def read_regimes(section: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[Regimes | None, list[Problem]]:
    """The map that a `regimes:` section of valid shape asks for, or what is wrong with it.

    `data` is the whole file, in which the keys must name something.
    """
    problems: list[Problem] = []
    x, y = (_axis_of_map(section[name], ("regimes", name), data, problems) for name in ("x", "y"))
    if x is None or y is None:
        return None, problems
    if x.paths == y.paths:
        message = f"got {y.keys[0]!r} on both axes, expected two different keys"
        problems.append(Problem(("regimes", "y", "key"), message))
    regimes = Regimes(x, y, section.get("by", "flops"))
    if len(regimes) > MOST_CELLS:
        message = f"makes {len(regimes)} cells, expected at most {MOST_CELLS}; give a larger step or factor"
        problems.append(Problem(("regimes",), message))
    if regimes.by == "seconds" and data.get("device") is None:
        problems.append(Problem(("regimes", "by"), "got 'seconds', but without a device there are no times"))
    return (None if problems else regimes), problems


def _axis_of_map(
    entry: Mapping[str, Any], path: KeyPath, data: Mapping[str, Any], problems: list[Problem]
) -> Axis | None:
    """One axis of a map: a key whose values are numbers or words; the strategies are the same everywhere."""
    key, written, count = entry["key"], _Written((*path, "key"), (*path, "values")), len(problems)
    if key.startswith("strategies"):
        problems.append(written.problem(f"got {key!r:.60}, but the same strategies compete in every cell"))
    axis = _axis((key,), entry["values"], written, data, problems)
    for (value,), at in () if axis is None else zip(axis.values, axis.places, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            problems.append(Problem(at, f"got {value!r:.60}, expected a number or a word"))
    if axis is None or len(problems) > count:
        return None
    return replace(axis, label=entry.get("label") or key)


def _axis(
    keys: tuple[str, ...], values: Any, written: _Written, data: Mapping[str, Any], problems: list[Problem]
) -> Axis | None:
    """One axis of one key, or of several that are linked."""
    count = len(problems)
    paths = [_place(key, data) for key in keys]
    problems += [written.problem(why) for why in paths if isinstance(why, str)]
    if len(set(keys)) < len(keys):
        problems.append(written.problem("names a key twice, expected different keys"))
    several = len(keys) > 1
    if not isinstance(values, list if several else list | dict):
        expected = "a list of values" + ("" if several else ", or a range such as {from: 1, to: 64, factor: 2}")
        problems.append(Problem(written.values, f"got {values!r:.60}, expected {expected}"))
        return None
    found, wrong = listed(values, written.values)
    problems += wrong
    rows: list[tuple[Any, ...]] = []
    for value, at in found:
        if several and not (isinstance(value, list) and len(value) == len(keys)):
            expected = f"a list of {len(keys)} values, one for each of {', '.join(keys)}"
            problems.append(Problem(at, f"got {value!r:.60}, expected {expected}"))
            continue
        row = value if several else [value]
        rows.append(tuple(_size(key, v, at, problems) for key, v in zip(keys, row, strict=True)))
    if len(problems) > count:
        return None
    return Axis(
        keys=keys,
        paths=tuple(path for path in paths if not isinstance(path, str)),
        label=", ".join(keys),
        values=tuple(rows),
        places=tuple(at for _, at in found),
    )


def _size(key: str, value: Any, at: KeyPath, problems: list[Problem]) -> Any:
    """The value of a key; a budget in bytes."""
    if key == "budget" and value is not None:
        try:
            return parse_bytes(value)
        except ValueError as error:
            problems.append(Problem(at, f"got {value!r:.60}, expected {error}"))
    return value


def _place(key: str, data: Mapping[str, Any]) -> KeyPath | str:
    """The path that a key names, or why it names nothing that can be varied."""
    path = place(key, data)
    if not isinstance(path, str) and path[0] in FIXED:
        return f"got {key!r:.60}, which is the same in every cell"
    if path == ("graph", "kind"):
        return f"got {key!r:.60}, but each kind has keys of its own; vary graph as a whole"
    return path
