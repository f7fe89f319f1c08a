"""Checkpoints in several tiers: the executed schedules cost what the literature's programs promise."""

from __future__ import annotations

import heapq
import time

import pytest
from checkpoint_schedules import (
    Copy,
    DiskRevolve,
    EndReverse,
    Forward,
    HRevolve,
    Move,
    PeriodicDiskRevolve,
    Reverse,
    StorageType,
)
from effects import effects
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import NotApplicable, ParameterError
from sim.graphs.graph import Graph
from sim.graphs.node import GraphInput, Node
from sim.models.families.chain import chain
from sim.schedules import actions
from sim.schedules.replay import Cost, replay
from sim.schedules.schedule import Schedule
from sim.simulation.device import Device, device
from sim.simulation.simulate import simulate
from sim.strategies import load
from sim.strategies.checkpointing.multilevel import Level, crossings, link_costs, multilevel_plan, placement

PRICES = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5, 8.0, 30.0])


def schedule_of(graph: Graph, kind: str, **parameters: object) -> Schedule:
    return load().call("reverse_checkpointed", graph, schedule=kind, **parameters)


def executed(length: int, kind: str, **parameters: object) -> Cost:
    return replay(schedule_of(chain(length=length, activation_bytes=1), kind, **parameters))


def price(
    cost: Cost, length: int, write: float, read: float, *, uf: float = 1, ub: float = 1, tier: str = "host"
) -> float:
    """What was executed, in the literature's count: without the taping evaluations. Bytes are checkpoints here."""
    to, back = ("device_to_host", "host_to_device") if tier == "host" else ("host_to_disk", "disk_to_host")
    writes, reads = cost.copied_bytes.get(to, 0), cost.copied_bytes.get(back, 0)
    return uf * (cost.actions["forward"] - length) + ub * cost.actions["vjp"] + write * writes + read * reads


@pytest.mark.parametrize(
    ("length", "slots", "far", "cost"), [(10, 1, 1, 37), (20, 2, 3, 70), (50, 3, 10, 175), (100, 5, 20, 333)]
)
def test_two_levels_cost_what_is_published(length: int, slots: int, far: int, cost: float) -> None:
    """H-Revolve: Herrmann & Pallez, ACM TOMS 46(2), 2020."""
    for tier in ("host", "disk"):
        done = executed(length, "multilevel", slots=slots, **{f"{tier}_slots": far})
        assert price(done, length, 2, 2, tier=tier) == cost
        assert done.tier_peak_bytes[tier] <= far


def test_unlimited_disk_costs_what_is_published() -> None:
    """Disk-Revolve: Aupy et al., SIAM J. Sci. Comput. 38(3), 2016."""
    assert price(executed(10, "disk", slots=1), 10, 2, 2, tier="disk") == 36
    assert price(executed(10, "disk", slots=1, tier="host"), 10, 2, 2) == 36


def library(schedule: object, *, length: int, uf: float, ub: float, write: float, read: float) -> float:
    """What a schedule of checkpoint_schedules executes, action by action."""
    evaluations = adjoints = writes = reads = 0
    for action in schedule:  # type: ignore[attr-defined]
        if isinstance(action, Forward):
            evaluations += action.n1 - action.n0
            writes += action.write_ics and action.storage == StorageType.DISK
        elif isinstance(action, Reverse):
            adjoints += action.n1 - action.n0
        elif isinstance(action, Copy | Move):
            reads += action.from_storage == StorageType.DISK
        elif isinstance(action, EndReverse):
            break
    return uf * (evaluations - length) + ub * adjoints + write * writes + read * reads


@given(
    length=st.integers(2, 40), slots=st.integers(1, 4), far=st.integers(1, 6), write=PRICES, read=PRICES,
    uf=st.sampled_from([1.0, 2.0, 5.0]), ub=st.sampled_from([1.0, 3.0, 20.0]),
)  # fmt: skip
def test_never_dearer_than_what_the_library_executes(
    length: int, slots: int, far: int, write: float, read: float, uf: float, ub: float
) -> None:
    costs = {"uf": uf, "ub": ub, "wd": write, "rd": read}
    count = {"length": length, "uf": uf, "ub": ub, "write": write, "read": read}
    parameters = {"slots": slots, "write_cost": write / uf, "read_cost": read / uf}
    for kind, more, theirs in (
        ("multilevel", {"host_slots": far}, lambda: HRevolve(length, slots, far, **costs)),
        ("disk", {"tier": "host"}, lambda: DiskRevolve(length, slots, **costs)),
        ("disk_periodic", {"tier": "host"}, lambda: PeriodicDiskRevolve(length, slots, **costs)),
    ):
        executed_by_library = library(theirs(), **count)
        ours = price(executed(length, kind, **parameters, **more), length, write, read, uf=uf, ub=ub)
        assert ours <= executed_by_library + 1e-9 * abs(executed_by_library), kind


