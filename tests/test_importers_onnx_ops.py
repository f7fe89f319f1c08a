"""What single ONNX operations become: nodes, views, parameters, and one node where exporters write several."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from counts import saved_bytes

from sim.base.errors import GraphError
from sim.models.onnx.operators import load

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed: pip install 'ad-tradeoff-sim[onnx]'")
from onnx import TensorProto, helper  # noqa: E402
from onnxfiles import imported, ints, model, value, weight  # noqa: E402


@pytest.mark.parametrize("op", load())
def test_the_table_names_operators_of_the_standard(op: str) -> None:
    if not onnx.defs.has(op):
        pytest.skip(f"newer than this onnx, {onnx.__version__}")
    least = onnx.defs.get_schema(op).min_input
    assert all(0 <= w < max(least, onnx.defs.get_schema(op).max_input) for w in load()[op].weights or ())


@pytest.mark.parametrize(
    ("op", "attributes", "weights", "shape", "forward", "backward"),
    [
        # 2·(2·5·5 places)·(4·3·2·2 weights) and a bias on (2, 3, 10, 10)
        ("ConvTranspose", {"strides": [2, 2]}, [(4, 3, 2, 2), (3,)], (2, 3, 10, 10), 4800 + 600, 4800),
        ("GlobalMaxPool", {}, [], (2, 4, 1, 1), 200, 8),
        ("DepthToSpace", {"blocksize": 2}, [], (2, 1, 10, 10), 0, 0),
        ("Transpose", {"perm": [0, 2, 3, 1]}, [], (2, 5, 5, 4), 0, 0),
        ("ArgMax", {"axis": 1}, [], (2, 1, 5, 5), 200, 0),
        ("IsNaN", {}, [], (2, 4, 5, 5), 200, 0),
        ("Round", {}, [], (2, 4, 5, 5), 200, 0),
        ("Add", {}, [(4, 1, 1)], (2, 4, 5, 5), 200, 0),
        ("Mul", {}, [(4, 1, 1)], (2, 4, 5, 5), 200, 200),
        ("PRelu", {}, [(4, 1, 1)], (2, 4, 5, 5), 200, 200),
        ("Max", {}, [(1,)], (2, 4, 5, 5), 200, 400),
        ("Greater", {}, [(1,)], (2, 4, 5, 5), 200, 0),
        ("MatMul", {}, [(5, 7)], (2, 4, 5, 7), 2 * 200 * 7, 2 * 200 * 7),
        ("RMSNormalization", {}, [(5,)], (2, 4, 5, 5), 1000, 1600),
    ],
)
def test_costs_of_one_operation(
    tmp_path: Path, op: str, attributes: dict[str, Any], weights: list[tuple[int, ...]], shape: Any, forward: int,
    backward: int,
) -> None:  # fmt: skip
    """On an image of 2 × 4 × 5 × 5, 200 scalars."""
    if not onnx.defs.has(op):
        pytest.skip(f"newer than this onnx, {onnx.__version__}")
    names = [f"w{i}" for i in range(len(weights))]
    constants = [weight(n, *w) for n, w in zip(names, weights, strict=True)]
    opset = onnx.defs.onnx_opset_version() if op == "RMSNormalization" else 17
    file = model(tmp_path, [helper.make_node(op, ["x", *names], ["y"], **attributes)], [value("x", [2, 4, 5, 5])],
                 constants, opset)  # fmt: skip
    graph = imported(file, loss="none")
    (node,) = graph.nodes
    assert (node.output_shape, node.forward_flops, graph.columns.vjp_flops[0]) == (shape, forward, backward)
    assert node.param_size == sum(math.prod(w) for w in weights if math.prod(w) > 1)


def test_a_choice_keeps_its_condition_alone(tmp_path: Path) -> None:
    """As torch.where: 6 truth values of a byte."""
    nodes = [helper.make_node("Greater", ["x", "z"], ["c"]), helper.make_node("Where", ["c", "x", "z"], ["y"])]
    graph = imported(model(tmp_path, nodes, [value("x", [2, 3]), value("z", [2, 3])]))
    assert [(n.dtype, n.needs, n.reads, n.residual_bytes) for n in graph.nodes] == [
        ("bool", "none", None, None),
        ("float32", "input", ("always", "never", "never"), None),
    ]
    assert saved_bytes(graph) == 6


def spelled_out(*last: Any) -> list[Any]:
    """GELU as exporters write it, up to 1 + erf(x/√2), then the `last` products."""
    return [
        helper.make_node("Div", ["x", "root"], ["d"]),
        helper.make_node("Erf", ["d"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["a"]),
        *last,
    ]


@pytest.mark.parametrize(
    "products", [(("x", "a", "p"), ("p", "half", "y")), (("half", "x", "p"), ("a", "p", "y"))], ids=["after", "before"]
)
def test_a_gelu_that_is_spelled_out_is_one_node(tmp_path: Path, products: Any) -> None:
    nodes = spelled_out(*(helper.make_node("Mul", [a, b], [c], name=c) for a, b, c in products))
    file = model(tmp_path, nodes, [value("x", [2, 3])], [weight(n, 1) for n in ("root", "one", "half")])
    (gelu,) = imported(file).nodes
    assert (gelu.name, gelu.op, gelu.inputs, gelu.needs) == ("y", "gelu", ("x",), "input")
    assert len(imported(file, outputs=["y", "e"])) == 5


def test_a_sigmoid_that_others_read_is_no_silu(tmp_path: Path) -> None:
    nodes = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])]
    assert [n.op for n in imported(model(tmp_path, nodes, [value("x", [2, 3])])).nodes] == ["silu"]
    nodes.append(helper.make_node("Add", ["y", "s"], ["z"]))
    assert [n.op for n in imported(model(tmp_path, nodes, [value("x", [2, 3])])).nodes] == ["sigmoid", "mul", "add"]


def test_views_own_no_memory(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Flatten", ["a"], ["b"]),
        helper.make_node("Split", ["b"], ["c", "d"], axis=1),
        helper.make_node("Unsqueeze", ["d", "axes"], ["e"]),
        helper.make_node("Squeeze", ["e", "axes"], ["f"]),
        helper.make_node("Mul", ["c", "f"], ["y"], name="product"),
    ]
    graph = imported(model(tmp_path, nodes, [value("x", [2, 4, 3])], [ints("axes", 0)]))
    assert [n.name for n in graph.nodes] == ["a", "product"]
    assert graph.nodes[1].inputs == ("a", "a")
    assert graph.nodes[1].output_shape == (2, 6)
    assert saved_bytes(graph, inputs=False) == 2 * 4 * 3 * 4


def test_a_weight_that_is_used_twice_counts_once(tmp_path: Path) -> None:
    """An embedding of 7 rows of 5 whose transpose makes the logits; PyTorch has one gradient for both."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Transpose", ["table"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["e", "turned"], ["logits"]),
    ]
    ids = value("ids", [2, 3], TensorProto.INT64)
    graph = imported(model(tmp_path, nodes, [ids], [weight("table", 7, 5)]), loss="cross_entropy")
    assert [n.op for n in graph.nodes] == ["embedding", "linear", "cross_entropy"]
    assert [n.param_size for n in graph.nodes] == [35, 0, 0]
    assert graph.nodes[1].forward_flops == 2 * 6 * 5 * 7
    assert graph.inputs[1].shape == (2, 3)


