"""Plans: a schedule in a form that outlives the program, for the model that it was made for.

`plan_of` turns a schedule of a graph into plain data (JSON), `schedule_of` turns it back into a schedule
of a graph with the same structure, whatever its batch, and with or without a loss at its end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from sim.base.errors import NotApplicable
from sim.graphs.graph import Graph
from sim.graphs.node import GRANULARITY, LOSS
from sim.schedules.actions import FORWARD, KINDS, VJP
from sim.schedules.schedule import Builder, Schedule, replay

VERSION = 1


def fingerprint(graph: Graph) -> str:
    """16 hexadecimal digits of a graph's structure: names, ops, connections and parameters of its nodes.

    Sizes of activations do not count, so that a plan serves other batches; nor does a loss behind the model.
    """
    described = [(n.name, n.op, list(n.inputs), n.param_size) for n in graph.nodes if not n.attributes.get(LOSS)]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


def plan_of(schedule: Schedule) -> dict[str, Any]:
    """A schedule as plain data: the order of evaluations and VJPs, what it keeps, and what it takes.

    `order` lists runs [kind, first, last] of consecutive nodes, forwards upward and VJPs downward.

    Raises
    ------
    NotApplicable
        If the schedule is not one sweep of reverse mode on the device.
    """
    graph, cost = schedule.graph, replay(schedule)
    if schedule.loops or not np.isin(schedule.opcode, (FORWARD, VJP)).all():
        raise NotApplicable("a plan is one sweep of reverse mode without copies; this schedule is something else")
    model = _model_nodes(graph)
    counts = np.bincount(schedule.node[schedule.opcode == FORWARD], minlength=len(graph))
    kept = [i for i, node in enumerate(graph.nodes) if node.name in model]
    steps = [(int(o), int(i)) for o, i in zip(schedule.opcode, schedule.node, strict=True) if i < len(model)]
    return {
        "version": VERSION,
        "fingerprint": fingerprint(graph),
        "model": graph.name,
        "granularity": graph.nodes[0].attributes.get(GRANULARITY),
        "inputs": {i.name: {"shape": list(i.shape), "dtype": i.dtype} for i in graph.inputs if not i.constant},
        "peak_bytes": cost.peak_bytes,
        "working_bytes": cost.working_bytes,
        "flops": cost.flops.total,
        "recompute_flops": cost.flops.recompute,
        "nodes": {graph.nodes[i].name: "recompute" if counts[i] > 1 else "keep" for i in kept},
        "order": _runs(steps),
    }


def schedule_of(graph: Graph, plan: Mapping[str, Any]) -> Schedule:
    """The plan's schedule on a graph with its structure; a loss behind the model is evaluated where it belongs.

    Raises
    ------
    NotApplicable
        If the plan was made for another model or by another version, or copies values or loops.
    """
    if plan.get("version") != VERSION:
        raise NotApplicable(f"the plan is of version {plan.get('version')}, expected {VERSION}")
    own = fingerprint(graph)
    if plan["fingerprint"] != own:
        raise NotApplicable(
            f"the plan was made for another model: its fingerprint is {plan['fingerprint']} ({plan['model']}), "
            f"that of this one is {own} ({graph.name})"
        )
    if "order" not in plan:
        raise NotApplicable(
            f"the plan ({plan.get('strategy', 'it copies or loops')}) is no single reverse sweep on the device; "
            "plan without --device, or with a scenario of checkpointing strategies alone"
        )
    n, model = len(graph), len(_model_nodes(graph))
    active = graph.active[len(graph.inputs) :]
    rows: list[int] = []
    adjoint = False
    for kind, first, last in plan["order"]:
        vjp = kind == KINDS[VJP]
        if vjp and not adjoint:
            adjoint = True
            rows += [*range(model, n), *(n * VJP + i for i in range(n - 1, model - 1, -1) if active[i])]
        nodes = range(first, last - 1, -1) if vjp else range(first, last + 1)
        rows += [n * VJP + i if vjp else i for i in nodes if not vjp or active[i]]
    builder = Builder(graph)
    builder.rows(rows)
    return builder.build()


def _model_nodes(graph: Graph) -> set[str]:
    return {node.name for node in graph.nodes if not node.attributes.get(LOSS)}


def _runs(steps: list[tuple[int, int]]) -> list[list[str | int]]:
    """Steps in order as runs of one kind over consecutive nodes."""
    runs: list[list[str | int]] = []
    previous: tuple[int, int] | None = None
    for opcode, i in steps:
        following = previous is not None and (opcode, i) == (
            previous[0],
            previous[1] + (1 if opcode == FORWARD else -1),
        )
        if following:
            runs[-1][2] = i
        else:
            runs.append([KINDS[opcode], i, i])
        previous = (opcode, i)
    return runs
