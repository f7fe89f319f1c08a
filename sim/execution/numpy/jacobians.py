"""The actions on accumulated Jacobians: form a local one, push or pull one through a node, multiply two.

Structures as `sim.graphs.node.LocalJacobian`: dense (batch, p, q), diagonal (batch, p), constant (p, q). A
Jacobian of an output by the graph input is the result and takes no working memory.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sim.base.errors import NotApplicable
from sim.execution.numpy.machine import Machine, Step, handles
from sim.graphs.columns import per_sample
from sim.graphs.node import Structure
from sim.ops.rule import Array, At
from sim.schedules.actions import JvpOfJacobian, LocalJacobian, Multiply, VjpOfJacobian
from sim.schedules.values import CONSUME


@handles(LocalJacobian)
def local(machine: Machine, action: LocalJacobian, step: Step) -> None:
    """Form the local Jacobian of a node, or add it to a block.

    Raises
    ------
    NotApplicable
        For an op that couples the scalars that its structure takes for independent.
    """
    i = machine.node(action)
    node, own = machine.nodes[i], machine.m + i
    structure = action.into or node.jacobian.structure
    (source,) = machine.active_inputs(i) if action.source is None else (machine.position[action.source],)
    if machine.rules[i].couples:
        raise NotApplicable(
            f"node '{node.name}': the Jacobian of {node.op} takes its statistics for constants, so it is not exact; "
            "use a reverse or forward strategy"
        )
    at = machine.at(i, step.touches)
    if structure == "constant":
        block = _constant(machine, i, at, source)
    elif structure == "diagonal":
        ones = np.ones((1, *machine.shape(source)), dtype=node.dtype)
        block = machine.pushed(i, at, {source: ones}).reshape(machine.graph.batch, -1)
    else:
        block = _from_columns(machine, machine.pushed(i, at, {source: _identity(machine, source)}))
    _store(machine, own, source, block, structure, add=action.into is not None)


def _constant(machine: Machine, i: int, at: At, source: int) -> Array:
    """The Jacobian (p, q) that every sample has: at hand, or made of the tangents of one sample."""
    rule, batch, single = machine.rules[i], machine.graph.batch, machine.operands[i].count(source) == 1
    matrix: Array | None = rule.matrix(at) if single else None
    if matrix is not None:
        return matrix
    if rule.reduces or any(s[:1] != (batch,) for s in (*at.shapes, at.node.output_shape, machine.shape(source))):
        return np.asarray(_from_columns(machine, machine.pushed(i, at, {source: _identity(machine, source)}))[0])
    shapes = tuple((1, *s[1:]) for s in at.shapes)
    one = At(replace(at.node, output_shape=(1, *at.node.output_shape[1:])), shapes, at.p, (None,) * len(shapes))
    scalars = per_sample(machine.shape(source), batch)
    columns = np.eye(scalars, dtype=machine.jacobian.dtype)
    tangents = [
        columns.reshape(-1, *s) if p == source else None for p, s in zip(machine.operands[i], shapes, strict=True)
    ]
    columns = rule.jvp(one, tangents)
    return np.asarray(columns.reshape(scalars, -1).T)


@handles(JvpOfJacobian)
def jvp(machine: Machine, action: JvpOfJacobian, step: Step) -> None:
    """Take the Jacobians of a node's inputs to that of the node, all columns at once."""
    i, source = machine.node(action), machine.position[action.source]
    tangents = {
        p: _identity(machine, p)
        if p == source
        else _dense(machine, p, source).transpose(2, 0, 1).reshape(-1, *machine.shape(p))
        for p in machine.active_inputs(i)
    }
    dy = machine.pushed(i, machine.at(i, step.touches), tangents)
    _store(machine, machine.m + i, source, _from_columns(machine, dy), "dense")


@handles(VjpOfJacobian)
def vjp(machine: Machine, action: VjpOfJacobian, step: Step) -> None:
    """Take the Jacobian of an output by a node to those by the node's inputs, all rows at once."""
    i, target = machine.node(action), machine.position[action.target]
    own = machine.m + i
    if target == own:
        rows = _identity(machine, own)
    else:
        value = machine.jacobian_value(target, own)
        assert step.touches[value] == CONSUME
        rows = _dense(machine, target, own).transpose(1, 0, 2).reshape(-1, *machine.shape(own))
    for p, part in machine.pulled(i, machine.at(i, step.touches), rows).items():
        block = part.reshape(len(rows), machine.graph.batch, -1).transpose(1, 0, 2)
        value = machine.jacobian_value(target, p)
        if _is_result(machine, target, p):
            machine.jacobian += block
        elif value in machine.memory:
            machine.memory.arrays[value] += block
        else:
            _store(machine, target, p, block, "dense")


