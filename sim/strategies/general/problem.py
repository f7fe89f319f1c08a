"""The planning problem: rows that read and write values, each run at least once, in an order that may be free.

A graph with VJPs, a joint graph of forward and backward operations, and a published benchmark graph are
all one `Problem`, taken from the table of effects; nothing here or below it asks what a node is. A plan is
a sequence of rows. What is in memory follows from liveness: a value stays from the row that writes it to
the last row that reads it before it is written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sim.graphs.graph import Graph
from sim.graphs.node import Ints
from sim.schedules.effects import FORWARD, VJP, Bytes8
from sim.schedules.table import base_table
from sim.schedules.values import ACCUMULATE, COTANGENT, READ, SAVE, TANGENT, WRITE

Rows = NDArray[np.int32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows and values as arrays: what each row touches and costs, what each value takes.

    Row r touches the values `value[ptr[r] : ptr[r + 1]]`, each as `access` says (`sim.schedules.values`:
    READ, CONSUME, ACCUMULATE, WRITE, SAVE). On a graph with VJPs row i is the forward of node i and row n + i
    its VJP, as in the table of effects; on a plain graph row i is node i.

    A sequence of rows is valid if it runs every row of `must` and no other, those of `once` exactly once,
    and each row after what it reads was written: a row that consumes a value runs after all rows that
    accumulate into it. `order` is one such sequence, in which each row runs once.
    """

    ptr: NDArray[np.int32]
    value: NDArray[np.int32]
    access: Bytes8
    cost: Ints  # of one run, in flops or any other whole unit, all cotangents included
    workspace: Ints  # bytes of a row while it runs
    saving_workspace: Ints  # the same, while it saves what only a SAVE writes
    value_bytes: Ints  # all cotangents included
    must: Flags  # rows that run
    once: Flags  # rows that may not run again
    remains: Flags  # values that are in memory at the end
    order: Rows
    width: int = 1  # of the cotangents

    def __repr__(self) -> str:
        return f"Problem({len(self.order)} rows, {len(self.value_bytes)} values)"

    def __len__(self) -> int:
        return len(self.ptr) - 1

    @cached_property
    def row_of_touch(self) -> Rows:
        """The row of each entry of `value`."""
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.ptr))

    @cached_property
    def maker(self) -> Rows:
        """The row that writes each value, -1 where none does (values that rows accumulate into)."""
        return self._writer(np.ones(len(self), dtype=np.bool_))

    @cached_property
    def remaker(self) -> Rows:
        """The row that can write each value again, -1 where there is none."""
        return self._writer(~self.once)

    @cached_property
    def accumulations(self) -> NDArray[np.int32]:
        """The number of rows that accumulate into each value."""
        into = self.value[self.access == ACCUMULATE]
        return np.bincount(into, minlength=len(self.value_bytes)).astype(np.int32)

    @cached_property
    def alone(self) -> Ints:
        """Bytes that each row takes by itself: what it touches, without what only a SAVE writes, and its workspace."""
        touched = np.zeros(len(self), dtype=np.int64)
        np.add.at(touched, self.row_of_touch, np.where(self.access == SAVE, 0, self.value_bytes[self.value]))
        return touched + self.workspace

    @cached_property
    def base_cost(self) -> int:
        """The cost of running every row once: no plan costs less."""
        return sum(self.cost[self.must].tolist())

    def cost_of(self, rows: Rows) -> int:
        """The cost of a sequence of rows."""
        counts = np.bincount(rows, minlength=len(self))
        return sum(c * k for c, k in zip(self.cost.tolist(), counts.tolist(), strict=True))

    def predecessors(self) -> list[list[int]]:
        """For each row, the rows that run before it in every valid sequence because it reads what they make."""
        makers: list[list[int]] = [[] for _ in self.value_bytes]
        touches = list(zip(self.row_of_touch.tolist(), self.value.tolist(), self.access.tolist(), strict=True))
        for row, v, access in touches:
            if access >= ACCUMULATE:
                makers[v].append(row)
        before: list[list[int]] = [[] for _ in range(len(self))]
        for row, v, access in touches:
            if access < ACCUMULATE:
                before[row] += [r for r in makers[v] if r != row]
        return [sorted(set(b)) for b in before]

    def _writer(self, allowed: Flags) -> Rows:
        out = np.full(len(self.value_bytes), -1, dtype=np.int32)
        writes = (self.access >= WRITE) & allowed[self.row_of_touch]
        out[self.value[writes]] = self.row_of_touch[writes]
        return out


