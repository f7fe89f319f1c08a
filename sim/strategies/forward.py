"""Forward mode: tangents are carried along with the primal, or after it from a cache.

With respect to the input there are n_in tangents; with respect to parameters one for each
parameter, seeded at its layer, so that the sweep for layer k has JVPs from layer k on. They enter
again at the nodes tied to it.
Prefer `forward_cached` where memory allows: it evaluates the primal once. Prefer `chunk` = n_in
over both where n_in tangents fit: one sweep needs neither cache nor recomputation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from sim.base.errors import NotApplicable
from sim.graphs.graph import Graph
from sim.schedules.actions import SeededJvp
from sim.schedules.effects import JVP
from sim.schedules.schedule import Builder, Schedule
from sim.schedules.values import Numbers
from sim.strategies import Chunk, chunks, strategies

MOST_ACTIONS = 50_000_000

Sweep = NDArray[np.int32]


def check_sweeps(graph: Graph) -> None:
    """Raise NotApplicable for more sweeps, one for each parameter, than have room in a schedule."""
    layers = int(np.count_nonzero(graph.columns.param_size)) if graph.wrt == "parameters" else 0
    if 2 * len(graph) * layers > MOST_ACTIONS:
        raise NotApplicable(
            f"forward mode with respect to parameters has a sweep of its own for each of the {layers} layers with "
            f"parameters; with {len(graph)} nodes that is more than {MOST_ACTIONS:,} actions"
        )


@strategies.register("forward_recompute", requires=check_sweeps)
def forward_recompute(graph: Graph, *, chunk: Chunk = 1) -> Schedule:
    """Forward mode that evaluates the primal again in every sweep and keeps only the current layer.

    Flops on a chain: ⌈n_in/chunk⌉·ΣF + n_in·ΣT. Memory does not grow with depth.
    """

    def interleaved(jvps: Sweep) -> Sweep:
        """Each node's forward, followed by its JVP if the sweep has one."""
        n = len(graph)
        by_node = np.full((n, 2), -1, dtype=np.int32)
        by_node[:, 0] = np.arange(n)
        by_node[builder.nodes_of(jvps), 1] = jvps
        flat = by_node.reshape(-1)
        return flat[flat >= 0]

    builder = Builder(graph)
    _sweeps(builder, chunk, interleaved)
    return builder.build()


@strategies.register("forward_cached", requires=check_sweeps)
def forward_cached(graph: Graph, *, chunk: Chunk = 1) -> Schedule:
    """Forward mode that evaluates the primal once and keeps all that JVPs read.

    Flops on a chain: ΣF + n_in·ΣT. Memory grows with depth like that of full-store reverse mode.
    """
    builder = Builder(graph)
    builder.forward(range(len(graph)))
    _sweeps(builder, chunk, lambda jvps: jvps)
    return builder.build()


def _sweeps(builder: Builder, chunk: int, make: Callable[[Sweep], Sweep]) -> None:
    """Adds every sweep, as `make` turns its JVP rows into actions."""
    for tangents, jvps in _tangent_sweeps(builder):
        sweep = make(jvps)
        for turns, width in chunks(tangents, chunk):
            with builder.loop(turns):
                builder.rows(sweep, width=width)


def _tangent_sweeps(builder: Builder) -> Iterator[tuple[int, Sweep]]:
    """(number of tangents, rows of the JVPs that carry them) for each place where tangents enter."""
    graph, n, m = builder.graph, len(builder.graph), len(builder.graph.inputs)
    numbers = Numbers(n, m)
    check_sweeps(graph)
    if graph.wrt == "input":
        yield graph.input_scalars, numbers.row(JVP, np.flatnonzero(graph.active[m:])).astype(np.int32)
        return
    with_parameters = np.flatnonzero(graph.columns.param_size)
    names = graph.names
    ptr, index, owner = graph.columns.input_ptr.tolist(), graph.columns.input_index.tolist(), graph.gradient_of
    for k in with_parameters.tolist():
        carries = np.zeros(m + n, dtype=np.bool_)
        carries[m + k] = True
        rows = [builder.row_of(SeededJvp(names[m + k], (), seeded=True))]
        for i in range(k + 1, n):
            carried = tuple(p for p in index[ptr[i] : ptr[i + 1]] if carries[p])
            tied = bool(owner[i] == k)
            if carried or tied:
                carries[m + i] = True
                whole = len(carried) == ptr[i + 1] - ptr[i] and not tied
                sent = SeededJvp(names[m + i], tuple(names[p] for p in carried), seeded=tied)
                rows.append(numbers.row(JVP, i) if whole else builder.row_of(sent))
        yield int(graph.columns.param_size[k]), np.array(rows, dtype=np.int32)
