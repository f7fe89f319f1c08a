"""Plan files: a schedule with what it takes, keeps and recomputes, as JSON that an executor runs.

A plan is plain data: what `sim.schedules.plan.plan_of` says of the schedule, and beside it where it comes from. What
is no single sweep of reverse mode on the device (copies, several sweeps, forward mode) has `actions` in
place of `order`; `sim.schedules.compact` says what they hold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sim.base import files
from sim.base.errors import SimError
from sim.graphs.graph import Graph
from sim.schedules import compact
from sim.schedules.actions import ACTIVATION, COPY, FORWARD, RESIDUAL, TIERS, VALUE_KINDS, VJP
from sim.schedules.lifetimes import allocations
from sim.schedules.plan import VERSION, fingerprint, plan_of, schedule_of
from sim.schedules.schedule import Schedule, replay, walk

Plan = dict[str, Any]

_WRITTEN_OUT = ("order", "actions")


def describe(
    schedule: Schedule,
    *,
    strategy: str,
    parameters: Mapping[str, Any],
    budget_bytes: int | None = None,
    seconds: float | None = None,
) -> Plan:
    """The plan that a schedule is; peak and flops are those of its replay.

    `kept` names by tier and kind the values that are in memory when the first derivative is taken;
    `recomputed` says how often nodes are evaluated beyond once.
    """
    graph = schedule.graph
    plan = plan_of(schedule) if _is_one_sweep(schedule) else _other(schedule)
    return plan | {
        "graph_sha256": graph_sha256(graph),
        "strategy": strategy,
        "parameters": dict(parameters),
        "budget_bytes": budget_bytes,
        "resident_bytes": graph.resident_bytes,
        "seconds": seconds,
        "kept": kept(schedule),
        "recomputed": recomputed(schedule),
    }


def _is_one_sweep(schedule: Schedule) -> bool:
    return not schedule.loops and bool(
        np.isin(schedule.opcode, (FORWARD, VJP)).all()
        and (schedule.rows < 2 * len(schedule.graph)).all()
        and (schedule.widths == 1).all()
    )


def _other(schedule: Schedule) -> Plan:
    graph, cost = schedule.graph, replay(schedule)
    return {
        "version": VERSION,
        "fingerprint": fingerprint(graph),
        "model": graph.name,
        "peak_bytes": cost.peak_bytes,
        "working_bytes": cost.working_bytes,
        "flops": cost.flops.total,
        "recompute_flops": cost.flops.recompute,
        "actions": compact.compact(schedule),
    }


def schedule_in(plan: Mapping[str, Any], graph: Graph) -> Schedule:
    """The schedule of a plan, for a graph of the same structure.

    Raises
    ------
    SimError
        If the graph is another one.
    """
    if "order" in plan:
        return schedule_of(graph, plan)
    if plan["fingerprint"] != fingerprint(graph):
        raise SimError(
            f"the plan was made for another model: its fingerprint is {plan['fingerprint']} ({plan.get('model')}), "
            f"that of this one is {fingerprint(graph)} ({graph.name})"
        )
    return compact.expand(plan["actions"], graph)


def to_json(plan: Mapping[str, Any]) -> str:
    """What plan.json holds: a line for each key, and for each action of what is written out."""
    lines = []
    for key, value in plan.items():
        inner = json.dumps(value, ensure_ascii=False, allow_nan=False)
        if key in _WRITTEN_OUT and value:
            each = ",\n  ".join(json.dumps(action, ensure_ascii=False, allow_nan=False) for action in value)
            inner = f"[\n  {each}\n ]"
        lines.append(f" {json.dumps(key)}: {inner}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write(plan: Mapping[str, Any], path: Path) -> Path:
    """The path, once the plan is in it.

    Raises
    ------
    OutputError
        If it cannot be written; what was there before is then left as it was.
    """
    return files.write(path, to_json(plan))


def read(path: Path) -> Plan:
    """The plan in a file.

    Raises
    ------
    SimError
        If it cannot be read, or holds something else.
    """
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SimError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError) as error:
        raise SimError(f"{path}: this is no plan of `sim plan`: {error}") from None
    if not isinstance(plan, dict) or "fingerprint" not in plan or not set(_WRITTEN_OUT) & plan.keys():
        raise SimError(f"{path}: this is no plan of `sim plan`")
    if plan.get("version") != VERSION:
        raise SimError(f"{path}: got version {plan.get('version')!r:.20} of a plan, expected {VERSION}; make it again")
    return plan


def graph_sha256(graph: Graph) -> str:
    """A digest of all that bytes and flops follow from: names, ops, connections, shapes and costs.

    Where it is the same the plan's peak is exact; `fingerprint` alone is the same at every batch.
    """
    nodes = [
        (
            n.name, n.op, n.inputs, n.output_shape, n.dtype, n.activation_bytes, n.forward_flops, n.jvp_flops,
            n.vjp_flops, n.param_vjp_flops, n.param_size, n.residual_bytes, n.needs, n.reads, n.workspace_bytes,
            n.taping_workspace_bytes, n.vjp_workspace_bytes, n.vjp_broadcasts, n.tied_to,
        )
        for n in graph.nodes
    ]  # fmt: skip
    inputs = [(i.name, i.shape, i.dtype, i.bytes, i.constant) for i in graph.inputs]
    question = [graph.wrt, graph.batch, graph.optimizer, graph.preallocated_gradients]
    return hashlib.sha256(json.dumps([question, inputs, nodes], separators=(",", ":")).encode()).hexdigest()


def kept(schedule: Schedule) -> dict[str, dict[str, list[str]]]:
    """The nodes whose activation or residual is in memory when the first derivative is taken: {tier: {kind: names}}.

    These are the checkpoints, and all that the first VJPs read.
    """
    t, n = schedule.table, len(schedule.graph)
    primal = np.isin(t.opcode[schedule.flat.rows], (FORWARD, COPY))
    stop = int(np.argmin(primal)) if not primal.all() else len(primal)
    found: dict[str, dict[str, list[str]]] = {}
    for v in np.flatnonzero(allocations(schedule, stop=stop).live).tolist():
        kind, tier = int(t.value_kind[v]), int(t.value_tier[v])
        if kind in (ACTIVATION, RESIDUAL) and (v < 5 * n or tier):
            names = found.setdefault(TIERS[tier], {}).setdefault(VALUE_KINDS[kind], [])
            names.append(t.describe_value(v).node)
    return found


def recomputed(schedule: Schedule) -> dict[str, int]:
    """How often each node is evaluated beyond once, in the order of the graph; nodes evaluated once are left out."""
    runs = walk(schedule).runs[: len(schedule.graph)]
    again = np.flatnonzero(runs > 1)
    return {schedule.graph.nodes[i].name: int(runs[i]) - 1 for i in again.tolist()}