def test_single_numbers_and_masks_made_of_shapes_are_no_parameters(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["a"]),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["zeros"]),
        helper.make_node("Add", ["a", "zeros"], ["b"]),
        helper.make_node("Add", ["b", "bias"], ["y"]),
    ]
    graph = imported(model(tmp_path, nodes, [value("x", [2, 3])], [weight("half", 1), weight("bias", 3)]))
    assert [n.param_size for n in graph.nodes] == [0, 0, 3]
    assert [n.needs for n in graph.nodes] == ["none", "none", "none"]


@pytest.mark.parametrize(
    ("kernel", "attributes", "image", "out"),
    [
        ([3, 3], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, [8, 9], [4, 5]),
        ([3, 2], {"pads": [0, 1, 2, 0], "dilations": [2, 1]}, [8, 9], [6, 9]),
        ([3], {"pads": [1, 1]}, [8], [8]),
        ([2, 3, 3], {"strides": [1, 2, 1]}, [4, 7, 5], [3, 3, 3]),
    ],
)
def test_convolutions_of_any_padding_and_rank(
    tmp_path: Path, kernel: list[int], attributes: dict[str, Any], image: list[int], out: list[int]
) -> None:
    """6 filters of 4/2 channels in 2 groups on 4 channels: 2·2·6·(outputs)·2·(kernel) flops and a bias."""
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=2, **attributes)
    file = model(tmp_path, [node], [value("x", [2, 4, *image])], [weight("w", 6, 2, *kernel), weight("b", 6)])
    (conv,) = imported(file).nodes
    assert conv.output_shape == (2, 6, *out)
    work = 2 * 2 * 6 * math.prod(out) * 2 * math.prod(kernel)
    assert (conv.vjp_flops, conv.forward_flops) == (work, work + 2 * 6 * math.prod(out))
    assert conv.param_size == 6 * 2 * math.prod(kernel) + 6
    assert conv.op == f"conv{len(kernel)}d"


