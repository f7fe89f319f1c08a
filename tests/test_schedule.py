"""Replay, liveness and loops: the kernels against their plain twins, and invalid schedules refused."""

from __future__ import annotations

import numpy as np
import pytest
from effects import effects
from graphs import graphs
from hypothesis import given
from hypothesis import strategies as st
from twins import PlainGraph, plain_replay, unrolled

from sim.base.errors import CountOverflow, InvalidSchedule, NotApplicable
from sim.graphs.graph import Graph
from sim.graphs.node import ITEMSIZE, GraphInput, Node
from sim.models.families.chain import chain
from sim.schedules.replay import BREAKDOWN_KINDS, dot, profile, replay, walk
from sim.schedules.schedule import Builder, Schedule
from sim.strategies import load

STRATEGIES = load()
CALLS = [
    ("forward_recompute", {"chunk": 1}),
    ("forward_recompute", {"chunk": 3}),
    ("forward_cached", {"chunk": 2}),
    ("reverse_full", {"chunk": 1}),
    ("reverse_full", {"chunk": 4}),
    ("reverse_checkpointed", {"schedule": "uniform", "segments": 2}),
    ("reverse_checkpointed", {"schedule": "sqrt", "chunk": 2}),
    ("reverse_checkpointed", {"schedule": "periodic", "every": 2}),
    ("reverse_checkpointed", {"schedule": "binomial", "slots": 1}),
    ("reverse_checkpointed", {"schedule": "binomial", "slots": 3}),
]


@given(graph=graphs(), call=st.sampled_from(CALLS))
def test_the_compiled_replay_equals_its_plain_twin(graph: Graph, call: tuple[str, dict[str, object]]) -> None:
    schedule = STRATEGIES.call(call[0], graph, **call[1])
    cost, plain = replay(schedule), plain_replay(schedule)
    assert cost.working_bytes == plain.peak
    flops = {k: getattr(cost.flops, k) for k in ("primal", "recompute", "tangent", "adjoint")}
    assert flops == {k: plain.flops.get(k, 0) for k in flops}
    assert {k: v for k, v in cost.actions.items() if v} == dict(plain.actions)


@given(graph=graphs(), call=st.sampled_from(CALLS))
def test_every_action_takes_the_bytes_that_the_plain_twin_says(
    graph: Graph, call: tuple[str, dict[str, object]]
) -> None:
    schedule = STRATEGIES.call(call[0], graph, **call[1])
    if any(loop.turns > 3 for loop in schedule.loops):
        schedule = Schedule(
            graph, schedule.table, schedule.rows, schedule.widths, tuple(x._replace(turns=3) for x in schedule.loops)
        )
    during = walk(schedule, bytes_of_actions=True).record.during
    assert during.tolist() == plain_replay(schedule).during


@given(graph=graphs(wrt="input"), turns=st.integers(2, 5), inner=st.integers(1, 4))
def test_nested_loops_count_as_if_written_out(graph: Graph, turns: int, inner: int) -> None:
    n = len(graph)
    builder = Builder(graph)
    builder.forward(range(n))
    with builder.loop(turns):
        builder.vjp(range(n - 1, -1, -1))
        with builder.loop(inner):
            builder.forward(range(n))
            builder.jvp(range(n))
    schedule = builder.build()
    cost, plain = replay(schedule), plain_replay(schedule)
    assert cost.working_bytes == plain.peak
    assert cost.flops.total == sum(plain.flops.values())
    assert sum(cost.actions.values()) == len(unrolled(schedule))


@given(graph=graphs(), call=st.sampled_from(CALLS))
def test_the_breakdown_adds_up_and_the_profile_reaches_the_peak(
    graph: Graph, call: tuple[str, dict[str, object]]
) -> None:
    schedule = STRATEGIES.call(call[0], graph, **call[1])
    cost = replay(schedule)
    assert sum(cost.peak_breakdown.values()) == cost.peak_bytes
    assert tuple(cost.peak_breakdown) == BREAKDOWN_KINDS
    for samples in (1, 3, 1000):
        assert profile(schedule, samples=samples).sum(axis=1).max() == cost.peak_bytes


