"""The abstract chain: defaults, lists, refusals, and that a million layers are a few arrays."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sim
from sim.base.errors import CountOverflow, GraphError, ParameterError
from sim.graphs.graph import Graph
from sim.graphs.node import Seconds
from sim.models.families import load
from sim.strategies.checkpointing.multilevel import link_costs


def chain(**parameters: object) -> Graph:
    return load().call("chain", **parameters)


def test_a_bare_chain_costs_one_flop_and_eight_bytes_a_layer() -> None:
    graph = chain(length=3)
    c = graph.columns
    assert graph.is_chain
    assert len(graph) == 3
    assert c.forward_flops.tolist() == c.jvp_flops.tolist() == c.vjp_flops.tolist() == [1, 1, 1]
    assert c.activation_bytes.tolist() == [8, 8, 8]
    assert c.residual_bytes.tolist() == c.workspace_bytes.tolist() == c.jacobian_flops.tolist() == [0, 0, 0]
    assert graph.input_bytes == (8,)
    assert (graph.input_scalars, graph.output_scalars) == (1, 1)
    assert [n.needs for n in graph.nodes] == ["input"] * 3


def test_sizes_give_the_flops_of_dense_maps_and_eight_bytes_a_scalar() -> None:
    graph = chain(sizes=[10, 2, 100, 20])
    c = graph.columns
    work = [2 * 10 * 2, 2 * 2 * 100, 2 * 100 * 20]
    assert c.forward_flops.tolist() == c.jvp_flops.tolist() == c.vjp_flops.tolist() == work
    assert c.activation_bytes.tolist() == [16, 800, 160]
    assert graph.input_bytes == (80,)
    assert (graph.input_scalars, graph.output_scalars) == (10, 20)


def test_tangents_and_cotangents_cost_what_the_forward_does_unless_given() -> None:
    graph = chain(length=2, forward_flops=[3, 5], vjp_flops=7)
    assert graph.columns.jvp_flops.tolist() == [3, 5]
    assert graph.columns.vjp_flops.tolist() == [7, 7]


def test_forward_flops_given_with_sizes_leave_the_derivatives_dense() -> None:
    graph = chain(sizes=[2, 3], forward_flops=1)
    assert graph.columns.forward_flops.tolist() == [1]
    assert graph.columns.jvp_flops.tolist() == graph.columns.vjp_flops.tolist() == [12]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"length": 2, "activation_bytes": [5, 9]}, 5),
        ({"length": 2}, 8),
        ({"sizes": [3, 1, 1], "activation_bytes": 1}, 24),
        ({"length": 2, "activation_bytes": 5, "input_bytes": 0}, 0),
    ],
)
def test_the_input_takes_what_the_first_layer_does_unless_sizes_or_input_bytes_say_so(
    parameters: dict[str, object], expected: int
) -> None:
    assert chain(**parameters).input_bytes == (expected,)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=6), st.sampled_from(["input", "output", "both", "none"]))
def test_a_node_says_what_the_columns_say(costs: list[int], needs: str) -> None:
    keys = ("forward_flops", "jvp_flops", "vjp_flops", "activation_bytes", "residual_bytes", "workspace_bytes")
    graph = chain(length=len(costs), needs=needs, jacobian_flops=costs, **dict.fromkeys(keys, costs))
    for i, node in enumerate(graph.nodes):
        assert all(getattr(node, key) == costs[i] for key in keys)
        assert node.jacobian.flops == costs[i]
        assert node.needs == needs
        assert node.inputs == ((f"layer{i}",) if i else ("x",))


def test_arrays_are_taken_like_lists() -> None:
    graph = chain(length=2, activation_bytes=np.array([4, 6]))
    assert graph.columns.activation_bytes.tolist() == [4, 6]


def test_a_million_layers_are_built_without_an_object_for_each() -> None:
    started = time.perf_counter()
    graph = chain(length=1e6, activation_bytes=8)
    assert time.perf_counter() - started < 0.5
    assert len(graph.nodes) == 1_000_000
    assert graph.nodes[-1].name == "layer1000000"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"length": 6, "activation_bytes": [1] * 5}, r"activation_bytes: got 5 values, expected one value or 6"),
        ({"length": 3, "needs": ["input"]}, r"needs: got 1 values, expected one value or 3"),
        ({}, r"needs 'length'.*or 'sizes'"),
        ({"length": 3, "sizes": [1, 1]}, r"sizes: got 2 values, expected 4"),
        ({"sizes": [4]}, r"sizes: got 1 values, expected at least 2"),
        ({"sizes": 4}, r"sizes: got 4, expected a list"),
        ({"sizes": [4, 0]}, r"sizes: got 0 … 4, expected 1"),
    ],
)
def test_impossible_chains_are_refused_with_what_was_found_and_expected(
    parameters: dict[str, object], message: str
) -> None:
    with pytest.raises(GraphError, match=message):
        chain(**parameters)


@pytest.mark.parametrize(
    ("key", "value"),
    [("activation_bytes", -1), ("length", 0), ("forward_flops", 1.5), ("needs", "all"), ("residual_bytes", True)],
)
def test_values_of_the_wrong_kind_name_their_key(key: str, value: object) -> None:
    with pytest.raises(ParameterError, match=rf"chain: {key}: got"):
        chain(**{"length": 2, key: value})


@pytest.mark.parametrize(
    "parameters",
    [
        {"length": 1000, "activation_bytes": 2**60},
        {"length": 3, "activation_bytes": 2**61, "residual_bytes": 2**61},
        {"length": 1000, "forward_flops": 2**61},
        {"sizes": [2**40, 2**40]},
    ],
)
def test_sums_beyond_four_exbibytes_are_refused_rather_than_wrapped(parameters: dict[str, object]) -> None:
    with pytest.raises(CountOverflow):
        chain(**parameters)


def test_sizes_have_units() -> None:
    units = chain(length=3, activation_bytes=["8 MB", "1 MiB", 5], residual_bytes="24 kB", input_bytes="2 GB")
    plain = chain(length=3, activation_bytes=[8_000_000, 2**20, 5], residual_bytes=24_000, input_bytes=2 * 10**9)
    assert units.nodes[1] == plain.nodes[1]
    assert units.columns.activation_bytes.tolist() == plain.columns.activation_bytes.tolist()
    assert units.input_bytes == plain.input_bytes
    with pytest.raises(ParameterError, match=r"activation_bytes: got '8 MB/s'"):
        chain(length=3, activation_bytes="8 MB/s")


def test_measured_seconds_are_what_a_simulation_takes() -> None:
    """Full store of 5 steps: 5 evaluations of 2 s and 5 cotangents of 3 s, whatever the device."""
    device = sim.device({"flops": "1 FLOP/s", "bandwidth": "1 B/s"})
    graph = chain(length=5, forward_seconds="2 s", vjp_seconds=[3, 3, "3000 ms", 3, 3.0])
    assert sim.simulate(sim.schedule(graph, "reverse_full"), device).seconds == pytest.approx(5 * 2 + 5 * 3)
    assert graph.nodes[2].seconds == Seconds(2, 2, 3)
    alike = chain(length=5, forward_seconds=0.5)
    assert alike.columns.seconds is not None
    assert alike.columns.seconds.tolist() == [[0.5] * 3] * 5


def test_copies_are_priced_in_measured_steps() -> None:
    """8 bytes take 8 s to the host and 4 s back, 8 s more to disk and back: 4, 2, 8 and 6 steps of 2 s."""
    links = {"to_host": "1 B/s", "from_host": "2 B/s", "to_disk": "1 B/s", "from_disk": "1 B/s"}
    machine = {"flops": "1 PFLOP/s", "bandwidth": "1 PB/s", "copy_latency": "0 s", **links}
    prices = link_costs(chain(length=4, activation_bytes=8, forward_seconds=2), sim.device(machine))
    assert prices == {"write_cost": 4, "read_cost": 2, "disk_write_cost": 8, "disk_read_cost": 6}


def test_seconds_of_derivatives_alone_are_refused() -> None:
    with pytest.raises(GraphError, match="vjp_seconds: is for chains with forward_seconds"):
        chain(length=3, vjp_seconds=1)
    with pytest.raises(GraphError, match="forward_seconds: got 2 values, expected one value or 3"):
        chain(length=3, forward_seconds=[1, 2])
