"""Which inputs a derivative reads: all, none, or some, depending on what is differentiated."""

from __future__ import annotations

from typing import Any

import pytest
from counts import saved_bytes
from effects import effects
from execution import check_graph
from twins import PlainGraph

import sim
from sim.base.errors import GraphError
from sim.graphs.graph import Graph
from sim.graphs.node import GraphInput, Node, Reads
from sim.models.families import load
from sim.schedules.actions import Jvp, Vjp
from sim.schedules.plan import graph_sha256
from sim.strategies.optimal.stages import READS as READ_BYTES
from sim.strategies.optimal.stages import READS_INPUT, stages_of

X, MASK = GraphInput("x", (1,)), GraphInput("mask", (1,), constant=True)


def node(name: str, *inputs: str, reads: tuple[Reads, ...] | None = None, **costs: Any) -> Node:
    needs = "none" if reads is None else "input"
    return Node(**{"name": name, "inputs": inputs, "output_shape": (1,), "needs": needs, "reads": reads, **costs})


def product(reads: tuple[Reads, ...], *factors: str, **costs: Any) -> Graph:
    """A product of `a` (made from x, by which we differentiate) and `b` (made from the constant mask)."""
    nodes = [node("a", "x"), node("b", "mask"), node("y", *factors, reads=reads, **costs)]
    return Graph.from_nodes(nodes, [X, MASK])


def read_by_derivative(graph: Graph) -> set[str]:
    """The activations that the VJP of the last node reads; its JVP reads the same."""
    found = []
    for kind in (Vjp, Jvp):
        action = kind(graph.nodes[-1].name)
        found.append({v.node for v in effects(graph, action).reads if v.kind == "activation"})
    assert found[0] == found[1] == {name for _, name in PlainGraph(graph).derivative_reads(graph.nodes[-1].name)}
    return found[0]


@pytest.mark.parametrize(
    ("reads", "factors", "expected"),
    [
        (("others", "others"), ("a", "b"), {"b"}),  # d(a·b) = b·da
        (("others", "others"), ("a", "a"), {"a"}),  # d(a·a) = 2·a·da
        (("others", "others"), ("b", "b"), set()),  # a constant
        (("others", "never"), ("a", "a"), {"a"}),
        (("others", "always"), ("b", "a"), {"a", "b"}),  # d(b/a) = −(b/a²)·da
        (("others", "always"), ("a", "b"), {"b"}),  # d(a/b) = da/b
        (("never", "never"), ("a", "b"), set()),
        (("always", "never"), ("b", "a"), {"b"}),  # a choice by b
        (("parameters", "always"), ("a", "b"), {"b"}),
    ],
)
def test_an_input_is_read_where_what_is_said_of_it_is_differentiated(
    reads: tuple[Reads, ...], factors: tuple[str, ...], expected: set[str]
) -> None:
    graph = product(reads, *factors)
    if "a" not in factors:
        assert not graph.active[-1]
        expected = set()
    else:
        assert read_by_derivative(graph) == expected
    assert saved_bytes(graph) == 4 * len(expected)


def test_the_input_of_a_linear_map_is_read_for_its_weights_alone() -> None:
    graph = product(("parameters", "never"), "a", "b", param_size=1)
    assert read_by_derivative(graph.configured(wrt="parameters")) == {"a"}
    assert read_by_derivative(graph.configured(wrt="input")) == set()


def test_weights_of_another_node_are_weights_too() -> None:
    nodes = [node("a", "x", param_size=1), node("y", "a", reads=("parameters",), tied_to="a")]
    assert read_by_derivative(Graph.from_nodes(nodes, [X])) == {"a"}


def test_what_no_derivative_reads_is_freed() -> None:
    """a of 100 bytes is dead once y = a·b is there, b of 10 is kept for the VJP of y.

    During forward(y): 100 + 10 + 1. During vjp(y): b, its own cotangent of 1 and that of a: 10 + 1 + 100.
    With a read too, that moment takes 100 more.
    """
    sizes = {"a": 100, "b": 10, "y": 1}

    def peak(*reads: Reads) -> int:
        nodes = [
            node("a", "x", activation_bytes=sizes["a"]),
            node("b", "mask", activation_bytes=sizes["b"]),
            node("y", "a", "b", reads=reads, activation_bytes=sizes["y"]),
        ]
        graph = Graph.from_nodes(nodes, [X, MASK])
        assert saved_bytes(graph) == 10 + 100 * (reads[0] == "always")
        return sim.replay(sim.schedule(graph, "reverse_full")).working_bytes

    assert peak("others", "others") == 111
    assert peak("always", "always") == 211


def test_a_planner_counts_the_inputs_that_are_read() -> None:
    def stage(*reads: Reads) -> list[int]:
        nodes = [node("a", "x", activation_bytes=7), node("b", "a", activation_bytes=5)]
        graph = Graph.from_nodes([*nodes, node("y", "a", "b", reads=reads)], [X])
        return stages_of(graph).table[2, [READ_BYTES, READS_INPUT]].tolist()

    assert stage("never", "always") == [5, 1]
    assert stage("always", "always") == [12, 1]
    assert stage("never", "never") == [0, 0]