def test_a_loop_keeps_what_its_next_turn_reads() -> None:
    graph = chain(length=2, activation_bytes=[7, 5], needs="input")
    builder = Builder(graph)
    builder.forward([0, 1])
    with builder.loop(4):
        builder.vjp([1, 0])
    # the activation of layer 1 (7) is read in every turn: alive during vjp(layer1) too, with its
    # incoming cotangent (7)
    assert replay(builder.build()).working_bytes == 7 + 5 + 7


def test_a_residual_that_nobody_reads_is_never_made() -> None:
    builder = Builder(chain(length=3, activation_bytes=1, residual_bytes=100))
    builder.forward(range(3))
    assert replay(builder.build()).working_bytes == 2


def test_an_accumulated_cotangent_lives_until_its_vjp() -> None:
    # x -> a -> (b, c) -> d: the cotangent of a is added to by c's VJP, then by b's
    def node(name: str, *inputs: str) -> Node:
        return Node(name=name, inputs=inputs, output_shape=(1,), activation_bytes=10, needs="none")

    graph = Graph.from_nodes(
        [node("a", "x"), node("b", "a"), node("c", "a"), node("d", "b", "c")], [GraphInput("x", (1,))]
    )
    builder = Builder(graph)
    builder.forward(range(4))
    builder.vjp([3, 2, 1, 0])
    during = walk(builder.build(), bytes_of_actions=True).record.during
    # vjp(d): its seed and those of b and c; vjp(c): c, b, a; vjp(b): b, a; vjp(a): a (x is the result)
    assert during[4:].tolist() == [30, 30, 20, 10]


def test_a_missing_value_is_named_with_its_action() -> None:
    graph = chain(length=3)
    builder = Builder(graph)
    builder.forward([0, 1])
    builder.vjp([2])
    with pytest.raises(InvalidSchedule, match=r"action 2, vjp\(layer3\), reads residual\(layer3\), which is not") as e:
        replay(builder.build())
    assert e.value.action == 2


def test_a_cotangent_with_a_missing_contribution_is_refused() -> None:
    def node(name: str, *inputs: str) -> Node:
        return Node(name=name, inputs=inputs, output_shape=(1,), needs="none")

    graph = Graph.from_nodes([node("a", "x"), node("b", "a"), node("c", "a", "b")], [GraphInput("x", (1,))])
    builder = Builder(graph)
    builder.forward(range(3))
    builder.vjp([2, 0])
    with pytest.raises(InvalidSchedule, match=r"cotangent\(a\), to which not all of its consumers have added"):
        replay(builder.build())


def test_tangents_of_another_width_are_refused() -> None:
    builder = Builder(chain(length=2))
    builder.forward([0, 1])
    builder.jvp([0], width=2)
    builder.jvp([1], width=3)
    with pytest.raises(InvalidSchedule, match="another number of tangents"):
        replay(builder.build())


def test_flops_beyond_64_bits_stay_exact() -> None:
    flops = 2**59 + 1
    graph = chain(length=4, sizes=[10**6, 1, 1, 1, 1], forward_flops=flops, jvp_flops=flops)
    cost = replay(STRATEGIES.call("forward_recompute", graph))
    assert cost.flops.total == 2 * 4 * 10**6 * flops
    assert cost.flops.primal == 4 * flops
    assert dot(np.array([2**61 + 1]), np.array([2**61 - 1])) == (2**61 + 1) * (2**61 - 1)


def test_bytes_beyond_64_bits_are_refused() -> None:
    with pytest.raises(CountOverflow):
        chain(length=5, activation_bytes=2**61)
    wide = chain(length=2, sizes=[2**30, 1, 1], activation_bytes=2**40)
    with pytest.raises(CountOverflow, match="smaller chunks"):
        replay(STRATEGIES.call("forward_cached", wide, chunk=2**30))


