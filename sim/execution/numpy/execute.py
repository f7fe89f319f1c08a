"""Run a schedule on NumPy arrays: the exact derivative, and the bytes really held at each action.

Of the schedule it takes the actions, what each touches, and which values end with it
(`sim.schedules.lifetimes`), every turn of every loop written out; it raises where an action reads
what is not there. Derivatives are given only those activations that the node's `needs`
name, so that a rule cannot read what replay does not count.

What is measured are working values. Graph inputs, parameters, outputs, the Jacobian with respect to
the input and preallocated gradients belong to the caller, as in replay; temporaries inside
an op (NumPy's, and a residual that nobody reads) are not counted. No op that has a rule has a
workspace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sim.execution.numpy import adjoints, jacobians, tangents  # their handlers register themselves
from sim.execution.numpy.arrays import checked
from sim.execution.numpy.machine import HANDLERS, Machine, Step, handles
from sim.graphs.node import Ints
from sim.ops.rule import Array
from sim.schedules import ledger
from sim.schedules.actions import Copy, Forward
from sim.schedules.lifetimes import ends
from sim.schedules.schedule import TURNS, Loop, Schedule
from sim.schedules.values import ACTIVATION, GRADIENT, RESIDUAL, TIERS

__all__ = ["Execution", "adjoints", "execute", "jacobians", "tangents"]


@dataclass(frozen=True, eq=False)
class Execution:
    """The result of running a schedule on real arrays.

    outputs: the sinks by name. gradients: by node, shape (n_out, parameters), summed over the batch,
    with `wrt="parameters"`. jacobian: shape (batch, n_out, n_in), with `wrt="input"`; of an output
    that sums over the batch (a loss) each sample has its share. For each action as it happened (every
    turn of each loop): `actions` its number in the schedule, `flat` in `schedule.flat`, `live_bytes`,
    shape (actions, 3), the bytes of working values on device, host and disk at its fullest moment.
    """

    outputs: dict[str, Array]
    gradients: dict[str, Array]
    jacobian: Array | None
    actions: Ints
    flat: Ints
    live_bytes: Ints

    @property
    def working_bytes(self) -> int:
        """The most bytes of working values held on the device."""
        return int(self.live_bytes[:, 0].max(initial=0))


def execute(
    schedule: Schedule, inputs: Mapping[str, Array], parameters: Mapping[str, Array], *, seed: int = 0
) -> Execution:
    """The derivative that a schedule computes, with the bytes held at each action.

    `inputs` are arrays by graph input, `parameters` flat vectors by node (`sim.execution.numpy.arrays` makes
    both); `seed` is that of dropout's masks.

    Raises
    ------
    InvalidSchedule
        If an action reads a value that is not in memory or not complete, or if not every tangent or
        cotangent is carried.
    NotApplicable
        If an op has no rule, or couples samples where the Jacobian of each sample is asked for.
    GraphError
        If an array is missing or does not fit.
    """
    checked(schedule.graph, inputs, parameters)
    machine = Machine(schedule, inputs, parameters, seed)
    table, (order, flat) = schedule.table, unrolled(schedule)
    rows, widths = schedule.rows[order], schedule.widths[order].tolist()
    touches = {row: table.touches(row) for row in np.unique(rows).tolist()}
    live = np.zeros((len(rows), len(TIERS)), dtype=np.int64)
    every = ends(table, rows, ledger.mark(rows, table.columns))
    for k, (row, width, end) in enumerate(zip(rows.tolist(), widths, every, strict=True)):
        machine.memory.action = machine.seeds.action = int(order[k])
        action = table.action(row, width)
        HANDLERS[type(action)](machine, action, Step(touches[row], end))
        live[k] = machine.memory.live_bytes()
        for value in end.freed:
            machine.memory.free(value)
            machine.added.pop(value, None)
    machine.seeds.check_finished()
    first = machine.numbers.value(GRADIENT, 0)
    final = {v - first: a for v, a in machine.memory.arrays.items() if first <= v < first + machine.n}
    gradients = {machine.nodes[i].name: a for i, a in sorted((machine.gradients | final).items())}
    jacobian = machine.jacobian if schedule.graph.wrt == "input" else None
    return Execution(machine.outputs, gradients, jacobian, order, flat, live)


@handles(Forward)
def _forward(machine: Machine, action: Forward, step: Step) -> None:
    """Evaluate a node; its residual is kept only if somebody reads it later."""
    i = machine.node(action)
    node, tape = machine.nodes[i], machine.numbers.value(RESIDUAL, i)
    y, residual = machine.rules[i].forward(machine.at(i, step.touches))
    y = np.reshape(y, node.output_shape)
    machine.memory.write(machine.numbers.value(ACTIVATION, i), y, node.dtype)
    if residual is not None and tape not in step.ends.unsaved:
        machine.memory.write(tape, residual, str(residual.dtype))
    if i in machine.sinks:
        machine.outputs[node.name] = np.array(y, dtype=node.dtype)


@handles(Copy)
def _copy(machine: Machine, action: Copy, step: Step) -> None:
    """Copy a value from one tier to another. A graph input stays on the device, which needs none back."""
    memory, (source, target) = machine.memory, step.touches
    is_input = action.value.kind == "activation" and machine.position[action.node] < machine.m
    if is_input and action.value.tier == "device":
        array = machine.inputs[machine.position[action.node]]
    else:
        array = memory.read(source)
    if not (is_input and action.to == "device"):
        memory.write(target, array, str(array.dtype), memory.carried.get(source))


def unrolled(schedule: Schedule) -> tuple[Ints, Ints]:
    """(actions, flat): the action done at each moment, every turn of every loop written out, and where
    `schedule.flat` has the turn that stands for it."""
    loops = sorted(schedule.loops, key=lambda loop: (loop.start, -loop.stop))
    actions, flat, _ = _unrolled(0, len(schedule), loops, 0)
    return np.array(actions, dtype=np.int64), np.array(flat, dtype=np.int64)


def _unrolled(start: int, stop: int, loops: Sequence[Loop], flat_start: int) -> tuple[list[int], list[int], int]:
    """Actions, their flat places, and the first flat place behind them."""
    actions: list[int] = []
    flat: list[int] = []
    at, place, i = start, flat_start, 0
    while i < len(loops):
        loop = loops[i]
        inner = [x for x in loops[i + 1 :] if x.start < loop.stop]
        actions += range(at, loop.start)
        flat += range(place, place + loop.start - at)
        place += loop.start - at
        body, in_body, length = _unrolled(loop.start, loop.stop, inner, 0)
        for turn in range(loop.turns):
            copy = turn if loop.turns <= TURNS else 0 if turn == 0 else TURNS - 1 if turn == loop.turns - 1 else 1
            actions += body
            flat += [place + copy * length + f for f in in_body]
        place += min(loop.turns, TURNS) * length
        at, i = loop.stop, i + 1 + len(inner)
    actions += range(at, stop)
    flat += range(place, place + stop - at)
    return actions, flat, place + stop - at
