"""The effects of a graph's own rows as index arrays: what each reads, writes, accumulates and costs.

Replay, simulate, execute and the planners all use this table; `sim.extras` adds the rows that a
schedule needs beyond it, and `extras.effects` answers for one action, out of the same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sim.actions import (
    ACCUMULATE,
    CONSUME,
    COPY,
    COTANGENT,
    FORWARD,
    GRADIENT,
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
from sim.graph import Graph, Ints

Bytes8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Extra:
    """A row that a schedule adds to the graph's own, identified by its key.

    kind JVP: (node, carried positions, seeded) or (node, source position); VJP: (node, target
    position); JACOBIAN: (node,); MULTIPLY: (target, middle, source positions); COPY: (value, to tier).
    """

    opcode: int
    node: int
    key: tuple[int | tuple[int, ...], ...]
    on_jacobian: bool = False


@dataclass(frozen=True, eq=False)
class Table:
    """The effects of every row, and the size of every value, of one graph (and one schedule's extras).

    `ptr`, `value`, `access` are a CSR of what each row touches. `flops` is per unit of width, and
    `value_bytes` per unit of width where `scaled`. `contributions` says how many accumulations make
    a cotangent complete. Graph inputs and what is written straight into the result are resident and
    do not appear.
    """

    graph: Graph
    opcode: NDArray[np.int8]
    node: NDArray[np.int32]
    flops: Ints
    workspace: Ints
    ptr: Ints
    value: NDArray[np.int32]
    access: Bytes8
    value_bytes: Ints
    scaled: NDArray[np.bool_]
    value_kind: Bytes8
    value_tier: Bytes8
    contributions: NDArray[np.int32]
    extra_rows: tuple[Extra, ...] = ()
    extra_values: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.opcode)

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
            target, middle, source = (self.position_name(cast(int, p)) for p in extra.key)
            return Action(kind, name, width, source=source, middle=middle, target=target)
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
        (what it accumulates into twice), with the parameters of its node.
        """
        size = self.value_bytes[self.value] * (1 + (self.access == ACCUMULATE))
        scaled = self.scaled[self.value]
        row = np.repeat(np.arange(len(self)), np.diff(self.ptr))
        fixed = np.bincount(row, weights=np.where(scaled, 0, size), minlength=len(self)).astype(np.int64)
        per_width = np.bincount(row, weights=np.where(scaled, size, 0), minlength=len(self)).astype(np.int64)
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
            workspace_bytes=int(self.workspace[row]),
        )


