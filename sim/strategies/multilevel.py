"""Checkpoints beyond the device: on the host and on disk, written and read back as the plan says.

The costs of a checkpoint are in evaluations of one step; `relative_costs` makes them from the rates
of a machine. Steps count as equal, as in the literature. At a cut that several activations cross,
a checkpoint is all of them. The input counts as a checkpoint like any other: it takes a slot, and
the plan may write it away and read it back, although the caller's copy stays resident.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sim.actions import VJP
from sim.errors import ParameterError
from sim.graph import Graph
from sim.planners.multilevel import ADJOINT, Level, LevelPlan, multilevel_plan, periodic_plan
from sim.registry import Count
from sim.schedule import Builder, Schedule
from sim.strategies import chunks
from sim.strategies.checkpointing import Cotangents, binomial, schedules

HOST, DISK = 1, 2
ROUTES = {HOST: (0, HOST), DISK: (0, HOST, DISK)}
"""Through which tiers a checkpoint travels: there is no link between device and disk."""

Slots = Annotated[Count, Field(description="checkpoints held on the device at once, the input counted as one")]
Price = Annotated[float, Field(ge=0, le=1e12, description="cost of one checkpoint, in evaluations of a step")]
Tier = Annotated[Literal["host", "disk"], Field(description="where the checkpoints beyond the device lie")]


@schedules.register("multilevel")
def multilevel(
    graph: Graph,
    *,
    slots: Slots,
    host_slots: Annotated[Count | None, Field(description="checkpoints held on the host")] = None,
    disk_slots: Annotated[Count | None, Field(description="checkpoints held on disk")] = None,
    write_cost: Price = 2.0,
    read_cost: Price = 2.0,
    disk_write_cost: Price | None = None,
    disk_read_cost: Price | None = None,
    chunk: Cotangents = None,
) -> Schedule:
    """Checkpoints on the device, the host and the disk at the least cost (H-Revolve).

    `write_cost` and `read_cost` are those of the host; the disk's are the same unless given. Device
    slots cost nothing (Herrmann & Pallez, ACM TOMS 46(2), 2020). Without slots elsewhere this is
    `binomial`.
    """
    given = {
        HOST: (host_slots, write_cost, read_cost),
        DISK: (
            disk_slots,
            write_cost if disk_write_cost is None else disk_write_cost,
            read_cost if disk_read_cost is None else disk_read_cost,
        ),
    }
    tiers = [tier for tier, (room, _, _) in given.items() if room is not None]
    if not tiers:
        return binomial(graph, slots=slots, chunk=chunk)
    levels = [Level(slots=given[t][0], write_cost=given[t][1], read_cost=given[t][2]) for t in tiers]
    return _from_plan(graph, multilevel_plan(len(graph.step_starts) - 1, slots, levels), tiers, chunk)


@schedules.register("disk")
def disk(
    graph: Graph,
    *,
    slots: Slots,
    write_cost: Price = 2.0,
    read_cost: Price = 2.0,
    tier: Tier = "disk",
    chunk: Cotangents = None,
) -> Schedule:
    """Any number of checkpoints on disk beside the device slots, at the least cost (Disk-Revolve).

    Aupy, Herrmann, Hovland & Robert, SIAM J. Sci. Comput. 38(3), 2016.
    """
    level = Level(slots=None, write_cost=write_cost, read_cost=read_cost)
    plan = multilevel_plan(len(graph.step_starts) - 1, slots, [level])
    return _from_plan(graph, plan, [HOST if tier == "host" else DISK], chunk)


@schedules.register("disk_periodic")
def disk_periodic(
    graph: Graph,
    *,
    slots: Slots,
    period: Annotated[Count | None, Field(description="steps between two checkpoints; the best if not given")] = None,
    write_cost: Price = 2.0,
    read_cost: Price = 2.0,
    tier: Tier = "disk",
    chunk: Cotangents = None,
) -> Schedule:
    """A checkpoint on disk every so many steps, the device slots used between two (Aupy & Herrmann 2017).

    Prefer `disk`, which is never worse; a period is easier to explain and to program.
    """
    level = Level(slots=None, write_cost=write_cost, read_cost=read_cost)
    plan = periodic_plan(len(graph.step_starts) - 1, slots, level, period=period)
    return _from_plan(graph, plan, [HOST if tier == "host" else DISK], chunk)


def relative_costs(
    graph: Graph, *, flops_per_s: float, write_bytes_per_s: float, read_bytes_per_s: float
) -> tuple[float, float]:
    """(write_cost, read_cost) of the mean checkpoint in evaluations of the mean step, for given rates.

    >>> from sim.families.chain import chain
    >>> x = chain(length=4, forward_flops=100, activation_bytes=8)
    >>> relative_costs(x, flops_per_s=50, write_bytes_per_s=1, read_bytes_per_s=2)
    (4.0, 2.0)
    """
    crossing, activation = crossings(graph), graph.columns.activation_bytes
    sizes = [sum(graph.input_bytes), *(int(activation[values].sum()) for values in crossing[1:])]
    step_s = graph.forward_flops / flops_per_s / len(sizes)
    if not step_s:
        raise ParameterError("the graph's steps cost no flops, so that a copy has no price in evaluations of a step")
    mean = sum(sizes) / len(sizes)
    return mean / write_bytes_per_s / step_s, mean / read_bytes_per_s / step_s


def crossings(graph: Graph) -> list[NDArray[np.int64]]:
    """For each step, the nodes before it whose activations it or a later step reads (none for the first)."""
    c, m, starts = graph.columns, len(graph.inputs), graph.step_starts
    last = np.full(len(graph), -1, dtype=np.int64)
    reader = np.repeat(np.arange(len(graph)), np.diff(c.input_ptr))
    inner = c.input_index >= m
    np.maximum.at(last, c.input_index[inner] - m, reader[inner])
    made_in = np.searchsorted(starts, np.arange(len(graph)), side="right") - 1
    read_in = np.searchsorted(starts, last, side="right") - 1
    found: list[list[int]] = [[] for _ in range(len(starts) - 1)]
    for node in np.flatnonzero(read_in > made_in).tolist():
        for step in range(int(made_in[node]) + 1, int(read_in[node]) + 1):
            found[step].append(node)
    return [np.array(nodes, dtype=np.int64) for nodes in found]


def _from_plan(graph: Graph, plan: LevelPlan, tiers: list[int], chunk: int | None) -> Schedule:
    """The plan node by node, with the copies of all that crosses a cut; level l of the plan is `tiers[l - 1]`."""
    builder, steps = Builder(graph), len(graph.step_starts) - 1
    rows_of = _Rows(builder, tiers)
    items, which = np.unique(plan.kind.astype(np.int64) * steps + plan.step, return_inverse=True)
    pieces = [rows_of(*divmod(item, steps)) for item in items.tolist()]
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    begin = np.cumsum(lengths) - lengths
    each = lengths[which]
    within = np.arange(int(each.sum())) - np.repeat(np.cumsum(each) - each, each)
    rows = np.concatenate(pieces)[np.repeat(begin[which], each) + within]
    for turns, width in chunks(graph.output_scalars, chunk or graph.output_scalars):
        with builder.loop(turns):
            builder.rows(rows, width=width)
    return builder.build(prune=True)


class _Rows:
    """The rows of one entry of a plan."""

    def __init__(self, builder: Builder, tiers: list[int]) -> None:
        self._builder, self._tiers = builder, tiers
        self._graph = builder.graph
        self._active = self._graph.active[len(self._graph.inputs) :]
        self._crossing = crossings(self._graph)

    def __call__(self, kind: int, step: int) -> NDArray[np.int32]:
        start, stop = (int(x) for x in self._graph.step_starts[step : step + 2])
        nodes = np.arange(start, stop, dtype=np.int32)
        if kind < ADJOINT:
            return nodes
        if kind == ADJOINT:
            return nodes[self._active[nodes]][::-1] + np.int32(len(self._graph) * VJP)
        route = ROUTES[self._tiers[kind // 2 - 1]]
        route = route if kind % 2 == 0 else route[::-1]
        extras = self._builder.extras
        values = self._crossing[step].tolist() if step else map(extras.input_value, range(len(self._graph.inputs)))
        rows = [extras.copy(value, a, b) for value in values for a, b in pairwise(route)]
        return np.array(rows, dtype=np.int32)