def graph_problem(
    graph: Graph, *, costs: tuple[Ints, Ints] | None = None, width: int | None = None, outputs_first: bool = False
) -> Problem:
    """The problem of one gradient: every forward at least once, every VJP exactly once, gradients remain.

    With `outputs_first` all outputs are computed before the first VJP, as a training step asks for: each output's
    forward writes a value of no bytes, which the VJPs of outputs read.
    `costs` of each forward and each VJP stand in for flops (seconds as whole picoseconds, say). `width` is
    the number of cotangents carried at once, all of them if not given.
    """
    table, n = base_table(graph, jvp=False), len(graph)
    width = graph.output_scalars if width is None else width
    count = 2 * n
    c = table.columns
    ptr, kind = c.ptr[: count + 1], c.value_kind
    of_width = np.where(np.isin(kind, (COTANGENT, TANGENT)), width, 1)
    forward, vjp = (table.own_flops(FORWARD), table.own_flops(VJP) * width) if costs is None else costs
    must = np.concatenate([np.ones(n, dtype=np.bool_), np.diff(ptr)[n:] > 0])
    sinks = graph.sinks if outputs_first else graph.sinks[:0]
    made = np.arange(len(sinks)) + len(c.value_bytes)
    seeded = sinks[must[n + sinks]] + n
    rows = np.concatenate([sinks, np.repeat(seeded, len(sinks))])
    at = ptr[rows + 1]
    return Problem(
        ptr=ptr + np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))]).astype(np.int32),
        value=np.insert(c.value[: ptr[-1]], at, np.concatenate([made, np.tile(made, len(seeded))])),
        access=np.insert(
            c.access[: ptr[-1]], at, np.array([WRITE] * len(sinks) + [READ] * (len(rows) - len(sinks)), dtype=np.uint8)
        ),
        cost=np.concatenate([forward, vjp]).astype(np.int64),
        workspace=c.workspace,
        saving_workspace=np.concatenate([c.saving_workspace, c.workspace[n:]]),
        value_bytes=np.concatenate([c.value_bytes * of_width, np.zeros(len(sinks), dtype=np.int64)]),
        must=must,
        once=np.arange(count) >= n,
        remains=np.concatenate([c.remains, np.zeros(len(sinks), dtype=np.bool_)]),
        order=np.concatenate([np.arange(n), np.flatnonzero(must[n:])[::-1] + n]).astype(np.int32),
        width=width,
    )


def problem_of(graph: Graph) -> Problem:
    """The problem of a plain graph, or that of one gradient whose forwards come before the first VJP."""
    if not graph.plain:
        return graph_problem(graph, outputs_first=True)
    c, m = graph.columns, len(graph.inputs)
    of_node = np.split(c.input_index - m, c.input_ptr[1:-1])
    return plain_problem(
        [read[read >= 0].tolist() for read in of_node],
        c.forward_flops.tolist(),
        c.activation_bytes.tolist(),
        workspace=c.workspace_bytes.tolist(),
        remains=graph.outputs,
    )


def plain_problem(
    inputs: Sequence[Sequence[int]],
    cost: Sequence[int],
    value_bytes: Sequence[int],
    *,
    workspace: Sequence[int] | None = None,
    remains: Sequence[int] = (),
    order: Sequence[int] | None = None,
) -> Problem:
    """The problem of a plain graph: node i reads the outputs of `inputs[i]` and writes output i.

    Every node may run any number of times, and the outputs that `remains` lists are in memory at the end.
    `order` is the order given, the order of the nodes if not said.

    >>> plain_problem([[], [0], [0, 1]], cost=[1, 1, 1], value_bytes=[4, 2, 1]).predecessors()
    [[], [0], [0, 1]]
    """
    n = len(inputs)
    read = [list(dict.fromkeys(of)) for of in inputs]
    touched = [[*of, i] for i, of in enumerate(read)]
    zeros = np.zeros(n, dtype=np.int64)
    held = zeros if workspace is None else np.array(workspace, dtype=np.int64)
    return Problem(
        ptr=np.concatenate([[0], np.cumsum([len(t) for t in touched])]).astype(np.int32),
        value=np.array([v for t in touched for v in t], dtype=np.int32),
        access=np.array([a for of in read for a in [*[READ] * len(of), WRITE]], dtype=np.uint8),
        cost=np.array(cost, dtype=np.int64),
        workspace=held,
        saving_workspace=held,
        value_bytes=np.array(value_bytes, dtype=np.int64),
        must=np.ones(n, dtype=np.bool_),
        once=np.zeros(n, dtype=np.bool_),
        remains=np.isin(np.arange(n), list(remains)),
        order=np.arange(n, dtype=np.int32) if order is None else np.array(order, dtype=np.int32),
    )
