"""Checkpoints beyond the device: on the host and on disk, written and read back as the plan says.

The costs of a checkpoint are in evaluations of one step; `link_costs` makes them from the rates of a
device. Steps count as equal, as in the literature. At a cut that several activations cross, a
checkpoint is all of them. The input counts as a checkpoint like any other, as in the literature: it
takes a slot, and the plan may write it away and read it back. The caller keeps it all the same, so
`resident_input: true` gives plans that need neither slot nor copies for it.

The adjoint of a step is done exactly once in every plan, so its cost has no influence. Sources:

- Herrmann & Pallez 2020, H-Revolve: a framework for adjoint computation on synchronous hierarchical platforms,
  ACM TOMS 46(2), doi:10.1145/3378672
- Aupy, Herrmann, Hovland & Robert 2016, Optimal multistage algorithm for adjoint computation (Disk-Revolve),
  SIAM J. Sci. Comput. 38(3), doi:10.1137/15M1019222
- Aupy & Herrmann 2017, Periodicity in optimal hierarchical checkpointing schemes for adjoint computations,
  Optim. Methods Softw. 32(3), doi:10.1080/10556788.2016.1230612
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import comb
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sim.base.compiled import compiled
from sim.base.errors import CountOverflow, ParameterError
from sim.base.registry import Count
from sim.graphs.graph import Graph
from sim.schedules.actions import Copy
from sim.schedules.effects import VJP
from sim.schedules.schedule import Builder, Schedule
from sim.schedules.values import TIERS, Numbers, Value
from sim.simulation.device import Device
from sim.strategies import chunks
from sim.strategies.checkpointing.binomial import binomial, binomial_plan, check_count, emit, repetitions
from sim.strategies.checkpointing.mixed import MOST_ACTIONS, check_work
from sim.strategies.checkpointing.segments import Cotangents, schedules

DEVICE, HOST, DISK = range(3)
LONGEST_PLACEMENT = 4
"""Distances between checkpoints that a sentence names."""
ROUTES = {DEVICE: (DEVICE,), HOST: (DEVICE, HOST), DISK: (DEVICE, HOST, DISK)}
"""Through which tiers a checkpoint travels: there is no link between device and disk."""

Slots = Annotated[Count, Field(description="checkpoints held on the device at once, the input counted as one")]
Price = Annotated[float, Field(ge=0, le=1e12, description="cost of one checkpoint, in evaluations of a step")]
DiskPrice = Annotated[
    float | None, Field(ge=0, le=1e12, description="the same of a checkpoint on disk; as on the host unless given")
]
ResidentInput = Annotated[bool, Field(description="the input takes no slot and is never copied: the caller keeps it")]
Tier = Annotated[Literal["host", "disk"], Field(description="where the checkpoints beyond the device lie")]


def link_costs(graph: Graph, device: Device) -> dict[str, float]:
    """The parameters of `multilevel` on a device: the mean checkpoint's copies in evaluations of the mean step.

    A step takes the larger of flops / rate and moved bytes / bandwidth, plus the launches of its nodes, or what
    was measured; a copy its bytes / link plus the latency. What is on disk has passed through the host.

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
    compute += device.overhead_s
    if c.seconds is not None:
        measured = c.seconds[:, 0]  # of an evaluation
        compute = np.where(np.isnan(measured), compute, measured)
    step_s = float(compute.sum()) / len(sizes)
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


def check_levels(graph: Graph, *, slots: int, host_slots: int | None = None, disk_slots: int | None = None) -> None:
    """Raise a refusal for a dynamic program that would run for minutes."""
    rooms = [room for room in (host_slots, disk_slots) if room is not None]
    if rooms:
        _check_tables(len(graph.step_starts) - 1, rooms)
    else:
        check_count(graph, slots=slots)


def check_disk(graph: Graph) -> None:
    """Raise a refusal for a dynamic program that would run for minutes."""
    _check_tables(len(graph.step_starts) - 1, [None])


