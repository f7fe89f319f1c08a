"""Reverse mode that stores everything, on the device or on the host."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from sim.base.registry import Count
from sim.graphs.graph import Graph
from sim.schedules.actions import ACTIVATION, READ, RESIDUAL, VJP
from sim.schedules.schedule import Builder, Schedule
from sim.schedules.table import base_table
from sim.strategies import Chunk, chunks, strategies


@strategies.register("reverse_full")
def reverse_full(graph: Graph, *, chunk: Chunk = 1) -> Schedule:
    """Reverse mode: one forward sweep that keeps what VJPs read, then adjoint sweeps.

    Flops on a chain: ΣF + n_out·ΣB, in ⌈n_out/chunk⌉ adjoint sweeps. Memory grows with depth.
    """
    builder = Builder(graph)
    builder.forward(range(len(graph)))
    for turns, width in chunks(graph.output_scalars, chunk):
        with builder.loop(turns):
            builder.vjp(range(len(graph) - 1, -1, -1), width=width)
    return builder.build()


Prefetch = Annotated[Count, Field(description="how many VJPs ahead a value is fetched back from the host")]


@strategies.register("reverse_offload")
def reverse_offload(graph: Graph, *, prefetch: Prefetch = 1) -> Schedule:
    """Full store, with what VJPs read copied to the host when made and fetched back in time.

    A value is copied out right after its forward and fetched `prefetch` VJPs before the first that
    reads it; what would have to come back at once is not sent away. Flops are those of full-store
    reverse mode with all cotangents at once; the time depends on the link.
    """
    table, n = base_table(graph), len(graph)
    first_reader: dict[int, int] = {}  # value: the first node, from the end, whose VJP reads it
    for node in range(n - 1, -1, -1):
        row = n * VJP + node
        for e in range(int(table.ptr[row]), int(table.ptr[row + 1])):
            value = int(table.value[e])
            if table.access[e] == READ and ACTIVATION * n <= value < (RESIDUAL + 1) * n and table.value_bytes[value]:
                first_reader.setdefault(value, node)
    adjoint = [i for i in range(n - 1, -1, -1) if graph.active[len(graph.inputs) + i]]
    step_of = {node: step for step, node in enumerate(adjoint)}
    fetched: dict[int, list[int]] = {}  # step: the values fetched before it
    leaving: dict[int, list[int]] = {}  # node: the values sent away after its forward
    for value, node in first_reader.items():
        step = step_of[node] - prefetch
        if step > 0:
            fetched.setdefault(step, []).append(value)
            leaving.setdefault(value % n, []).append(value)

    builder = Builder(graph)
    for node in range(n):
        builder.forward([node])
        builder.rows([builder.extras.copy(value, 0, 1) for value in leaving.get(node, [])])
    width = graph.output_scalars
    for step, node in enumerate(adjoint):
        builder.rows([builder.extras.copy(value, 1, 0) for value in fetched.get(step, [])])
        builder.vjp(np.array([node]), width=width)
    return builder.build()
