"""Laws of the pictures that results hold: every action once, in order, and values in memory as liveness says."""

from __future__ import annotations

from typing import Any

import pytest
from graphs import graphs
from hypothesis import given

import sim
from sim.base.yaml import parse
from sim.experiment.run import run
from sim.experiment.views.schedule import PICTURED_ACTIONS, PICTURED_POINTS, picture
from sim.graphs.graph import Graph
from sim.scenario.scenario import from_document

HEAD = "version: 1\nname: demo\n"
CHAIN = "graph: {kind: chain, length: 30, activation_bytes: 8, residual_bytes: 24}\n"


def actions(entry: dict[str, Any]) -> list[tuple[str, int]]:
    """The actions that the sweeps of a picture stand for."""
    laid_out = []
    for kind, first, last in entry["sweeps"]:
        step = 1 if last >= first else -1
        laid_out += [(entry["kinds"][kind], node) for node in range(first, last + step, step)]
    return laid_out


def stored(entry: dict[str, Any], value: str, tier: str = "device") -> list[list[int]]:
    return [list(span) for s in entry["stored"] if (s["value"], s["tier"]) == (value, tier) for span in s["spans"]]


@given(graph=graphs())
def test_the_sweeps_of_a_picture_are_the_actions_of_the_schedule_in_order(graph: Graph) -> None:
    for name, parameters in (
        ("reverse_full", {}),
        ("forward_cached", {}),
        ("reverse_offload", {}),
        ("reverse_checkpointed", {"schedule": "sqrt"}),
    ):
        schedule = sim.schedule(graph, name, **parameters)
        entry = picture(schedule)
        flat, seen = schedule.flat, set()
        assert entry["actions"] == len(flat.rows) == len(actions(entry))
        for (kind, node), row in zip(actions(entry), flat.rows.tolist(), strict=True):
            action = schedule.table.action(row)
            assert kind == ("recompute" if action.kind == "forward" and node in seen else action.kind)
            if action.kind == "forward":
                seen.add(node)
            assert action.node == (graph.nodes[node].name if node >= 0 else graph.inputs[0].name)


def test_the_picture_of_three_layers_with_one_checkpoint() -> None:
    """Forward 1 2 3, back 3, again 1 2, back 2, again 1, back 1: only the input is a checkpoint."""
    graph = sim.chain(length=3, activation_bytes=1, residual_bytes=2)
    entry = picture(sim.schedule(graph, "reverse_checkpointed", schedule="binomial", slots=1))
    assert actions(entry) == [
        *(("forward", 0), ("forward", 1), ("forward", 2), ("vjp", 2)),
        *(("recompute", 0), ("recompute", 1), ("vjp", 1)),
        *(("recompute", 0), ("vjp", 0)),
    ]
    # a tape is made by the last evaluation of its layer, and its VJP ends it
    # those are there for two actions each and left out; so are outputs that the next action alone reads
    assert stored(entry, "residual") == []
    # VJP 3 reads the output of layer 2, which was made at action 1; VJP 2 at action 6 that of layer 1, of action 4
    assert stored(entry, "activation") == [[0, 4, 7, 1], [1, 1, 4, 1]]


def test_a_value_of_no_bytes_is_not_shown_as_stored() -> None:
    entry = picture(sim.schedule(sim.chain(length=3, activation_bytes=1), "reverse_full"))
    assert stored(entry, "residual") == []


def test_offloaded_values_lie_on_the_host_between_their_copies() -> None:
    graph = sim.chain(length=6, activation_bytes=1)
    entry = picture(sim.schedule(graph, "reverse_offload", prefetch=1))
    laid_out = actions(entry)
    spans = stored(entry, "activation", "host")
    assert spans
    for node, start, stop, size in spans:
        assert size == 1
        assert laid_out[start] == laid_out[stop - 1] == ("copy", node)


def test_a_loop_is_laid_out_three_times_at_most_and_marked() -> None:
    schedule = sim.schedule(sim.chain(sizes=[10, 10, 50]), "reverse_full")
    # two forwards; then the first turn of two VJPs, one that stands for the 48 between, and the last
    entry = picture(schedule)
    assert entry["actions"] == 2 + 3 * 2
    assert entry["loops"] == [{"start": 4, "stop": 6, "times": 48}]


def pictures_of(strategies: str, graph: str = CHAIN) -> list[dict[str, Any]]:
    results = run(from_document(parse(HEAD + graph + "strategies:\n" + strategies, name="f.yaml")))
    return list(results.views["pictures"])


def test_checkpointed_schedules_are_pictured_and_full_store_beside_them() -> None:
    found = pictures_of(
        "  - forward_cached\n  - reverse_full\n  - reverse_checkpointed: {schedule: binomial, slots: [4, 8]}\n"
    )
    assert {"reverse_full", "binomial slots=4", "binomial slots=8"} <= {p["label"] for p in found}
    assert [p["actions"] for p in found] == sorted(p["actions"] for p in found)


def test_each_kind_of_schedule_is_pictured_before_any_twice() -> None:
    strategies = "  - reverse_full\n  - reverse_offload\n  - reverse_checkpointed: {schedule: sqrt}\n"
    found = pictures_of(strategies + "  - reverse_checkpointed: {schedule: binomial, slots: {from: 2, to: 9}}\n")
    names = [p["parameters"].get("schedule", p["strategy"]) for p in found]
    assert len(found) == PICTURED_POINTS
    assert {"reverse_full", "reverse_offload", "sqrt", "binomial"} == set(names)
    assert names.count("binomial") == PICTURED_POINTS - 3


def test_schedules_that_are_the_same_are_pictured_once() -> None:
    """A segment for each two of four steps, and a checkpoint for each second step, are one schedule."""
    same = "  - reverse_checkpointed: {schedule: uniform, segments: [2, 2]}\n"
    graph = "graph: {kind: chain, length: 4}\n"
    found = pictures_of(same + "  - reverse_checkpointed: {schedule: periodic, every: 2}\n", graph)
    assert len(found) == 1


@pytest.mark.parametrize(
    "strategies",
    ["  - reverse_full\n", "  - forward_recompute\n  - reverse_offload\n", "  - jacobian_chain: {order: reverse}\n"],
)
def test_without_a_checkpointed_schedule_there_is_no_picture(strategies: str) -> None:
    assert pictures_of(strategies) == []


def test_schedules_too_long_to_be_looked_at_are_left_out() -> None:
    length = PICTURED_ACTIONS // 3 + 1  # sqrt takes nearly three actions a layer
    graph = f"graph: {{kind: chain, length: {length}}}\n"
    strategies = "  - reverse_full\n  - reverse_checkpointed: {schedule: [sqrt]}\n"
    found = pictures_of(strategies + "  - reverse_checkpointed: {schedule: binomial, slots: 3}\n", graph)
    assert all(p["actions"] <= PICTURED_ACTIONS for p in found)
    assert "binomial slots=3" not in {p["label"] for p in found}
    assert pictures_of(strategies, f"graph: {{kind: chain, length: {PICTURED_ACTIONS + 1}}}\n") == []
