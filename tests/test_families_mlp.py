"""Multilayer perceptrons: names, sizes and costs worked out by hand."""

import pytest

from sim.base.errors import ParameterError
from sim.graphs.graph import Graph
from sim.models.families import load


def mlp(**parameters: object) -> Graph:
    return load().call("mlp", **parameters)


def test_layers_alternate_and_the_last_one_is_linear() -> None:
    graph = mlp(widths=[3, 4, 4, 2])
    names = ["layer1.linear", "layer1.relu", "layer2.linear", "layer2.relu", "layer3.linear"]
    assert [n.name for n in graph.nodes] == names
    assert graph.is_chain


def test_a_repeated_width_stands_for_that_many_layers() -> None:
    short = mlp(widths=[784, {"repeat": 64, "times": 3}, 10])
    long = mlp(widths=[784, 64, 64, 64, 10])
    assert [n.output_shape for n in short.nodes] == [n.output_shape for n in long.nodes]


def test_a_linear_layer_costs_two_flops_a_multiply_add_and_one_a_bias() -> None:
    node = mlp(widths=[3, 4], batch=5).nodes[0]
    assert node.forward_flops == 2 * 5 * 3 * 4 + 5 * 4
    assert node.jvp_flops == node.vjp_flops == 2 * 5 * 3 * 4
    assert node.param_vjp_flops == 2 * 5 * 3 * 4 + 5 * 4
    assert node.param_size == 3 * 4 + 4
    assert node.jacobian.structure == "constant"
    assert node.jacobian.flops == 0
    assert node.needs == "input"


def test_without_bias_only_the_weight_is_left() -> None:
    node = mlp(widths=[3, 4], batch=5, bias=False).nodes[0]
    assert node.forward_flops == node.param_vjp_flops == 2 * 5 * 3 * 4
    assert node.param_size == 12


@pytest.mark.parametrize(
    ("activation", "needs"),
    [("relu", "output"), ("tanh", "output"), ("sigmoid", "output"), ("gelu", "input"), ("silu", "input")],
)
def test_activations_cost_a_flop_a_scalar_and_keep_what_pytorch_keeps(activation: str, needs: str) -> None:
    node = mlp(widths=[3, 4, 2], batch=5, activation=activation).nodes[1]
    assert node.name == f"layer1.{activation}"
    assert node.forward_flops == 20
    assert node.needs == needs
    assert (node.jacobian.structure, node.jacobian.flops) == ("diagonal", 20)


def test_without_activation_the_network_is_deep_linear() -> None:
    assert {n.op for n in mlp(widths=[3, 4, 4, 2], activation="none").nodes} == {"linear"}


def test_tangents_and_outputs_are_counted_for_one_sample() -> None:
    graph = mlp(widths=[3, 4, 2], batch=7)
    assert (graph.input_scalars, graph.output_scalars) == (3, 2)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "sum", "mean"])
def test_a_loss_is_one_scalar_for_the_whole_batch(loss: str) -> None:
    graph = mlp(widths=[3, 4, 2], batch=7, loss=loss)
    assert graph.nodes[-1].name == "loss"
    assert graph.nodes[-1].output_shape == ()
    assert graph.output_scalars == 1


def test_labels_are_integers_and_a_target_is_not_differentiated() -> None:
    labels = mlp(widths=[3, 2], batch=7, loss="cross_entropy").inputs[1]
    assert (labels.name, labels.shape, labels.dtype) == ("labels", (7,), "int64")
    graph = mlp(widths=[3, 2], batch=7, loss="mse").configured(wrt="input")
    assert (graph.inputs[1].name, graph.inputs[1].shape) == ("target", (7, 2))
    assert graph.input_scalars == 3
    assert graph.active.tolist() == [True, False, True, True]


def test_cross_entropy_keeps_its_log_softmax_and_one_scalar_and_reads_the_labels_alone() -> None:
    node = mlp(widths=[3, 10], batch=7, loss="cross_entropy", dtype="float64").nodes[-1]
    assert node.residual_bytes == (7 * 10 + 1) * 8
    assert (node.needs, node.reads) == ("input", ("never", "always"))


def test_only_the_gradient_of_a_sum_is_a_view_of_one_scalar() -> None:
    """PyTorch 2.13: `mean` divides the expanded cotangent, which makes a tensor as large as its input."""
    assert mlp(widths=[3, 2], loss="sum").nodes[-1].vjp_broadcasts
    assert not mlp(widths=[3, 2], loss="mean").nodes[-1].vjp_broadcasts


def test_sixteen_layers_of_512_cost_the_published_gradient_flops() -> None:
    """REFERENCE section 9: 50.4659 GFLOP of matrix products, the first input's cotangent not among them."""
    graph = mlp(widths=[{"repeat": 512, "times": 17}], batch=2048, loss="sum", activate_output=True)
    linears = [n for n in graph.nodes if n.op == "linear"]
    assert len(linears) == 16
    adds = 2048 * 512
    weights = sum(n.param_vjp_flops - adds for n in linears)
    products = sum(n.forward_flops - adds for n in linears) + weights + sum(n.vjp_flops for n in linears[1:])
    assert round(products / 1e9, 4) == 50.4659


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([3], "at least two widths"),
        ([3, 0], r"widths of at least 1 \(found 0\)"),
        ([3, True], "found True"),
        ([3, {"repeat": 4}], "repeat: width, times: count"),
        ("3", "a list of widths"),
    ],
)
def test_impossible_widths_say_what_was_found(widths: object, message: str) -> None:
    with pytest.raises(ParameterError, match=f"mlp: widths: got .*{message}"):
        mlp(widths=widths)


def test_every_numeric_type_sets_the_bytes() -> None:
    sizes = {d: int(mlp(widths=[2, 3], dtype=d).columns.activation_bytes[0]) for d in ("float64", "float32", "float16")}
    assert sizes == {"float64": 24, "float32": 12, "float16": 6}
