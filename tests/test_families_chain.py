"""The abstract chain: defaults, lists, refusals, and that a million layers are a few arrays."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import CountOverflow, GraphError, ParameterError
from sim.graphs.graph import Graph
from sim.models.families import load


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
