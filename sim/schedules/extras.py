"""The rows and values of one schedule beyond its graph's own: seeded sweeps, Jacobians, copies.

`effects(graph, action)` says what any action does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from sim.base.errors import CountOverflow
from sim.graphs.graph import LARGEST, STRUCTURES, Graph, Structure, per_sample
from sim.schedules.actions import (
    ACCUMULATE,
    ACTIVATION,
    CONSUME,
    COPIED,
    COPY,
    GRADIENT,
    INPUT,
    JACOBIAN,
    JACOBIAN_VALUE,
    JVP,
    KINDS,
    MULTIPLY,
    READ,
    SAVE,
    TANGENT,
    TIERS,
    VALUE_KINDS,
    VJP,
    WRITE,
    Action,
    Effects,
)
from sim.schedules.table import Extra, Table, base_table


class Extras:
    """Rows and values that one schedule needs beyond the graph's own; `table()` joins them to it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._rows: dict[tuple[object, ...], int] = {}
        self._extra: list[Extra] = []
        self._touched: list[list[tuple[int, int]]] = []
        self._values: dict[tuple[int, ...], int] = {}
        self._keys: list[tuple[int, ...]] = []
        self._own_values = 5 * len(graph) + len(graph.inputs)  # values of the graph; extra ones come behind
        self._sizes: list[int] = []
        self._codes: list[int] = []
        self._structure: dict[int, int] = {}

    @cached_property
    def _base(self) -> Table:
        return base_table(self.graph)

    def seeded_jvp(self, node: int, carried: tuple[int, ...], *, seeded: bool) -> int:
        """The row of a JVP that reads the tangents of the positions in `carried` only.

        With `seeded`, one tangent for each parameter that the node uses enters here: its share costs
        what the VJP's share for the parameters does, because a linear map and its transpose have the
        same multiplications. Their gradient is made here too, because the sweep fills it.
        """
        graph, n, m, c = self.graph, len(self.graph), len(self.graph.inputs), self.graph.columns
        touched = [(n * TANGENT + p - m, READ) for p in carried] + self._derivative_reads(node)
        if graph.wrt == "parameters" or self.graph.consumer_counts[m + node]:
            touched.append((n * TANGENT + node, WRITE))
        if seeded:
            touched.append((n * GRADIENT + int(graph.gradient_of[node]), ACCUMULATE))
        flops = (int(c.jvp_flops[node]) if carried else 0) + (int(c.param_vjp_flops[node]) if seeded else 0)
        return self._row(Extra(JVP, node, (node, carried, int(seeded)), flops, int(c.workspace_bytes[node])), touched)

    def jacobian(self, node: int) -> int:
        """The row that forms the local Jacobian of `node` by its one active input."""
        m, c = len(self.graph.inputs), self.graph.columns
        (source,) = self.active_inputs(node)
        value = self.jacobian_value(m + node, source, STRUCTURES[int(c.jacobian_structure[node])])
        touched = [*self._derivative_reads(node), (value, WRITE)]
        extra = Extra(JACOBIAN, node, (node,), int(c.jacobian_flops[node]), int(c.workspace_bytes[node]))
        return self._row(extra, touched)

    def jacobian_by(self, node: int, source: int, into: str) -> int:
        """The row that adds the local Jacobian of `node` by its input `source` to a block of structure `into`.

        The node's `jacobian.flops` are taken for each of its inputs.
        """
        m, c = len(self.graph.inputs), self.graph.columns
        touched = [*self._derivative_reads(node), (self.jacobian_value(m + node, source, into), ACCUMULATE)]
        key = (node, source, STRUCTURES.index(cast(Structure, into)))
        return self._row(Extra(JACOBIAN, node, key, int(c.jacobian_flops[node]), int(c.workspace_bytes[node])), touched)

    def jvp_of_jacobian(self, node: int, source: int) -> int:
        """The row that takes the Jacobians of `node`'s inputs by `source` to that of `node`."""
        m, c = len(self.graph.inputs), self.graph.columns
        touched = [(self.jacobian_value(p, source), READ) for p in self.active_inputs(node) if p != source]
        touched += [*self._derivative_reads(node), (self.jacobian_value(m + node, source), WRITE)]
        costs = int(c.jvp_flops[node]), int(c.workspace_bytes[node])
        return self._row(Extra(JVP, node, (node, source), *costs, on_jacobian=True), touched)

    def vjp_of_jacobian(self, node: int, target: int) -> int:
        """The row that takes the Jacobian of `target` by `node` to those by `node`'s inputs."""
        m, c = len(self.graph.inputs), self.graph.columns
        touched = [] if target == m + node else [(self.jacobian_value(target, m + node), CONSUME)]
        touched += self._derivative_reads(node)
        touched += [(self.jacobian_value(target, p), ACCUMULATE) for p in self.active_inputs(node)]
        costs = int(c.vjp_flops[node]), int(c.workspace_bytes[node])
        return self._row(Extra(VJP, node, (node, target), *costs, on_jacobian=True), touched)

    def multiply(self, target: int, middle: int, source: int, *, into: str | None = None) -> int:
        """The row that multiplies the Jacobian of `target` by `middle` with that of `middle` by `source`.

        With `into` the product is added to the block of that structure which may be there already: a
        dense product of 2·p·q·r flops has one addition for each multiplication in any case.
        """
        graph, m = self.graph, len(self.graph.inputs)
        left, right = self.jacobian_value(target, middle), self.jacobian_value(middle, source)
        structures = (STRUCTURES[self._structure[left]], STRUCTURES[self._structure[right]])
        p, q, r = (self.scalars(x) for x in (target, middle, source))
        flops, structure = product_cost(p, q, r, structures[0], structures[1], graph.batch)
        key: tuple[int, ...] = (target, middle, source)
        access = WRITE
        if into is not None:
            key, structure, access = (*key, STRUCTURES.index(cast(Structure, into))), into, ACCUMULATE
        touched = [(left, READ), (right, READ), (self.jacobian_value(target, source, structure), access)]
        return self._row(Extra(MULTIPLY, target - m, key, flops), touched)

    def copy(self, value: int, source: int, to: int) -> int:
        """The row that copies a value, named by its number on the device, from one tier to another."""
        n = len(self.graph)
        read, written = self.in_tier(value, source), self.in_tier(value, to)
        node = value % n if value < 5 * n else 0
        if self._is_input(value):
            # it is the caller's: nobody has written it, and a copy that comes back takes no memory
            return self._row(
                Extra(COPY, node, (read, to), 0), [(read, READ if source else SAVE), (written, WRITE if to else SAVE)]
            )
        return self._row(Extra(COPY, node, (read, to), 0), [(read, READ), (written, WRITE)])

    def input_value(self, position: int) -> int:
        """The number of a graph input, to be copied to another tier; rows only SAVE it, so it is never allocated."""
        return self._value((INPUT, position), self.graph.input_bytes[position], ACTIVATION)

    def _is_input(self, value: int) -> bool:
        return value >= self._own_values and self._keys[value - self._own_values][0] == INPUT

    def in_tier(self, value: int, tier: int) -> int:
        """The number of a device value's copy in a tier."""
        if tier == 0:
            return value
        if self._is_input(value):
            size = self.graph.input_bytes[self._keys[value - self._own_values][1]]
            return self._value((COPIED, value, tier), size, ACTIVATION + 8 * tier)
        code = int(self._base.value_code[value]) % 8 + 8 * tier
        return self._value((COPIED, value, tier), int(self._base.value_bytes[value]), code)

    def jacobian_value(self, node: int, source: int, structure: str = "dense") -> int:
        """The number of the accumulated Jacobian of position `node` by position `source`."""
        graph, m = self.graph, len(self.graph.inputs)
        p, q = self.scalars(node), self.scalars(source)
        size = {"dense": graph.batch * p * q, "diagonal": graph.batch * p, "constant": p * q}[structure]
        itemsize = int(graph.columns.itemsize[node - m])
        is_result = source < m and graph.consumer_counts[node] == 0
        known = (JACOBIAN_VALUE, node, source) in self._values
        if size * itemsize > LARGEST:
            raise CountOverflow(f"a Jacobian of {p} × {q} scalars takes more than 4 EiB")
        number = self._value((JACOBIAN_VALUE, node, source), 0 if is_result else size * itemsize, JACOBIAN_VALUE)
        if not known:
            self._structure[number] = STRUCTURES.index(structure)
        return number

    def scalars(self, position: int) -> int:
        """The scalars of one sample at a position."""
        m = len(self.graph.inputs)
        if position >= m:
            return int(self.graph.columns.scalars[position - m])
        return per_sample(self.graph.inputs[position].shape, self.graph.batch)

    def row_nodes(self, rows: NDArray[np.int32]) -> NDArray[np.int64]:
        """The node of each row."""
        n = len(self.graph)
        return np.array([r % n if r < 3 * n else self._extra[r - 3 * n].node for r in rows.tolist()], dtype=np.int64)

    def active_inputs(self, node: int) -> list[int]:
        c = self.graph.columns
        inputs = c.input_index[c.input_ptr[node] : c.input_ptr[node + 1]]
        return [int(p) for p in inputs if self.graph.active[p]]

    def _derivative_reads(self, node: int) -> list[tuple[int, int]]:
        """What the node's JVP reads beyond tangents: taken from its own JVP row, so that it is written once."""
        n, base = len(self.graph), self._base
        row = n * JVP + node
        touched = zip(
            base.value[base.ptr[row] : base.ptr[row + 1]].tolist(),
            base.access[base.ptr[row] : base.ptr[row + 1]].tolist(),
            strict=True,
        )
        return [(v, READ) for v, access in touched if access == READ and v < n * TANGENT]

    def _row(self, extra: Extra, touched: Sequence[tuple[int, int]]) -> int:
        key = (extra.opcode, extra.key, extra.on_jacobian)
        if key not in self._rows:
            self._rows[key] = 3 * len(self.graph) + len(self._extra)
            self._extra.append(extra)
            self._touched.append(list(touched))
        return self._rows[key]

    def _value(self, key: tuple[int, ...], size: int, code: int) -> int:
        if key not in self._values:
            self._values[key] = self._own_values + len(self._sizes)
            self._keys.append(key)
            self._sizes.append(size)
            self._codes.append(code)
        return self._values[key]

    def table(self, *, jvp: bool = True) -> Table:
        """The graph's table with these rows and values behind it; without JVP rows if there are no extras."""
        if not self._extra:
            return base_table(self.graph, jvp=jvp)
        if max(e.flops for e in self._extra) > LARGEST:
            raise CountOverflow("a product of Jacobians takes more than 4.6e18 flops")
        base = self._base
        flat = np.array([x for t in self._touched for x in t], dtype=np.int32).reshape(-1, 2)
        lengths = np.array([len(t) for t in self._touched])
        return Table(
            graph=self.graph,
            ptr=np.concatenate([base.ptr, base.ptr[-1] + np.cumsum(lengths)]).astype(np.int32),
            value=np.concatenate([base.value, flat[:, 0]]),
            access=np.concatenate([base.access, flat[:, 1].astype(np.uint8)]),
            value_bytes=np.concatenate([base.value_bytes, np.array(self._sizes, dtype=np.int64)]),
            value_code=np.concatenate([base.value_code, np.array(self._codes, dtype=np.uint8)]),
            contributions=base.contributions,
            extra_rows=tuple(self._extra),
            extra_values=tuple(self._values),
        )


