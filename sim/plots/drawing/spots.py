"""Points and curves of results.json as a chart needs them: what they are called and which belong together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sim.base.pareto import Number
from sim.plots.drawing.style import short_bytes

Memory = Literal["auto", "total", "working"]


@dataclass(frozen=True)
class Spot:
    """One point of the results, as drawn: its series (strategy and its words), name, bytes, flops, seconds.

    `memory_in_time` is what the simulation saw in use, where copies lag behind. `copies` says that it
    moves values to another tier, whose price is time and not work.
    """

    strategy: str
    series: str
    numbers: tuple[tuple[str, Number], ...]
    label: str
    memory: int
    flops: int
    seconds: float | None
    memory_in_time: int
    copies: bool = False

    @property
    def is_planned(self) -> bool:
        """Tell whether a planner made it for a budget, so that it lies on a front."""
        return any(key == "budget" for key, _ in self.numbers)


@dataclass(frozen=True)
class Curve:
    """A front known beyond the points: every breakpoint (bytes, flops), or a lower bound and what it holds for."""

    label: str
    is_bound: bool
    breakpoints: tuple[tuple[Number, Number], ...]
    holds_for: str = ""


def short_label(strategy: str, parameters: Mapping[str, Any]) -> str:
    """The name of a point on a chart: words as they are, numbers with their key.

    A checkpointing schedule is known by its own name, so the strategy is left out before it.

    >>> short_label("reverse_checkpointed", {"schedule": "binomial", "slots": 3})
    'binomial slots=3'
    >>> short_label("forward_recompute", {"chunk": 8})
    'forward_recompute chunk=8'
    """
    return " ".join([_series(strategy, parameters), *(f"{k}={_value(k, v)}" for k, v in _numbers(parameters))])


def hidden_resident(points: Sequence[Mapping[str, Any]], memory: Memory) -> int | None:
    """The resident bytes to leave out of a chart, which all points of a graph share; `None` if totals are charted.

    By default they are left out where they are more than half of the smallest peak, because then what a
    strategy can change would be squeezed into a part of the axis.
    """
    resident = max(p["resident_bytes"] for p in points)
    much = 2 * resident > min(p["peak_bytes"] for p in points)
    return resident if memory == "working" or (memory == "auto" and much) else None


def read_spot(point: Mapping[str, Any], *, working: bool) -> Spot:
    """A point of the parsed results.json, with its working bytes or its total peak bytes."""
    parameters = point.get("parameters") or {}
    memory = point["working_bytes" if working else "peak_bytes"]
    lag = max(0, (point.get("simulated_peak_bytes") or 0) - point["peak_bytes"])
    return Spot(
        strategy=point["strategy"],
        series=_series(point["strategy"], parameters),
        numbers=tuple(_numbers(parameters)),
        label=short_label(point["strategy"], parameters),
        memory=memory,
        memory_in_time=memory + lag,
        flops=point["flops"]["total"],
        seconds=point.get("seconds"),
        copies=any((point.get("copied_bytes") or {}).values()),
    )


def read_curve(curve: Mapping[str, Any], *, resident: int) -> Curve:
    """An entry of the parsed results' `curves`: `label`, `kind` (exact or bound), `breakpoints`, `bound_class`.

    `resident` bytes are left out of the breakpoints' total bytes.
    """
    pairs = tuple(sorted((b - resident, f) for b, f in curve["breakpoints"]))
    holds_for = curve.get("bound_class", "")
    label = f"{curve['label']}, {holds_for}" if holds_for else curve["label"]
    return Curve(label, curve["kind"] == "bound", pairs, holds_for)


def sweeps(spots: Sequence[Spot]) -> list[list[int]]:
    """Points of one series that differ in one number alone, in its order; the number with most values if several do."""
    families: dict[Hashable, list[int]] = {}
    for i, spot in enumerate(spots):
        families.setdefault((spot.series, tuple((k, type(v)) for k, v in spot.numbers)), []).append(i)
    out = []
    for members in families.values():
        keys = [k for k, _ in spots[members[0]].numbers]
        values = [[v for _, v in spots[i].numbers] for i in members]
        if not keys:
            continue
        varied = max(range(len(keys)), key=lambda k: len({row[k] for row in values}))
        lines: dict[Hashable, list[tuple[Number, int]]] = {}
        for i, row in zip(members, values, strict=True):
            lines.setdefault(tuple(row[:varied] + row[varied + 1 :]), []).append((row[varied], i))
        out += [[i for _, i in sorted(line)] for line in lines.values() if len(line) > 1]
    return out


def _series(strategy: str, parameters: Mapping[str, Any]) -> str:
    words = [str(v) if not isinstance(v, bool) else f"{k}={str(v).lower()}" for k, v in _words(parameters)]
    return " ".join(words if "schedule" in parameters else [strategy, *words])


def _words(parameters: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(k, v) for k, v in parameters.items() if v is not None and (isinstance(v, bool | str))]


def _numbers(parameters: Mapping[str, Any]) -> list[tuple[str, Number]]:
    return [(k, v) for k, v in parameters.items() if isinstance(v, int | float) and not isinstance(v, bool)]


def _value(key: str, value: Number) -> str:
    if isinstance(value, int) and (key in ("budget", "tape") or key.endswith("bytes")):
        return short_bytes(value).replace(" ", "\N{NO-BREAK SPACE}")
    if key == "budget":  # a share of the peak of the order given
        return f"{100 * value:.4g}%"
    return f"{value:g}" if isinstance(value, float) else str(value)
