"""The strategies of a scenario, as written, to one point for each combination of parameter values.

A list or a range as the value of a parameter is tried value by value, unless the parameter itself
takes a list. Several such parameters give their Cartesian product. Points that are written twice
are kept once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from sim.base.document import KeyPath
from sim.base.errors import CountOverflow, GraphError, NotApplicable, ParameterError, SimError, suggest
from sim.base.registry import Entry, Problem, keywords
from sim.base.units import format_bytes, parse_bytes
from sim.graphs.graph import Graph
from sim.schedules.schedule import Schedule

MOST_POINTS = 10_000
REFUSALS = (NotApplicable, ParameterError, GraphError, CountOverflow)
"""The errors of a strategy that cannot work on a graph with these parameters."""
_RANGE_KEYS = ("from", "to", "step", "factor")
_RANGE = "a range such as {from: 2, to: 16}, {from: 2, to: 16, step: 2} or {from: 1, to: 64, factor: 2}"


@dataclass(frozen=True)
class StrategyPoint:
    """One strategy with one value for each parameter; `path` is where the scenario asks for it.

    Parameters in `derived` were worked out from the device and are not part of the label.
    """

    strategy: str
    parameters: Mapping[str, Any]
    path: KeyPath = ()
    derived: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """The name of the point in tables and charts.

        Words as they are, numbers with their key; a checkpointing schedule is known by its own name:
        `binomial slots=3`, `jacobian_chain optimal`, `forward_recompute chunk=8`.
        """
        values = {k: v for k, v in self.parameters.items() if v is not None and k not in self.derived}
        words = [v for v in values.values() if isinstance(v, str)]
        numbers = [f"{k}={_shown(k, v)}" for k, v in values.items() if not isinstance(v, str)]
        return " ".join([*([] if "schedule" in values else [self.strategy]), *words, *numbers])

    @property
    def entry(self) -> Entry[Any]:
        """The registered strategy, or the schedule or order that it names."""
        from sim import strategies

        return strategies.load()[self.strategy].variant(self.parameters)

    def schedule(self, graph: Graph) -> Schedule:
        """The schedule of this point on a graph; whatever the strategy raises comes through."""
        from sim import strategies

        return strategies.load()[self.strategy].function(graph, **self.parameters)

    def check(self, graph: Graph) -> None:
        """Raise what `schedule` would for a strategy that cannot work on a graph; nothing is planned."""
        entry = self.entry
        if entry.requires is not None:
            entry.requires(graph, **keywords(entry.requires, self.parameters))

    def problem(self, error: SimError) -> Problem:
        """One of the `REFUSALS` of this point, at the place that asks for it."""
        if isinstance(error, ParameterError) and error.parameter and error.parameter[0] in self.parameters:
            return Problem((*self.path, *error.parameter), str(error))
        return Problem(self.path, f"{self.label}: {error}")


FULL_STORE = StrategyPoint("reverse_full", {})
"""One evaluation and one adjoint sweep, nothing recomputed: what other points are compared with."""
IN_ORDER = StrategyPoint("in_order", {})
"""The same on plain graphs: every node once, in the order given."""


def baseline(graph: Graph) -> StrategyPoint:
    """The point that those of a graph are compared with."""
    return IN_ORDER if graph.plain else FULL_STORE


def planner(graph: Graph) -> StrategyPoint:
    """The strategy whose planned front the points of a graph are compared with."""
    if graph.plain:
        return StrategyPoint("rematerialize", {})
    return StrategyPoint("reverse_checkpointed", {"schedule": "optimal"})


@dataclass
class Expansion:
    """The points, what is wrong, and how many points were written more than once."""

    points: list[StrategyPoint] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    repeated: int = 0


def expand(items: list[Any]) -> Expansion:
    """Every point that the `strategies:` of a scenario ask for, in the order written."""
    result = Expansion()
    seen = set()
    for i, item in enumerate(items):
        for point in _expand_one(item, ("strategies", i), result):
            key = (point.strategy, repr(sorted(point.parameters.items())))
            if key in seen:
                result.repeated += 1
            else:
                seen.add(key)
                result.points.append(point)
    return result


def _expand_one(item: Any, path: KeyPath, result: Expansion) -> Iterator[StrategyPoint]:
    from sim import strategies

    request = _name_and_parameters(item)
    if isinstance(request, str):
        result.problems.append(Problem(path, request))
        return
    name, parameters = request
    if isinstance(item, dict):
        path = (*path, name)
    registry = strategies.load()
    if name not in registry:
        message = f"unknown strategy '{name}'{suggest(name, registry)}"
        result.problems.append(Problem(path, message, on_key=isinstance(item, dict)))
        return
    try:
        axes = [_values(name, key, value, parameters, (*path, key)) for key, value in parameters.items()]
    except _Refused as refused:
        result.problems.append(refused.problem)
        return
    count = math.prod(len(a) for a in axes)
    if count + len(result.points) > MOST_POINTS:
        message = f"makes {count} points, expected at most {MOST_POINTS} in a scenario"
        result.problems.append(Problem(path, message))
        return
    problems: dict[Problem, None] = {}
    for combination in itertools.product(*axes):
        values = {key: value for key, (value, _) in zip(parameters, combination, strict=True)}
        where = {key: at for key, (_, at) in zip(parameters, combination, strict=True)}
        checked, wrong = check(name, values)
        if wrong:
            for p in wrong:
                moved = (*where[str(p.path[0])], *p.path[1:]) if p.path and p.path[0] in where else (*path, *p.path)
                problems[Problem(moved, p.message, p.on_key)] = None
        else:
            yield StrategyPoint(name, checked, path)
    result.problems.extend(problems)


def _name_and_parameters(item: Any) -> tuple[str, dict[str, Any]] | str:
    if isinstance(item, str):
        return item, {}
    if isinstance(item, dict) and len(item) == 1:
        [(name, parameters)] = item.items()
        if parameters is None or isinstance(parameters, dict):
            return name, parameters or {}
        return f"got {parameters!r:.60} after '{name}:', expected its parameters such as {{chunk: 8}}"
    if isinstance(item, dict) and item:
        keys = ", ".join(f"'{k}'" for k in item)
        return f"got the keys {keys}, expected one strategy; indent its parameters further than its name"
    return f"got {item!r:.60}, expected the name of a strategy, or a name with parameters"


def check(strategy: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The parameters of a strategy, checked and converted, or what is wrong with them."""
    from sim import strategies

    entry: Entry[Schedule] = strategies.load()[strategy]
    if entry.variants is not None:
        key, registry = entry.variants
        if key not in values:
            return {}, [Problem((), f"'{key}' is missing{suggest('', registry)}")]
        if not isinstance(values[key], str):
            return {}, [Problem((key,), f"got {values[key]!r:.60}, expected one of {', '.join(sorted(registry))}")]
    return entry.check(values)


