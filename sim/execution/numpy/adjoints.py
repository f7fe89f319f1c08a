"""The VJP action: a cotangent goes back through a node, and on to the parameters' gradient."""

from __future__ import annotations

from sim.execution.numpy.machine import Machine, Step, handles
from sim.execution.numpy.memory import Carried
from sim.ops.rule import Array, join
from sim.schedules.actions import Vjp
from sim.schedules.values import COTANGENT, WRITE


@handles(Vjp)
def vjp(machine: Machine, action: Vjp, step: Step) -> None:
    """The VJP of a node: what is wanted of its inputs' cotangents and its parameters' gradient."""
    i, width, memory = machine.node(action), action.width, machine.memory
    value, at = machine.numbers.value(COTANGENT, i), machine.at(i, step.touches)
    if step.touches[value] == WRITE:
        seed, carried = machine.seeds.cotangents(i, width)
        memory.write(value, seed, machine.nodes[i].dtype, carried)
    else:
        _check_complete(machine, value, width)
    g, carried = memory.read(value), memory.carried[value]
    if machine.active_inputs(i):
        for position, part in machine.pulled(i, at, g).items():
            if position < machine.m:
                _add_to_result(machine, position, part, carried)
            else:
                _accumulate(machine, position, i, part, carried)
    if machine.graph.wrt == "parameters" and at.p:
        _add_gradient(machine, machine.owner(i), join(machine.rules[i].parameter_vjp(at, g)), carried)


def _check_complete(machine: Machine, value: int, width: int) -> None:
    machine.memory.read(value)
    name = machine.table.describe_value(value)
    if machine.memory.carried[value].width != width:
        machine.memory.fail(f"reads {name}, which is there for another number of cotangents", value)
    added, readers = machine.added[value], machine.consumers[machine.numbers.node(value)]
    if added != readers:
        machine.memory.fail(f"reads {name}, to which {added} of its {readers} consumers have added", value)


def _accumulate(machine: Machine, position: int, reader: int, part: Array, carried: Carried) -> None:
    """Add to a cotangent, or make it: a view of a small buffer where its only reader spreads one scalar."""
    memory, graph, value = machine.memory, machine.graph, machine.numbers.value(COTANGENT, position - machine.m)
    machine.added[value] = machine.added.get(value, 0) + 1
    if value in memory:
        if memory.carried[value] != carried:
            memory.fail(f"adds cotangents {carried} to {memory.carried[value]}", value)
        memory.arrays[value] += part
    elif graph.columns.vjp_broadcasts[reader] and graph.consumer_counts[position] == 1:
        memory.keep(value, part, carried)
    else:
        memory.write(value, part, machine.nodes[position - machine.m].dtype, carried)


def _add_to_result(machine: Machine, position: int, part: Array, carried: Carried) -> None:
    rows = slice(carried.start, carried.start + carried.width)
    block = part.reshape(carried.width, machine.graph.batch, -1).transpose(1, 0, 2)
    machine.jacobian[:, rows, machine.seeds.columns(position)] += block


def _add_gradient(machine: Machine, owner: int, rows: Array, carried: Carried) -> None:
    """Add rows to a gradient, made of zeros by the first action that adds to it."""
    machine.gradient(owner)[carried.start : carried.start + carried.width] += rows
