"""Checkpoints beyond the device: on the host and on disk, written and read back as the plan says.

The costs of a checkpoint are in evaluations of one step; `link_costs` makes them from the rates of a
device. Steps count as equal, as in the literature. At a cut that several activations cross, a
checkpoint is all of them. The input counts as a checkpoint like any other, as in the literature: it
takes a slot, and the plan may write it away and read it back. The caller keeps it all the same, so
`resident_input: true` gives plans that need neither slot nor copies for it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sim.base.errors import ParameterError
from sim.base.registry import Count
from sim.graphs.graph import Graph
from sim.schedules.actions import Copy
from sim.schedules.effects import VJP
from sim.schedules.schedule import Builder, Schedule
from sim.schedules.values import TIERS, Numbers, Value
from sim.simulation.device import Device
from sim.strategies import chunks
from sim.strategies.checkpointing.multilevel_plan import ADJOINT, Level, LevelPlan, multilevel_plan, periodic_plan
from sim.strategies.checkpointing.segments import Cotangents, binomial, schedules

DEVICE, HOST, DISK = range(3)
ROUTES = {DEVICE: (DEVICE,), HOST: (DEVICE, HOST), DISK: (DEVICE, HOST, DISK)}
"""Through which tiers a checkpoint travels: there is no link between device and disk."""

Slots = Annotated[Count, Field(description="checkpoints held on the device at once, the input counted as one")]
Price = Annotated[float, Field(ge=0, le=1e12, description="cost of one checkpoint, in evaluations of a step")]
ResidentInput = Annotated[bool, Field(description="the input takes no slot and is never copied: the caller keeps it")]
Tier = Annotated[Literal["host", "disk"], Field(description="where the checkpoints beyond the device lie")]


def link_costs(graph: Graph, device: Device) -> dict[str, float]:
    """The parameters of `multilevel` on a device: the mean checkpoint's copies in evaluations of the mean step.

    A step takes the larger of flops / rate and moved bytes / bandwidth, plus the launches of its nodes; a
    copy its bytes / link plus the latency. What is on disk has passed through the host.

    >>> from sim.simulation.device import device
    >>> from sim.models.families.chain import chain
    >>> machine = {"flops": "50 FLOP/s", "bandwidth": "1 TB/s", "to_host": "1 B/s", "from_host": "2 B/s"}
    >>> slow = device(machine | {"overhead": "0 s", "copy_latency": "0 s"})
    >>> costs = link_costs(chain(length=4, forward_flops=100, activation_bytes=8), slow)
    >>> costs["write_cost"], costs["read_cost"]
    (4.0, 2.0)
    """
    c, crossing = graph.columns, crossings(graph)
    sizes = [sum(graph.input_bytes), *(int(c.activation_bytes[nodes].sum()) for nodes in crossing[1:])]
    compute = np.maximum(c.forward_flops / device.flops_per_s, c.forward_bytes / device.bandwidth_bytes_per_s)
    step_s = float(compute.sum() + len(graph) * device.overhead_s) / len(sizes)
    if not step_s:
        raise ParameterError("the graph's steps take no time, so that a copy has no price in evaluations of a step")
    mean = sum(sizes) / len(sizes)

    def price(bytes_per_s: float) -> float:
        return (mean / bytes_per_s + device.copy_latency_s) / step_s

    write, read = price(device.to_host_bytes_per_s), price(device.from_host_bytes_per_s)
    return {
        "write_cost": write,
        "read_cost": read,
        "disk_write_cost": write + price(device.to_disk_bytes_per_s),
        "disk_read_cost": read + price(device.from_disk_bytes_per_s),
    }


def tier_costs(graph: Graph, device: Device, *, tier: str = "disk") -> dict[str, float]:
    """Those of the `link_costs` that are for one tier alone."""
    prices = link_costs(graph, device)
    return {key: prices[f"disk_{key}" if tier == "disk" else key] for key in ("write_cost", "read_cost")}


@schedules.register("multilevel", prices=link_costs)
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
    resident_input: ResidentInput = False,
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
    levels = {
        tier: Level(slots=room, write_cost=write, read_cost=read)
        for tier, (room, write, read) in given.items()
        if room is not None
    }
    if not levels and not resident_input:
        return binomial(graph, slots=slots, chunk=chunk)
    return _planned(graph, slots, levels, resident_input, chunk)


@schedules.register("disk", prices=tier_costs)
def disk(
    graph: Graph,
    *,
    slots: Slots,
    write_cost: Price = 2.0,
    read_cost: Price = 2.0,
    tier: Tier = "disk",
    resident_input: ResidentInput = False,
    chunk: Cotangents = None,
) -> Schedule:
    """Any number of checkpoints on disk beside the device slots, at the least cost (Disk-Revolve).

    Aupy, Herrmann, Hovland & Robert, SIAM J. Sci. Comput. 38(3), 2016.
    """
    level = Level(slots=None, write_cost=write_cost, read_cost=read_cost)
    return _planned(graph, slots, {HOST if tier == "host" else DISK: level}, resident_input, chunk)


@schedules.register("disk_periodic", prices=tier_costs)
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
    far = HOST if tier == "host" else DISK
    return _from_plan(graph, plan, {far: level}, chunk)


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


def _planned(graph: Graph, slots: int, levels: dict[int, Level], resident_input: bool, chunk: int | None) -> Schedule:
    """The schedule of the best plan with a level in each of some tiers."""
    if resident_input:
        # the only state that ever stands in the last level's one slot is the input, at the start
        levels = levels | {DEVICE: Level(slots=1, write_cost=0, read_cost=0)}
    plan = multilevel_plan(len(graph.step_starts) - 1, slots, list(levels.values()))
    return _from_plan(graph, plan, levels, chunk)


def _from_plan(graph: Graph, plan: LevelPlan, levels: dict[int, Level], chunk: int | None) -> Schedule:
    """The plan node by node, with the copies of all that crosses a cut; its levels are those tiers, in order."""
    builder, steps = Builder(graph), len(graph.step_starts) - 1
    rows_of = _Rows(builder, list(levels))
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
    evaluations, cost = plan.counts()[0] - steps, 0.0
    for number, level in enumerate(levels.values(), start=1):
        _, _, writes, reads = plan.counts(number)
        cost += writes * level.write_cost + reads * level.read_cost
    text = f"{evaluations} evaluations of a step before the taping ones, and copies at the price of {cost:g}"
    return builder.build(prune=True, notes=(("serial cost", text),))


class _Rows:
    """The rows of one entry of a plan."""

    def __init__(self, builder: Builder, tiers: list[int]) -> None:
        self._builder, self._tiers = builder, tiers
        self._graph = builder.graph
        self._active = self._graph.active[len(self._graph.inputs) :]
        self._crossing = crossings(self._graph)
        self._numbers = Numbers(len(self._graph), len(self._graph.inputs))

    def __call__(self, kind: int, step: int) -> NDArray[np.int32]:
        start, stop = (int(x) for x in self._graph.step_starts[step : step + 2])
        nodes = np.arange(start, stop, dtype=np.int32)
        if kind < ADJOINT:
            return nodes
        if kind == ADJOINT:
            return nodes[self._active[nodes]][::-1] + np.int32(self._numbers.row(VJP, 0))
        route = ROUTES[self._tiers[kind // 2 - 1]]
        route = route if kind % 2 == 0 else route[::-1]
        names = [self._graph.nodes[i].name for i in self._crossing[step].tolist()]
        if not step and DEVICE not in self._tiers:
            names = [i.name for i in self._graph.inputs]
        copies = [
            Copy.of(Value("activation", name, tier=TIERS[a]), TIERS[b]) for name in names for a, b in pairwise(route)
        ]
        return np.array([self._builder.row_of(copy) for copy in copies], dtype=np.int32)
