"""`sim list`: what there is to choose from, each with one line that says what it is, and its parameters."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.commands.command import app, emit
from sim.commands.exit import Exit

if TYPE_CHECKING:
    from sim.base.registry import Entry

Rows = list[tuple[str, str, str]]
"""Name, what it is, and what there is to know beside: its parameters, its source."""

WIDTH = 100


class Topic(StrEnum):
    """The topics of `sim list`."""

    strategies = "strategies"
    schedules = "schedules"
    pipelines = "pipelines"
    families = "families"
    devices = "devices"
    links = "links"
    scenarios = "scenarios"


@app.command("list")
def list_(
    topic: Annotated[Topic | None, typer.Argument(help="What to list; everything unless given.")] = None,
) -> Exit:
    """List strategies, schedules, pipelines, families, devices, links and scenarios."""
    if topic is not None:
        emit(_text(TOPICS[topic]()))
    else:
        emit("\n".join(f"{name}\n{_text(rows(), indent='  ')}" for name, rows in TOPICS.items()))
    return Exit.FINE


def _text(rows: Rows, *, indent: str = "") -> str:
    margin = indent + " " * (max((len(name) for name, _, _ in rows), default=0) + 2)
    lines = []
    for name, about, beside in rows:
        lines.append(f"{indent + name:<{len(margin)}}{about}".rstrip())
        lines += textwrap.wrap(beside, WIDTH, initial_indent=margin, subsequent_indent=margin)
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
            rows += [(f"{strategy.name} {key}={name}", about, takes) for name, about, takes in _entries(registry)]
    return rows


def _pipelines() -> Rows:
    from sim.parallel import schedules

    return _entries(schedules.load())


def _families() -> Rows:
    from sim.scenario.scenario import graph_kinds

    return _entries(graph_kinds())


def _entries(registry: Mapping[str, Entry[Any]]) -> Rows:
    return [(name, entry.summary, ", ".join(entry.model.model_fields)) for name, entry in sorted(registry.items())]


def _devices() -> Rows:
    from sim.base.units import format_bytes
    from sim.simulation.device import PRESETS

    rows = []
    for name, device in PRESETS.items():
        memory = "" if device.memory_bytes is None else format_bytes(device.memory_bytes)
        rates = f"{device.flops_per_s / 1e12:g} TFLOP/s, {device.bandwidth_bytes_per_s / 1e9:g} GB/s"
        rows.append((name, f"{rates}, {memory}", device.source))
    return rows


def _links() -> Rows:
    from sim.base.units import format_seconds
    from sim.parallel.links import PRESETS

    rows = []
    for name, link in PRESETS.items():
        about = f"{link.bytes_per_s / 1e9:g} GB/s a direction after {format_seconds(link.latency_s)}"
        rows.append((name, f"{about}, shared by a machine" if link.shared else about, link.source))
    return rows


def _scenarios() -> Rows:
    """The scenarios in `scenarios/` here, or else those that come with the program, by name."""
    from sim.base import yaml as yamltext
    from sim.base.document import DocumentError
    from sim.scenario import shipped

    here = Path("scenarios")
    rows: Rows = []
    for path in sorted((here if here.is_dir() else shipped.folder()).glob("*.y*ml")):
        try:
            data = yamltext.read(path).data
            about = str(data.get("description", "")) if isinstance(data, dict) else ""
        except DocumentError:
            about = "(not YAML: `sim validate` says why)"
        rows.append((str(path) if here.is_dir() else path.stem, about, ""))
    return rows


TOPICS: Mapping[Topic, Callable[[], Rows]] = {
    Topic.strategies: _strategies,
    Topic.schedules: _schedules,
    Topic.pipelines: _pipelines,
    Topic.families: _families,
    Topic.devices: _devices,
    Topic.links: _links,
    Topic.scenarios: _scenarios,
}
