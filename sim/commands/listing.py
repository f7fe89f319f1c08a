"""`sim list`: what there is to choose from, each with its parameters and one line that says what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sim
from sim.commands.output import emit
from sim.document import DocumentError
from sim.registry import Entry
from sim.units import format_bytes

Rows = list[tuple[str, str, str]]
"""Name, what it takes, what it is."""


def show(topic: str | None) -> int:
    """0, once one topic or all of them are printed."""
    if topic is not None:
        emit(_text(TOPICS[topic]()))
        return 0
    emit("\n".join(f"{name}\n{_text(rows(), indent='  ')}" for name, rows in TOPICS.items()))
    return 0


def _text(rows: Rows, *, indent: str = "") -> str:
    widths = [max((len(r[i]) for r in rows), default=0) for i in range(2)]
    lines = [f"{indent}{name:<{widths[0]}}  {takes:<{widths[1]}}  {about}".rstrip() for name, takes, about in rows]
    return "".join(f"{line}\n" for line in lines)


def _strategies() -> Rows:
    from sim import strategies

    return _entries(strategies.load())


def _schedules() -> Rows:
    from sim import strategies

    rows: Rows = []
    for strategy in strategies.load().values():
        if strategy.variants is not None:
            key, registry = strategy.variants
            rows += [(f"{strategy.name} {key}={name}", takes, about) for name, takes, about in _entries(registry)]
    return rows


def _families() -> Rows:
    from sim.scenario import graph_kinds

    return [(name, "", about) for name, _, about in _entries(graph_kinds())]


def _entries(registry: Mapping[str, Entry[Any]]) -> Rows:
    return [(name, ", ".join(entry.model.model_fields), entry.summary) for name, entry in sorted(registry.items())]


def _devices() -> Rows:
    from sim.device import PRESETS

    rows = []
    for name, device in PRESETS.items():
        memory = "" if device.memory_bytes is None else format_bytes(device.memory_bytes)
        rates = f"{device.flops_per_s / 1e12:g} TFLOP/s, {device.bandwidth_bytes_per_s / 1e9:g} GB/s"
        rows.append((name, f"{rates}, {memory}", device.source.partition(". ")[0]))
    return rows


def _scenarios() -> Rows:
    """The scenarios in `scenarios/` here, or else of the checkout that this program runs from."""
    from sim import yamltext

    places = [Path("scenarios"), Path(sim.__path__[0]).parent / "scenarios"]
    folder = next((p for p in places if p.is_dir()), None)
    rows: Rows = []
    for path in sorted(folder.glob("*.y*ml")) if folder else []:
        try:
            data = yamltext.read(path).data
            about = str(data.get("description", "")) if isinstance(data, dict) else ""
        except DocumentError:
            about = "(not YAML: `sim validate` says why)"
        rows.append((str(path), "", about))
    return rows


TOPICS: Mapping[str, Callable[[], Rows]] = {
    "strategies": _strategies,
    "schedules": _schedules,
    "families": _families,
    "devices": _devices,
    "scenarios": _scenarios,
}