@pytest.mark.parametrize("wrt", ["parameters", "input"])
def test_products_of_what_is_differentiated_and_what_is_not_have_exact_derivatives_and_ledgers(wrt: str) -> None:
    """Of each product one factor has no derivative: made from a constant, or before any parameter."""
    graph = (
        load()
        .call(
            "layers",
            inputs={
                "x": {"shape": [2, 3, 4], "dtype": "float64"},
                "mask": {"shape": [2, 3, 4], "dtype": "float64", "constant": True},
            },
            layers=[
                {"name": "gate", "op": "sigmoid", "inputs": ["mask"]},
                {"name": "q", "op": "linear", "inputs": ["x"], "features": 4, "dtype": "float64"},
                {"name": "gated", "op": "mul", "inputs": ["q", "gate"]},
                {"name": "scores", "op": "attention_scores", "inputs": ["gate", "gated"], "heads": 2},
                {"name": "weights", "op": "softmax", "inputs": ["scores"]},
                {"name": "context", "op": "attention_context", "inputs": ["weights", "gate"]},
                {"name": "product", "op": "matmul", "inputs": ["gate", "context"], "transpose_b": True},
                {"name": "square", "op": "mul", "inputs": ["product", "product"]},
            ],
        )
        .configured(wrt=wrt)
    )
    read = {graph.nodes[i - 2].name for i in graph.columns.input_index[graph.derivative_reads].tolist() if i >= 2}
    assert read == {"gate", "product"}
    assert check_graph(graph) > 10


FACTORS: dict[str, tuple[Any, list[list[int]], dict[str, Any]]] = {
    "mul": (lambda f, a, b: a * b, [[2, 3], [2, 3]], {}),
    "matmul": (lambda f, a, b: a @ b, [[2, 3, 4], [2, 4, 5]], {}),
    "linear": (lambda f, x, w: f.linear(x, w), [[2, 3], [7, 3]], {"features": 7, "bias": False}),
    "conv2d": (
        lambda f, x, w: f.conv2d(x, w), [[2, 3, 8, 8], [4, 3, 3, 3]], {"channels": 4, "kernel": 3, "bias": False},
    ),
}  # fmt: skip
"""Functions of two factors, in PyTorch and as ops; the second factor of a linear map is its weight."""


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("op", FACTORS)
def test_the_factors_that_are_read_are_those_that_autograd_saves(op: str, wanted: tuple[bool, bool]) -> None:
    torch = pytest.importorskip("torch", reason="needs torch: pip install 'ad-tradeoff-sim[torch]'")
    function, shapes, parameters = FACTORS[op]
    factors = [torch.rand(s, requires_grad=w) for s, w in zip(shapes, wanted, strict=True)]
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        function(torch.nn.functional, *factors)

    weighted = op in ("linear", "conv2d")
    inputs = {"a": {"shape": shapes[0], "constant": not wanted[0]}}
    if not weighted:
        inputs["b"] = {"shape": shapes[1], "constant": not wanted[1]}
    listed = {"name": "y", "op": op, "inputs": list(inputs), **parameters}
    frozen = {"param_size": 0} if weighted and not wanted[1] else {}
    graph = load().call("layers", inputs=inputs, layers=[listed | frozen])
    read = [name for k, name in enumerate(inputs) if graph.derivative_reads[k]]
    assert read == [n for n, f in zip("ab", factors, strict=True) if n in inputs and f.data_ptr() in saved]


def test_a_factor_of_a_layer_with_costs_is_read_as_it_says() -> None:
    graph = load().call(
        "layers",
        inputs={"x": {"shape": [2, 3]}},
        layers=[
            {"name": "a", "op": "tanh"},
            {"name": "b", "op": "tanh", "inputs": ["a"]},
            {"name": "c", "output_shape": [2, 3], "inputs": ["a", "b"], "needs": "input", "reads": ["never", "always"]},
            {"name": "d", "op": "mul", "inputs": ["b", "c"], "needs": "none"},
        ],
    )
    assert [n.reads for n in graph.nodes] == [None, None, ("never", "always"), None]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reads": ("sometimes", "never")}, r"node 'y': unknown reads 'sometimes'"),
        ({"reads": ("never",)}, r"node 'y': got reads of 1 inputs, expected one for each of 2"),
        ({"reads": ("never", "always"), "needs": "output"}, r"node 'y': reads says which.*but needs is 'output'"),
    ],
)
def test_reads_that_make_no_sense_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Graph.from_nodes([Node(name="y", inputs=("x", "mask"), output_shape=(1,), **given)], [X, MASK])


def test_a_plan_knows_another_graph_by_what_is_read() -> None:
    graphs = [product(reads, "a", "b") for reads in (("others", "others"), ("always", "always"))]
    assert len({graph_sha256(graph) for graph in graphs}) == 2


def test_a_chain_of_masks_keeps_no_activation() -> None:
    """y ← y·mask, 30 times: two activations live together, then two cotangents, however deep the chain."""
    nodes = [node("y0", "x", "mask", reads=("others", "others"), activation_bytes=8)]
    nodes += [node(f"y{i}", f"y{i - 1}", "mask", reads=("others", "others"), activation_bytes=8) for i in range(1, 30)]
    graph = Graph.from_nodes(nodes, [X, MASK])
    assert sim.replay(sim.schedule(graph, "reverse_full")).working_bytes == 2 * 8
