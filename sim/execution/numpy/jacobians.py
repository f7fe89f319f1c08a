"""The actions on accumulated Jacobians: form a local one, push or pull one through a node, multiply two.

Structures as `sim.graphs.node.LocalJacobian`: dense (batch, p, q), diagonal (batch, p), constant (p, q). A
Jacobian of an output by the graph input is the result and takes no working memory.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sim.base.errors import NotApplicable
from sim.execution.numpy.liveness import Touched
from sim.execution.numpy.machine import Machine
from sim.graphs.graph import per_sample
from sim.graphs.node import STRUCTURES, Structure
from sim.ops.rule import Array, At
from sim.schedules.actions import CONSUME, JACOBIAN_VALUE


def local(machine: Machine, i: int, touches: Touched, source: int | None = None, into: int | None = None) -> None:
    """Form the local Jacobian of node i by its one active input, in the structure that the node has.

    With `source` it is the one by that input, added to a block whose structure has the number `into`.

    Raises
    ------
    NotApplicable
        For an op that couples the scalars that its structure takes for independent.
    """
    node, own = machine.nodes[i], machine.m + i
    structure = node.jacobian.structure if into is None else STRUCTURES[into]
    if source is None:
        (source,) = machine.active_inputs(i)
    if machine.rules[i].couples:
        raise NotApplicable(
            f"node '{node.name}': the Jacobian of {node.op} takes its statistics for constants, so it is not exact; "
            "use a reverse or forward strategy"
        )
    at = machine.at(i, touches)
    if structure == "constant":
        block = _constant(machine, i, at, source)
    elif structure == "diagonal":
        ones = np.ones((1, *machine.shape(source)), dtype=node.dtype)
        block = machine.pushed(i, at, {source: ones}).reshape(machine.graph.batch, -1)
    else:
        block = _from_columns(machine, machine.pushed(i, at, {source: _identity(machine, source)}))
    _store(machine, own, source, block, structure, add=into is not None)


def _constant(machine: Machine, i: int, at: At, source: int) -> Array:
    """The Jacobian (p, q) that every sample has: at hand, or made of the tangents of one sample."""
    rule, batch, single = machine.rules[i], machine.graph.batch, machine.operands[i].count(source) == 1
    known: Array | None = rule.matrix(at) if single else None
    if known is not None:
        return known
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


def jvp(machine: Machine, i: int, source: int, touches: Touched) -> None:
    """Take the Jacobians of node i's inputs by `source` to that of node i, all columns at once."""
    tangents = {
        p: _identity(machine, p)
        if p == source
        else _dense(machine, p, source).transpose(2, 0, 1).reshape(-1, *machine.shape(p))
        for p in machine.active_inputs(i)
    }
    dy = machine.pushed(i, machine.at(i, touches), tangents)
    _store(machine, machine.m + i, source, _from_columns(machine, dy), "dense")


def vjp(machine: Machine, i: int, target: int, touches: Touched) -> None:
    """Take the Jacobian of `target` by node i to those by node i's inputs, all rows at once."""
    own = machine.m + i
    if target == own:
        rows = _identity(machine, own)
    else:
        value = _number(machine, target, own)
        assert touches[value] == CONSUME
        rows = _dense(machine, target, own).transpose(1, 0, 2).reshape(-1, *machine.shape(own))
    for p, part in machine.pulled(i, machine.at(i, touches), rows).items():
        block = part.reshape(len(rows), machine.graph.batch, -1).transpose(1, 0, 2)
        value = _number(machine, target, p)
        if _is_result(machine, target, p):
            machine.jacobian += block
        elif value in machine.memory:
            machine.memory.arrays[value] += block
        else:
            _store(machine, target, p, block, "dense")


def multiply(machine: Machine, target: int, middle: int, source: int, into: int | None = None) -> None:
    """The product of the Jacobians of `target` by `middle` and of `middle` by `source`.

    With `into` it is added to the block, whose structure has that number, if there is one already.
    """
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
    if into is None:
        _store(machine, target, source, block, structure)
        return
    if STRUCTURES[into] != structure:
        block = _expanded(block, structure, machine.graph.batch)
    _store(machine, target, source, block, STRUCTURES[into], add=True)


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


def _number(machine: Machine, node: int, source: int) -> int:
    key = (JACOBIAN_VALUE, node, source)
    return 5 * machine.n + machine.m + machine.table.extra_values.index(key)


def _is_result(machine: Machine, node: int, source: int) -> bool:
    return source < machine.m and machine.graph.consumer_counts[node] == 0


def _read(machine: Machine, node: int, source: int) -> tuple[Array, str]:
    value = _number(machine, node, source)
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
    value = _number(machine, node, source)
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