class _Touches:
    """Collects (row, value, access) triples, at most a few array pieces, into a CSR without sorting."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._pieces: list[tuple[Ints, Ints, int]] = []

    def add(self, rows: Ints, values: Ints, access: int) -> None:
        """One more piece; `rows` must not decrease."""
        if len(rows):
            self._pieces.append((rows, values, access))

    def csr(self) -> tuple[Ints, NDArray[np.int32], Bytes8]:
        counts = np.zeros(self._rows, dtype=np.int64)
        for rows, _, _ in self._pieces:
            counts += np.bincount(rows, minlength=self._rows)
        ptr = np.concatenate([[0], np.cumsum(counts)])
        value = np.empty(int(ptr[-1]), dtype=np.int32)
        access = np.empty(int(ptr[-1]), dtype=np.uint8)
        cursor = ptr[:-1].copy()
        for rows, values, kind in self._pieces:
            starts = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
            rank = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
            at = cursor[rows] + rank
            value[at] = values
            access[at] = kind
            cursor += np.bincount(rows, minlength=self._rows)
        return ptr, value, access


def base_table(graph: Graph) -> Table:
    """The forward, VJP and JVP rows of every node of `graph`; made once for each graph.

    Raises
    ------
    CountOverflow
        If a value's bytes could leave 64-bit integers.
    """
    cached = graph.__dict__.get("_table")
    if cached is None:
        cached = _make_base(graph)
        graph.__dict__["_table"] = cached
    return cast(Table, cached)


def _make_base(graph: Graph) -> Table:
    n, m, c = len(graph), len(graph.inputs), graph.columns
    nodes = np.arange(n, dtype=np.int64)
    active = graph.active
    node_active = active[m:]
    reader = np.repeat(nodes, np.diff(c.input_ptr))
    source = c.input_index
    from_node = source >= m
    carries = active[source]  # whether this edge carries a tangent or cotangent
    touches = _Touches(3 * n)

    touches.add(reader[from_node], source[from_node] - m, READ)
    touches.add(nodes, nodes, WRITE)
    taped = c.residual_bytes >= 0
    touches.add(nodes[taped], n * RESIDUAL + nodes[taped], SAVE)

    sinks = np.zeros(n, dtype=np.bool_)
    sinks[graph.sinks] = True
    seed = node_active & sinks
    inner = node_active & ~sinks
    touches.add(n * VJP + nodes[seed], n * COTANGENT + nodes[seed], WRITE)
    touches.add(n * VJP + nodes[inner], n * COTANGENT + nodes[inner], CONSUME)
    back = carries & from_node & node_active[reader]
    touches.add(n * VJP + reader[back], n * COTANGENT + source[back] - m, ACCUMULATE)
    if graph.wrt == "parameters":
        own = c.param_size > 0
        touches.add(n * VJP + nodes[own], n * GRADIENT + nodes[own], ACCUMULATE)

    touches.add(n * JVP + reader[back], n * TANGENT + source[back] - m, READ)
    entering = carries & ~from_node
    first = np.zeros(len(source), dtype=np.bool_)
    first[np.unique(np.where(entering, source, -1), return_index=True)[1]] = True
    first &= entering
    later = entering & ~first
    touches.add(n * JVP + reader[first], 5 * n + source[first], WRITE)
    touches.add(n * JVP + reader[later], 5 * n + source[later], READ)
    written = inner if graph.wrt == "input" else node_active
    touches.add(n * JVP + nodes[written], n * TANGENT + nodes[written], WRITE)

    for derivative in (VJP, JVP):
        reads_input = from_node & node_active[reader] & ((c.needs[reader] & 1) > 0)
        touches.add(n * derivative + reader[reads_input], source[reads_input] - m, READ)
        reads_output = node_active & ((c.needs & 2) > 0)
        touches.add(n * derivative + nodes[reads_output], nodes[reads_output], READ)
        reads_tape = node_active & taped
        touches.add(n * derivative + nodes[reads_tape], n * RESIDUAL + nodes[reads_tape], READ)

    ptr, value, access = touches.csr()
    wanted = np.zeros(n, dtype=np.bool_)
    wanted[reader[carries]] = True
    vjp = np.where(wanted, c.vjp_flops, 0)
    if graph.wrt == "parameters":
        vjp = vjp + c.param_vjp_flops
    tangent_of_input = [b if i.differentiable else 0 for b, i in zip(graph.input_bytes, graph.inputs, strict=True)]
    gradient = np.zeros(n, dtype=np.int64)
    if graph.wrt == "parameters" and not graph.preallocated_gradients:
        gradient = graph.gradient_bytes
    value_bytes = np.concatenate(
        [
            c.activation_bytes, np.maximum(c.residual_bytes, 0), c.activation_bytes,
            graph.cotangent_bytes[m:], gradient, np.array(tangent_of_input, dtype=np.int64),
        ]
    )  # fmt: skip
    value_kind = np.concatenate([np.repeat(np.arange(5), n), np.full(m, TANGENT)]).astype(np.uint8)
    contributions = np.zeros(5 * n + m, dtype=np.int32)
    contributions[n * COTANGENT : n * GRADIENT] = np.bincount(source[back] - m, minlength=n)
    return Table(
        graph=graph,
        opcode=np.repeat(np.arange(3), n).astype(np.int8),
        node=np.tile(nodes, 3).astype(np.int32),
        flops=np.concatenate([c.forward_flops, np.where(node_active, vjp, 0), c.jvp_flops]),
        workspace=np.tile(c.workspace_bytes, 3),
        ptr=ptr,
        value=value,
        access=access,
        value_bytes=value_bytes,
        scaled=np.isin(value_kind, (TANGENT, COTANGENT)),
        value_kind=value_kind,
        value_tier=np.zeros(5 * n + m, dtype=np.uint8),
        contributions=contributions,
    )
