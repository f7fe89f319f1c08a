"""Where a graph may be cut in two: between which nodes a checkpointing schedule can put its boundaries."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sim.graphs.graph import Graph, Ints


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

    Cuts go where a single activation crosses: everywhere in a chain, between the blocks of a
    residual network. What lies between two of them and holds more than an eighth of the nodes (a
    U-Net, whose skips span all of it) is cut again where the fewest activations cross, and so on. A
    skip that crosses a cut stays alive as long as a recomputation reads it.
    """
    n = len(graph)
    if graph.is_chain:
        return np.arange(n + 1, dtype=np.int64)
    return np.array([0, *_ends(graph.crossing_counts, 0, n, max(1, n // 8))], dtype=np.int64)


def _ends(counts: Ints, start: int, stop: int, longest: int) -> Iterator[int]:
    """Where the steps of nodes start … stop-1 end, none longer than `longest` if it can be cut."""
    if stop - start <= longest:
        yield stop
        return
    inner = counts[start + 1 : stop]
    cuts = [start, *(start + 1 + np.flatnonzero(inner == inner.min())).tolist(), stop]
    for left, right in itertools.pairwise(cuts):
        yield from _ends(counts, left, right, longest)


def articulation_points(graph: Graph) -> Ints:
    """The cuts p (0 and n included) that a single activation crosses, the output of node p-1.

    Every path from the inputs to the outputs goes through that activation, unless it starts at
    a graph input that is read later on (labels, a mask).
    """
    n, last = len(graph), _last_readers(graph)
    cuts = np.arange(1, n)
    single = (graph.crossing_counts[1:n] == 1) & (last[cuts - 1] >= cuts)
    return np.concatenate([[0], cuts[single], [n]]).astype(np.int64)