def listed(value: Any, path: KeyPath) -> tuple[list[tuple[Any, KeyPath]], list[Problem]]:
    """Each value of a list or of a range, with its place; or what is wrong with the range."""
    try:
        if isinstance(value, dict):
            return [(v, path) for v in _range(value, path)], []
        if not value:
            raise _Refused(path, "got an empty list, expected at least one value")
        return [(v, (*path, i)) for i, v in enumerate(value)], []
    except _Refused as refused:
        return [], [refused.problem]


class _Refused(Exception):
    def __init__(self, path: KeyPath, message: str, *, on_key: bool = False) -> None:
        self.problem = Problem(path, message, on_key)


def _values(
    strategy: str, key: str, value: Any, parameters: Mapping[str, Any], path: KeyPath
) -> list[tuple[Any, KeyPath]]:
    """Each value that a parameter is to take, with its place."""
    if not isinstance(value, list | dict):
        return [(value, path)]
    admitted = _admitted(strategy, key, parameters)
    if ("array" if isinstance(value, list) else "object") in admitted:
        return [(value, path)]
    values, wrong = listed(value, path)
    if wrong:
        raise _Refused(wrong[0].path, wrong[0].message, on_key=wrong[0].on_key)
    return values


def _admitted(strategy: str, key: str, parameters: Mapping[str, Any]) -> set[str]:
    """The JSON types that a parameter takes; empty for an unknown one, which validation refuses later."""
    from sim import strategies

    entry: Entry[Schedule] = strategies.load()[strategy]
    if entry.variants is None:
        return admitted_types(entry, key)
    chooser, registry = entry.variants
    names = parameters.get(chooser)
    first = names[0] if isinstance(names, list) and names else names
    names_one = key != chooser and isinstance(first, str) and first in registry
    return admitted_types(registry[str(first)], key) if names_one else set()


