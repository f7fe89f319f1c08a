"""Laws that every strategy obeys, and the formulas of REFERENCE sections 1 to 3 to the unit."""

from __future__ import annotations

from functools import cache
from math import ceil, prod

import numpy as np
import pytest
from graphs import graphs
from hypothesis import given
from hypothesis import strategies as st
from twins import PlainGraph

import sim
from sim.base.errors import NotApplicable, ParameterError
from sim.graphs.graph import Graph
from sim.graphs.node import GraphInput, Node
from sim.schedules.effects import FORWARD, JVP, VJP
from sim.schedules.replay import replay, walk
from sim.schedules.schedule import Schedule
from sim.strategies.checkpointing.binomial import binomial_plan, forward_count
from sim.strategies.checkpointing.segments import from_plan, segmented

CHUNKS = st.integers(1, 5)
REVERSE = [
    ("reverse_full", {}),
    ("reverse_offload", {"prefetch": 1}),
    ("reverse_offload", {"prefetch": 3}),
    ("reverse_checkpointed", {"schedule": "uniform", "segments": 3}),
    ("reverse_checkpointed", {"schedule": "sqrt"}),
    ("reverse_checkpointed", {"schedule": "periodic", "every": 2}),
    ("reverse_checkpointed", {"schedule": "binomial", "slots": 2}),
]


def costs(graph: Graph) -> tuple[int, int, int]:
    """F, T and B of a graph: flops of the primal, of one tangent, of one cotangent, from its nodes."""
    plain = PlainGraph(graph)
    f = sum(n.forward_flops for n in graph.nodes)
    active = [n for n in graph.nodes if n.name in plain.active]
    t = sum(n.forward_flops if n.jvp_flops is None else n.jvp_flops for n in active)
    b = 0
    for n in active:
        if any(i in plain.active for i in n.inputs):
            b += n.forward_flops if n.vjp_flops is None else n.vjp_flops
        b += n.param_vjp_flops if graph.wrt == "parameters" else 0
    return f, t, b


def widths_by_row(schedule: Schedule, opcode: int) -> dict[int, int]:
    """For each node, the tangents or cotangents that pass it in all."""
    out: dict[int, int] = {}
    for k in range(len(schedule)):
        if schedule.opcode[k] == opcode:
            node, turns = int(schedule.node[k]), prod(o.turns for o in schedule.loops if o.start <= k < o.stop)
            out[node] = out.get(node, 0) + int(schedule.widths[k]) * turns
    return out


@given(graph=graphs(wrt="input"), chunk=CHUNKS)
def test_forward_mode_costs_what_the_formulas_say(graph: Graph, chunk: int) -> None:
    f, t, _ = costs(graph)
    n_in = graph.input_scalars
    recompute = replay(sim.schedule(graph, "forward_recompute", chunk=chunk)).flops
    cached = replay(sim.schedule(graph, "forward_cached", chunk=chunk)).flops
    assert recompute.total == ceil(n_in / chunk) * f + n_in * t
    assert recompute.primal == cached.primal == f
    assert cached.total == f + n_in * t


@given(graph=graphs(), chunk=CHUNKS)
def test_full_store_reverse_costs_what_the_formula_says(graph: Graph, chunk: int) -> None:
    f, _, b = costs(graph)
    flops = replay(sim.schedule(graph, "reverse_full", chunk=chunk)).flops
    assert flops.total == f + graph.output_scalars * b
    assert flops.recompute == 0


@given(graph=graphs(), segments=st.integers(1, 9))
def test_segments_cost_at_most_one_more_forward(graph: Graph, segments: int) -> None:
    f, _, b = costs(graph)
    for parameters in ({"schedule": "uniform", "segments": segments}, {"schedule": "periodic", "every": segments}):
        flops = replay(sim.schedule(graph, "reverse_checkpointed", **parameters)).flops
        assert flops.total <= 2 * f + graph.output_scalars * b
        assert flops.adjoint == graph.output_scalars * b


@given(graph=graphs(), call=st.sampled_from(REVERSE))
def test_every_reverse_strategy_passes_every_cotangent_once(graph: Graph, call: tuple[str, dict[str, object]]) -> None:
    schedule = sim.schedule(graph, call[0], **call[1])
    replay(schedule)  # refuses a read of what is missing or incomplete
    active = np.flatnonzero(graph.active[len(graph.inputs) :]).tolist()
    assert widths_by_row(schedule, VJP) == dict.fromkeys(active, graph.output_scalars)