@schedules.register("multilevel", prices=link_costs, requires=check_levels)
def multilevel(
    graph: Graph,
    *,
    slots: Slots,
    host_slots: Annotated[Count | None, Field(description="checkpoints held on the host")] = None,
    disk_slots: Annotated[Count | None, Field(description="checkpoints held on disk")] = None,
    write_cost: Price = 2.0,
    read_cost: Price = 2.0,
    disk_write_cost: DiskPrice = None,
    disk_read_cost: DiskPrice = None,
    resident_input: ResidentInput = False,
    chunk: Cotangents = None,
) -> Schedule:
    """Checkpoints on the device, the host and the disk at the least cost (H-Revolve).

    `write_cost` and `read_cost` are those of the host; the disk's are the same unless given. Device
    slots cost nothing (Herrmann & Pallez 2020). Without slots elsewhere this is `binomial`.
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


@schedules.register("disk", prices=tier_costs, requires=check_disk)
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
    """Any number of checkpoints on disk beside the device slots, at the least cost (Aupy et al. 2016)."""
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
    crossing: list[list[int]] = [[] for _ in range(len(starts) - 1)]
    for node in np.flatnonzero(read_in > made_in).tolist():
        for step in range(int(made_in[node]) + 1, int(read_in[node]) + 1):
            crossing[step].append(node)
    return [np.array(nodes, dtype=np.int64) for nodes in crossing]


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
    evaluations, price = plan.counts()[0] - steps, plan.price(list(levels.values()))
    text = f"{evaluations} evaluations of a step before the taping ones, and copies at the price of {price:g}"
    tiers = {tier: plan.first_stored(number) for number, tier in enumerate(levels, start=1) if tier != DEVICE}
    told = "; ".join(placement(places, TIERS[tier]) for tier, places in tiers.items() if len(places))
    return builder.build(prune=True, notes=(*((("plan", told),) if told else ()), ("serial cost", text)))


def placement(steps: Sequence[int] | NDArray[np.int32], tier: str) -> str:
    """A sentence about where checkpoints stand, by the states that they hold (0 is the input).

    >>> placement([0, 21, 42, 63, 73, 83], "disk")
    'a checkpoint on disk every 21 steps up to 63, then every 10 up to 83'
    """
    where = f"on the {tier}" if tier == "host" else f"on {tier}"
    runs: list[list[int]] = []
    for before, step in pairwise([int(k) for k in steps]):
        if runs and runs[-1][0] == step - before:
            runs[-1][1] = step
        else:
            runs.append([step - before, step])
    if not runs:
        return f"a checkpoint {where} of {f'state {steps[0]}' if steps[0] else 'the input'}"
    if len(runs) > LONGEST_PLACEMENT:
        apart = [distance for distance, _ in runs]
        return f"{len(steps)} checkpoints {where}, {min(apart)} to {max(apart)} steps apart"
    start = f" from {steps[0]}" if steps[0] else ""
    first = f"every {runs[0][0]} steps{start} up to {runs[0][1]}"
    return f"a checkpoint {where} " + ", then ".join([first, *(f"every {d} up to {last}" for d, last in runs[1:])])


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
        names = [self._graph.names[len(self._graph.inputs) + i] for i in self._crossing[step].tolist()]
        if not step and DEVICE not in self._tiers:
            names = [i.name for i in self._graph.inputs]
        copies = [
            Copy.of(Value("activation", name, tier=TIERS[a]), TIERS[b]) for name in names for a, b in pairwise(route)
        ]
        return np.array([self._builder.row_of(copy) for copy in copies], dtype=np.int32)


FORWARD, ADJOINT = 0, 1
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A tier behind the device: how many checkpoints it holds (`None`: any number) and what they cost."""

    slots: int | None
    write_cost: float
    read_cost: float


class LevelPlan(NamedTuple):
    """Evaluations, adjoints and copies in order.

    `kind` 0 evaluates `step`, 1 is its adjoint, 2·l stores what it starts from in level l, 2·l + 1 loads that (levels
    count from 1).
    """

    kind: NDArray[np.int8]
    step: NDArray[np.int32]

    def counts(self, level: int = 1) -> tuple[int, int, int, int]:
        """(evaluations, adjoints, writes to the level, reads from it)."""
        evaluations, adjoints, writes, reads = (
            int(np.count_nonzero(self.kind == k)) for k in (FORWARD, ADJOINT, 2 * level, 2 * level + 1)
        )
        return evaluations, adjoints, writes, reads

    def first_stored(self, level: int) -> NDArray[np.int32]:
        """The steps whose start is stored in a level before the first adjoint, in order."""
        forward = slice(int(np.argmax(self.kind == ADJOINT)))
        stored: NDArray[np.int32] = self.step[forward][self.kind[forward] == 2 * level]
        return stored

    def price(self, levels: Sequence[Level]) -> float:
        """The price of all copies, in evaluations of a step."""
        counts = [self.counts(number) for number in range(1, len(levels) + 1)]
        return sum(w * level.write_cost + r * level.read_cost for level, (*_, w, r) in zip(levels, counts, strict=True))


