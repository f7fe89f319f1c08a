"""The effects of every row that a schedule uses: those of its graph, and those of the actions it adds.

Replay, simulate, execute and the planners all read them here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sim.base.errors import CountOverflow
from sim.base.memo import remembered
from sim.graphs.columns import Columns as NodeColumns
from sim.graphs.graph import Graph, NodeView
from sim.graphs.node import LARGEST, GraphInput, Ints, Node
from sim.schedules import actions
from sim.schedules.actions import OWN, Action, Scope
from sim.schedules.effects import COPY, FORWARD, JACOBIAN, JVP, KINDS, VJP, Columns, own_effects
from sim.schedules.values import (
    ACCUMULATE,
    COTANGENT,
    GRADIENT,
    TANGENT,
    Numbers,
    Value,
)


@dataclass(frozen=True, eq=False)
class Table:
    """The effects of every row, and the size of every value, of one graph and of what one schedule adds.

    `columns` is what compiled loops read; `flops` has an entry a row, per unit of width. `added` are the
    actions behind the graph's own rows, `added_values` the values behind its own. A table without any
    may end before the rows and values that the schedule does not use.
    """

    numbers: Numbers
    nodes: Sequence[Node]
    inputs: tuple[GraphInput, ...]
    node_columns: NodeColumns
    columns: Columns
    flops: Ints
    added: tuple[Action, ...] = ()
    added_values: tuple[Value, ...] = ()

    def __repr__(self) -> str:
        return f"Table({len(self)} rows, {len(self.columns.value_bytes)} values)"

    def __len__(self) -> int:
        return len(self.columns.ptr) - 1

    @cached_property
    def opcode(self) -> NDArray[np.int8]:
        """The opcode of each row."""
        own = np.repeat(np.arange(len(OWN), dtype=np.int8), self.numbers.nodes)[: len(self)]
        return np.concatenate([own, np.array([KINDS.index(a.kind) for a in self.added], dtype=np.int8)])

    @cached_property
    def node(self) -> NDArray[np.int32]:
        """The node of each row; that of a copied graph input is -1."""
        own = np.tile(np.arange(self.numbers.nodes, dtype=np.int32), len(OWN))[: len(self)]
        if not self.added:
            return own
        position = {node.name: i for i, node in enumerate(self.nodes)}
        return np.concatenate([own, np.array([position.get(a.node, -1) for a in self.added], dtype=np.int32)])

    @cached_property
    def scaled(self) -> NDArray[np.bool_]:
        """Mark the values whose bytes are per unit of width."""
        kind = self.columns.value_kind
        scaled: NDArray[np.bool_] = (kind == TANGENT) | (kind == COTANGENT)
        return scaled

    @cached_property
    def copies(self) -> tuple[Ints, NDArray[np.int32], NDArray[np.int32]]:
        """The rows that copy, the value that each reads and the one that it writes."""
        rows = np.flatnonzero(self.opcode == COPY)
        first = self.columns.ptr[rows]
        return rows, self.columns.value[first], self.columns.value[first + 1]

    def own_flops(self, opcode: int) -> Ints:
        """Flops of each node's own row of an opcode, per unit of width; 0 where it has no derivative."""
        return self.flops[self.numbers.rows(opcode)]

    def touches(self, row: int) -> dict[int, int]:
        """The touch of each value by a row."""
        c = self.columns
        span = slice(int(c.ptr[row]), int(c.ptr[row + 1]))
        return dict(zip(c.value[span].tolist(), c.access[span].tolist(), strict=True))

    def describe_value(self, number: int) -> Value:
        """The value as people read it."""
        first = self.numbers.first_added
        if number >= first:
            return self.added_values[number - first]
        return actions.describe(self.numbers, _Names(self.inputs, self.nodes), number)

    def node_of_value(self, number: int) -> int:
        """The node that a value, or what it is a copy of, belongs to; -1 for one of a graph input."""
        if self.numbers.is_of_node(number):
            return self.numbers.node(number)
        return self._places.get(self.describe_value(number).node, -1)

    @cached_property
    def _places(self) -> Mapping[str, int]:
        """The number of each node by its name."""
        names = self.nodes.names() if isinstance(self.nodes, NodeView) else (node.name for node in self.nodes)
        return {name: i for i, name in enumerate(names)}

    def action(self, row: int, width: int = 1) -> Action:
        """The action of a row as people read it."""
        first = self.numbers.first_added_row
        if row >= first:
            return replace(self.added[row - first], width=width)
        opcode, node = divmod(row, self.numbers.nodes)
        return OWN[opcode](self.nodes[node].name, width=width)

    @cached_property
    def moved_bytes(self) -> tuple[Ints, Ints]:
        """Memory traffic of each row: a fixed part, and a part per unit of width.

        A forward moves the node's `forward_bytes`; every other action moves what it reads and writes
        (what it accumulates into twice), with the parameters of its node. A JVP adds single entries to
        a parameter gradient, which do not count.
        """
        c = self.columns
        size = c.value_bytes[c.value] * (1 + (c.access == ACCUMULATE))
        row_of_touch = np.repeat(np.arange(len(self)), np.diff(c.ptr))
        size[(c.value_kind[c.value] == GRADIENT) & (self.opcode[row_of_touch] == JVP)] = 0
        scaled = self.scaled[c.value]

        def of_rows(sizes: Ints) -> Ints:
            up_to: Ints = np.concatenate([[0], np.cumsum(sizes)])
            return up_to[c.ptr[1:]] - up_to[c.ptr[:-1]]

        fixed, per_width = of_rows(np.where(scaled, 0, size)), of_rows(np.where(scaled, size, 0))
        derivative = np.isin(self.opcode, (VJP, JVP, JACOBIAN))
        fixed[derivative] += self.node_columns.param_bytes[self.node[derivative]]
        forward = self.opcode == FORWARD
        fixed[forward] = self.node_columns.forward_bytes[self.node[forward]]
        return fixed, per_width


