"""The effects of a graph's own rows as index arrays: what each reads, writes, accumulates and costs.

Replay, simulate, execute and the planners all use this table; `sim.schedules.extras` adds the rows that a
schedule needs beyond it, and `extras.effects` answers for one action, out of the same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from sim.base.compiled import compiled
from sim.graphs.graph import NEEDS, STRUCTURES, Graph, Ints
from sim.schedules.actions import (
    ACCUMULATE,
    ACTIVATION,
    CONSUME,
    COPY,
    COTANGENT,
    FORWARD,
    GRADIENT,
    INPUT,
    JACOBIAN,
    JACOBIAN_VALUE,
    JVP,
    KINDS,
    MULTIPLY,
    READ,
    RESIDUAL,
    SAVE,
    TANGENT,
    TIERS,
    VALUE_KINDS,
    VJP,
    WRITE,
    Action,
    Effects,
    Value,
)
from sim.schedules.ledger import workspace_index

Bytes8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Extra:
    """A row that a schedule adds to the graph's own, identified by its key.

    kind JVP: (node, carried positions, seeded) or (node, source position); VJP: (node, target
    position); JACOBIAN: (node,) or (node, source position, structure); MULTIPLY:
    (target, middle, source positions) and, if it adds to what is there, the structure of that; COPY: (value, to tier).
    """

    opcode: int
    node: int
    key: tuple[int | tuple[int, ...], ...]
    flops: int
    workspace_bytes: int = 0
    on_jacobian: bool = False


@dataclass(frozen=True, eq=False)
class Table:
    """The effects of every row, and the size of every value, of one graph (and one schedule's extras).

    `ptr`, `value`, `access` are a CSR of what each row touches. `value_bytes` is per unit of width
    for tangents and cotangents; `value_code` is the kind of a value + 8 · its tier.
    `contributions[i]` says how many accumulations make the cotangent of node i complete. Graph inputs
    and what is written straight into the result are resident and do not appear. A table without
    extras may end before the rows and values that the schedule does not use (a prefix).
    """

    graph: Graph
    ptr: NDArray[np.int32]
    value: NDArray[np.int32]
    access: Bytes8
    value_bytes: Ints
    value_code: Bytes8
    contributions: NDArray[np.int32]
    extra_rows: tuple[Extra, ...] = ()
    extra_values: tuple[tuple[int, ...], ...] = ()

    def __repr__(self) -> str:
        return f"Table({self.graph!r}, {len(self)} rows, {len(self.value_bytes)} values)"

    def __len__(self) -> int:
        return len(self.ptr) - 1

    @cached_property
    def opcode(self) -> NDArray[np.int8]:
        """The opcode of each row."""
        own = np.repeat(np.arange(3, dtype=np.int8), len(self.graph))[: len(self)]
        return np.concatenate([own, np.array([e.opcode for e in self.extra_rows], dtype=np.int8)])

    @cached_property
    def node(self) -> NDArray[np.int32]:
        """The node of each row."""
        own = np.tile(np.arange(len(self.graph), dtype=np.int32), 3)[: len(self)]
        return np.concatenate([own, np.array([e.node for e in self.extra_rows], dtype=np.int32)])

    @cached_property
    def flops(self) -> Ints:
        """Flops of each row per unit of width."""
        return np.concatenate([*(self.own_flops(o) for o in range(3)), self.extra_flops])[: len(self)]

    @cached_property
    def extra_flops(self) -> Ints:
        return np.array([e.flops for e in self.extra_rows], dtype=np.int64)

    @cached_property
    def workspace(self) -> Ints:
        """Where `workspace_index` finds what lives only while a row runs.

        First 1 or 3, the number of sections; then the sections, one number a node: one if every action
        of a node takes the same, else that of plain forwards and JVPs, of VJPs, of forwards that save
        their residual; then the extra rows.
        """
        c = self.graph.columns
        extra = np.array([e.workspace_bytes for e in self.extra_rows], dtype=np.int64)
        sections = [c.workspace_bytes]
        if c.vjp_workspace_bytes is not None or c.taping_workspace_bytes is not None:
            others = (c.vjp_workspace_bytes, c.taping_workspace_bytes)
            sections += [c.workspace_bytes if w is None else w for w in others]
        return np.concatenate([np.array([len(sections)]), *sections, extra])

    @cached_property
    def value_kind(self) -> Bytes8:
        return self.value_code % 8

    @cached_property
    def value_tier(self) -> Bytes8:
        return self.value_code // 8

    @cached_property
    def scaled(self) -> NDArray[np.bool_]:
        """Whether a value's bytes are per unit of width."""
        return np.isin(self.value_kind, (TANGENT, COTANGENT))

    def own_flops(self, opcode: int) -> Ints:
        """Flops of each node's own row of an opcode, per unit of width; 0 where it has no derivative."""
        c, graph = self.graph.columns, self.graph
        if opcode == FORWARD:
            return c.forward_flops
        active = graph.active[len(graph.inputs) :]
        if opcode == JVP:
            return np.where(active, c.jvp_flops, 0)
        # a VJP makes only the cotangents that are wanted
        wanted = graph.reads_active
        own = c.param_vjp_flops if graph.wrt == "parameters" else 0
        return np.where(active, np.where(wanted, c.vjp_flops, 0) + own, 0)

    def workspace_of(self, row: int, *, taping: bool = False) -> int:
        """Bytes that live only while the row runs; with `taping`, while a forward runs that saves its residual."""
        return int(self.workspace[workspace_index(len(self.graph), int(self.workspace[0]), row, taping)])

    def describe_value(self, v: int) -> Value:
        """The value as people read it."""
        graph, n, m = self.graph, len(self.graph), len(self.graph.inputs)
        if v < 5 * n:
            return Value(VALUE_KINDS[v // n], graph.nodes[v % n].name)
        if v < 5 * n + m:
            return Value("tangent", graph.inputs[v - 5 * n].name)
        key = self.extra_values[v - 5 * n - m]
        if key[0] == JACOBIAN_VALUE:
            return Value("jacobian", self.position_name(key[1]), self.position_name(key[2]))
        if key[0] == INPUT:
            return Value("activation", self.position_name(key[1]))
        base = self.describe_value(key[1])
        return Value(base.kind, base.node, base.source, TIERS[key[2]])

    def position_name(self, position: int) -> str:
        m = len(self.graph.inputs)
        return self.graph.inputs[position].name if position < m else self.graph.nodes[position - m].name

    def describe(self, row: int, width: int = 1) -> Action:
        """The action of a row as people read it."""
        opcode, name = int(self.opcode[row]), self.graph.nodes[int(self.node[row])].name
        kind = KINDS[opcode]
        if row < 3 * len(self.graph):
            return Action(kind, name, width)
        extra = self.extra_rows[row - 3 * len(self.graph)]
        if opcode == COPY:
            value, to = cast("tuple[int, int]", extra.key)
            return Action(kind, name, width, value=self.describe_value(value), to=TIERS[to])
        if opcode == MULTIPLY:
            target, middle, source = (self.position_name(cast(int, p)) for p in extra.key[:3])
            into = STRUCTURES[cast(int, extra.key[3])] if len(extra.key) > 3 else None
            return Action(kind, name, width, source=source, middle=middle, target=target, into=into)
        if opcode == JACOBIAN and len(extra.key) > 1:
            by, structure = cast("tuple[int, int]", extra.key[1:])
            return Action(kind, name, width, source=self.position_name(by), into=STRUCTURES[structure])
        if extra.on_jacobian:
            other = self.position_name(cast(int, extra.key[1]))
            return Action(
                kind, name, width,
                source=other if opcode == JVP else None, target=other if opcode == VJP else None,
            )  # fmt: skip
        if opcode == JVP:
            carried = tuple(self.position_name(p) for p in cast("tuple[int, ...]", extra.key[1]))
            return Action(kind, name, width, carried=carried, seeded=bool(extra.key[2]))
        return Action(kind, name, width)

    @cached_property
    def moved_bytes(self) -> tuple[Ints, Ints]:
        """Memory traffic of each row: a fixed part, and a part per unit of width.

        A forward moves the node's `forward_bytes`; every other action moves what it reads and writes
        (what it accumulates into twice), with the parameters of its node. A JVP adds single entries to
        a parameter gradient, which do not count.
        """
        size = self.value_bytes[self.value] * (1 + (self.access == ACCUMULATE))
        row_of_touch = np.repeat(np.arange(len(self)), np.diff(self.ptr))
        size[(self.value_kind[self.value] == GRADIENT) & (self.opcode[row_of_touch] == JVP)] = 0
        scaled = self.scaled[self.value]

        def of_rows(sizes: Ints) -> Ints:
            up_to: Ints = np.concatenate([[0], np.cumsum(sizes)])
            return up_to[self.ptr[1:]] - up_to[self.ptr[:-1]]

        fixed, per_width = of_rows(np.where(scaled, 0, size)), of_rows(np.where(scaled, size, 0))
        derivative = np.isin(self.opcode, (VJP, JVP, JACOBIAN))
        fixed[derivative] += self.graph.columns.param_bytes[self.node[derivative]]
        forward = self.opcode == FORWARD
        fixed[forward] = self.graph.columns.forward_bytes[self.node[forward]]
        return fixed, per_width

    def effects(self, row: int, width: int = 1) -> Effects:
        """What the action of a row does, as people read it."""
        touched = range(int(self.ptr[row]), int(self.ptr[row + 1]))

        def values(*accesses: int) -> tuple[Value, ...]:
            return tuple(self.describe_value(int(self.value[e])) for e in touched if self.access[e] in accesses)

        fixed, per_width = self.moved_bytes
        return Effects(
            reads=values(READ, CONSUME),
            writes=values(WRITE, SAVE),
            accumulates=values(ACCUMULATE),
            flops=int(self.flops[row]) * width,
            moved_bytes=int(fixed[row]) + int(per_width[row]) * width,
            workspace_bytes=self.workspace_of(row, taping=any(self.access[e] == SAVE for e in touched)),
        )


def base_table(graph: Graph, *, jvp: bool = True) -> Table:
    """The forward, VJP and (unless `jvp` is false) JVP rows of every node; made once for each graph."""
    tables = cast("dict[bool, Table]", graph.__dict__.setdefault("_tables", {}))
    if jvp not in tables:
        tables[jvp] = _make_base(graph, jvp=jvp)
    return tables[jvp]


def _make_base(graph: Graph, *, jvp: bool) -> Table:
    n, m, c = len(graph), len(graph.inputs), graph.columns
    parameters = graph.wrt == "parameters"
    kinds = 5 if jvp else 4 if parameters else 3
    sink = np.zeros(n, dtype=np.bool_)
    sink[graph.sinks] = True
    reads_output = (c.needs & NEEDS.index("output")) > 0
    ptr, value, access, contributions = _touches(
        n, m, 3 if jvp else 2, c.input_ptr, c.input_index, graph.derivative_reads, graph.active, sink, reads_output,
        c.residual_bytes >= 0, graph.gradient_of if parameters else np.empty(0, dtype=np.int32), parameters,
    )  # fmt: skip
    value_bytes = np.zeros(kinds * n + (m if jvp else 0), dtype=np.int64)
    of_kind = value_bytes[: kinds * n].reshape(kinds, n)
    of_kind[ACTIVATION] = c.activation_bytes
    of_kind[RESIDUAL] = np.maximum(c.residual_bytes, 0)
    of_kind[COTANGENT] = graph.cotangent_bytes[m:]
    if parameters and not graph.preallocated_gradients:
        of_kind[GRADIENT] = graph.gradient_bytes
    if jvp:
        of_kind[TANGENT] = c.activation_bytes
        value_bytes[kinds * n :] = graph.input_bytes
    code = np.full(len(value_bytes), TANGENT, dtype=np.uint8)
    code[: kinds * n] = np.repeat(np.arange(kinds, dtype=np.uint8), n)
    return Table(graph, ptr, value, access, value_bytes, code, contributions)


@compiled
def _touches(
    n: Any, m: Any, opcodes: Any, input_ptr: Any, input_index: Any, reads: Any, active: Any, sink: Any,
    reads_output: Any, taped: Any, gradient_of: Any, parameters: Any,
) -> Any:  # fmt: skip
    """The rules: what the forward, VJP and JVP of each node read, write and accumulate into.

    Returns the table's `ptr`, `value` and `access`, and how many VJPs add to each cotangent.
    """
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
            if taped[i]:
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
                        value[e], access[e] = 5 * n + p, READ if entered[p] else WRITE
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
            if reads_output[i]:
                value[e], access[e] = i, READ
                e += 1
            if taped[i]:
                value[e], access[e] = RESIDUAL * n + i, READ
                e += 1
        ptr[row + 1] = e
    return ptr, value[:e], access[:e], contributions
