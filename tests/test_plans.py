"""Laws of the plans and products that the page draws."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from graphs import graphs
from hypothesis import given

import sim
from sim.base.document import DocumentError
from sim.base.json import spelled
from sim.base.yaml import parse
from sim.experiment import results
from sim.experiment.run import run
from sim.experiment.views.model import MOST_BARS, stretches, summed
from sim.experiment.views.plans import MOST_SPANS, SAMPLES, Plan, plan
from sim.graphs.graph import Graph
from sim.scenario.scenario import from_document
from sim.schedules.replay import replay, walk
from sim.schedules.schedule import Schedule
from sim.simulation.simulate import simulate

STRATEGIES = ("reverse_full", "forward_recompute", "reverse_offload")


def columns(table: Any) -> list[dict[str, Any]]:
    """The rows of columns that are as long as each other."""
    spelt = [spelled(column) if isinstance(column, dict) else column for column in table.values()]
    return [dict(zip(table, row, strict=True)) for row in zip(*spelt, strict=True)]


def clock(drawn: Plan, of: str) -> list[float]:
    """Where the stretches begin and the last ends, every turn of a loop counted."""
    turns = [(*loop[of], loop["times"] - 1) for loop in drawn["loops"]]
    return [t + sum(more * (min(max(t, a), b) - a) for a, b, more in turns) for t in drawn[of]]


def every(graph: Graph) -> list[tuple[Schedule, Plan]]:
    schedules = [sim.schedule(graph, name) for name in STRATEGIES]
    return [(s, plan(0, s, simulate(s, sim.device("cpu-server")))) for s in schedules]


@given(graph=graphs())
def test_the_fullest_sample_is_the_peak(graph: Graph) -> None:
    for schedule, drawn in every(graph):
        samples = [sum(row) for row in zip(*drawn["bytes"].values(), strict=True)] or [0]
        assert len(drawn["at_node"]) <= SAMPLES
        assert max(samples) + graph.resident_bytes == replay(schedule).peak_bytes


@given(graph=graphs())
def test_the_values_of_a_sample_are_its_bytes_by_kind(graph: Graph) -> None:
    for _, drawn in every(graph):
        for k in range(len(drawn["at_node"])):
            alive = [v for v in columns(drawn["lives"]) if v["start"] <= k < v["stop"] and v["tier"] == "device"]
            for kind, sampled in drawn["bytes"].items():
                if kind != "workspace":
                    assert sum(v["bytes"] for v in alive if v["kind"] == kind) == sampled[k]


def test_a_sample_of_several_actions_is_the_fullest_with_the_values_that_are_there_then() -> None:
    sizes = [1 + 37 * i % 101 for i in range(120)]
    schedule = sim.schedule(sim.chain(length=120, activation_bytes=sizes), "reverse_full")
    drawn = plan(0, schedule)
    during = walk(schedule, bytes_of_actions=True).record.during.tolist()
    assert len(during) == drawn["actions"] > len(drawn["at_node"]) == SAMPLES
    actions = [schedule.table.action(row) for row in schedule.flat.rows.tolist()]
    for k, (kind, node) in enumerate(zip(spelled(drawn["at_kind"]), drawn["at_node"], strict=True)):
        stretch = [a for a in range(len(during)) if a * SAMPLES // len(during) == k]
        action = next(a for a in stretch if during[a] == max(during[b] for b in stretch))
        assert (kind, f"layer{node + 1}") == (actions[action].kind, actions[action].node)
        alive = [v for v in columns(drawn["lives"]) if v["start"] <= k < v["stop"]]
        assert sum(v["bytes"] for v in alive) == during[action]


@given(graph=graphs())
def test_clocks_never_go_back_and_end_with_the_work_and_the_time_of_all(graph: Graph) -> None:
    for schedule, drawn in every(graph):
        trace = simulate(schedule, sim.device("cpu-server"))
        assert ("seconds" in drawn) != ("spans" in drawn)
        ends = {"work": replay(schedule).flops.total, "seconds": trace.seconds}
        for of in ("work", "seconds") if "seconds" in drawn else ("work",):
            counted = clock(drawn, of)
            assert counted == sorted(counted)
            assert counted[-1] == pytest.approx(ends[of], rel=1e-4, abs=1)
        if "spans" in drawn:
            assert max(drawn["spans"]["stop"]) == pytest.approx(trace.seconds, rel=1e-5)
            waits = [x["wait"] for x in columns(drawn["spans"]) if x["stream"] == "compute"]
            assert sum(waits) == pytest.approx(trace.stall_seconds, rel=1e-5, abs=1e-9)


@given(graph=graphs())
def test_steps_are_the_actions_one_by_one(graph: Graph) -> None:
    for schedule, drawn in every(graph):
        assert drawn["exact"]
        walked = []
        for step in columns(drawn["steps"]):
            direction = 1 if step["last"] >= step["first"] else -1
            nodes = range(step["first"], step["last"] + direction, direction)
            assert len(nodes) == step["stop"] - step["start"]
            walked += [(step["kind"].replace("recompute", "forward"), node) for node in nodes]
        kinds = [schedule.table.action(row).kind for row in schedule.flat.rows.tolist()]
        assert walked == list(zip(kinds, schedule.table.node[schedule.flat.rows].tolist(), strict=True))


@given(graph=graphs())
def test_evaluations_and_fates_are_those_of_the_schedule(graph: Graph) -> None:
    for schedule, drawn in every(graph):
        cost, held = replay(schedule), drawn["held"]
        assert sum(drawn["evaluations"]) == cost.actions["forward"]
        assert ("recomputed" in held) <= (cost.flops.recompute > 0 or cost.actions["forward"] > len(graph))
        assert ("host" in held) <= bool(cost.copied_bytes)


def test_fates_of_a_chain_worked_out_by_hand() -> None:
    """Three steps of 8 bytes: the VJPs of steps 2 and 3 read the states before them, and none reads the last state."""
    chain = sim.chain(length=3, activation_bytes=8)
    assert plan(0, sim.schedule(chain, "reverse_full"))["held"] == {"kept": [8, 8, 0], "freed": [0, 0, 8]}
    longer = sim.chain(length=6, activation_bytes=8)
    offloaded = plan(0, sim.schedule(longer, "reverse_offload", prefetch=1))["held"]
    assert sum(offloaded["host"]) > 0
    assert sum(offloaded["host"]) + sum(offloaded["kept"]) == 5 * 8


def test_turns_of_a_loop_are_laid_out_three_times_and_counted_all() -> None:
    schedule = sim.schedule(sim.chain(sizes=[50, 10, 10]), "forward_cached")
    drawn = plan(0, schedule, simulate(schedule, sim.device("cpu-server")))
    turn = 2 * 50 * 10 + 2 * 10 * 10  # of the primal too
    assert [(x["start"], x["stop"], x["times"], x["work"]) for x in drawn["loops"]] == [
        (4, 6, 48, [2 * turn, 3 * turn])
    ]
    assert drawn["work"][-1] == 4 * turn
    assert clock(drawn, "work")[-1] == 51 * turn
    assert clock(drawn, "seconds")[-1] == pytest.approx(simulate(schedule, sim.device("cpu-server")).seconds, rel=1e-4)


def test_a_long_schedule_is_boxes_and_keeps_its_peak() -> None:
    schedule = sim.schedule(sim.chain(length=5_000, activation_bytes=8), "reverse_full")
    drawn = plan(0, schedule)
    assert not drawn["exact"]
    assert drawn["actions"] == 10_000 > MOST_SPANS
    assert max(map(sum, zip(*drawn["bytes"].values(), strict=True))) == replay(schedule).working_bytes
    boxes = columns(drawn["steps"])
    assert (boxes[0]["first"], boxes[-1]["first"]) == (0, 0)
    assert max(box["last"] for box in boxes) == 4_999


def test_stretches_cover_a_long_chain_without_gaps() -> None:
    graph = sim.chain(length=1_003, forward_flops=7)
    first = stretches(graph)
    assert len(first) == MOST_BARS
    assert sum(summed(graph.columns.forward_flops, first)) == 7 * 1_003


SCENARIO = """\
version: 1
name: demo
graph: {kind: chain, sizes: [10, 2, 100, 20]}
wrt: input
strategies:
  - jacobian_chain: {order: [forward, reverse, optimal_matrix_free]}
  - reverse_full
