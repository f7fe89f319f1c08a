"""Plain graphs: computations without derivatives, of which some outputs remain in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graphs import any_graphs, plain_graphs
from hypothesis import assume, given
from hypothesis import strategies as st
from simulations import ONE, STRATEGIES
from twins import plain_replay

from sim.base.errors import GraphError, NotApplicable, OutOfMemory
from sim.graphs.graph import Graph
from sim.graphs.node import GraphInput, Node
from sim.schedules.plan import graph_sha256
from sim.schedules.replay import replay, walk
from sim.schedules.schedule import Builder, Schedule
from sim.simulation.simulate import simulate


def node(name: str, *inputs: str, size: int = 1, cost: int = 1, workspace: int = 0) -> Node:
    return Node(
        name=name,
        inputs=inputs,
        output_shape=(),
        forward_flops=cost,
        activation_bytes=size,
        workspace_bytes=workspace,
    )


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Every node of a plain graph once in the order given, and some again, each at any later place."""
    graph = draw(plain_graphs())
    rows = list(range(len(graph)))
    for again in draw(st.lists(st.integers(0, len(graph) - 1), max_size=6)):
        rows.insert(draw(st.integers(rows.index(again) + 1, len(rows))), again)
    builder = Builder(graph)
    builder.forward(rows)
    return builder.build()


@given(schedule=schedules())
def test_replay_equals_its_plain_twin(schedule: Schedule) -> None:
    cost, plain = replay(schedule), plain_replay(schedule)
    assert walk(schedule, bytes_of_actions=True).record.during.tolist() == plain.during
    assert (cost.working_bytes, cost.resident_bytes) == (plain.peak, sum(schedule.graph.input_bytes))
    assert (cost.flops.primal, cost.flops.recompute) == (plain.flops["primal"], plain.flops.get("recompute", 0))
    assert cost.flops.total == cost.flops.primal + cost.flops.recompute


@given(schedule=schedules())
def test_the_simulation_needs_the_peak_and_no_less(schedule: Schedule) -> None:
    peak = replay(schedule).peak_bytes
    trace = simulate(schedule, replace(ONE, memory_bytes=peak))
    assert trace.peak_bytes == peak
    assert trace.cost == replay(schedule)
    with pytest.raises(OutOfMemory):
        simulate(schedule, replace(ONE, memory_bytes=peak - 1))


@given(schedule=schedules())
def test_the_outputs_and_nothing_else_are_in_memory_at_the_end(schedule: Schedule) -> None:
    left = np.flatnonzero(walk(schedule).left).tolist()
    assert left == sorted(schedule.graph.outputs)


@given(schedule=schedules())
def test_leaving_out_what_nobody_needs_never_takes_more(schedule: Schedule) -> None:
    builder = Builder(schedule.graph)
    builder.rows(schedule.rows)
    pruned = builder.build(prune=True)
    assert np.flatnonzero(walk(pruned).left).tolist() == sorted(schedule.graph.outputs)
    assert replay(pruned).peak_bytes <= replay(schedule).peak_bytes
    assert replay(pruned).flops.total <= replay(schedule).flops.total


def test_an_output_remains_and_others_go_when_nobody_reads_them() -> None:
    nodes = [node("a", size=10), node("b", size=20), node("c", "a", size=4, workspace=3), node("d", "c", size=1)]
    kept, gone = (Graph.from_nodes(nodes, [], plain=True, outputs=outputs) for outputs in (["b", "d"], []))
    during = [walk(STRATEGIES.call("in_order", g), bytes_of_actions=True).record.during.tolist() for g in (kept, gone)]
    # a; a and b; a, b (which remains or not), c and its workspace; b, c, d
    assert during == [[10, 30, 10 + 20 + 4 + 3, 20 + 4 + 1], [10, 30, 10 + 4 + 3, 4 + 1]]


@given(graph=any_graphs())
def test_a_strategy_is_for_plain_graphs_or_for_derivatives(graph: Graph) -> None:
    for name in ("in_order", "reverse_full"):
        if graph.plain == (name == "in_order"):
            assert replay(STRATEGIES.call(name, graph)).flops.primal == graph.forward_flops
        else:
            with pytest.raises(
                NotApplicable, match="reverse_full stores everything" if name == "in_order" else "plain"
            ):
                STRATEGIES.call(name, graph)


def test_a_refusal_names_the_strategies_of_plain_graphs() -> None:
    graph = Graph.from_nodes([node("a")], [], plain=True)
    for call in (("reverse_checkpointed", {"schedule": "optimal"}), ("jacobian_chain", {"order": "optimal"})):
        with pytest.raises(NotApplicable, match=r"the strategies for it are .*in_order"):
            STRATEGIES.call(call[0], graph, **call[1])


def test_nothing_is_differentiated_in_a_plain_graph() -> None:
    graph = Graph.from_nodes([node("a", "x")], [GraphInput("x", (3,))], plain=True)
    assert not graph.active.any()
    assert (graph.input_scalars, graph.output_scalars, graph.resident_bytes) == (0, 0, 12)
    with pytest.raises(GraphError, match="leave wrt out") as error:
        graph.configured(wrt="input")
    assert error.value.key == "wrt"
    assert graph.configured(optimizer="adam").plain


def test_bad_plain_graphs_are_refused() -> None:
    with pytest.raises(GraphError, match="outputs: no node makes 'bb'; known: b1"):
        Graph.from_nodes([node("b1")], [], plain=True, outputs=["bb"])
    with pytest.raises(GraphError, match="in plain graphs alone"):
        Graph.from_nodes([node("b1", "x")], [GraphInput("x", (1,))], outputs=["b1"])
    with pytest.raises(GraphError, match="reads nothing"):
        Graph.from_nodes([node("b1")], [GraphInput("x", (1,))])


@given(graph=plain_graphs())
def test_graphs_with_other_outputs_are_other_graphs(graph: Graph) -> None:
    assume(not graph.outputs)
    other = Graph.from_nodes(graph.nodes, graph.inputs, plain=True, outputs=[graph.nodes[0].name])
    assert graph_sha256(graph) != graph_sha256(other)