def product_cost(p: int, q: int, r: int, left: str, right: str, batch: int) -> tuple[int, str]:
    """Flops of a (p × q)·(q × r) product of Jacobian blocks for the whole batch, and its structure.

    A dense product costs 2·p·q·r for each sample (once if both are constant over the batch); a
    diagonal factor scales rows or columns, one multiplication for each entry.
    """
    if left == "diagonal" and right == "diagonal":
        return batch * p, "diagonal"
    if left == "diagonal" or right == "diagonal":
        return batch * p * r, "dense"
    if left == "constant" and right == "constant":
        return 2 * p * q * r, "constant"
    return 2 * p * q * r * batch, "dense"


def effects(graph: Graph, action: Action) -> Effects:
    """What `action` reads, writes, accumulates into, costs and moves on `graph`.

    Works for every action that a `Schedule` yields.
    """
    position = {i.name: p for p, i in enumerate(graph.inputs)}
    position |= {node.name: len(graph.inputs) + i for i, node in enumerate(graph.nodes)}
    m, n = len(graph.inputs), len(graph)
    extras = Extras(graph)
    node = position[action.node] - m
    if action.kind == "copy":
        assert action.value is not None
        assert action.to is not None
        of = position[action.value.node]
        value = extras.input_value(of) if of < m else VALUE_KINDS.index(action.value.kind) * n + of - m
        row = extras.copy(value, TIERS.index(action.value.tier), TIERS.index(action.to))
    elif action.kind == "multiply":
        target, middle, source = (position[cast(str, x)] for x in (action.target, action.middle, action.source))
        row = extras.multiply(target, middle, source, into=action.into)
    elif action.kind == "jacobian" and action.source is not None:
        row = extras.jacobian_by(node, position[action.source], cast(str, action.into))
    elif action.kind == "jacobian":
        row = extras.jacobian(node)
    elif action.source is not None:
        row = extras.jvp_of_jacobian(node, position[action.source])
    elif action.target is not None:
        row = extras.vjp_of_jacobian(node, position[action.target])
    elif action.carried is not None:
        row = extras.seeded_jvp(node, tuple(position[p] for p in action.carried), seeded=action.seeded)
    else:
        row = KINDS.index(action.kind) * n + node
    return extras.table().effects(row, action.width)
