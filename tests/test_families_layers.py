"""Graphs listed by hand: derived and given costs, order, and one message for each mistake."""

import pytest

from sim.base.errors import GraphError, ParameterError
from sim.graphs.graph import Graph
from sim.models.families import load

X = {"x": {"shape": [64, 10]}}


def layers(*listed: object, inputs: object = X, **parameters: object) -> Graph:
    return load().call("layers", inputs=inputs, layers=list(listed), **parameters)


def test_a_known_op_derives_its_costs_from_what_it_reads() -> None:
    graph = layers({"name": "a", "op": "linear", "inputs": ["x"], "features": 32})
    assert graph.nodes[0].output_shape == (64, 32)
    assert graph.nodes[0].vjp_flops == 2 * 64 * 10 * 32
    assert graph.batch == 64
    assert graph.output_scalars == 32


def test_a_network_by_hand_equals_the_same_one_as_mlp() -> None:
    by_hand = layers(
        {"name": "layer1.linear", "op": "linear", "features": 7},
        {"name": "layer1.tanh", "op": "tanh"},
        {"name": "layer2.linear", "op": "linear", "features": 2},
        {"name": "loss", "op": "cross_entropy", "inputs": ["layer2.linear", "labels"]},
        inputs={**X, "labels": {"shape": [64], "dtype": "int64"}},
    )
    family = load().call("mlp", widths=[10, 7, 2], activation="tanh", batch=64, loss="cross_entropy")
    assert list(by_hand.nodes) == list(family.nodes)
    assert by_hand.inputs == family.inputs


def test_a_layer_without_inputs_reads_the_one_before_it() -> None:
    graph = layers({"op": "relu"}, {"op": "tanh"}, {"name": "c", "op": "add", "inputs": ["layer1", "layer2"]})
    assert [n.inputs for n in graph.nodes] == [("x",), ("layer1",), ("layer1", "layer2")]


def test_costs_stand_for_themselves() -> None:
    costs = {"forward_flops": 100, "vjp_flops": 7, "residual_bytes": 0, "needs": "both", "workspace_bytes": 3}
    node = layers({"name": "b", "activation_bytes": 400, **costs}).nodes[0]
    assert {key: getattr(node, key) for key in costs} == costs
    assert node.activation_bytes == 400
    assert node.op == "custom"


def test_activation_bytes_give_the_scalars_of_a_sample() -> None:
    """1024 bytes of float32 for 64 samples: 4 scalars each; one byte more takes a fifth."""
    assert layers({"name": "b", "activation_bytes": 1024}).output_scalars == 4
    assert layers({"name": "b", "activation_bytes": 1025}).output_scalars == 5


def test_costs_beside_an_op_replace_those_of_its_rule() -> None:
    node = layers(
        {"op": "linear", "features": 3, "workspace_bytes": 99, "seconds": {"forward": 1.0, "jvp": 2.0, "vjp": 3.0}},
    ).nodes[0]
    assert node.workspace_bytes == 99
    assert node.param_size == 10 * 3 + 3
    assert node.seconds is not None
    assert node.seconds.vjp == 3.0


def test_layers_may_be_listed_in_any_order() -> None:
    graph = layers(
        {"name": "last", "op": "linear", "inputs": ["first"], "features": 2},
        {"name": "first", "op": "linear", "inputs": ["x"], "features": 5},
    )
    assert [n.name for n in graph.nodes] == ["first", "last"]
    assert graph.nodes[1].param_size == 5 * 2 + 2


def test_flatten_is_another_name_for_the_same_memory() -> None:
    graph = layers(
        {"name": "pool", "op": "max_pool2d", "kernel": 2},
        {"name": "flat", "op": "flatten"},
        {"name": "out", "op": "linear", "features": 3},
        inputs={"x": {"shape": [2, 3, 4, 4]}},
    )
    assert [n.name for n in graph.nodes] == ["pool", "out"]
    assert graph.nodes[1].inputs == ("pool",)
    assert graph.nodes[1].param_size == 12 * 3 + 3


def test_a_constant_input_is_not_differentiated() -> None:
    inputs = {"x": {"shape": [4, 3]}, "goal": {"shape": [4, 3], "constant": True}}
    graph = layers({"name": "loss", "op": "mse", "inputs": ["x", "goal"]}, inputs=inputs)
    assert graph.wrt == "input"
    assert graph.input_scalars == 3


