"""Selective checkpointing: some nodes are kept, the others made again right before a VJP reads them.

Korthikanti et al. 2022, Reducing Activation Recomputation in Large Transformer Models, arXiv:2205.05198.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sim.graphs.graph import Graph
from sim.graphs.node import Ints
from sim.schedules.effects import VJP
from sim.schedules.schedule import Builder, Schedule
from sim.schedules.table import base_table
from sim.schedules.values import READ

THRESHOLDS = 24


def selective(graph: Graph, kept: NDArray[np.bool_]) -> Schedule:
    """Full store of the nodes that are `kept` (n,); each other one is evaluated again once, if a VJP needs it."""
    table, n = base_table(graph), len(graph)
    numbers = table.numbers

    def missing(row: int) -> list[int]:
        reads = [v for v, access in table.touches(row).items() if access == READ and numbers.is_made_by_forward(v)]
        return [i for i in map(numbers.node, reads) if not there[i]]

    rows = list(range(n))
    there = kept.tolist()
    for node in range(n - 1, -1, -1):
        if not graph.active[len(graph.inputs) + node]:
            continue
        again: set[int] = set()
        asked = missing(numbers.row(VJP, node))
        while asked:
            v = asked.pop()
            if v not in again:
                again.add(v)
                asked += missing(v)
        for v in sorted(again):
            there[v] = True
        rows += [*sorted(again), numbers.row(VJP, node)]
    builder = Builder(graph)
    builder.rows(rows, width=graph.output_scalars)
    return builder.build()


def worth_keeping(graph: Graph, costs: Ints) -> Iterator[NDArray[np.bool_]]:
    """The nodes that cost the most for the bytes they take, and those with every join of branches as well."""
    c = graph.columns
    joins = np.diff(c.input_ptr) > 1
    price = costs / np.maximum(1, c.activation_bytes + np.maximum(0, c.residual_bytes))
    levels = np.unique(price)[1:]
    for level in levels[np.unique(np.linspace(0, len(levels) - 1, THRESHOLDS).astype(np.int64))] if len(levels) else ():
        yield price >= level
        if (joins & (price < level)).any():
            yield joins | (price >= level)
