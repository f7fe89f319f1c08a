"""The JVP action: tangents go forward through a node, and enter at the input or at its parameters."""

from __future__ import annotations

from collections.abc import Sequence

from sim.execution.numpy.machine import Machine, Step, handles
from sim.execution.numpy.memory import Carried
from sim.ops.rule import Array, split, total
from sim.schedules.actions import Action, Jvp, SeededJvp
from sim.schedules.values import WRITE


@handles(Jvp)
def jvp(machine: Machine, action: Jvp, step: Step) -> None:
    """The JVP of a node for the tangents of all its inputs."""
    _push(machine, action, step, machine.active_inputs(machine.node(action)), seeded=False)


@handles(SeededJvp)
def seeded_jvp(machine: Machine, action: SeededJvp, step: Step) -> None:
    """The JVP of a node for the tangents of some inputs, and of its parameters."""
    _push(machine, action, step, [machine.position[name] for name in action.carried], seeded=action.seeded)


def _push(machine: Machine, action: Action, step: Step, positions: Sequence[int], *, seeded: bool) -> None:
    """The JVP of a node for the tangents at `positions`, and with `seeded` for those of its parameters."""
    i, width, touches = machine.node(action), action.width, step.touches
    at, memory, node = machine.at(i, touches), machine.memory, machine.nodes[i]
    tangents: dict[int, Array] = {}
    sources: set[Carried] = set()
    for p in positions:
        value = machine.numbers.tangent(p)
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
    own = machine.numbers.tangent(machine.m + i)
    if own in touches:
        memory.write(own, dy, node.dtype, carried)


def _collect(machine: Machine, sink: int, dy: Array, carried: Carried) -> None:
    """The tangents of an output, (width, batch, …) or (width,) for one without samples, into the derivative."""
    rows, columns = machine.seeds.rows(sink), slice(carried.start, carried.start + carried.width)
    blocks = dy.reshape(carried.width, -1, rows.stop - rows.start)
    if carried.seed < 0:
        machine.jacobian[:, rows, columns] = blocks.transpose(1, 2, 0)
        return
    machine.gradient(carried.seed)[rows, columns] = blocks.sum(axis=1).T
