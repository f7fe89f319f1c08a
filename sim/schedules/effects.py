"""The effects of a graph's own rows as index arrays: what the forward, VJP and JVP of each node touch and cost.

One compiled function holds the rules. Replay, simulate, execute and the planners all use them; the
actions that a schedule adds say theirs in `sim.schedules.actions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from sim.base.compiled import compiled
from sim.base.memo import remembered
from sim.graphs.graph import Graph
from sim.graphs.node import NEEDS, Ints
from sim.schedules.values import (
    ACCUMULATE,
    ACTIVATION,
    CONSUME,
    COTANGENT,
    DEVICE,
    GRADIENT,
    OF_NODES,
    READ,
    RESIDUAL,
    SAVE,
    TANGENT,
    WRITE,
    Numbers,
)

Kind = Literal["forward", "vjp", "jvp", "jacobian", "multiply", "copy"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FORWARD, VJP, JVP, JACOBIAN, MULTIPLY, COPY = range(len(KINDS))

Bytes8 = NDArray[np.uint8]
Ints4 = NDArray[np.int32]


class Columns(NamedTuple):
    """The touches of rows and the sizes of values, as compiled loops read them.

    `ptr`, `value`, `access` are a CSR of what each row touches. `value_bytes` are per unit of width for
    tangents and cotangents; `remains` says that a value lives to the end. `workspace` has an entry a
    row, `saving_workspace` one a forward that saves its residual. `contributions[i]` says how many
    accumulations make the cotangent of node i complete.
    """

    ptr: Ints4
    value: Ints4
    access: Bytes8
    workspace: Ints
    saving_workspace: Ints
    value_bytes: Ints
    value_kind: Bytes8
    value_tier: Bytes8
    remains: NDArray[np.bool_]
    contributions: Ints4


@dataclass(frozen=True, eq=False, slots=True)
class OwnEffects:
    """The columns of a graph's own rows, and the flops of each per unit of width.

    Graph inputs and what is written straight into the result are resident and do not appear. The rows
    and values that come last may be left out where a schedule has no JVPs.
    """

    columns: Columns
    flops: Ints


@remembered
def own_effects(graph: Graph, *, jvp: bool = True) -> OwnEffects:
    """The effects of the forward, VJP and (unless `jvp` is false) JVP rows of every node."""
    n, m, c = len(graph), len(graph.inputs), graph.columns
    opcodes, numbers, parameters = 3 if jvp else 2, Numbers(n, m), graph.wrt == "parameters"
    sink = np.zeros(n, dtype=np.bool_)
    sink[graph.sinks] = True
    rules = _Rules(
        n, m, opcodes, c.input_ptr, c.input_index, graph.derivative_reads, graph.active, sink,
        (c.needs & NEEDS.index("output")) > 0, c.residual_bytes >= 0,
        graph.gradient_of if parameters else np.empty(0, dtype=np.int32), parameters, OF_NODES * n,
    )  # fmt: skip
    ptr, value, access, contributions = _touches(rules)
    kinds = OF_NODES if jvp else TANGENT if parameters else GRADIENT
    value_bytes = np.zeros(numbers.first_added if jvp else kinds * n, dtype=np.int64)
    value_bytes[numbers.values(ACTIVATION)] = c.activation_bytes
    value_bytes[numbers.values(RESIDUAL)] = np.maximum(c.residual_bytes, 0)
    value_bytes[numbers.values(COTANGENT)] = graph.cotangent_bytes[m:]
    if parameters and not graph.preallocated_gradients:
        value_bytes[numbers.values(GRADIENT)] = graph.gradient_bytes
    if jvp:
        value_bytes[numbers.values(TANGENT)] = c.activation_bytes
        value_bytes[kinds * n :] = graph.input_bytes
    kind = np.full(len(value_bytes), TANGENT, dtype=np.uint8)
    kind[: kinds * n] = np.repeat(np.arange(kinds, dtype=np.uint8), n)
    remains = kind == GRADIENT
    remains[list(graph.outputs)] = True
    vjp_workspace = c.workspace_bytes if c.vjp_workspace_bytes is None else c.vjp_workspace_bytes
    workspace = np.concatenate((c.workspace_bytes, vjp_workspace, c.workspace_bytes)[:opcodes])
    columns = Columns(
        ptr=ptr,
        value=value,
        access=access,
        workspace=workspace,
        saving_workspace=workspace[:n] if c.taping_workspace_bytes is None else c.taping_workspace_bytes,
        value_bytes=value_bytes,
        value_kind=kind,
        value_tier=np.full(len(kind), DEVICE, dtype=np.uint8),
        remains=remains,
        contributions=contributions,
    )
    return OwnEffects(columns, np.concatenate([_flops(graph, opcode) for opcode in range(opcodes)]))


def _flops(graph: Graph, opcode: int) -> Ints:
    """Flops of each node's row of an opcode, per unit of width; 0 where it has no derivative."""
    c = graph.columns
    if opcode == FORWARD:
        return c.forward_flops
    active = graph.active[len(graph.inputs) :]
    if opcode == JVP:
        return np.where(active, c.jvp_flops, 0)
    # a VJP makes only the cotangents that are wanted
    own = c.param_vjp_flops if graph.wrt == "parameters" else 0
    return np.where(active, np.where(graph.reads_active, c.vjp_flops, 0) + own, 0)