def device_costs(length: int, slots: int) -> Floats:
    """Evaluations before the taping one for 0 … `length` steps, binomial: r·l - C(s+r, s+1).

    >>> device_costs(5, 1).tolist()
    [0.0, 0.0, 1.0, 3.0, 6.0, 10.0]
    """
    cost = np.zeros(length + 1)
    r, done = 0, 0
    while done < length:
        reach = min(comb(slots + r, slots), length)
        cost[done + 1 : reach + 1] = r * np.arange(done + 1, reach + 1) - comb(slots + r, slots + 1)
        r, done = r + 1, reach
    return cost


def multilevel_plan(length: int, slots: int, levels: Sequence[Level]) -> LevelPlan:
    """The plan of least cost for `length` equal steps whose input stands in no slot yet.

    D_l(n, d) = min(D_{l-1}(n), w_l + P_l(n, d)) without, and P_l(n, d) = min(D_{l-1}(n),
    min_j j + D_l(n-j, d-1) + r_l + P_l(j, d)) with the input stored in level l, d slots being left;
    level 0 is the device's binomial schedule. The input takes a slot wherever it is stored.

    Raises
    ------
    NotApplicable
        If the dynamic program would run for more than some minutes.
    CountOverflow
        If the plan would have more than 2^31 - 1 actions.
    """
    free, best, stored, split = _tables(length, slots, levels)
    limited = np.array([_limited(length, level.slots) for level in levels], dtype=np.bool_)
    room = np.array([_rows(length, level.slots) for level in levels], dtype=np.int64)
    write = np.array([level.write_cost for level in levels])
    r = repetitions(length, min(slots, length))
    reach = np.array(
        [[min(comb(a + b, a), length) for b in range(r + 1)] for a in range(min(slots, length) + 1)], dtype=np.int64
    )
    arguments = (length, free, best, stored, split, limited, room, write, reach)
    total = _emit(*arguments, np.empty(0, dtype=np.int8), np.empty(0, dtype=np.int32))
    if total > MOST_ACTIONS:
        raise CountOverflow(f"{length} steps take {total:,} actions, more than 2^31 - 1; use more slots")
    plan = LevelPlan(np.empty(total, dtype=np.int8), np.empty(total, dtype=np.int32))
    _emit(*arguments, *plan)
    return plan


def periodic_plan(length: int, slots: int, level: Level, *, period: int | None = None) -> LevelPlan:
    """A checkpoint in `level` every `period` steps, the last stretch and each one read back with device slots.

    Without `period`, the best one. The last stretch may be longer than a period where that is cheaper.
    """
    free = device_costs(length, min(slots, length))
    best = (np.inf, 1, 0)
    for m in range(1, length + 1) if period is None else [period]:
        stretches = np.arange((length - 1) // m + 1)
        each = level.write_cost + m + level.read_cost + (free[m] if m <= length else 0.0)
        cost = stretches * each + free[length - stretches * m]
        q = int(np.argmin(cost))
        best = min(best, (float(cost[q]), m, q))
    _, m, q = best
    pieces = []
    for k in range(q):
        pieces += [_only(2, k * m), (np.zeros(m), np.arange(k * m, (k + 1) * m))]
    pieces.append(_on_device(q * m, length - q * m, slots))
    for k in range(q - 1, -1, -1):
        pieces += [_only(3, k * m), _on_device(k * m, m, slots)]
    kind, step = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return LevelPlan(kind.astype(np.int8), step.astype(np.int32))


def _only(kind: int, step: int) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.array([kind]), np.array([step])


def _on_device(first: int, length: int, slots: int) -> tuple[NDArray[Any], NDArray[Any]]:
    plan = binomial_plan(length, slots)
    return plan < 0, first + np.where(plan < 0, ~plan, plan)


def _limited(length: int, slots: int | None) -> bool:
    """Tell whether a level may run out of slots; no plan stores more than a checkpoint for each step."""
    return slots is not None and slots < length


def _rows(length: int, slots: int | None) -> int:
    return slots if slots is not None and slots < length else 1


def _check_tables(length: int, rooms: Sequence[int | None]) -> None:
    instead = "disk, which takes any number of checkpoints beyond the device, in seconds"
    check_work(length, sum(_rows(length, slots) for slots in rooms), "multilevel", instead=instead)


def _tables(length: int, slots: int, levels: Sequence[Level]) -> tuple[Floats, Floats, Floats, NDArray[np.int32]]:
    """The device's costs, and by (level, slots, steps): D, P and the split of P (0: the level below)."""
    _check_tables(length, [level.slots for level in levels])
    free = device_costs(length, min(slots, length))
    shape = (len(levels), max(_rows(length, level.slots) for level in levels) + 1, length + 1)
    best, stored, split = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int32)
    below = free
    for i, level in enumerate(levels):
        _solve(
            below, _rows(length, level.slots), _limited(length, level.slots), float(level.write_cost),
            float(level.read_cost), best[i], stored[i], split[i],
        )  # fmt: skip
        rows = _rows(length, level.slots)
        best[i, rows:] = best[i, rows]
        below = best[i, rows]
    return free, best, stored, split