@handles(Multiply)
def multiply(machine: Machine, action: Multiply, _: Step) -> None:
    """The product of two accumulated Jacobians, or with `into` added to the block if there is one already."""
    target, middle, source = (machine.position[name] for name in (action.target, action.middle, action.source))
    left, right = (_read(machine, a, b) for a, b in ((target, middle), (middle, source)))
    kinds = (left[1], right[1])
    structure: Structure = "dense"
    if kinds == ("diagonal", "diagonal"):
        block, structure = left[0] * right[0], "diagonal"
    elif kinds[0] == "diagonal":
        block = left[0][:, :, None] * right[0]
    elif kinds[1] == "diagonal":
        block = left[0] * right[0][:, None, :]
    else:
        block = left[0] @ right[0]
        structure = "constant" if kinds == ("constant", "constant") else "dense"
    if action.into is None:
        _store(machine, target, source, block, structure)
        return
    if action.into != structure:
        block = _expanded(block, structure, machine.graph.batch)
    _store(machine, target, source, block, action.into, add=True)


def _identity(machine: Machine, position: int) -> Array:
    """One tangent (or cotangent) for each scalar of a sample, alike for every sample: (scalars, *shape)."""
    shape, batch = machine.shape(position), machine.graph.batch
    if shape[:1] != (batch,):
        return np.eye(int(np.prod(shape, dtype=np.int64)), dtype=machine.jacobian.dtype).reshape(-1, *shape)
    scalars = int(np.prod(shape[1:], dtype=np.int64))
    rows = np.eye(scalars, dtype=machine.jacobian.dtype).reshape(scalars, 1, *shape[1:])
    return np.repeat(rows, batch, axis=1)


def _from_columns(machine: Machine, dy: Array) -> Array:
    """Tangents (q, batch, …) as blocks (batch, p, q)."""
    return dy.reshape(len(dy), machine.graph.batch, -1).transpose(1, 2, 0)


def _is_result(machine: Machine, node: int, source: int) -> bool:
    return source < machine.m and machine.graph.consumer_counts[node] == 0


def _read(machine: Machine, node: int, source: int) -> tuple[Array, str]:
    value = machine.jacobian_value(node, source)
    return machine.memory.read(value), machine.structure[value]


def _dense(machine: Machine, node: int, source: int) -> Array:
    """An accumulated Jacobian as (batch, p, q), whatever its structure."""
    return _expanded(*_read(machine, node, source), machine.graph.batch)


def _expanded(block: Array, structure: str, batch: int) -> Array:
    if structure == "diagonal":
        return np.asarray(block[:, :, None] * np.eye(block.shape[1], dtype=block.dtype))
    return np.broadcast_to(block, (batch, *block.shape)) if structure == "constant" else block


def _store(machine: Machine, node: int, source: int, block: Array, structure: Structure, *, add: bool = False) -> None:
    """Keep a Jacobian, or with `add` add it to what is kept; one of an output by the graph input is the result."""
    if _is_result(machine, node, source):
        result = _result(machine, node, source)
        result[...] = _expanded(block, structure, machine.graph.batch) + (result if add else 0)
        return
    value = machine.jacobian_value(node, source)
    if add and value in machine.memory:
        machine.memory.arrays[value] += block
        return
    machine.memory.write(value, block, machine.nodes[node - machine.m].dtype)
    machine.structure[value] = structure


def _result(machine: Machine, node: int, source: int) -> Array:
    """The part of the result that is the Jacobian of one output by one input."""
    graph = machine.graph
    outputs = [machine.m + int(s) for s in graph.sinks if graph.active[machine.m + s]]
    inputs = [int(p) for p in graph.variables]

    def stretch(positions: list[int], position: int) -> slice:
        sizes = [per_sample(machine.shape(p), graph.batch) for p in positions]
        at = positions.index(position)
        return slice(sum(sizes[:at]), sum(sizes[: at + 1]))

    return machine.jacobian[:, stretch(outputs, node), stretch(inputs, source)]