"""
RAN = run(from_document(parse(SCENARIO, name="f.yaml")))


def test_products_are_those_of_the_point() -> None:
    forward, reverse, free = RAN.views["products"]
    multiply_adds = {(2, 0): 20_000, (1, 0): 2_000}  # forward: 20·100·10 after 100·2·10
    assert [f // 2 for f, kind in zip(forward["flops"], forward["kind"], strict=True) if kind == "multiply"] == [
        multiply_adds[1, 0],
        multiply_adds[2, 0],
    ]
    for entry in (forward, reverse, free):
        total = RAN.points[entry["point"]].flops
        of = dict.fromkeys(("multiply", "jvp", "vjp", "jacobian"), 0)
        for kind, cost in zip(entry["kind"], entry["flops"], strict=True):
            of[kind] += cost
        assert list(of.values()) == [total["product"], total["tangent"], total["adjoint"], total["jacobian"]]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda d: d["plans"][0]["at_kind"]["of"].append(0), "as many kinds, nodes and bytes as there are samples"),
        (lambda d: d["plans"][0]["at_kind"]["of"].__setitem__(0, 9), "places of words that are there"),
        (lambda d: d["plans"][0]["work"].pop(), "clocks with one more entry than there are samples"),
        (lambda d: d["plans"][0]["lives"]["node"].pop(), "columns of lives that are as long as each other"),
        (lambda d: d["plans"][0]["steps"]["stop"].__setitem__(0, 0), "that begin before they end"),
        (lambda d: d["model"]["ops"].pop(), "a name, an op and flops for each stretch"),
        (lambda d: d["model"]["first"].__setitem__(0, 1), "stretches that begin at node 0"),
        (lambda d: d["products"][0]["flops"].pop(), "columns that are as long as each other"),
    ],
)
def test_views_that_do_not_fit_are_refused(spoil: Callable[[Any], object], told: str) -> None:
    data = json.loads(RAN.to_json())
    spoil(data)
    with pytest.raises(DocumentError, match=told):
        results.from_json(json.dumps(data))