@compiled
def _solve(below: Any, slots: Any, limited: Any, write: Any, read: Any, best: Any, stored: Any, split: Any) -> None:
    """One level's tables, given the costs of the level below with all its slots."""
    length = len(below) - 1
    free = write == 0 and read == 0
    best[0, :] = below
    after = np.empty(length + 1)
    for d in range(1, slots + 1):
        rest = best[d - 1] if limited else best[d]
        after[1] = 1 + read
        for n in range(2, length + 1):
            least, at = below[n], 0
            for j in range(1, n):
                c = after[j] + rest[n - j]
                # of equals the level below, unless this one is free (a resident input is not stored again)
                if c < least or (free and at == 0 and c == least):
                    least, at = c, j
            stored[d, n], split[d, n] = least, at
            after[n] = n + read + least
            best[d, n] = min(below[n], write + least)


@compiled
def _emit(
    length: Any, free: Any, best: Any, stored: Any, split: Any, limited: Any, room: Any, write: Any, reach: Any,
    kind: Any, step: Any,
) -> Any:  # fmt: skip
    """The number of actions of the plan; fills `kind` and `step` if they are long enough.

    A stack entry is (a, n, level, d, stored): n steps from a with d slots of the level left; level -1
    is the device. n = 0 stands for loading what step a starts from.
    """
    stack = np.empty((2 * length + 8, 5), dtype=np.int64)
    stack[0] = (0, length, len(room) - 1, room[-1], 0)
    top, out, filling = 1, 0, len(kind) > 0
    while top:
        top -= 1
        a, n, level, d, held = stack[top]
        if n == 0:
            if filling:
                kind[out], step[out] = 2 * level + 3, a
            out += 1
        elif n == 1 or level < 0:
            actions = int(free[n]) + 2 * n
            if filling:
                plan = emit(n, len(reach) - 1, reach.shape[1] - 1, reach, actions)
                for i in range(actions):
                    adjoint = plan[i] < 0
                    kind[out + i], step[out + i] = adjoint, a + (~plan[i] if adjoint else plan[i])
            out += actions
        elif (held == 0 and (d == 0 or best[level, d, n] < write[level] + stored[level, d, n])) or (
            held == 1 and split[level, d, n] == 0
        ):
            stack[top] = (a, n, level - 1, room[level - 1] if level > 0 else 0, 0)
            top += 1
        elif held == 0:
            if filling:
                kind[out], step[out] = 2 * level + 2, a
            out += 1
            stack[top] = (a, n, level, d, 1)
            top += 1
        else:
            j: Any = np.int64(split[level, d, n])
            if filling:
                for i in range(j):
                    kind[out + i], step[out + i] = 0, a + i
            out += j
            stack[top] = (a, j, level, d, 1)
            stack[top + 1] = (a, 0, level, 0, 0)
            stack[top + 2] = (a + j, n - j, level, d - 1 if limited[level] else d, 0)
            top += 3
    return out
