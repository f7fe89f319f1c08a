"""Pieces: the operations of a module, cut into what a schedule evaluates, drops and evaluates again as one.

Views own no memory, so they are no pieces of their own: each piece that reads a view makes it again
from the tensor that owns the memory. What depends on nothing but shapes is a constant, made once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import torch

from sim.base.errors import ParameterError
from sim.models.torch import Granularity
from sim.models.torch.recorded import ROOT, Captured, Op

GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)


@dataclass(eq=False)
class Piece:
    """Consecutive operations with what they read from outside and what others read from them.

    `reads` are values of other pieces, inputs and constants; each is the call that owns its memory.
    """

    name: str
    op: str
    ops: list[Op]
    reads: list[torch.fx.Node]
    parameters: list[torch.fx.Node]
    buffers: list[torch.fx.Node]
    outputs: list[torch.fx.Node]


@dataclass(eq=False)
class Pieces:
    """A module's pieces in order, and the calls (in order) that make its constants."""

    pieces: list[Piece]
    constant_ops: list[Op]
    constants: list[torch.fx.Node]


def cut(captured: Captured, granularity: Granularity) -> Pieces:
    """The pieces of a recorded module.

    `ops`: one for each call; `modules`: one for each call of a submodule without children, and for
    each other call; `blocks`: one for each element of the outermost `nn.Sequential`, `nn.ModuleList`
    or `nn.ModuleDict` on the way to a call, and otherwise as `modules`.
    """
    if granularity not in GRANULARITIES:
        raise ParameterError(f"unknown granularity '{granularity}'; known: {', '.join(GRANULARITIES)}")
    constant_ops = _constant_ops(captured)
    constant_nodes = dict.fromkeys([*captured.constants, *(op.node for op in constant_ops)])
    views = {op.node: op for op in captured.ops if op.aliases is not None and op.node not in constant_nodes}
    position = {op.node: i for i, op in enumerate(captured.ops)}
    runs: list[list[Op]] = []
    last: Hashable = None
    for i, op in enumerate(captured.ops):
        if op.node in views or op.node in constant_nodes:
            continue
        key = _key(op, i, granularity, captured.containers)
        if not runs or key != last:
            runs.append([])
        runs[-1].append(op)
        last = key
    closed = [_with_views(run, views, position) for run in runs]
    external = _external(closed, captured, views)
    joined = list(_without_silent(closed, external))
    producers = {op.node for ops in joined for op in ops if op.aliases is None}
    names = _names(joined, granularity, captured)
    pieces = [
        _piece(ops, *label, captured, producers, external, position) for ops, label in zip(joined, names, strict=True)
    ]
    used = {n for piece in pieces for n in piece.reads} | set(captured.outputs)
    return Pieces(pieces, constant_ops, [n for n in constant_nodes if n in used])


def _constant_ops(captured: Captured) -> list[Op]:
    """The calls that depend on nothing but constants and shapes."""
    constants = set(captured.constants)
    constant_ops = []
    for op in captured.ops:
        if not op.mutated and not is_random(op.node) and constants.issuperset(op.node.all_input_nodes):
            constants.add(op.node)
            constant_ops.append(op)
    return constant_ops


def is_random(node: torch.fx.Node) -> bool:
    """Tell whether a call draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _key(op: Op, index: int, granularity: Granularity, containers: frozenset[str]) -> Hashable:
    """The key of a call: calls in a row with equal keys make one piece."""
    if granularity == "blocks":
        block = _block(op, containers)
        if block is not None:
            return block
    if granularity != "ops" and op.leaf:
        return op.path[-1], op.call
    return index


def _block(op: Op, containers: frozenset[str]) -> str | None:
    """The first submodule around a call that is an element of a container and none itself."""
    for path in op.path:
        parent = path.rpartition(".")[0]
        if path and path not in containers and parent in containers:
            return path
    return None


def _with_views(run: Sequence[Op], views: dict[torch.fx.Node, Op], position: dict[torch.fx.Node, int]) -> list[Op]:
    """The run with all the views that it reads, in the recorded order."""
    members = {op.node: op for op in run}
    waiting = list(run)
    while waiting:
        for node in waiting.pop().node.all_input_nodes:
            if node in views and node not in members:
                members[node] = views[node]
                waiting.append(views[node])
    return sorted(members.values(), key=lambda op: position[op.node])


def _external(runs: Sequence[Sequence[Op]], captured: Captured, views: dict[torch.fx.Node, Op]) -> set[torch.fx.Node]:
    """The calls whose results leave their run, as inputs of another or as outputs of the module."""
    home = {op.node: i for i, run in enumerate(runs) for op in run if op.aliases is None}
    leaving = {
        node
        for i, run in enumerate(runs)
        for op in run
        for node in op.node.all_input_nodes
        if node in home and home[node] != i
    }
    for node in captured.outputs:
        base = node
        while base in views:
            alias = views[base].aliases
            assert alias is not None
            base = alias
        leaving.add(base)
    return leaving


def _without_silent(runs: Sequence[list[Op]], external: set[torch.fx.Node]) -> Iterator[list[Op]]:
    """Join runs that only update buffers to the run behind them."""
    pending: list[Op] = []
    for run in runs:
        pending = _merged(pending, run)
        if any(op.node in external for op in run):
            yield pending
            pending = []
    assert not pending or not any(op.node in external for op in pending)
    if pending:
        yield pending


def _merged(first: list[Op], second: list[Op]) -> list[Op]:
    seen = {op.node for op in first}
    return first + [op for op in second if op.node not in seen]


def _names(runs: Sequence[Sequence[Op]], granularity: Granularity, captured: Captured) -> list[tuple[str, str]]:
    """A name that nobody else has and a kind for each run."""
    calls: dict[Hashable, int] = {}
    for run in runs:
        for op in run:
            if op.aliases is None and op.leaf:
                calls[op.path[-1], op.call] = calls.get((op.path[-1], op.call), 0) + 1
    used: set[str] = set(captured.inputs.values())
    labels = []
    for run in runs:
        last = next(op for op in reversed(run) if op.aliases is None)
        kind = _op_name(last.node)
        block = _block(last, captured.containers) if granularity == "blocks" else None
        path = last.path[-1] if last.path else ""
        several = len([op for op in run if op.aliases is None and not op.mutated]) > 1
        if block is not None:
            name = block
        elif last.leaf and path and (granularity != "ops" or calls[path, last.call] == 1):
            name = path
        else:
            name = f"{path}.{kind}" if path else kind
        labels.append((_unique(name, used), "module" if several else kind))
    return labels


def _unique(name: str, used: set[str]) -> str:
    name = name or ROOT
    number, candidate = 2, name
    while candidate in used:
        candidate = f"{name}_{number}"
        number += 1
    used.add(candidate)
    return candidate


def _op_name(node: torch.fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return schema.name.partition("::")[2] if schema is not None else str(getattr(node.target, "__name__", node.target))


def _piece(
    ops: list[Op], name: str, kind: str, captured: Captured, producers: set[torch.fx.Node],
    external: set[torch.fx.Node], position: dict[torch.fx.Node, int],
) -> Piece:  # fmt: skip
    inside = {op.node for op in ops}
    outside = list(dict.fromkeys(n for op in ops for n in op.node.all_input_nodes if n not in inside))
    parameters = [n for n in outside if n in captured.parameters]
    buffers = [n for n in outside if n in captured.buffers]
    reads = [n for n in outside if n not in captured.parameters and n not in captured.buffers]
    outputs = [op.node for op in ops if op.node in external and op.aliases is None]
    return Piece(name, kind, ops, reads, parameters, buffers, outputs)