def admitted_types(entry: Entry[Any], key: str) -> set[str]:
    """The JSON types that one parameter of an entry takes, from its schema."""

    def types(part: Mapping[str, Any]) -> Iterator[str]:
        if "$ref" in part:
            yield from types(entry.schema["$defs"][part["$ref"].rpartition(".")[2]])
        if "type" in part:
            yield from [part["type"]] if isinstance(part["type"], str) else part["type"]
        for alternative in (*part.get("anyOf", ()), *part.get("oneOf", ())):
            yield from types(alternative)

    return set(types(entry.schema.get("properties", {}).get(key, {})))


def _range(value: dict[str, Any], path: KeyPath) -> list[Any]:
    for key in value:
        if key not in _RANGE_KEYS:
            message = f"unknown key '{key}'{suggest(key, _RANGE_KEYS)}; expected {_RANGE}"
            raise _Refused((*path, key), message, on_key=True)
    for key in ("from", "to"):
        if key not in value:
            raise _Refused(path, f"'{key}' is missing; expected {_RANGE}")
    if "step" in value and "factor" in value:
        raise _Refused((*path, "factor"), "got both step and factor, expected one of them", on_key=True)
    exact = {key: _exact(number, (*path, key)) for key, number in value.items()}
    start, stop = exact["from"], exact["to"]
    if stop < start:
        raise _Refused((*path, "to"), f"got {value['to']!r}, expected at least 'from', which is {value['from']!r}")
    terms = _geometric(value, exact, path) if "factor" in value else _arithmetic(value, exact, path)
    whole = start.denominator == stop.denominator == exact.get("step", start).denominator == 1
    return list(dict.fromkeys(round(t) if whole else float(t) for t in terms))


def _arithmetic(value: dict[str, Any], exact: dict[str, Fraction], path: KeyPath) -> list[Fraction]:
    start, step = exact["from"], exact.get("step", Fraction(1))
    if step <= 0:
        raise _Refused((*path, "step"), f"got {value['step']!r}, expected more than 0")
    count = int((exact["to"] - start) // step) + 1
    _bounded(count, path)
    return [start + step * i for i in range(count)]


def _geometric(value: dict[str, Any], exact: dict[str, Fraction], path: KeyPath) -> list[Fraction | float]:
    start, factor = exact["from"], exact["factor"]
    if start <= 0:
        raise _Refused((*path, "from"), f"got {value['from']!r}, expected more than 0 for a range with a factor")
    if factor <= 1:
        raise _Refused((*path, "factor"), f"got {value['factor']!r}, expected more than 1")
    count = math.floor(math.log(exact["to"] / start) / math.log(factor) + 1e-9) + 1
    _bounded(count, path)
    base = factor if factor.denominator == 1 else float(factor)  # powers of long fractions grow without bound
    return [start * base**i for i in range(count)]


def _bounded(count: int, path: KeyPath) -> None:
    if count > MOST_POINTS:
        raise _Refused(path, f"makes {count} values, expected at most {MOST_POINTS}; give a larger step, or a factor")


def _exact(number: Any, path: KeyPath) -> Fraction:
    if isinstance(number, int | float) and not isinstance(number, bool):
        return Fraction(repr(number))
    try:
        return Fraction(parse_bytes(number))
    except ValueError:
        raise _Refused(path, f"got {number!r:.60}, expected a number or a size such as 8 GB") from None


def _shown(key: str, value: Any) -> str:
    if key == "budget" and isinstance(value, float):
        return f"{value * 100:.4g}%"
    if isinstance(value, int) and (key in ("budget", "tape") or key.endswith("bytes")):
        return format_bytes(value).replace(" ", "")
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