class _Rules(NamedTuple):
    """The part of a graph that the rules read: nodes, graph inputs, how many opcodes, and arrays by node or edge."""

    n: int
    m: int
    opcodes: int
    input_ptr: Ints
    input_index: Ints
    reads: NDArray[np.bool_]  # by edge: whether the derivative reads the input
    active: NDArray[np.bool_]  # by position
    sink: NDArray[np.bool_]
    reads_output: NDArray[np.bool_]
    saved: NDArray[np.bool_]  # whether there is a residual
    gradient_of: Ints4
    parameters: bool
    first_input_tangent: int


@compiled
def _touches(rules: Any) -> Any:
    """The rules: what the forward, VJP and JVP of each node read, write and accumulate into.

    Returns `ptr`, `value`, `access` and `contributions` of `Columns`.
    """
    n, m, opcodes = rules.n, rules.m, rules.opcodes
    input_ptr, input_index, reads, active = rules.input_ptr, rules.input_index, rules.reads, rules.active
    gradient_of, parameters, sink = rules.gradient_of, rules.parameters, rules.sink
    most = len(input_index) + 2 * n + (opcodes - 1) * (2 * len(input_index) + 4 * n)
    value, access = np.empty(most, dtype=np.int32), np.empty(most, dtype=np.uint8)
    ptr = np.zeros(opcodes * n + 1, dtype=np.int32)
    contributions = np.zeros(n, dtype=np.int32)
    entered = np.zeros(m, dtype=np.bool_)  # graph inputs whose tangent an earlier JVP has made
    e = 0
    opcode, i = FORWARD, -1
    for row in range(opcodes * n):
        i += 1
        if i == n:
            opcode, i = opcode + 1, 0
        start, stop = input_ptr[i], input_ptr[i + 1]
        if opcode == FORWARD:
            for t in range(start, stop):
                p = input_index[t]
                if p >= m:
                    value[e], access[e] = p - m, READ
                    e += 1
            value[e], access[e] = i, WRITE
            e += 1
            if rules.saved[i]:
                value[e], access[e] = RESIDUAL * n + i, SAVE
                e += 1
        elif active[m + i]:
            if opcode == VJP:
                # the seed is made by the VJP that first reads it
                value[e], access[e] = COTANGENT * n + i, WRITE if sink[i] else CONSUME
                e += 1
                for t in range(start, stop):
                    p = input_index[t]
                    if p >= m and active[p]:  # the cotangent of a graph input is written into the result
                        value[e], access[e] = COTANGENT * n + p - m, ACCUMULATE
                        e += 1
                        contributions[p - m] += 1
                if parameters and gradient_of[i] >= 0:
                    value[e], access[e] = GRADIENT * n + gradient_of[i], ACCUMULATE
                    e += 1
            else:
                for t in range(start, stop):
                    p = input_index[t]
                    if p >= m and active[p]:
                        value[e], access[e] = TANGENT * n + p - m, READ
                        e += 1
                    elif p < m and active[p]:
                        value[e], access[e] = rules.first_input_tangent + p, READ if entered[p] else WRITE
                        e += 1
                        entered[p] = True
                if parameters or not sink[i]:  # by the input, the tangents of an output are the result
                    value[e], access[e] = TANGENT * n + i, WRITE
                    e += 1
            for t in range(start, stop):
                p = input_index[t]
                if p >= m and reads[t]:
                    value[e], access[e] = p - m, READ
                    e += 1
            if rules.reads_output[i]:
                value[e], access[e] = i, READ
                e += 1
            if rules.saved[i]:
                value[e], access[e] = RESIDUAL * n + i, READ
                e += 1
        ptr[row + 1] = e
    return ptr, value[:e], access[:e], contributions