def planned_cost(length: int, slots: int, levels: list[Level]) -> float:
    """What the plan takes without taping evaluations and adjoints, in evaluations of a step."""
    plan = multilevel_plan(length, slots, levels)
    evaluations, adjoints, _, _ = plan.counts()
    assert adjoints == length
    return evaluations - length + plan.price(levels)


def cheapest(length: int, slots: int, far: int, write: float, read: float) -> float:
    """The least cost over all valid schedules: Dijkstra over what each tier holds, with no recurrence."""
    queue: list[tuple[float, int, int, tuple[int, ...], tuple[int, ...]]] = [(0.0, length, 0, (), ())]
    done = set()
    while queue:
        cost, *state = heapq.heappop(queue)
        left, at, near, away = state
        if left == 0:
            return cost
        if tuple(state) in done:
            continue
        done.add(tuple(state))
        near_set, away_set = set(near), set(away)
        after = [(0.0, left, c, near, away) for c in near if c < left]
        after += [(read, left, c, near, away) for c in away if c < left]
        after += [(0.0, left, at, tuple(sorted(near_set - {c})), away) for c in near]
        after += [(0.0, left, at, near, tuple(sorted(away_set - {c}))) for c in away]
        if at < left:
            if len(near) < slots:
                after.append((0.0, left, at, tuple(sorted(near_set | {at})), away))
            if len(away) < far:
                after.append((write, left, at, near, tuple(sorted(away_set | {at}))))
            after.append((1.0, left, at + 1, near, away) if at < left - 1 else (0.0, left - 1, left, near, away))
        for step, *rest in after:
            heapq.heappush(queue, (cost + step, *rest))  # type: ignore[arg-type]
    raise AssertionError("no schedule found")


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6])
@pytest.mark.parametrize(("slots", "far"), [(1, 1), (1, 2), (2, 1), (2, 2)])
@pytest.mark.parametrize(("write", "read"), [(0.5, 0.5), (1.0, 1.0), (2.0, 0.5), (0.0, 2.0)])
def test_no_schedule_at_all_is_cheaper(length: int, slots: int, far: int, write: float, read: float) -> None:
    levels = [Level(slots=far, write_cost=write, read_cost=read)]
    assert planned_cost(length, slots, levels) == cheapest(length, slots, far, write, read)


def plain(length: int, slots: int, levels: list[Level]) -> float:
    """The recurrences, as their papers write them."""
    infinite = float("inf")
    free = [[0.0 if n == 1 else infinite for n in range(length + 1)]]
    for _ in range(slots):
        row = [infinite, 0.0]
        for n in range(2, length + 1):
            row.append(min(j + free[-1][n - j] + row[j] for j in range(1, n)))
        free.append(row)
    below = free[-1]
    for level in levels:
        best = below
        for _ in range(length if level.slots is None else level.slots):
            stored, row = [infinite, 0.0], [infinite, 0.0]
            for n in range(2, length + 1):
                splits = [j + best[n - j] + level.read_cost + stored[j] for j in range(1, n)]
                stored.append(min([below[n], *splits]))
                row.append(min(below[n], level.write_cost + stored[n]))
            best = row
        below = best
    return below[length]


ROOM = st.one_of(st.none(), st.integers(1, 4), st.just(100))
LEVELS = st.lists(st.builds(Level, slots=ROOM, write_cost=PRICES, read_cost=PRICES), min_size=1, max_size=2)


@given(length=st.integers(1, 25), slots=st.integers(1, 5), levels=LEVELS)
def test_the_plan_costs_what_the_plain_recurrence_promises(length: int, slots: int, levels: list[Level]) -> None:
    assert planned_cost(length, slots, levels) == pytest.approx(plain(length, slots, levels), rel=1e-12)


@given(
    length=st.integers(1, 40), slots=st.integers(1, 4), host=st.integers(1, 4), disk=st.integers(1, 4),
    write=PRICES, read=PRICES,
)  # fmt: skip
def test_three_tiers_hold_no_more_than_their_slots(
    length: int, slots: int, host: int, disk: int, write: float, read: float
) -> None:
    done = executed(
        length, "multilevel", slots=slots, host_slots=host, disk_slots=disk, write_cost=write, read_cost=read,
        disk_write_cost=4 * write, disk_read_cost=4 * read,
    )  # fmt: skip
    levels = [
        Level(slots=host, write_cost=write, read_cost=read),
        Level(slots=disk, write_cost=4 * write, read_cost=4 * read),
    ]
    plan = multilevel_plan(length, slots, levels)
    assert done.actions["forward"] == plan.counts()[0]
    assert done.copied_bytes.get("host_to_disk", 0) == plan.counts(2)[2]
    assert done.copied_bytes.get("device_to_host", 0) == plan.counts(1)[2] + plan.counts(2)[2]
    assert done.tier_peak_bytes["disk"] <= disk
    assert done.tier_peak_bytes["host"] <= host + 1  # one on its way to or from the disk
    assert done.peak_breakdown["activation"] <= slots + 2  # and the input and output of the step at work


