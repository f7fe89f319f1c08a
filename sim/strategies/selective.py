"""Selective checkpointing: some nodes are kept, the others made again right before a VJP reads them.

Korthikanti et al. 2022, Reducing Activation Recomputation in Large Transformer Models, arXiv 2205.05198.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sim.graphs.graph import Graph, Ints
from sim.schedules.actions import ACTIVATION, READ, RESIDUAL, VJP
from sim.schedules.schedule import Builder, Schedule
from sim.schedules.table import base_table

THRESHOLDS = 24


def selective(graph: Graph, kept: NDArray[np.bool_]) -> Schedule:
    """Full store of the nodes that are `kept` (n,); each other one is evaluated again once, if a VJP needs it."""
    table, n = base_table(graph), len(graph)

    def missing(row: int) -> list[int]:
        span = slice(int(table.ptr[row]), int(table.ptr[row + 1]))
        values = table.value[span][table.access[span] == READ]
        made = values[(values >= ACTIVATION * n) & (values < (RESIDUAL + 1) * n)] % n
        return [v for v in made.tolist() if not there[v]]

    rows = list(range(n))
    there = kept.tolist()
    for node in range(n - 1, -1, -1):
        if not graph.active[len(graph.inputs) + node]:
            continue
        again: set[int] = set()
        asked = missing(n * VJP + node)
        while asked:
            v = asked.pop()
            if v not in again:
                again.add(v)
                asked += missing(v)
        for v in sorted(again):
            there[v] = True
        rows += [*sorted(again), n * VJP + node]
    builder = Builder(graph)
    builder.rows(rows, width=graph.output_scalars)
    return builder.build()


def worth_keeping(graph: Graph, costs: Ints) -> Iterator[NDArray[np.bool_]]:
    """Which nodes cost the most for the bytes they take, and those with every join of branches as well."""
    c = graph.columns
    joins = np.diff(c.input_ptr) > 1
    price = costs / np.maximum(1, c.activation_bytes + np.maximum(0, c.residual_bytes))
    levels = np.unique(price)[1:]
    for level in levels[np.unique(np.linspace(0, len(levels) - 1, THRESHOLDS).astype(np.int64))] if len(levels) else ():
        yield price >= level
        if (joins & (price < level)).any():
            yield joins | (price >= level)
