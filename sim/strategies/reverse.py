"""Reverse mode that stores everything, on the device or on the host."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from sim.base.registry import Count
from sim.graphs.graph import Graph
from sim.schedules.actions import Copy
from sim.schedules.effects import VJP
from sim.schedules.schedule import Builder, Schedule
from sim.schedules.table import base_table
from sim.schedules.values import READ, Value
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
    numbers, size = table.numbers, table.columns.value_bytes
    first_reader: dict[int, int] = {}  # value: the first node, from the end, whose VJP reads it
    for node in range(n - 1, -1, -1):
        for value, access in table.touches(numbers.row(VJP, node)).items():
            if access == READ and numbers.is_made_by_forward(value) and size[value]:
                first_reader.setdefault(value, node)
    adjoint = [i for i in range(n - 1, -1, -1) if graph.active[len(graph.inputs) + i]]
    step_of = {node: step for step, node in enumerate(adjoint)}
    fetched: dict[int, list[Copy]] = {}  # by the step before which values come back
    leaving: dict[int, list[Copy]] = {}  # by the node after whose forward values are sent away
    for value, node in first_reader.items():
        step = step_of[node] - prefetch
        if step > 0:
            sent = table.describe_value(value)
            leaving.setdefault(numbers.node(value), []).append(Copy.of(sent, "host"))
            fetched.setdefault(step, []).append(Copy.of(Value(sent.kind, sent.node, tier="host"), "device"))

    builder = Builder(graph)
    for node in range(n):
        builder.forward([node])
        builder.add(*leaving.get(node, []))
    width = graph.output_scalars
    for step, node in enumerate(adjoint):
        builder.add(*fetched.get(step, []))
        builder.vjp(np.array([node]), width=width)
    return builder.build()