def test_free_copies_leave_one_evaluation_more_a_step() -> None:
    """With copies for nothing every state is stored: the sweep to the end, then each step's taping."""
    done = executed(12, "disk", slots=1, write_cost=0, read_cost=0)
    assert done.actions["forward"] == 11 + 12


def test_a_given_period_is_kept() -> None:
    """Seven steps with one device slot: a stretch of three costs 1 + 3 + 1 + 3, the last four steps 6.

    Two stretches would cost 16, none 21.
    """
    done = executed(7, "disk_periodic", slots=1, period=3, write_cost=1, read_cost=1, tier="host")
    assert done.copied_bytes == {"device_to_host": 1, "host_to_device": 1}
    assert price(done, 7, 1, 1, ub=0) == 14


def residual_network(blocks: int) -> Graph:
    """Blocks of two nodes and a sum with the block's input; one unit of memory each."""
    nodes, before = [], "x"
    for b in range(blocks):
        for name, inputs in ((f"a{b}", (before,)), (f"b{b}", (f"a{b}",)), (f"s{b}", (before, f"b{b}"))):
            nodes.append(
                Node(name=name, inputs=inputs, output_shape=(1,), activation_bytes=1, forward_flops=1, residual_bytes=0)
            )
        before = f"s{b}"
    return Graph.from_nodes(nodes, [GraphInput("x", (1,), bytes=1)], wrt="input")


def test_steps_of_a_residual_network_are_checkpointed_by_what_crosses_their_cuts() -> None:
    graph = residual_network(8)
    steps = len(graph.step_starts) - 1
    assert all(len(nodes) == 1 for nodes in crossings(graph)[1:])
    done = replay(schedule_of(graph, "multilevel", slots=1, host_slots=2))
    plan = multilevel_plan(steps, 1, [Level(slots=2, write_cost=2, read_cost=2)])
    assert done.copied_bytes == {"device_to_host": plan.counts()[2], "host_to_device": plan.counts()[3]}
    assert done.tier_peak_bytes["host"] <= 2


def test_every_activation_that_crosses_a_cut_is_copied() -> None:
    """a is read by b and, two steps later, by d: cuts between are crossed by two activations."""
    unit = {"output_shape": (1,), "activation_bytes": 1, "forward_flops": 1, "residual_bytes": 0}
    links = (("a", ("x",)), ("b", ("a",)), ("c", ("b",)), ("d", ("c", "a")), ("e", ("d",)))
    nodes = [Node(name=name, inputs=inputs, **unit) for name, inputs in links]  # type: ignore[arg-type]
    graph = Graph.from_nodes(nodes, [GraphInput("x", (1,), bytes=1)], wrt="input")
    made = dict(zip(graph.step_starts.tolist(), crossings(graph), strict=False))
    assert {start: nodes.tolist() for start, nodes in made.items()} == {
        start: {0: [], 1: [0], 2: [0, 1], 3: [0, 2], 4: [3]}[start] for start in made
    }
    replay(schedule_of(graph, "disk", slots=1, write_cost=0, read_cost=0))


def test_effects_answers_for_the_copy_of_a_graph_input() -> None:
    graph = chain(length=10, activation_bytes=1, input_bytes=7)
    copies = [a for a in schedule_of(graph, "multilevel", slots=1, host_slots=1) if a.kind == "copy"]
    away, back = copies[0], copies[1]
    assert str(away) == "copy(activation(x) to host)"
    assert isinstance(back, actions.Copy)
    assert [str(v) for v in effects(graph, back).reads] == ["activation(x) on host"]
    assert [str(v) for v in effects(graph, away).writes] == ["activation(x)", "activation(x) on host"]
    assert replay(schedule_of(graph, "multilevel", slots=1, host_slots=1)).copied_bytes["device_to_host"] == 7


def test_the_serial_cost_is_told() -> None:
    """37 for 10 steps: 10 adjoints, 21 evaluations, one write and two reads at 2 each."""
    notes = dict(schedule_of(chain(length=10), "multilevel", slots=1, host_slots=1).notes)
    assert notes == {
        "plan": "a checkpoint on the host of the input",
        "serial cost": "21 evaluations of a step before the taping ones, and copies at the price of 6",
    }


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([8], "a checkpoint on disk of state 8"),
        ([0, 5], "a checkpoint on disk every 5 steps up to 5"),
        ([8, 14], "a checkpoint on disk every 6 steps from 8 up to 14"),
        ([*range(0, 428, 21), 437, 447, 457], "a checkpoint on disk every 21 steps up to 420, then every 17 up to 437, "
         "then every 10 up to 457"),
        ([0, 1, 3, 6, 10, 15], "6 checkpoints on disk, 1 to 5 steps apart"),
    ],
)  # fmt: skip
def test_the_placement_of_checkpoints_is_a_sentence(steps: list[int], told: str) -> None:
    assert placement(steps, "disk") == told