def test_a_product_of_two_activations_broadcasts_its_batch(tmp_path: Path) -> None:
    """(2, 5, 3, 4) by (4, 6): 2·30·4·6 flops, twice that for the two cotangents."""
    nodes = [helper.make_node("Relu", ["b"], ["r"]), helper.make_node("MatMul", ["a", "r"], ["y"])]
    graph = imported(model(tmp_path, nodes, [value("a", [2, 5, 3, 4]), value("b", [4, 6])]))
    product = graph.nodes[1]
    assert product.output_shape == (2, 5, 3, 6)
    assert (product.forward_flops, product.vjp_flops) == (2 * 30 * 4 * 6, 4 * 30 * 4 * 6)


def test_shapes_computed_at_run_time_are_followed(tmp_path: Path) -> None:
    """(n, t, 6) to (n, t, heads, 6/heads) with the last size from a division, which inference does not follow."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "two"], ["h"]),
        helper.make_node("Div", ["h", "three"], ["d"]),
        helper.make_node("Slice", ["s", "zero", "two"], ["nt"]),
        helper.make_node("Concat", ["nt", "three", "d"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["r"]),
        helper.make_node("Exp", ["r"], ["y"]),
    ]
    sizes = [ints("zero", 0), ints("two", 2), ints("three", 3)]
    file = model(tmp_path, nodes, [value("x", ["n", "t", 6])], sizes)
    (exp,) = imported(file, dims={"t": 7}, batch=4).nodes
    assert exp.output_shape == (4, 7, 3, 2)


def test_training_off_keeps_no_masks_and_no_statistics(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["n"]),
        helper.make_node("Dropout", ["n"], ["d"]),
        helper.make_node("Tanh", ["d"], ["y"]),
    ]
    file = model(tmp_path, nodes, [value("x", [2, 3, 4, 4])], [weight(n, 3) for n in "sbmv"])
    trained, used = imported(file), imported(file, training=False)
    assert [n.residual_bytes for n in trained.nodes] == [2 * 3 * 4, 2 * 3 * 16, None]
    assert [(n.op, n.residual_bytes) for n in used.nodes] == [("batch_norm", None), ("tanh", None)]
    assert trained.parameter_count == used.parameter_count == 6


def test_outputs_choose_what_is_kept(tmp_path: Path) -> None:
    nodes = [helper.make_node("Exp", ["x"], ["a"]), helper.make_node("Sin", ["a"], ["y"])]
    file = model(tmp_path, nodes, [value("x", [2, 3])])
    assert [n.name for n in imported(file, outputs=["a"]).nodes] == ["a"]
    with pytest.raises(GraphError, match="makes no tensor 'z'; known: y"):
        imported(file, outputs=["z"])


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    nodes = [helper.make_node("Exp", ["x"], ["a"], name="x"), helper.make_node("Sin", ["a"], ["y"], name="x")]
    graph = imported(model(tmp_path, nodes, [value("x", [2, 3])]))
    assert [n.name for n in graph.nodes] == ["x_2", "x_3"]


def test_weights_whose_data_are_elsewhere_are_fine(tmp_path: Path) -> None:
    far = weight("w", 3, 2000)
    onnx.external_data_helper.set_external_data(far, "not_here.bin")
    far.ClearField("raw_data")
    file = model(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], [value("x", [2, 3])], [far])
    assert imported(file).parameter_count == 6000
