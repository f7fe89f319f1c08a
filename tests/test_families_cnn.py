"""Convolutional networks against published parameters, flops and saved bytes."""

import pytest
from counts import CONTRACTIONS, contraction_flops, saved_bytes

from sim.base.errors import GraphError, ParameterError
from sim.graphs.graph import Graph
from sim.models.families import load


def cnn(**parameters: object) -> Graph:
    return load().call("cnn", **parameters)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("vgg16", 138_357_544), ("vgg19", 143_667_240), ("resnet18", 11_689_512), ("resnet50", 25_557_032)],
)
def test_presets_have_the_published_number_of_parameters(preset: str, parameters: int) -> None:
    """torchvision 0.21, `num_params` in the metadata of the weights."""
    assert cnn(preset=preset).parameter_count == parameters


def test_vgg19_costs_the_published_multiply_adds() -> None:
    """Checkmate (Jain et al. 2020): 58.896187392 G for forward and backward, the backward at twice the forward."""
    graph = cnn(preset="vgg19")
    assert 3 * contraction_flops(graph) // 2 == 58_896_187_392
    weights_and_inputs = sum(n.vjp_flops or 0 for n in graph.nodes if n.op in CONTRACTIONS)
    assert weights_and_inputs == contraction_flops(graph)


def test_resnet50_costs_the_published_flops() -> None:
    """PyTorch's FlopCounterMode: 8.1784 GFLOP in convolutions and the linear layer."""
    assert round(contraction_flops(cnn(preset="resnet50")) / 1e9, 4) == 8.1784


def test_resnet50_saves_the_published_bytes() -> None:
    """PyTorch 2.13: 82.13 MiB. By hand: inputs of 53 batch norms and of 54 convolutions and linear layer.

    11,113,984 scalars leave convolutions; 49 ReLUs make 9,608,704; then the pooled stem, the pooled
    features and the image; 200,704 int64 indices; mean and 1/σ of 26,560 channels.
    """
    scalars = 11_113_984 + 9_608_704 + 64 * 56 * 56 + 2048 + 3 * 224 * 224
    expected = 4 * scalars + 8 * 64 * 56 * 56 + 2 * 4 * 26_560
    graph = cnn(preset="resnet50")
    assert saved_bytes(graph) == expected
    assert round(expected / 2**20, 2) == 82.13
    assert saved_bytes(graph, inputs=False) == expected - 4 * 3 * 224 * 224


def test_other_networks_save_what_pytorch_saves() -> None:
    """Bytes of distinct storages packed by `saved_tensors_hooks`, PyTorch 2.13 on the CPU, weights left out."""
    assert saved_bytes(cnn(preset="resnet18")) == 22_218_240
    assert saved_bytes(cnn(preset="unet", image=[3, 64, 64])) == 13_451_264


def test_a_loss_adds_its_log_softmax_and_the_labels_to_what_is_saved() -> None:
    """`nll_loss` saves the log-softmax of 2·1000 scalars, its total weight and 2 labels of 8 bytes."""
    plain, trained = cnn(preset="resnet18", batch=2), cnn(preset="resnet18", batch=2, loss="cross_entropy")
    assert saved_bytes(trained) - saved_bytes(plain) == 4 * (2 * 1000 + 1) + 2 * 8


def test_unet_has_the_parameters_of_its_layers() -> None:
    """Nine double convolutions, four up-convolutions and the 1×1 classifier, counted by hand for 3 channels."""

    def double(inside: int, channels: int) -> int:
        return 9 * (inside + channels) * channels + 2 * channels

    down = sum(double(i, o) for i, o in [(3, 64), (64, 128), (128, 256), (256, 512), (512, 1024)])
    up = sum(double(2 * c, c) + 4 * 2 * c * c + c for c in (512, 256, 128, 64))
    assert cnn(preset="unet").parameter_count == down + up + 64 * 2 + 2


def test_unet_gives_one_prediction_for_each_pixel() -> None:
    graph = cnn(preset="unet", image=[1, 64, 48], batch=2, classes=5, loss="cross_entropy")
    assert graph.nodes[-2].output_shape == (2, 5, 64, 48)
    assert graph.inputs[1].shape == (2, 64, 48)


def test_unet_concatenates_the_skip_with_what_comes_from_below() -> None:
    joined = next(n for n in cnn(preset="unet").nodes if n.name == "up1.concat")
    assert joined.inputs == ("down1.relu2", "up1.conv_transpose")
    assert joined.output_shape == (1, 128, 256, 256)


def test_costs_grow_with_the_batch_and_parameters_do_not() -> None:
    one, four = cnn(preset="resnet18"), cnn(preset="resnet18", batch=4)
    assert four.forward_flops == 4 * one.forward_flops
    assert four.parameter_count == one.parameter_count
    assert four.output_scalars == one.output_scalars == 1000


