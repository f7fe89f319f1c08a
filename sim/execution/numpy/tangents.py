"""The JVP action: tangents go forward through a node, and enter at the input or at its parameters."""

from __future__ import annotations

from collections.abc import Sequence

from sim.execution.numpy.liveness import Touched
from sim.execution.numpy.machine import Machine
from sim.execution.numpy.memory import Carried
from sim.ops.rule import Array, split, total
from sim.schedules.actions import TANGENT, WRITE


def jvp(machine: Machine, i: int, positions: Sequence[int], width: int, touches: Touched, *, seeded: bool) -> None:
    """The JVP of node i for the tangents at `positions`, and with `seeded` for those of its parameters."""
    at, memory, node = machine.at(i, touches), machine.memory, machine.nodes[i]
    tangents: dict[int, Array] = {}
    sources: set[Carried] = set()
    for p in positions:
        value = 5 * machine.n + p if p < machine.m else TANGENT * machine.n + p - machine.m
        if touches.get(value) == WRITE:
            seed, carried = machine.seeds.tangents(p, width)
            memory.write(value, seed, machine.graph.inputs[p].dtype, carried)
        tangents[p] = memory.read(value)
        sources.add(memory.carried[value])
    terms = [machine.pushed(i, at, tangents)] if tangents else []
    if seeded:
        owner = machine.owner(i)
        size = machine.nodes[owner].param_size
        entering, carried = machine.seeds.parameters(owner, width, size, node.dtype, again=owner != i)
        sources.add(carried)
        machine.gradient(owner)
        terms.append(machine.rules[i].parameter_jvp(at, split(entering, [p.shape for p in at.p])))
    if len(sources) != 1 or any(source.width != width for source in sources):
        memory.fail(f"is of width {width}, but carries {' and '.join(map(str, sorted(sources)))}")
    (carried,) = sources
    dy = total(terms)
    if i in machine.sinks:
        _collect(machine, i, dy, carried)
    if machine.rules[i].reduces:
        dy = dy.sum(axis=1)
    if TANGENT * machine.n + i in touches:
        memory.write(TANGENT * machine.n + i, dy, node.dtype, carried)


def _collect(machine: Machine, sink: int, dy: Array, carried: Carried) -> None:
    """The tangents of an output, (width, batch, …) or (width,) for one without samples, into the derivative."""
    rows, columns = machine.seeds.rows(sink), slice(carried.start, carried.start + carried.width)
    blocks = dy.reshape(carried.width, -1, rows.stop - rows.start)
    if carried.seed < 0:
        machine.jacobian[:, rows, columns] = blocks.transpose(1, 2, 0)
        return
    machine.gradient(carried.seed)[rows, columns] = blocks.sum(axis=1).T