def test_twenty_thousand_steps_are_planned_in_seconds_or_sent_to_what_does() -> None:
    graph = chain(length=20_000, activation_bytes=1)
    begin = time.process_time()
    notes = dict(schedule_of(graph, "disk", slots=75).notes)
    assert "a checkpoint on disk every" in notes["plan"]
    assert time.process_time() - begin < 10
    with pytest.raises(NotApplicable, match=r"Use schedule: disk"):
        schedule_of(graph, "multilevel", slots=75, disk_slots=2500)


def test_without_slots_elsewhere_it_is_the_binomial_schedule() -> None:
    graph = chain(length=10, activation_bytes=1)
    assert replay(schedule_of(graph, "multilevel", slots=3)) == replay(schedule_of(graph, "binomial", slots=3))


def test_chunks_of_cotangents_repeat_the_plan() -> None:
    graph = chain(sizes=[2, 2, 2, 2, 5])
    whole = replay(schedule_of(graph, "disk", slots=1))
    parts = replay(schedule_of(graph, "disk", slots=1, chunk=2))
    assert parts.actions["copy"] == 3 * whole.actions["copy"]
    assert parts.flops.adjoint == whole.flops.adjoint


def test_what_makes_no_sense_is_refused() -> None:
    graph = chain(length=4)
    with pytest.raises(ParameterError, match="write_cost"):
        load().call("reverse_checkpointed", graph, schedule="disk", slots=2, write_cost=-1)
    with pytest.raises(NotApplicable, match=r"too many. Use schedule: disk"):
        multilevel_plan(10_000_000, 2, [Level(slots=3, write_cost=1, read_cost=1)])


@given(length=st.integers(1, 40), slots=st.integers(1, 4), far=st.integers(1, 4), write=PRICES, read=PRICES)
def test_a_resident_input_is_never_copied_and_never_dearer(
    length: int, slots: int, far: int, write: float, read: float
) -> None:
    graph = chain(length=length, activation_bytes=1, input_bytes=1000)
    costs = {"slots": slots, "host_slots": far, "write_cost": write, "read_cost": read}
    free = replay(schedule_of(graph, "multilevel", resident_input=True, **costs))
    counted = replay(schedule_of(chain(length=length, activation_bytes=1), "multilevel", **costs))
    assert sum(free.copied_bytes.values()) < 1000
    assert price(free, length, write, read) <= price(counted, length, write, read)


def test_a_resident_input_takes_no_slot() -> None:
    """Ten steps, one slot beside the input: what the binomial schedule with two slots does."""
    graph = chain(length=10, activation_bytes=1)
    free = replay(schedule_of(graph, "multilevel", slots=1, resident_input=True))
    assert free.actions["forward"] == replay(schedule_of(graph, "binomial", slots=2)).actions["forward"]


def machine(link: str) -> Device:
    """One step takes a second; only links differ."""
    links = dict.fromkeys(("to_host", "from_host", "to_disk", "from_disk"), link)
    return device({"flops": "100 FLOP/s", "bandwidth": "1 TB/s", "overhead": "0 s", "copy_latency": "0 s", **links})


@pytest.mark.parametrize(("link", "costs"), [("1000 B/s", 0.01), ("10 B/s", 1.0), ("1 B/s", 10.0)])
def test_links_price_a_checkpoint_in_steps_and_the_simulation_takes_that_long(link: str, costs: float) -> None:
    """Ten bytes a checkpoint, 100 flops a step; done one after the other it is the recurrence's cost in seconds."""
    graph = chain(length=20, forward_flops=100, activation_bytes=10)
    prices = link_costs(graph, machine(link))
    assert prices["write_cost"] == prices["read_cost"] == pytest.approx(costs)
    assert prices["disk_write_cost"] == pytest.approx(2 * costs)
    host = {key: prices[key] for key in ("write_cost", "read_cost")}
    schedule = schedule_of(graph, "multilevel", slots=2, host_slots=3, **host)
    trace = simulate(schedule, machine(link))
    levels = [Level(slots=3, write_cost=costs, read_cost=costs)]
    assert trace.serial_seconds == pytest.approx(planned_cost(20, 2, levels) + 20 + 20)
    assert trace.seconds <= trace.serial_seconds * (1 + 1e-12)
    assert (trace.serial_seconds - trace.seconds > 1e-9) == (trace.cost.actions["copy"] > 0)