class _Names:
    """The name at each position, made when it is asked for: a graph may have a million nodes."""

    def __init__(self, inputs: Sequence[GraphInput], nodes: Sequence[Node]) -> None:
        self._inputs, self._nodes = inputs, nodes

    def __getitem__(self, position: int) -> str:
        m = len(self._inputs)
        return self._inputs[position].name if position < m else self._nodes[position - m].name


@remembered
def base_table(graph: Graph, *, jvp: bool = True) -> Table:
    """The table of a graph's own rows: forwards, VJPs and (unless `jvp` is false) JVPs."""
    own, numbers = own_effects(graph, jvp=jvp), Numbers(len(graph), len(graph.inputs))
    return Table(numbers, graph.nodes, graph.inputs, graph.columns, own.columns, own.flops)


class Rows:
    """The rows that a schedule uses, by number; `table()` joins those of its own to the graph's."""

    def __init__(self, graph: Graph) -> None:
        self.scope = Scope(graph)
        self._number: dict[Action, int] = {}
        self._actions: list[Action] = []
        self._rows: list[actions.Row] = []

    def number(self, action: Action) -> int:
        """The row of an action, whatever its width."""
        if isinstance(action, OWN):
            return self.scope.numbers.row(OWN.index(type(action)), self.scope.node(action.node))
        key = action if action.width == 1 else replace(action, width=1)
        number = self._number.get(key)
        if number is None:
            self._rows.append(key.row(self.scope))
            self._actions.append(key)
            number = self._number[key] = self.scope.numbers.first_added_row + len(self._number)
        return number

    def node(self, row: int) -> int:
        """The node of a row that was added."""
        return self.scope.node(self._actions[row - self.scope.numbers.first_added_row].node)

    def table(self, *, jvp: bool = True) -> Table:
        """The graph's table with what was added; without JVP rows if nothing was.

        Raises
        ------
        CountOverflow
            If an action takes more flops than the ledger can count.
        """
        base = base_table(self.scope.graph, jvp=jvp or bool(self._rows))
        if not self._rows:
            return base
        flops = [row.flops for row in self._rows]
        if max(flops) > LARGEST:
            raise CountOverflow("a product of Jacobians takes more than 4.6e18 flops")
        own = base.columns
        touches = np.array([t for row in self._rows for t in row.touches], dtype=np.int32).reshape(-1, 2)
        ends = np.cumsum([len(row.touches) for row in self._rows])
        sizes, kinds, tiers = self.scope.added_columns()
        columns = own._replace(
            ptr=np.concatenate([own.ptr, own.ptr[-1] + ends]).astype(np.int32),
            value=np.concatenate([own.value, touches[:, 0]]),
            access=np.concatenate([own.access, touches[:, 1].astype(np.uint8)]),
            workspace=np.concatenate([own.workspace, [row.workspace_bytes for row in self._rows]]),
            value_bytes=np.concatenate([own.value_bytes, sizes]),
            value_kind=np.concatenate([own.value_kind, kinds]),
            value_tier=np.concatenate([own.value_tier, tiers]),
            remains=np.concatenate([own.remains, np.zeros(len(sizes), dtype=np.bool_)]),
        )
        return replace(
            base,
            columns=columns,
            flops=np.concatenate([base.flops, np.array(flops, dtype=np.int64)]),
            added=tuple(self._actions),
            added_values=tuple(self.scope.added),
        )
