"""The map that a scenario may ask for: two of its keys varied, and who wins in each cell.

A key is written as messages name places: `graph.widths[0]`, `graph.length`, `budget`. The graph in
the file stays a whole graph, so that everything else works as without a map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from sim.base.document import KeyPath
from sim.base.registry import Problem
from sim.base.units import parse_bytes
from sim.scenario.keys import KEY, place
from sim.scenario.points import listed

Measure = Literal["flops", "peak_bytes", "seconds"]
MOST_CELLS = 2_500


def _list_or_range(value: Any) -> Any:
    if not isinstance(value, list | dict):
        raise ValueError("a list of values, or a range such as {from: 1, to: 64, factor: 2}")
    return value


class AxisFile(BaseModel):
    """One key of the scenario and the values it takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    key: Annotated[str, Field(description="A key under graph, such as graph.widths[0], or budget.")]
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
    """A key as a path, with its values and where each of them stands in the file."""

    key: str
    path: KeyPath
    label: str
    values: tuple[Any, ...]
    places: tuple[KeyPath, ...]


@dataclass(frozen=True)
class Regimes:
    """Two axes, and what a strategy wins by."""

    x: Axis
    y: Axis
    by: Measure

    def __len__(self) -> int:
        return len(self.x.values) * len(self.y.values)


def read(section: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[Regimes | None, list[Problem]]:
    """The map that a `regimes:` section of valid shape asks for, or what is wrong with it.

    `data` is the whole file, in which the keys must name something.
    """
    problems: list[Problem] = []
    axes = {name: _axis(section[name], ("regimes", name), data, problems) for name in ("x", "y")}
    x, y = axes["x"], axes["y"]
    if x is None or y is None:
        return None, problems
    if x.path == y.path:
        problems.append(Problem(("regimes", "y", "key"), f"got {y.key!r} on both axes, expected two different keys"))
    regimes = Regimes(x, y, section.get("by", "flops"))
    if len(regimes) > MOST_CELLS:
        message = f"makes {len(regimes)} cells, expected at most {MOST_CELLS}; give a larger step or factor"
        problems.append(Problem(("regimes",), message))
    if regimes.by == "seconds" and data.get("device") is None:
        problems.append(Problem(("regimes", "by"), "got 'seconds', but without a device there are no times"))
    return (None if problems else regimes), problems


def _axis(entry: Mapping[str, Any], path: KeyPath, data: Mapping[str, Any], problems: list[Problem]) -> Axis | None:
    count = len(problems)
    key = entry["key"]
    place = _place(key, data)
    if isinstance(place, str):
        problems.append(Problem((*path, "key"), place))
    values, wrong = listed(entry["values"], (*path, "values"))
    problems += wrong
    if key == "budget":
        values = list(_sizes(values, problems))
    for value, at in values:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            problems.append(Problem(at, f"got {value!r:.60}, expected a number or a word"))
    if len(problems) > count or isinstance(place, str):
        return None
    label = entry.get("label") or key
    return Axis(key, place, label, tuple(v for v, _ in values), tuple(at for _, at in values))


def _sizes(values: list[tuple[Any, KeyPath]], problems: list[Problem]) -> Iterator[tuple[int, KeyPath]]:
    for value, at in values:
        try:
            yield parse_bytes(value), at
        except ValueError as error:
            problems.append(Problem(at, f"got {value!r:.60}, expected {error}"))


def _place(key: str, data: Mapping[str, Any]) -> KeyPath | str:
    """The path that a key of the graph or the budget names, or why it names nothing that can be varied."""
    if KEY.fullmatch(key) and not (key == "budget" or key.startswith("graph.")):
        return f"got {key!r:.60}, expected a key under graph, such as graph.batch, or budget"
    path = place(key, data)
    if path == ("graph", "kind"):
        return f"got {key!r:.60}, expected a parameter of the graph; its kind stays the same"
    return path
