"""Imported networks have the costs of the published ones, by counts that do not use our rules."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counts import contraction_flops, saved_bytes

from sim import strategies
from sim.base.errors import GraphError
from sim.graphs.graph import Graph
from sim.models.families.cnn import cnn
from sim.scenario import scenario
from sim.schedules.replay import replay

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed: pip install 'ad-tradeoff-sim[onnx]'")
from onnx import shape_inference  # noqa: E402
from onnxfiles import imported  # noqa: E402

NETWORKS = (
    "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50",
    "shufflenet", "squeezenet", "vgg19", "zfnet512",
)  # fmt: skip


def shipped(network: str) -> str:
    return f"onnx:backend/test/data/light/light_{network}.onnx"


def network(name: str, **parameters: Any) -> Graph:
    return imported(shipped(name), **{"loss": "cross_entropy", **parameters})


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
    loss = (1000 + 1) * 4 + 8  # the log-softmax, its total weight and a label
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


def test_a_shorter_dtype_takes_its_share_of_the_bytes() -> None:
    full, half = network("squeezenet"), network("squeezenet", dtype="float16")
    assert np.array_equal(2 * half.columns.activation_bytes, full.columns.activation_bytes)
    assert 2 * half.columns.param_bytes.sum() == full.columns.param_bytes.sum()


def test_the_loss_takes_the_place_of_a_softmax() -> None:
    ops = [n.op for n in network("vgg19").nodes]
    assert "softmax" not in ops
    assert [n.op for n in network("vgg19", loss="none").nodes] == [*ops[:-1], "softmax"]


def test_without_the_extra_the_line_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(GraphError, match=r"pip install 'ad-tradeoff-sim\[onnx\]'"):
        network("resnet50")
