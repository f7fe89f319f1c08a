"""Runs a schedule on NumPy arrays: the exact derivative, and the bytes really held at each action.

An interpreter of its own: of the schedule it takes the actions and what each touches
(`schedule.table`), works out lifetimes by itself (`sim.execution.numpy.liveness`), and raises where an
action reads what is not there. Derivatives are given only those activations that the node's `needs`
name, so that a rule cannot read what replay does not count.

What is measured are working values. Graph inputs, parameters, outputs, the Jacobian with respect to
the input and preallocated gradients belong to the caller, as in replay; temporaries inside
an op (NumPy's, and a residual that nobody reads) are not counted. No op that has a rule has a
workspace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from sim.execution.numpy import adjoints, jacobians, tangents
from sim.execution.numpy.arrays import checked
from sim.execution.numpy.liveness import Touched, dying, touched, unrolled
from sim.execution.numpy.machine import Machine
from sim.graphs.graph import Ints
from sim.ops.rule import Array
from sim.schedules.actions import ACTIVATION, COPY, FORWARD, GRADIENT, JACOBIAN, MULTIPLY, RESIDUAL, VJP
from sim.schedules.schedule import Schedule
from sim.schedules.table import Extra


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
    order, flat = unrolled(schedule)
    rows, widths = schedule.rows[order].tolist(), schedule.widths[order].tolist()
    by_row = {row: touched(schedule.table, row) for row in set(rows)}
    dead = dying(schedule.table, [by_row[row] for row in rows])
    live = np.zeros((len(rows), 3), dtype=np.int64)
    for k, (row, width) in enumerate(zip(rows, widths, strict=True)):
        machine.memory.action = machine.seeds.action = int(order[k])
        _act(machine, row, width, by_row[row], dead[k])
        live[k] = machine.memory.live_bytes()
        for value in dead[k]:
            machine.memory.free(value)
            machine.added.pop(value, None)
    machine.seeds.check_finished()
    first = GRADIENT * machine.n
    kept = {v - first: a for v, a in machine.memory.arrays.items() if first <= v < first + machine.n}
    gradients = {machine.nodes[i].name: a for i, a in sorted((machine.gradients | kept).items())}
    jacobian = machine.jacobian if schedule.graph.wrt == "input" else None
    return Execution(machine.outputs, gradients, jacobian, order, flat, live)


def _act(machine: Machine, row: int, width: int, touches: Touched, dead: frozenset[int]) -> None:
    """Do the action of a row."""
    opcode, i = int(machine.table.opcode[row]), int(machine.table.node[row])
    extra = machine.table.extra_rows[row - 3 * machine.n] if row >= 3 * machine.n else None
    if opcode == FORWARD:
        _forward(machine, i, touches, dead)
    elif opcode == COPY:
        _copy(machine, row)
    elif opcode == JACOBIAN:
        jacobians.local(machine, i, touches, *cast("tuple[int, ...]", cast(Extra, extra).key[1:]))
    elif opcode == MULTIPLY:
        jacobians.multiply(machine, *cast("tuple[int, int, int]", cast(Extra, extra).key))
    elif extra is not None and extra.on_jacobian:
        act = jacobians.vjp if opcode == VJP else jacobians.jvp
        act(machine, i, cast(int, extra.key[1]), touches)
    elif opcode == VJP:
        adjoints.vjp(machine, i, width, touches)
    elif extra is None:
        tangents.jvp(machine, i, machine.active_inputs(i), width, touches, seeded=False)
    else:
        positions = cast("tuple[int, ...]", extra.key[1])
        tangents.jvp(machine, i, positions, width, touches, seeded=bool(extra.key[2]))


def _forward(machine: Machine, i: int, touches: Touched, dead: frozenset[int]) -> None:
    """Evaluate a node; its residual is kept only if somebody reads it later."""
    node, tape = machine.nodes[i], RESIDUAL * machine.n + i
    y, residual = machine.rules[i].forward(machine.at(i, touches))
    y = np.reshape(y, node.output_shape)
    machine.memory.write(ACTIVATION * machine.n + i, y, node.dtype)
    if residual is not None and tape not in dead:
        machine.memory.write(tape, residual, str(residual.dtype))
    if i in machine.sinks:
        machine.outputs[node.name] = np.array(y, dtype=node.dtype)


def _copy(machine: Machine, row: int) -> None:
    """Copy a value from one tier to another. A graph input stays on the device, which needs none back."""
    start, memory = int(machine.table.ptr[row]), machine.memory
    source, target = machine.table.value[start : start + 2].tolist()
    resident = machine.input_of(source)
    array = memory.read(source) if resident is None else resident
    if machine.input_of(target) is None:
        memory.write(target, array, str(array.dtype), memory.carried.get(source))
