"""A graph as a row of stages: the columns that the planner reads, exact on chains.

Stage i is node i. Before each stage there is a *cut*; what crosses it is what the later stages read
of the earlier ones (on a chain: one activation). All VJPs run from the last node to the first, so
cotangents and gradients in memory are known from how many are done.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.base.errors import CountOverflow
from sim.graphs.graph import Graph
from sim.graphs.node import LARGEST, Ints
from sim.schedules.effects import VJP
from sim.schedules.table import Table, base_table
from sim.schedules.values import COTANGENT
from sim.schedules.values import GRADIENT as GRADIENT_VALUE

FIELDS = 12
(
    PASSING, SAVING, RESIDUAL, OUTPUT, COST, READS, READS_INPUT, READS_OUTPUT, FREE, COTANGENTS, GRADIENTS, VJP_PEAK,
) = range(FIELDS)  # fmt: skip
"""Columns of `Stages.table`, in bytes unless said otherwise:

PASSING and SAVING: what a forward takes beside what it reads, where its residual is dropped and where
it is kept; RESIDUAL (0 where there is none) and OUTPUT, where the node's own VJP reads it (else 0);
COST of a forward (flops, or ticks of time); READS: activations of earlier nodes that the VJP reads,
READS_INPUT whether there are any, READS_OUTPUT whether it reads its own; FREE whether the VJP needs
nothing that its forward makes; COTANGENTS in memory when the VJPs after it are done; GRADIENTS that
its VJP allocates; VJP_PEAK: all that is in memory during its VJP, but for what a plan holds and for
the gradients of later nodes (-1 where a node has no VJP)."""

SIZES = [PASSING, SAVING, RESIDUAL, OUTPUT, READS, COTANGENTS, GRADIENTS, VJP_PEAK]
LARGEST_COST, LARGEST_BYTES = 2**59, 2**58
"""The most that a plan may cost, and all sizes together, in units that divide them all: sums of a few stay far
enough below 2^63 that `sim.strategies.optimal.recurrence.INFINITE` lies between."""


@dataclass(frozen=True, eq=False)
class Stages:
    """A graph as the planner sees it; `crossing[s, t]` is the bytes made before s that stages s … t read."""

    table: Ints  # (n, FIELDS)
    crossing: Ints  # (n, n)
    exact: bool  # each node reads the one before it alone: the planner's memory model is the ledger's

    def __len__(self) -> int:
        return len(self.table)


def stages_of(graph: Graph, *, width: int = 1, costs: Ints | None = None) -> Stages:
    """The stages of a graph whose VJPs carry `width` cotangents; `costs` (of forwards) default to flops.

    Raises
    ------
    CountOverflow
        If a plan's cost or bytes could leave 64-bit integers.
    """
    n, c, effects = len(graph), graph.columns, base_table(graph)
    active = graph.active[len(graph.inputs) :]
    forward = c.forward_flops if costs is None else costs
    if float(forward.sum(dtype=np.float64)) * n > LARGEST_COST:
        unit = "flops" if costs is None else "ticks"
        raise CountOverflow(f"optimal plans costs up to 2^59 {unit}; a plan for this graph could take more")
    table = np.zeros((n, FIELDS), dtype=np.int64)
    plain = c.workspace_bytes
    taping = plain if c.taping_workspace_bytes is None else c.taping_workspace_bytes
    cotangents = width * float(graph.cotangent_bytes.sum(dtype=np.float64))
    values = (c.activation_bytes, c.residual_bytes, plain, taping, graph.gradient_bytes)
    check_bytes(cotangents + sum(float(abs(x.astype(np.float64)).sum()) for x in values), LARGEST)
    taped = (c.residual_bytes >= 0) & active
    table[:, COST] = forward
    table[:, PASSING] = c.activation_bytes + plain
    table[:, RESIDUAL] = np.where(taped, c.residual_bytes, 0)
    table[:, SAVING] = c.activation_bytes + np.where(taped, c.residual_bytes + taping, plain)
    table[:, READS_OUTPUT] = active & ((c.needs & 2) > 0)
    table[:, OUTPUT] = table[:, READS_OUTPUT] * c.activation_bytes
    table[:, FREE] = ~taped & (table[:, READS_OUTPUT] == 0)
    table[:, READS] = _read_bytes(graph)
    table[:, READS_INPUT] = _reads_inputs(graph)
    _cotangents(graph, effects, width, table)
    last = n - 1
    table[last, FREE] = 0  # its one evaluation is always done right before its VJP
    return Stages(table, _crossing(graph), is_path(graph))


def check_bytes(total: float, largest: int, unit: int = 1) -> None:
    """Raise CountOverflow if sizes of that total, in units of so many bytes, are more than can be planned with."""
    if total / unit > largest:
        raise CountOverflow(
            f"optimal plans with sums of sizes up to 2^{largest.bit_length() - 1} times what divides them all; "
            f"those of this graph could reach {total:.3g} bytes in units of {unit}"
        )


def is_path(graph: Graph) -> bool:
    """Tell whether each node but the first reads the node before it and no other; graph inputs may come in anywhere."""
    reader, source = _edges(graph)
    return (
        len(reader) == len(graph) - 1
        and bool((source == np.arange(len(graph) - 1)).all())
        and bool((reader == np.arange(1, len(graph))).all())
    )


def _edges(graph: Graph) -> tuple[Ints, Ints]:
    """(reader, node read) of every edge between nodes."""
    m, c = len(graph.inputs), graph.columns
    reader = np.repeat(np.arange(len(graph)), np.diff(c.input_ptr))
    inner = c.input_index >= m
    return reader[inner], c.input_index[inner] - m


def _read_bytes(graph: Graph) -> Ints:
    reader, source = _edges(graph)
    used = graph.derivative_reads[graph.columns.input_index >= len(graph.inputs)]
    out = np.zeros(len(graph), dtype=np.int64)
    np.add.at(out, reader[used], graph.columns.activation_bytes[source[used]])
    return out


def _reads_inputs(graph: Graph) -> NDArray[np.bool_]:
    reader, _ = _edges(graph)
    reads = np.zeros(len(graph), dtype=np.bool_)
    reads[reader[graph.derivative_reads[graph.columns.input_index >= len(graph.inputs)]]] = True
    return reads


def _cotangents(graph: Graph, effects: Table, width: int, table: Ints) -> None:
    """Fill COTANGENTS, GRADIENTS and VJP_PEAK by walking over the VJPs once."""
    n, numbers = len(graph), effects.numbers
    kind, size = effects.columns.value_kind, effects.columns.value_bytes
    live: dict[int, int] = {}
    gradients: set[int] = set()
    active, c = graph.active[len(graph.inputs) :], graph.columns
    workspace = c.workspace_bytes if c.vjp_workspace_bytes is None else c.vjp_workspace_bytes
    for i in range(n - 1, -1, -1):
        table[i, COTANGENTS] = sum(live.values())
        if not active[i]:
            table[i, VJP_PEAK] = -1
            continue
        for v in effects.touches(numbers.row(VJP, i)):
            if kind[v] == COTANGENT:
                live[v] = int(size[v]) * width
            elif kind[v] == GRADIENT_VALUE and v not in gradients:
                gradients.add(v)
                table[i, GRADIENTS] += int(size[v])
        beside = table[i, [GRADIENTS, RESIDUAL, READS, OUTPUT]].sum() + workspace[i]
        table[i, VJP_PEAK] = max(0, sum(live.values()) + beside)
        live.pop(numbers.value(COTANGENT, i), None)


def _crossing(graph: Graph) -> Ints:
    n, size = len(graph), graph.columns.activation_bytes
    if is_path(graph):
        before = np.concatenate([[0], size[:-1]])
        return np.broadcast_to(before[:, None], (n, n)).copy()
    reader, source = _edges(graph)
    readers: list[list[int]] = [[] for _ in range(n)]
    for r, v in zip(reader.tolist(), source.tolist(), strict=True):
        readers[v].append(r)
    out = np.zeros((n, n), dtype=np.int64)
    for v, of in enumerate(readers):
        for s in range(v + 1, of[-1] + 1 if of else 0):
            out[s, next(r for r in of if r >= s) :] += size[v]
    return out