def test_an_endless_sweep_is_refused() -> None:
    builder = Builder(chain(length=1))
    with builder.loop(2**40), builder.loop(2**40):
        builder.forward([0])
    with pytest.raises(CountOverflow):
        replay(builder.build())


def test_too_many_seeded_sweeps_are_refused_with_the_reason() -> None:
    node = [
        Node(name=f"n{i}", inputs=(f"n{i - 1}" if i else "x",), output_shape=(1,), param_size=1) for i in range(6000)
    ]
    graph = Graph.from_nodes(node, [GraphInput("x", (1,))])
    with pytest.raises(NotApplicable, match="each of the 6000 layers with parameters"):
        STRATEGIES.call("forward_recompute", graph)


def test_many_sweeps_one_after_another_are_no_nest() -> None:
    graph = chain(length=2)
    builder = Builder(graph)
    for _ in range(8):
        with builder.loop(10**9):
            builder.forward([0, 1])
    assert replay(builder.build()).actions["forward"] == 2 * 8 * 10**9


@given(graph=graphs(), call=st.sampled_from(CALLS))
def test_effects_of_every_action_are_those_of_the_plain_twin(graph: Graph, call: tuple[str, dict[str, object]]) -> None:
    plain = PlainGraph(graph)
    for action in STRATEGIES.call(call[0], graph, **call[1]):
        told, twin = effects(graph, action), plain.effects(action)
        assert (told.flops, told.workspace_bytes) == (twin.flops, twin.workspace)
        assert {(v.kind, v.node) for v in told.reads} == twin.reads | twin.consumes
        assert {(v.kind, v.node) for v in told.writes} == set(twin.writes)
        assert {(v.kind, v.node) for v in told.accumulates} == set(twin.accumulates)
        if action.kind == "vjp":
            sizes = [*twin.writes.values(), *(2 * b for b in twin.accumulates.values())]
            read = sum(plain.read_bytes(key, action.width) for key in twin.reads | twin.consumes)
            node = plain.nodes[action.node]
            assert told.moved_bytes == sum(sizes) + read + node.param_size * ITEMSIZE[node.dtype]


def test_memory_traffic_is_exact_beyond_53_bits() -> None:
    graph = chain(length=2, activation_bytes=2**53 + 1)
    (action,) = [a for a in STRATEGIES.call("reverse_full", graph) if a.kind == "vjp" and a.node == "layer2"]
    # reads its input, makes its seed, and adds to the cotangent of its input
    assert effects(graph, action).moved_bytes == (2**53 + 1) * (1 + 1 + 2)


def test_the_turns_between_the_first_and_the_last_may_hold_the_peak() -> None:
    def node(name: str, read: str, **costs: object) -> Node:
        return Node(name=name, inputs=(read,), output_shape=(1,), **{"activation_bytes": 1, "needs": "none", **costs})

    nodes = [
        node("a", "x", activation_bytes=100),
        node("b", "a", needs="input", param_size=10),
        node("big", "x", workspace_bytes=1000),
        node("d", "x", param_size=20),
    ]
    graph = Graph.from_nodes(nodes, [GraphInput("x", (1,))])
    builder = Builder(graph)
    builder.forward([0, 1, 3])
    with builder.loop(5):
        builder.vjp([1])  # reads the activation of a that the turn before has made
        builder.forward([0, 2])
        builder.vjp([3])
    schedule = builder.build()
    # during forward(big), in any turn but the first (no gradient of d yet) and the last (a is needed no more):
    # a, both gradients (2 outputs, 4 bytes a scalar), its own output and workspace
    assert replay(schedule).working_bytes == 100 + 2 * 4 * (10 + 20) + 1 + 1000
    assert plain_replay(schedule).peak == 1341
