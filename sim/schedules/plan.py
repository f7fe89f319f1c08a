"""Plans: a schedule in a form that outlives the program, for the model that it was made for.

`plan_of` turns a schedule of a graph into plain data (JSON), `schedule_of` turns it back into a schedule
of a graph with the same structure, whatever its batch. One sweep of reverse mode is an `order` of
evaluations and VJPs, which serves with and without a loss at the graph's end; everything else
(copies, several sweeps, forward mode) has `actions`, whose items `sim.schedules.compact` makes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sim.base import files
from sim.base import json as positioned
from sim.base.document import Document
from sim.base.errors import NotApplicable, SimError
from sim.base.registry import Count, Problem, Size, problems_of
from sim.graphs.graph import Graph
from sim.graphs.node import GRANULARITY, LOSS
from sim.schedules.compact import compact, expand
from sim.schedules.effects import COPY, FORWARD, KINDS, VJP
from sim.schedules.replay import Walk, cost_of, walk
from sim.schedules.schedule import Builder, Schedule
from sim.schedules.values import ACTIVATION, RESIDUAL, TIERS, VALUE_KINDS, Numbers

VERSION = 1
Plan = dict[str, Any]
Run = tuple[Literal["forward", "vjp"], Size, Size]

_WRITTEN_OUT = ("order", "actions")


class PlanFile(BaseModel):
    """The keys of a plan that a schedule is made from, and what executors ask it for; the others are for people."""

    model_config = ConfigDict(extra="allow", strict=True)

    version: int
    fingerprint: str
    model: str
    peak_bytes: Annotated[Size, Field(description="of its replay, resident ones included")]
    width: Annotated[Count, Field(description="cotangents that the sweep of `order` carries")] = 1
    order: list[Run] | None = None
    actions: list[Any] | None = None

    @model_validator(mode="after")
    def _has_one_form(self) -> PlanFile:
        if (self.order is None) == (self.actions is None):
            raise ValueError("either 'order' or 'actions'")
        return self


def fingerprint(graph: Graph) -> str:
    """16 hexadecimal digits of a graph's structure: names, ops, connections and parameters of its nodes.

    Sizes of activations do not count, so that a plan serves other batches; nor does a loss behind the model.
    """
    described = [(n.name, n.op, list(n.inputs), n.param_size) for n in graph.nodes if not n.attributes.get(LOSS)]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


def graph_sha256(graph: Graph) -> str:
    """A digest of all that bytes and flops follow from: names, ops, connections, shapes and costs.

    Where it is the same the plan's peak is exact; `fingerprint` alone is the same at every batch.
    """
    nodes = [
        (
            n.name, n.op, n.inputs, n.output_shape, n.dtype, n.activation_bytes, n.forward_flops, n.jvp_flops,
            n.vjp_flops, n.param_vjp_flops, n.param_size, n.residual_bytes, n.needs, n.reads, n.workspace_bytes,
            n.taping_workspace_bytes, n.vjp_workspace_bytes, n.vjp_broadcasts, n.tied_to,
            *([] if n.cotangent_bytes is None else [n.cotangent_bytes]),
        )
        for n in graph.nodes
    ]  # fmt: skip
    inputs = [(i.name, i.shape, i.dtype, i.bytes, i.constant) for i in graph.inputs]
    question = [graph.wrt, graph.batch, graph.optimizer, graph.preallocated_gradients]
    outputs = [graph.outputs] if graph.plain else []
    return hashlib.sha256(json.dumps([question, inputs, nodes, *outputs], separators=(",", ":")).encode()).hexdigest()


def plan_of(schedule: Schedule) -> Plan:
    """A schedule as plain data: what it does, what it keeps, and what it takes.

    `order` lists runs [kind, first, last] of consecutive nodes, forwards upward and VJPs downward; its
    VJPs all carry `width` cotangents, 1 unless given. `kept` names by tier and kind the values that are
    in memory when the first derivative is taken; `recomputed` says how often nodes are evaluated again.
    """
    graph, walked = schedule.graph, walk(schedule)
    cost = cost_of(schedule, walked)
    counts = walked.runs[: len(graph)]
    return {
        "version": VERSION,
        "fingerprint": fingerprint(graph),
        "model": graph.name,
        "granularity": graph.nodes[0].attributes.get(GRANULARITY),
        "inputs": {i.name: {"shape": list(i.shape), "dtype": i.dtype} for i in graph.inputs if not i.constant},
        "peak_bytes": cost.peak_bytes,
        "working_bytes": cost.working_bytes,
        "resident_bytes": cost.resident_bytes,
        "flops": cost.flops.total,
        "recompute_flops": cost.flops.recompute,
        "nodes": {
            node.name: "recompute" if counts[i] > 1 else "keep" for i, node in enumerate(graph.nodes) if _of_model(node)
        },
        "graph_sha256": graph_sha256(graph),
        "kept": kept(schedule),
        "recomputed": recomputed(schedule, walked),
    } | _form(schedule)


def _of_model(node: Any) -> bool:
    return not node.attributes.get(LOSS)


def _form(schedule: Schedule) -> Plan:
    """The inputs of a schedule that is made again."""
    adjoint = schedule.opcode == VJP
    width = int(schedule.widths[adjoint].max(initial=1))
    own = schedule.rows < Numbers(len(schedule.graph), len(schedule.graph.inputs)).rows(VJP).stop
    one_sweep = not schedule.loops and own.all() and (schedule.widths == np.where(adjoint, width, 1)).all()
    if not one_sweep:
        return {"actions": compact(schedule)}
    model = sum(map(_of_model, schedule.graph.nodes))
    steps = [(o, i) for o, i in zip(schedule.opcode.tolist(), schedule.node.tolist(), strict=True) if i < model]
    return ({"width": width} if width > 1 else {}) | {"order": _runs(steps)}


def _runs(steps: list[tuple[int, int]]) -> list[list[str | int]]:
    """Steps in order as runs of one kind over consecutive nodes."""
    runs: list[list[str | int]] = []
    previous: tuple[int, int] | None = None
    for opcode, i in steps:
        if previous is not None and (opcode, i) == (previous[0], previous[1] + (1 if opcode == FORWARD else -1)):
            runs[-1][2] = i
        else:
            runs.append([KINDS[opcode], i, i])
        previous = (opcode, i)
    return runs


def schedule_of(graph: Graph, plan: Mapping[str, Any]) -> Schedule:
    """The schedule of a plan on a graph with its structure; a loss behind the model is evaluated where it belongs.

    Raises
    ------
    NotApplicable
        If the plan was made for another model.
    SimError
        If it is no plan, or one of another version.
    """
    checked = _checked(plan, Document("plan", "", dict(plan)))
    own = fingerprint(graph)
    if checked.fingerprint != own:
        raise NotApplicable(
            f"the plan was made for another model: its fingerprint is {checked.fingerprint} ({checked.model}), "
            f"that of this one is {own} ({graph.name})"
        )
    return (
        expand(checked.actions or [], graph) if checked.order is None else _swept(graph, checked.order, checked.width)
    )


def _swept(graph: Graph, order: list[Run], width: int) -> Schedule:
    n, model = len(graph), sum(map(_of_model, graph.nodes))
    numbers, active = Numbers(n, len(graph.inputs)), graph.active[len(graph.inputs) :]
    builder = Builder(graph)

    def add(kind: str, first: int, last: int) -> None:
        nodes = np.arange(first, last + 1) if kind == KINDS[FORWARD] else np.arange(first, last - 1, -1)
        builder.rows(nodes if kind == KINDS[FORWARD] else numbers.row(VJP, nodes[active[nodes]]), width=width)

    adjoint = False
    for k, (kind, first, last) in enumerate(order):
        if max(first, last) >= model:
            raise SimError(f"plan.order[{k}]: got node {max(first, last)}, expected 0 … {model - 1}")
        if kind == KINDS[VJP] and not adjoint:
            adjoint = True
            add(KINDS[FORWARD], model, n - 1)
            add(KINDS[VJP], n - 1, model)
        add(kind, first, last)
    return builder.build()


def read(path: Path) -> Plan:
    """The plan in a file.

    Raises
    ------
    DocumentError
        If it cannot be read, or holds something else; at the place that is wrong.
    """
    document = positioned.read(path)
    if not isinstance(document.data, dict):
        raise document.error([Problem((), "this is no plan of `sim plan`, expected its keys such as fingerprint")])
    _checked(document.data, document)
    return document.data


def _checked(plan: Mapping[str, Any], document: Document) -> PlanFile:
    try:
        checked = PlanFile.model_validate_json(json.dumps(plan))
    except (TypeError, ValueError, RecursionError) as error:
        wrong = (
            problems_of(error, PlanFile) if isinstance(error, ValidationError) else [Problem((), f"no JSON: {error}")]
        )
        raise document.error(wrong) from None
    if checked.version != VERSION:
        message = f"got version {checked.version} of a plan, expected {VERSION}; make it again"
        raise document.error([Problem(("version",), message)])
    return checked


def write(plan: Mapping[str, Any], path: Path) -> Path:
    """The path, once the plan is in it.

    Raises
    ------
    OutputError
        If it cannot be written; what was there before is then left as it was.
    """
    return files.write(path, to_json(plan))


def to_json(plan: Mapping[str, Any]) -> str:
    """The text of plan.json: a line for each key, and for each action of what is written out."""
    lines = []
    for key, value in plan.items():
        inner = json.dumps(value, ensure_ascii=False, allow_nan=False)
        if key in _WRITTEN_OUT and value:
            each = ",\n  ".join(json.dumps(action, ensure_ascii=False, allow_nan=False) for action in value)
            inner = f"[\n  {each}\n ]"
        lines.append(f" {json.dumps(key)}: {inner}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def kept(schedule: Schedule) -> dict[str, dict[str, list[str]]]:
    """The nodes whose activation or residual is in memory when the first derivative is taken: {tier: {kind: names}}.

    These are the checkpoints, and all that the first VJPs read.
    """
    t = schedule.table
    primal = np.isin(t.opcode[schedule.flat.rows], (FORWARD, COPY))
    stop = int(np.argmin(primal)) if not primal.all() else len(primal)
    names: dict[str, dict[str, list[str]]] = {}
    for v in np.flatnonzero(walk(schedule, stop=stop).left if stop else []).tolist():
        kind, tier = int(t.columns.value_kind[v]), int(t.columns.value_tier[v])
        if kind in (ACTIVATION, RESIDUAL) and (t.numbers.is_of_node(v) or tier):
            names.setdefault(TIERS[tier], {}).setdefault(VALUE_KINDS[kind], []).append(t.describe_value(v).node)
    return names


def recomputed(schedule: Schedule, walked: Walk | None = None) -> dict[str, int]:
    """The evaluations of each node beyond the first, in the order of the graph; nodes evaluated once are left out."""
    runs = (walk(schedule) if walked is None else walked).runs[: len(schedule.graph)]
    return {schedule.graph.nodes[i].name: int(runs[i]) - 1 for i in np.flatnonzero(runs > 1).tolist()}
