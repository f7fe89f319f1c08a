"""Devices and schedules for tests of the simulation."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import Any

from hypothesis import assume

from sim.base.errors import NotApplicable
from sim.graphs.graph import Graph
from sim.schedules.actions import Copy
from sim.schedules.schedule import Schedule
from sim.schedules.values import TIERS, Value
from sim.simulation.device import Device
from sim.strategies import load

STRATEGIES = load()
EXAMPLES = {"segments": 2, "every": 2, "slots": 2, "units": 2, "budget": 10**9}
BESIDE = {"multilevel": {"host_slots": 1, "disk_slots": 1}}  # of which one is needed
ONE = Device(
    name="one flop a second", flops_per_s=1.0, bandwidth_bytes_per_s=math.inf, memory_bytes=None,
    to_host_bytes_per_s=10.0, from_host_bytes_per_s=10.0, to_disk_bytes_per_s=5.0, from_disk_bytes_per_s=5.0,
    overhead_s=0.0, copy_latency_s=0.0,
)  # fmt: skip


def calls(*, plain: bool = True) -> list[tuple[str, dict[str, Any]]]:
    """Every registered strategy and variant, with example values for what has no default.

    Those for plain graphs alone are among them if `plain`.
    """
    found = []
    for name, entry in STRATEGIES.items():
        if STRATEGIES.accepted[name] == "plain" and not plain:
            continue
        variants: list[tuple[dict[str, Any], Any]] = [({}, entry)]
        if entry.variants is not None:
            key, registry = entry.variants
            variants = [({key: variant}, registry[variant]) for variant in registry]
        for chosen, function in variants:
            parameters = inspect.signature(function.function).parameters.values()
            needed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
            beside = {k: v for variant in chosen.values() for k, v in BESIDE.get(variant, {}).items()}
            found.append((name, chosen | {p: EXAMPLES[p] for p in needed} | beside))
    return found


def linked(rate: float, **more: Any) -> Device:
    """The device with every link as fast as `rate`."""
    links = ("to_host", "from_host", "to_disk", "from_disk")
    return replace(ONE, **{f"{link}_bytes_per_s": rate for link in links}, **more)


def copied(graph: Graph, node: int, source: int, to: int) -> Copy:
    """The copy of a node's activation from one tier to another."""
    return Copy.of(Value("activation", graph.nodes[node].name, tier=TIERS[source]), TIERS[to])


def made(graph: Graph, call: tuple[str, dict[str, Any]]) -> Schedule:
    try:
        return STRATEGIES.call(call[0], graph, **call[1])
    except NotApplicable:
        assume(False)
        raise