def test_a_convolution_costs_its_multiply_adds() -> None:
    """⌊(9 + 2·1 − 3)/2⌋ + 1 = 5 rows, ⌊(7 + 2·0 − 5)/1⌋ + 1 = 3 columns."""
    conv = {"channels": 6, "kernel": [3, 5], "stride": [2, 1], "padding": [1, 0], "groups": 2}
    (node,) = cnn(layers=[{"conv": conv}], image=[4, 9, 7], batch=2).nodes
    assert node.output_shape == (2, 6, 5, 3)
    products = 2 * 6 * 5 * 3 * (4 // 2) * 3 * 5
    assert node.vjp_flops == node.jvp_flops == 2 * products
    assert node.forward_flops == node.param_vjp_flops == 2 * products + 2 * 6 * 5 * 3
    assert node.param_size == 6 * 2 * 15 + 6


def test_a_max_pool_keeps_its_input_and_an_int64_for_each_output() -> None:
    node = cnn(layers=[{"max_pool": 2}], image=[3, 8, 8], batch=2).nodes[0]
    assert node.output_shape == (2, 3, 4, 4)
    assert node.residual_bytes == 8 * 2 * 3 * 4 * 4
    assert node.needs == "input"


def test_flattening_is_a_view_that_owns_no_memory() -> None:
    graph = cnn(layers=[{"max_pool": 2}, "flatten", {"linear": 10}], image=[3, 8, 8], batch=2)
    assert [n.op for n in graph.nodes] == ["max_pool2d", "linear"]
    assert graph.nodes[1].attributes["input_shapes"] == ((2, 48),)
    assert graph.nodes[1].param_size == 48 * 10 + 10


def test_a_join_gives_each_branch_the_same_input() -> None:
    conv = {"conv": {"channels": 3, "kernel": 1}}
    graph = cnn(layers=["relu", {"add": [[conv, "relu"], []]}, {"concat": [[conv], ["relu"]]}], image=[3, 4, 4])
    inputs = {n.name: n.inputs for n in graph.nodes}
    assert inputs["add1"] == ("relu2", "relu1")
    assert inputs["concat1"] == ("conv2", "relu3")
    assert graph.nodes[-1].output_shape == (1, 6, 4, 4)


def test_a_block_names_and_repeats_its_layers() -> None:
    graph = cnn(layers=[{"block": ["relu", "relu"], "name": "stage", "times": 2}, "relu"], image=[1, 2, 2])
    names = ["stage.1.relu1", "stage.1.relu2", "stage.2.relu1", "stage.2.relu2", "relu1"]
    assert [n.name for n in graph.nodes] == names


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([{"conv": {"channels": 2, "kernel": 9}}], "'conv1': a kernel of 9 does not fit an image of 8"),
        ([{"add": [[], [{"max_pool": 2}]]}], r"'add1': cannot add shapes \(1, 3, 8, 8\) and \(1, 3, 4, 4\)"),
        (["flatten", {"max_pool": 2}], r"'max_pool1': got an input of shape \(1, 192\)"),
        ([{"conv": {"channels": 4, "kernel": 1, "groups": 2}}], "3 input and 4 output channels"),
        (["flatten"], "make no node"),
        ([{"relu": {}, "name": "a"}, {"relu": {}, "name": "a"}], "named 'a'"),
    ],
)
def test_layers_that_do_not_fit_are_named(layers: list[object], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        cnn(layers=layers, image=[3, 8, 8])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("convv", "not 'convv'; did you mean 'conv'"),
        ({"conv": 64}, "'kernel' is missing"),
        ({"conv": {"channels": 0, "kernel": 3}}, "channels: got 0, expected at least 1"),
        ({"max_pool": {"kernel": 2, "strid": 2}}, "did you mean 'stride'"),
        ({"dropout": 1.0}, "less than 1"),
        ({"relu": 3}, "relu without parameters"),
        ({"relu": None, "tanh": None}, "one layer in each entry"),
        ({"add": [["relu"]]}, "at least two branches"),
        ({"block": ["relu"], "times": 0}, "'times' of at least 1"),
    ],
)
def test_a_layer_written_wrongly_says_where_and_what_was_expected(layer: object, message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        cnn(layers=["relu", layer], image=[3, 8, 8])
    assert caught.value.parameter == ("layers", 1)


def test_a_preset_or_layers_but_not_both() -> None:
    with pytest.raises(GraphError, match="either 'preset' or 'layers'"):
        cnn()
    with pytest.raises(GraphError, match="not both"):
        cnn(preset="vgg16", layers=["relu"], image=[3, 8, 8])
    with pytest.raises(GraphError, match="need an 'image'"):
        cnn(layers=["relu"])


def test_an_image_too_small_for_a_preset_is_refused_at_its_layer() -> None:
    with pytest.raises(GraphError, match=r"node 'max_pool\d': a kernel of 2 does not fit an image of 1"):
        cnn(preset="vgg16", image=[3, 16, 16])


@pytest.mark.parametrize("side", [2**31, 2**53])
def test_absurd_images_are_refused_rather_than_wrapped(side: int) -> None:
    with pytest.raises(GraphError):
        cnn(layers=[{"conv": {"channels": 8, "kernel": 3}}], image=[3, side, side])