def test_samples_are_counted_by_the_first_dimension_that_all_inputs_share() -> None:
    inputs = {"x": {"shape": [4, 3]}, "y": {"shape": [5, 3]}}
    assert layers({"op": "relu", "inputs": "x"}, {"op": "relu", "inputs": "y"}, inputs=inputs).batch == 1
    assert layers({"op": "relu"}, inputs={"x": {"shape": [4, 3]}}, batch=2).batch == 2


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([{"name": "a", "op": "relu", "inputs": ["b"]}, {"name": "b", "op": "relu"}], "cycle: a -> b -> a"),
        ([{"name": "a", "op": "relu", "inputs": ["z"]}], "'a' reads 'z', which does not exist"),
        ([{"name": "a", "op": "relu"}, {"name": "a", "op": "relu"}], "named 'a'"),
        (
            [{"name": "a", "op": "linear", "features": 3}, {"name": "b", "op": "add", "inputs": ["a", "x"]}],
            r"'b': cannot",
        ),
        ([{"name": "a", "op": "conv2d", "channels": 3, "kernel": 3}], r"'a': got an input of shape \(64, 10\)"),
        ([{"name": "a", "op": "add"}], "'a': add reads at least 2 inputs, got 1"),
        ([{"name": "a", "op": "relu", "inputs": ["x", "x"]}], "'a': relu reads 1 input, got 2"),
        ([{"name": "a", "op": "embedding", "entries": 3, "features": 2}], "'a': embedding reads integers, but 'x' is"),
        ([{"name": "a", "forward_flops": 3}], "'a': give an 'op', an 'output_shape' or 'activation_bytes'"),
        ([{"name": "a", "op": "relu", "output_shape": [64, 11]}], r"'a': relu gives a shape of \(64, 10\), not"),
        ([{"name": "a", "op": "flatten"}], "make no node"),
    ],
)
def test_graphs_that_mean_nothing_name_the_node(listed: list[object], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        layers(*listed)


def test_several_inputs_leave_open_what_the_first_layer_reads() -> None:
    with pytest.raises(GraphError, match="'layer1': name its 'inputs'"):
        layers({"op": "relu"}, inputs={"x": {"shape": [1]}, "y": {"shape": [1]}})


def test_mixed_dtypes_are_refused() -> None:
    inputs = {"x": {"shape": [2, 2]}, "y": {"shape": [2, 2], "dtype": "float64"}}
    with pytest.raises(GraphError, match="'a': add reads one dtype, got x: float32, y: float64"):
        layers({"name": "a", "op": "add", "inputs": ["x", "y"]}, inputs=inputs)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"name": "a", "op": "lineer"}, "node 'a': a known op, not 'lineer'; did you mean 'linear'"),
        ({"name": "a", "op": ["relu"]}, "node 'a': a known op, not"),
        ({"name": "a", "op": "flatten", "forward_flops": 3}, "flatten without costs"),
        ({"name": "a", "op": "linear"}, "'features' is missing"),
        ({"name": "a", "op": "linear", "featurs": 3}, "unknown key 'featurs'; did you mean 'features'"),
        ({"name": "a", "op": "linear", "features": 0}, "features: got 0, expected at least 1"),
        ({"name": "a", "op": "relu", "forward_flop": 3}, "did you mean 'forward_flops'"),
        ({"name": "a", "activation_bytes": -1}, "activation_bytes: got -1"),
        ({"name": "a", "op": "relu", "inputs": 3}, "a list of names as 'inputs'"),
        ({"name": 3, "op": "relu"}, "a text as 'name'"),
        ("relu", "a mapping such as"),
    ],
)
def test_an_entry_written_wrongly_says_where_and_what_was_expected(layer: object, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        layers({"op": "relu"}, layer)
    assert caught.value.parameter == ("layers", 1)


def test_an_input_without_a_shape_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"inputs\.x: 'shape' is missing"):
        layers({"op": "relu"}, inputs={"x": {}})


@pytest.mark.parametrize(
    ("listed", "node", "key"),
    [
        ([{"name": "a", "op": "linear", "inputs": ["y"], "features": 3}], "a", "inputs"),
        ([{"name": "a", "op": "relu", "inputs": ["b"]}, {"name": "b", "op": "relu", "inputs": ["a"]}], "a", "inputs"),
        ([{"name": "a", "op": "relu"}, {"name": "a", "op": "relu"}], "a", None),
        ([{"name": "a", "activation_bytes": 8, "needs": "none", "reads": ["always"]}], "a", "reads"),
        ([{"name": "a", "op": "relu", "output_shape": [3]}], "a", "output_shape"),
        ([{"name": "a", "op": "conv2d", "channels": 3, "kernel": 3}], "a", None),
    ],
)
def test_an_error_carries_the_node_and_the_key_at_fault(listed: list[object], node: str, key: str | None) -> None:
    with pytest.raises(GraphError) as caught:
        layers(*listed)
    assert (caught.value.node, caught.value.key) == (node, key)
