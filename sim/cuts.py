"""Where a graph may be cut in two: between which nodes a checkpointing schedule can put its boundaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sim.graph import Graph, Ints


def _last_readers(graph: Graph) -> Ints:
    """For each node, the last node that reads it; -1 where there is none."""
    n, m, c = len(graph), len(graph.inputs), graph.columns
    last = np.full(n, -1, dtype=np.int64)
    reader = np.repeat(np.arange(n), np.diff(c.input_ptr))
    from_node = c.input_index >= m
    np.maximum.at(last, c.input_index[from_node] - m, reader[from_node])
    return last


def crossing_counts(graph: Graph) -> Ints:
    """For p = 0 … n, how many activations made before node p are read by nodes p … n-1.

    Graph inputs are resident and do not count, except at p = 0, where the count is 1 by
    convention (the input takes one slot).
    """
    n, last = len(graph), _last_readers(graph)
    change = np.zeros(n + 2, dtype=np.int64)
    made = np.flatnonzero(last >= 0)
    np.add.at(change, made + 1, 1)
    np.add.at(change, last[made] + 1, -1)
    counts = np.cumsum(change)[: n + 1]
    counts[0] = 1
    counts[n] = 1
    return counts


def step_starts(graph: Graph) -> Ints:
    """Where the steps of checkpointing begin: 0 = p_0 < p_1 < … < p_m = n, as node numbers.

    A cut is allowed where no more activations cross it than cross both neighbouring cuts, so a
    chain may be cut everywhere, a residual network between its blocks, and a U-Net along each
    level. A skip that crosses a cut stays alive as long as a recomputation reads it.
    """
    n, counts = len(graph), graph.crossing_counts
    if n == 1:
        return np.array([0, 1], dtype=np.int64)
    inner = counts[1:-1]
    fine = (inner <= counts[:-2]) | (np.arange(1, n) == 1)
    fine &= (inner <= counts[2:]) | (np.arange(1, n) == n - 1)
    return np.concatenate([[0], 1 + np.flatnonzero(fine), [n]]).astype(np.int64)


def articulation_points(graph: Graph) -> Ints:
    """The cuts p (0 and n included) that a single activation crosses, the output of node p-1.

    Every path from the inputs to the outputs goes through that activation, unless it starts at
    a graph input that is read later on (labels, a mask).
    """
    n, last = len(graph), _last_readers(graph)
    cuts = np.arange(1, n)
    single = (graph.crossing_counts[1:n] == 1) & (last[cuts - 1] >= cuts)
    return np.concatenate([[0], cuts[single], [n]]).astype(np.int64)
