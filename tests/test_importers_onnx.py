"""Imported networks have the costs of the published ones, by counts that do not use our rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim import scenario, strategies
from sim.counts import contraction_flops, saved_bytes
from sim.document import DocumentError
from sim.errors import GraphError
from sim.families.cnn import cnn
from sim.graph import Graph
from sim.importers import importers, load
from sim.schedule import replay

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed: pip install 'ad-tradeoff-sim[onnx]'")
from onnx import TensorProto, helper, shape_inference  # noqa: E402

load()
NETWORKS = (
    "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50",
    "shufflenet", "squeezenet", "vgg19", "zfnet512",
)  # fmt: skip


def shipped(network: str) -> str:
    return f"onnx:backend/test/data/light/light_{network}.onnx"


def imported(file: str | Path, **parameters: Any) -> Graph:
    return importers.call("onnx", file=str(file), **parameters)


def network(name: str, **parameters: Any) -> Graph:
    return imported(shipped(name), **{"loss": "cross_entropy", **parameters})


def value(name: str, shape: Sequence[int | str | None], dtype: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def weight(name: str, *shape: int) -> Any:
    return onnx.numpy_helper.from_array(np.zeros(shape, dtype=np.float32), name)


def ints(name: str, *values: int) -> Any:
    return onnx.numpy_helper.from_array(np.array(values, dtype=np.int64), name)


def model(
    folder: Path, nodes: Sequence[Any], inputs: Sequence[Any], weights: Sequence[Any] = (), opset: int = 17, **more: Any
) -> Path:
    """A file whose outputs are those of the last node."""
    outputs = [helper.make_empty_tensor_value_info(o) for o in nodes[-1].output]
    graph = helper.make_graph(list(nodes), "model", list(inputs), outputs, list(weights))
    opsets = [helper.make_opsetid("", opset), *more.pop("opsets", [])]
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, **more).SerializeToString())
    return path


def declared(name: str) -> tuple[Any, dict[str, tuple[int, ...]], set[str]]:
    """The proto of a shipped network, the shapes of its tensors, and those that depend on its image."""
    path = Path(onnx.__path__[0]) / shipped(name).removeprefix("onnx:")
    proto = shape_inference.infer_shapes(onnx.load(str(path)))
    graph = proto.graph
    shapes = {i.name: tuple(i.dims) for i in graph.initializer}
    for v in (*graph.input, *graph.value_info, *graph.output):
        shapes[v.name] = tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
    constants = {i.name for i in graph.initializer}
    image = {v.name for v in graph.input if v.name not in constants}
    for node in graph.node:
        if image.intersection(node.input):
            image.update(node.output)
    return graph, shapes, image


@pytest.mark.parametrize("name", NETWORKS)
def test_flops_are_those_of_the_shapes_in_the_file(name: str) -> None:
    """2·(output scalars)·(scalars of one filter) for each convolution and Gemm."""
    graph, shapes, _ = declared(name)
    flops = 0
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            filters = shapes[node.input[1]]
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            of_one = math.prod(filters) // filters[0] if node.op_type == "Conv" or transposed else filters[0]
            flops += 2 * math.prod(shapes[node.output[0]]) * of_one
    assert contraction_flops(network(name)) == flops


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_the_weights_of_the_file(name: str) -> None:
    """Every constant that an image-dependent node reads, but running averages, shapes and single numbers."""
    graph, shapes, image = declared(name)
    sizes = {}
    for node in graph.node:
        if image.intersection(node.input) and node.op_type != "Reshape":
            read = node.input[:3] if node.op_type == "BatchNormalization" else node.input
            sizes |= {t: math.prod(shapes[t]) for t in read if t not in image}
    assert network(name).parameter_count == sum(s for s in sizes.values() if s > 1)


@pytest.mark.parametrize(
    ("name", "parameters", "mega_multiply_adds"),
    [
        ("bvlc_alexnet", 60_965_224, None),  # Caffe's model zoo
        ("squeezenet", 1_235_496, 349),  # torchvision, squeezenet1_1
        ("resnet50", 25_557_032, 4_089),  # torchvision, resnet50
        ("vgg19", 143_667_240, 19_632),  # torchvision, vgg19
        # torchvision has 7,978,856; Caffe follows each of its 121 batch norms, 41,824 channels in all, by a scale
        ("densenet121", 7_978_856 + 2 * 41_824, 2_834),
    ],
)
def test_published_counts(name: str, parameters: int, mega_multiply_adds: int | None) -> None:
    graph = network(name)
    assert graph.parameter_count == parameters
    if mega_multiply_adds is not None:
        assert contraction_flops(graph) // 2_000_000 == mega_multiply_adds


@pytest.mark.parametrize("name", ["resnet50", "vgg19"])
@pytest.mark.parametrize("batch", [1, 8])
def test_an_imported_network_costs_what_the_family_says(name: str, batch: int) -> None:
    ours, theirs = cnn(preset=name, batch=batch, loss="cross_entropy"), network(name, batch=batch)
    assert (len(theirs), theirs.parameter_count) == (len(ours), ours.parameter_count)
    assert theirs.forward_flops == ours.forward_flops
    assert saved_bytes(theirs) == saved_bytes(ours)


def test_resnet50_saves_what_pytorch_saves() -> None:
    """82.13 MiB, 8.1784 GFLOP in convolutions and the linear layer: measured in PyTorch at batch 1."""
    graph = network("resnet50")
    assert contraction_flops(graph) == pytest.approx(8.1784e9, rel=1e-5)
    loss = (1000 + 1) * 4
    assert (saved_bytes(graph) - loss) / 2**20 == pytest.approx(82.13, abs=0.005)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_depends_on_the_image_grows_with_the_batch_and_nothing_else(name: str) -> None:
    one, eight = network(name), network(name, batch=8)
    assert [n.name for n in one.nodes] == [n.name for n in eight.nodes]
    assert eight.batch == 8
    scalars = one.columns.activation_bytes[:-1]  # the loss is one number
    assert np.array_equal(eight.columns.activation_bytes[:-1], 8 * scalars)
    assert np.array_equal(eight.columns.forward_flops, 8 * one.columns.forward_flops)
    assert np.array_equal(eight.columns.param_size, one.columns.param_size)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_runs_in_reverse_mode(name: str) -> None:
    graph = network(name, batch=64)  # so that activations, not gradients, make the peak
    registry = strategies.load()
    full = replay(registry.call("reverse_full", graph))
    uniform = replay(registry.call("reverse_checkpointed", graph, schedule="uniform", segments=4))
    assert full.flops.primal == graph.forward_flops
    assert full.flops.recompute == 0
    assert full.working_bytes > saved_bytes(graph, inputs=False)
    assert uniform.flops.recompute > 0
    assert uniform.peak_bytes < full.peak_bytes


@pytest.mark.parametrize("name", ["onnx_resnet50", "onnx_densenet121"])
def test_shipped_scenarios_find_their_file(name: str) -> None:
    path = Path(__file__).parent.parent / "scenarios" / f"{name}.yaml"
    assert scenario.load(path).build_graph().batch == 8


SCENARIO = "version: 1\nname: a\ngraph: {{kind: onnx, file: {file}}}\nstrategies: [reverse_full]\n"


def test_a_path_is_relative_to_the_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], [value("x", [2, 3])])
    (tmp_path / "a.yaml").write_text(SCENARIO.format(file="model.onnx"))
    monkeypatch.chdir("/")
    assert len(scenario.load(tmp_path / "a.yaml").build_graph()) == 1


def test_a_missing_file_is_shown_at_its_key(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SCENARIO.format(file="other.onnx"))
    with pytest.raises(DocumentError, match=r"a\.yaml:3:27: graph\.file: .*no such file"):
        scenario.load(tmp_path / "a.yaml").build_graph()


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


def test_a_shorter_dtype_takes_its_share_of_the_bytes() -> None:
    full, half = network("squeezenet"), network("squeezenet", dtype="float16")
    assert np.array_equal(2 * half.columns.activation_bytes, full.columns.activation_bytes)
    assert 2 * half.columns.param_bytes.sum() == full.columns.param_bytes.sum()


def test_the_loss_takes_the_place_of_a_softmax() -> None:
    ops = [n.op for n in network("vgg19").nodes]
    assert "softmax" not in ops
    assert [n.op for n in network("vgg19", loss="none").nodes] == [*ops[:-1], "softmax"]


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


def refusal(folder: Path, node: Any, *inputs: Any, weights: Sequence[Any] = (), **parameters: Any) -> str:
    more = {k: parameters.pop(k) for k in ("opsets",) if k in parameters}
    with pytest.raises(GraphError) as caught:
        imported(model(folder, [node], inputs, weights, **more), **parameters)
    return str(caught.value)


def test_open_dimensions_are_named_with_what_to_give(tmp_path: Path) -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    message = refusal(tmp_path, relu, value("x", ["n", "t", None]))
    assert "input 'x' is open: (1, t, x.2); give its sizes, such as dims: {t: 1, x.2: 1}" in message
    message = refusal(tmp_path, relu, value("x", ["n", "t"]), dims={"tt": 3})
    assert message == "dims: the model has no dimension 'tt'; did you mean 't'? known: n, t"
    assert imported(tmp_path / "model.onnx", dims={"t": 3, "n": 2}).nodes[0].output_shape == (2, 3)


def test_shapes_that_depend_on_values_are_refused_at_their_node(tmp_path: Path) -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Exp", ["x"], ["y"])]
    nodes[0].name, nodes[1].input[0] = "places", "i"
    with pytest.raises(GraphError, match=r"^node 'places' \(NonZero\): there is no rule for this operator; .*RULES"):
        imported(model(tmp_path, nodes, [value("x", [2, 3])]))
    reshape = helper.make_node("Reshape", ["x", "to"], ["y"], name="fold")
    inputs = [value("x", [2, 3]), value("to", [2], TensorProto.INT64)]
    assert refusal(tmp_path, reshape, *inputs).startswith("node 'fold' (Reshape): the shape of 'y' ")


def test_operators_of_others_are_named_with_their_domain(tmp_path: Path) -> None:
    node = helper.make_node("Fused", ["x"], ["y"], domain="com.example")
    message = refusal(tmp_path, node, value("x", [2]), opsets=[helper.make_opsetid("com.example", 1)])
    assert message.startswith("node 'y' (com.example.Fused): there is no rule for this operator")


def test_control_flow_is_refused_with_the_reason(tmp_path: Path) -> None:
    def branch(op: str) -> Any:
        return helper.make_graph([helper.make_node(op, ["x"], ["z"])], op, [], [value("z", [2])])

    node = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branch("Exp"), else_branch=branch("Sin"))
    message = refusal(tmp_path, node, value("c", [], TensorProto.BOOL), value("x", [2]))
    assert message == "node 'choice' (If): control flow cannot be imported, because which branch runs depends on values"


def test_weights_computed_from_the_input_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="dynamic")
    message = refusal(tmp_path, node, value("x", [1, 2, 5, 5]), value("w", [3, 2, 1, 1]))
    assert message == "node 'dynamic': Conv with a weight that depends on the model's inputs cannot be imported"


def test_an_input_without_the_batch_is_not_scaled(tmp_path: Path) -> None:
    add = helper.make_node("Add", ["x", "state"], ["y"])
    message = refusal(tmp_path, add, value("x", [2, 3]), value("state", [3]), batch=4)
    assert message.startswith("batch: input 'state' of shape (3,) does not start with the batch of the file, 2")


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(range(256))])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(GraphError, match=r"^file: .*a\.onnx: this is no ONNX model"):
        imported(tmp_path / "a.onnx")


def test_places_without_a_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="no such file"):
        imported(tmp_path / "missing.onnx")
    with pytest.raises(GraphError, match="is a directory"):
        imported(tmp_path)
    with pytest.raises(GraphError, match=r"^file: nobody_has:a\.onnx: no package 'nobody_has' is installed"):
        imported("nobody_has:a.onnx")


def test_without_the_extra_the_line_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(GraphError, match=r"pip install 'ad-tradeoff-sim\[onnx\]'"):
        network("resnet50")