@given(graph=graphs(wrt="parameters"), chunk=CHUNKS, name=st.sampled_from(["forward_recompute", "forward_cached"]))
def test_forward_mode_seeds_one_tangent_for_each_parameter(graph: Graph, chunk: int, name: str) -> None:
    schedule = sim.schedule(graph, name, chunk=chunk)
    cost = replay(schedule)
    plain = PlainGraph(graph)
    nodes = list(graph.nodes)
    expected, sweeps = 0, 0
    for k, seed in enumerate(nodes):
        if not seed.param_size:
            continue
        below, passed = {seed.name}, 0
        for n in nodes[k + 1 :]:
            if below & set(n.inputs):
                below.add(n.name)
                passed += n.forward_flops if n.jvp_flops is None else n.jvp_flops
        expected += seed.param_size * (passed + seed.param_vjp_flops)
        sweeps += ceil(seed.param_size / chunk)
        assert below <= plain.active
    assert cost.flops.tangent == expected
    forwards = sum(n.forward_flops for n in nodes)
    assert cost.flops.primal + cost.flops.recompute == forwards * (sweeps if name == "forward_recompute" else 1)
    assert max(widths_by_row(schedule, JVP).values()) <= graph.parameter_count


@pytest.mark.parametrize("needs", ["none", "input", "output", "both"])
def test_forward_recompute_needs_no_more_memory_in_deeper_chains(needs: str) -> None:
    peaks = {
        depth: replay(
            sim.schedule(
                sim.chain(length=depth, activation_bytes=3, residual_bytes=2, needs=needs), "forward_recompute"
            )
        ).working_bytes
        for depth in (3, 10, 1000)
    }
    assert peaks[3] == peaks[10] == peaks[1000]


def test_forward_recompute_holds_two_activations_and_its_tangents() -> None:
    graph = sim.chain(sizes=[4, 5, 5, 5], needs="input")
    # during the JVP of layer 2: activations 1 and 2 (40 bytes each) and tangents 1 and 2 of width 3
    assert replay(sim.schedule(graph, "forward_recompute", chunk=3)).working_bytes == 2 * 40 + 2 * 3 * 40


def test_unequal_remainders_are_swept_in_a_smaller_chunk() -> None:
    schedule = sim.schedule(sim.chain(sizes=[784, 2]), "forward_cached", chunk=100)
    assert [(loop.turns, int(schedule.widths[loop.start])) for loop in schedule.loops] == [(7, 100)]
    assert schedule.widths[-1] == 84


@pytest.mark.parametrize(
    ("length", "slots", "forwards"),
    [
        (2, 1, 3), (5, 2, 11), (10, 1, 55), (10, 3, 25), (56, 5, 196), (100, 5, 416), (100, 20, 278),
        (252, 5, 1302), (1000, 10, 4636),
    ],
)  # fmt: skip
def test_binomial_reproduces_algorithm_799(length: int, slots: int, forwards: int) -> None:
    schedule = sim.schedule(
        sim.chain(length=length, activation_bytes=1), "reverse_checkpointed", schedule="binomial", slots=slots
    )
    cost = replay(schedule)
    assert cost.actions["forward"] == forwards
    # the checkpoints besides the input, then one step's own input, output and cotangents
    assert cost.working_bytes <= (slots - 1) + 4


@cache
def fewest_forwards(length: int, slots: int) -> int:
    """The dynamic program over all splits: the slow twin of the closed form."""
    if length == 1:
        return 1
    if slots == 1:
        return length * (length + 1) // 2
    return min(k + fewest_forwards(length - k, slots - 1) + fewest_forwards(k, slots) for k in range(1, length))


def test_binomial_is_optimal_for_all_small_chains() -> None:
    for length in range(1, 121):
        for slots in range(1, max(length, 2)):
            plan = binomial_plan(length, slots)
            assert int((plan >= 0).sum()) == forward_count(length, slots) == fewest_forwards(length, slots)
            assert (~plan[plan < 0]).tolist() == list(range(length - 1, -1, -1))


