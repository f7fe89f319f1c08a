"""Checkpointed reverse mode: which steps are stored, and in which order the rest is computed again.

A checkpointing schedule is a function `(steps, …) -> Plan`; the steps are those of the graph
(`Graph.step_starts`: the layers of a chain, the blocks of a residual network). To add one, decorate
a function with `schedules.register`.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sim.base.registry import Count
from sim.graphs.graph import Graph
from sim.schedules.effects import VJP
from sim.schedules.schedule import Builder, Schedule
from sim.schedules.values import Numbers
from sim.strategies import StrategyRegistry, chunks, strategies

schedules = StrategyRegistry("schedule")

Plan = NDArray[np.int32]
"""Steps in order: k ≥ 0 evaluates step k, ~k (that is -k-1) is the adjoint of step k."""

Cotangents = Annotated[Count | None, Field(description="cotangents carried at once; all of them if not given")]


@strategies.register("reverse_checkpointed", variants=("schedule", schedules))
def reverse_checkpointed(graph: Graph, *, schedule: str, **parameters: Any) -> Schedule:
    """Reverse mode that stores some activations and computes the others again between them."""
    return schedules[schedule].function(graph, **parameters)


@schedules.register("uniform")
def uniform(
    graph: Graph,
    *,
    segments: Annotated[Count, Field(description="number of segments, as equal in steps as possible")],
    keep_last: Annotated[bool, Field(description="whether the last segment is kept from the forward sweep")] = True,
    chunk: Cotangents = None,
) -> Schedule:
    """Segments of equal length, each computed again from its first activation before its adjoint.

    The last segment is kept from the forward sweep unless `keep_last` is false, which is what a
    framework does that wraps every segment in a checkpoint. The flops are at most 2·ΣF + n_out·ΣB.
    More segments than steps mean one segment a step.
    """
    steps = len(graph.step_starts) - 1
    segments = min(segments, steps)
    starts = (np.arange(segments + 1, dtype=np.int64) * steps) // segments
    return from_plan(graph, segmented(starts, keep_last=keep_last), chunk)


@schedules.register("sqrt")
def sqrt(graph: Graph, *, chunk: Cotangents = None) -> Schedule:
    """About √L uniform segments: memory O(√L) for one more forward (Chen et al. 2016).

    Chen, Xu, Zhang & Guestrin 2016, Training deep nets with sublinear memory cost, arXiv:1604.06174.
    """
    steps = len(graph.step_starts) - 1
    return uniform(graph, segments=max(1, round(math.sqrt(steps))), chunk=chunk)


@schedules.register("periodic")
def periodic(
    graph: Graph,
    *,
    every: Annotated[Count, Field(description="steps between two checkpoints")],
    chunk: Cotangents = None,
) -> Schedule:
    """A checkpoint every so many steps; the last segment, which may be shorter, is kept."""
    steps = len(graph.step_starts) - 1
    return from_plan(graph, segmented(np.append(np.arange(0, steps, every), steps)), chunk)


def segmented(starts: NDArray[np.int64], *, keep_last: bool = True) -> Plan:
    """A forward sweep, then the segments from the last to the first: each computed again, then its adjoint."""
    steps = int(starts[-1])
    plan = [np.arange(steps)]
    for start, stop in reversed(list(itertools.pairwise(starts.tolist()))):
        if stop < steps or not keep_last:
            plan.append(np.arange(start, stop))
        plan.append(~np.arange(stop - 1, start - 1, -1))
    return np.concatenate(plan).astype(np.int32)


def from_plan(graph: Graph, plan: Plan, chunk: int | None) -> Schedule:
    """The schedule that does the plan's steps node by node, once for each chunk of cotangents.

    Recomputations whose outputs nobody reads are left out of each sweep, so a graph whose last layer
    of a segment has nothing to tape pays less than the literature's count.
    """
    builder = Builder(graph)
    rows = node_rows(graph, plan)
    active = graph.active[len(graph.inputs) :]
    if not active.all():
        n = len(graph)
        rows = rows[(rows < n) | active[rows - n]]
    sweep = Builder(graph)
    sweep.rows(rows)
    # where every node has a tape and nothing but its input, no recomputation of a plan is in vain
    in_vain = not graph.is_chain or bool((graph.columns.residual_bytes < 0).any())
    rows = sweep.build(prune=in_vain).rows
    for turns, width in chunks(graph.output_scalars, chunk or graph.output_scalars):
        with builder.loop(turns):
            builder.rows(rows, width=width)
    return builder.build()


def node_rows(graph: Graph, plan: Plan) -> NDArray[np.int32]:
    """The rows of a plan, which is used up."""
    n, starts = len(graph), graph.step_starts
    first_vjp = Numbers(n, len(graph.inputs)).row(VJP, 0)
    if len(starts) == n + 1:
        adjoint = plan < 0
        plan[adjoint] = first_vjp + ~plan[adjoint]
        return plan
    step = np.where(plan >= 0, plan, ~plan)
    lengths = np.diff(starts)[step]
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    forward = np.repeat(plan >= 0, lengths)
    first, last = np.repeat(starts[step], lengths), np.repeat(starts[step + 1] - 1, lengths)
    rows: NDArray[np.int32] = np.where(forward, first + within, first_vjp + last - within).astype(np.int32)
    return rows