def test_binomial_never_holds_more_checkpoints_than_its_slots() -> None:
    for length, slots in ((7, 2), (30, 3), (57, 4)):
        graph = sim.chain(length=length, activation_bytes=1000, needs="input")
        schedule = sim.schedule(graph, "reverse_checkpointed", schedule="binomial", slots=slots)
        after = walk(schedule, bytes_of_actions=True).record.after
        forward = schedule.opcode == FORWARD
        # after an adjoint only checkpoints (besides the input) and one cotangent are left
        assert (after[~forward].max() // 1000) <= slots - 1 + 1


@pytest.mark.parametrize(
    ("sizes", "order", "multiply_adds"),
    [
        ([10, 2, 100, 20], "forward", 22_000),
        ([10, 2, 100, 20], "reverse", 4_400),
        ([10, 2, 100, 20], "optimal", 4_400),
        ([100, 5, 100, 5, 100], "forward", 150_000),
        ([100, 5, 100, 5, 100], "reverse", 150_000),
        ([100, 5, 100, 5, 100], "optimal", 55_000),
    ],
)
def test_products_of_jacobians_cost_the_published_numbers(sizes: list[int], order: str, multiply_adds: int) -> None:
    cost = replay(sim.schedule(sim.chain(sizes=sizes), "jacobian_chain", order=order))
    assert cost.flops.product == 2 * multiply_adds


def test_homogeneous_sweeps_differ_from_products() -> None:
    graph = sim.chain(sizes=[10, 2, 100, 20])
    assert replay(sim.schedule(graph, "forward_cached")).flops.tangent == 2 * 22_200
    assert replay(sim.schedule(graph, "reverse_full")).flops.adjoint == 2 * 44_400


@given(x=st.integers(1, 40), a=st.integers(1, 40), b=st.integers(1, 40), y=st.integers(1, 40))
def test_three_factors_follow_the_rule_of_the_reciprocals(x: int, a: int, b: int, y: int) -> None:
    graph = sim.chain(sizes=[x, a, b, y])
    forward = replay(sim.schedule(graph, "jacobian_chain", order="forward")).flops.product
    reverse = replay(sim.schedule(graph, "jacobian_chain", order="reverse")).flops.product
    assert (forward, reverse) == (2 * x * b * (a + y), 2 * y * a * (b + x))
    # 1/y + 1/a < 1/x + 1/b, multiplied out
    assert (forward < reverse) == (x * b * (a + y) < y * a * (x + b))


def test_skips_stay_alive_as_long_as_a_recomputation_reads_them() -> None:
    def node(name: str, *inputs: str) -> Node:
        return Node(name=name, inputs=inputs, output_shape=(1,), activation_bytes=100, needs="input", residual_bytes=0)

    # a long skip from the first node into the second-to-last segment
    names = [node("n0", "x")] + [node(f"n{i}", f"n{i - 1}") for i in range(1, 7)]
    names[5] = node("n5", "n4", "n0")
    graph = Graph.from_nodes(names, [GraphInput("x", (1,))])
    schedule = sim.schedule(graph, "reverse_checkpointed", schedule="periodic", every=2)
    assert replay(schedule).actions["vjp"] == 7


def test_jacobian_chain_says_why_it_does_not_apply() -> None:
    trained = sim.mlp(widths=[3, 2], batch=2, loss="sum")
    with pytest.raises(NotApplicable, match="Set wrt: input"):
        sim.schedule(trained, "jacobian_chain", order="forward")
    two = Graph.from_nodes(
        [Node(name="a", inputs=("x", "y"), output_shape=(1,))], [GraphInput("x", (1,)), GraphInput("y", (1,))]
    )
    with pytest.raises(NotApplicable, match="one differentiable input and one output; the graph has 2 and 1"):
        sim.schedule(two, "jacobian_chain", order="forward")


@pytest.mark.parametrize(
    ("strategy", "parameters", "message"),
    [
        ("reverse_ful", {}, "unknown strategy 'reverse_ful'; did you mean 'reverse_full'"),
        ("reverse_checkpointed", {"schedule": "revlove"}, "unknown schedule 'revlove'; known: "),
        ("reverse_checkpointed", {}, "'schedule' is missing"),
        ("reverse_checkpointed", {"schedule": "binomial"}, "'slots' is missing"),
        ("forward_cached", {"chunk": "4 GB/s"}, "chunk: got '4 GB/s', expected a whole number"),
        ("forward_cached", {"chunk": 0}, "chunk: got 0, expected at least 1"),
        ("forward_cached", {"chunks": 2}, "unknown key 'chunks'; did you mean 'chunk'"),
    ],
)
def test_wrong_parameters_get_one_clear_message(strategy: str, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError) as error:
        sim.schedule(sim.chain(length=3), strategy, **parameters)
    assert message in str(error.value)


@given(graph=graphs(wrt="input"), chunk=CHUNKS, call=st.sampled_from([c for c in REVERSE if "schedule" in c[1]]))
def test_each_chunk_of_cotangents_costs_the_same_evaluations(
    graph: Graph, chunk: int, call: tuple[str, dict[str, object]]
) -> None:
    whole = replay(sim.schedule(graph, call[0], **call[1]))
    parts = replay(sim.schedule(graph, call[0], **call[1], chunk=chunk))
    assert parts.actions["forward"] == ceil(graph.output_scalars / chunk) * whole.actions["forward"]
    assert parts.flops.adjoint == whole.flops.adjoint


@pytest.mark.parametrize(("layers", "mebibytes"), [(None, 69.002), (4, 36.023), (2, 42.004), (1, 69.002)])
def test_an_mlp_takes_what_pytorch_was_measured_to_take(layers: int | None, mebibytes: float) -> None:
    """REFERENCE section 9: 16 × (Linear 512→512, ReLU), batch 2048, gradient of the sum; every segment checkpointed."""
    graph = sim.mlp(widths=[512] * 17, batch=2048, activate_output=True, loss="sum")
    if layers is None:
        cost = replay(sim.schedule(graph, "reverse_full"))
    else:
        # the segments are those of the 32 nodes, with the loss (one flop a scalar) behind the last
        starts = [*range(0, 32, 2 * layers), 33]
        cost = replay(from_plan(graph, segmented(np.array(starts), keep_last=False), None))
    assert cost.working_bytes / 2**20 == pytest.approx(mebibytes, abs=6e-4)
    products = 2 * 2048 * 512 * 512
    evaluations = round((cost.flops.primal + cost.flops.recompute) / products)
    adjoints = round(cost.flops.adjoint / products)
    assert (evaluations + adjoints) * products / 1e9 == pytest.approx(50.4659 if layers is None else 67.6457, abs=1e-4)
