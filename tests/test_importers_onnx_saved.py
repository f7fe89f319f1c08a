"""What a rule says that a derivative reads is what PyTorch really saves for the same function."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counts import saved_bytes

from sim.models.importers import importers, load

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed: pip install 'ad-tradeoff-sim[onnx]'")
torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from torch.nn import functional  # noqa: E402

load()
IMAGE = (2, 6, 8, 8)
CHANNELS = torch.ones(6)
AXES = np.array([2, 3], dtype=np.int64)

CASES: dict[str, tuple[Callable[[Any], Any], dict[str, Any], list[Any]]] = {
    "Relu": (torch.relu, {}, []),
    "Sigmoid": (torch.sigmoid, {}, []),
    "Tanh": (torch.tanh, {}, []),
    "Gelu": (functional.gelu, {}, []),
    "Exp": (torch.exp, {}, []),
    "Sqrt": (torch.sqrt, {}, []),
    "Reciprocal": (torch.reciprocal, {}, []),
    "Tan": (torch.tan, {}, []),
    "Log": (torch.log, {}, []),
    "Abs": (torch.abs, {}, []),
    "Erf": (torch.erf, {}, []),
    "Sin": (torch.sin, {}, []),
    "Cos": (torch.cos, {}, []),
    "Atan": (torch.atan, {}, []),
    "Clip": (lambda x: torch.clamp(x, 0.25, 0.75), {}, [np.float32(0.25), np.float32(0.75)]),
    "LeakyRelu": (functional.leaky_relu, {}, []),
    "Elu": (functional.elu, {}, []),
    "Celu": (functional.celu, {}, []),
    "Selu": (functional.selu, {}, []),
    "Mish": (functional.mish, {}, []),
    "Softplus": (functional.softplus, {}, []),
    "HardSigmoid": (functional.hardsigmoid, {}, []),
    "HardSwish": (functional.hardswish, {}, []),
    "ThresholdedRelu": (lambda x: functional.threshold(x, 1.0, 0.0), {}, []),
    "Neg": (torch.neg, {}, []),
    "Floor": (torch.floor, {}, []),
    "Sign": (torch.sign, {}, []),
    "Add": (lambda x: x + 2, {}, [np.float32(2)]),
    "Sub": (lambda x: x - 2, {}, [np.float32(2)]),
    "Mul": (lambda x: x * 2, {}, [np.float32(2)]),
    "Div": (lambda x: x / 2, {}, [np.float32(2)]),
    "Pow": (lambda x: x**3, {}, [np.float32(3)]),
    "Softmax": (lambda x: torch.softmax(x, -1), {}, []),
    "LogSoftmax": (lambda x: torch.log_softmax(x, -1), {}, []),
    "MaxPool": (lambda x: functional.max_pool2d(x, 2, 2), {"kernel_shape": [2, 2], "strides": [2, 2]}, []),
    "AveragePool": (lambda x: functional.avg_pool2d(x, 2, 2), {"kernel_shape": [2, 2], "strides": [2, 2]}, []),
    "GlobalAveragePool": (lambda x: x.mean((2, 3), keepdim=True), {}, []),
    "LRN": (lambda x: functional.local_response_norm(x, 5), {"size": 5}, []),
    "ReduceMean": (lambda x: x.mean((2, 3)), {"keepdims": 0}, [AXES]),
    "ReduceSum": (lambda x: x.sum((2, 3)), {"keepdims": 0}, [AXES]),
    "ReduceMax": (lambda x: x.amax((2, 3)), {"keepdims": 0}, [AXES]),
    "ReduceMin": (lambda x: x.amin((2, 3)), {"keepdims": 0}, [AXES]),
    "ReduceL2": (lambda x: torch.linalg.vector_norm(x, dim=(2, 3)), {"keepdims": 0}, [AXES]),
    "ReduceSumSquare": (lambda x: x.square().sum((2, 3)), {"keepdims": 0}, [AXES]),
    "BatchNormalization": (
        lambda x: functional.batch_norm(x, None, None, CHANNELS, CHANNELS, training=True),
        {}, [np.ones(6, np.float32)] * 4,
    ),
    "InstanceNormalization": (
        lambda x: functional.instance_norm(x, weight=CHANNELS, bias=CHANNELS), {}, [np.ones(6, np.float32)] * 2,
    ),
    "LayerNormalization": (
        lambda x: functional.layer_norm(x, (8,), torch.ones(8), torch.ones(8)), {}, [np.ones(8, np.float32)] * 2,
    ),
    "GroupNormalization": (
        lambda x: functional.group_norm(x, 3, CHANNELS, CHANNELS), {"num_groups": 3}, [np.ones(6, np.float32)] * 2,
    ),
    "Concat": (lambda x: torch.cat([x, x], 1), {"axis": 1}, ["x"]),
    "Resize": (
        lambda x: functional.interpolate(x, scale_factor=2),
        {}, [None, np.array([1, 1, 2, 2], dtype=np.float32)],
    ),
}  # fmt: skip


def kept_by_torch(function: Callable[[Any], Any]) -> tuple[bool, bool, int]:
    """Whether the input and the output are saved, and the bytes of all else but vectors of weights."""
    saved: list[Any] = []
    x = torch.rand(IMAGE, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = function(x)
    places = {t.untyped_storage().data_ptr(): t for t in saved if t.numel()}
    read, made = (t.untyped_storage().data_ptr() for t in (x, y))
    known = {read, made}
    others = [t for p, t in places.items() if p not in known and not (t.dim() == 1 and bool((t == 1).all()))]
    return read in places, made in places, sum(t.untyped_storage().nbytes() for t in others)


def kept_by_us(folder: Path, op: str, attributes: dict[str, Any], operands: Sequence[Any]) -> tuple[bool, bool, int]:
    names = ["x"]
    constants = []
    for i, operand in enumerate(operands):
        if isinstance(operand, str) or operand is None:
            names.append(operand or "")
        else:
            names.append(f"c{i}")
            constants.append(numpy_helper.from_array(np.asarray(operand), f"c{i}"))
    node = helper.make_node(op, names, ["y"], **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, IMAGE)
    graph = helper.make_graph([node], "model", [x], [helper.make_empty_tensor_value_info("y")], constants)
    (folder / "model.onnx").write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)]).SerializeToString()
    )
    (made,) = importers.call("onnx", file=str(folder / "model.onnx"), loss="none").nodes
    return made.needs in ("input", "both"), made.needs in ("output", "both"), made.residual_bytes or 0


@pytest.mark.parametrize("op", CASES)
def test_saved_as_in_pytorch(op: str, tmp_path: Path) -> None:
    function, attributes, operands = CASES[op]
    assert kept_by_us(tmp_path, op, attributes, operands) == kept_by_torch(function)


class Block(torch.nn.Module):  # type: ignore[misc]
    """A decoder block with explicit attention of 4 heads."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(hidden) for _ in range(2))
        self.qkv, self.out = torch.nn.Linear(hidden, 3 * hidden), torch.nn.Linear(hidden, hidden)
        self.up, self.down = torch.nn.Linear(hidden, 4 * hidden), torch.nn.Linear(4 * hidden, hidden)

    def forward(self, x: Any) -> Any:
        batch, sequence, hidden = x.shape
        parts = self.qkv(self.norms[0](x)).split(hidden, 2)
        q, k, v = (p.view(batch, sequence, 4, hidden // 4).transpose(1, 2) for p in parts)
        scores = (q @ k.transpose(-2, -1)) * 0.25
        future = torch.tril(torch.ones(sequence, sequence)) == 0
        weights = torch.softmax(scores.masked_fill(future, float("-inf")), -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, sequence, hidden))
        return x + self.down(functional.gelu(self.up(self.norms[1](x))))


class Decoder(torch.nn.Module):  # type: ignore[misc]
    """Two blocks between an embedding and a head that shares its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(100, 32)
        self.blocks = torch.nn.Sequential(Block(32), Block(32))
        self.head = torch.nn.Linear(32, 100, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Any) -> Any:
        return self.head(self.blocks(self.embedding(ids)))


def test_an_exported_transformer_saves_what_pytorch_saves(tmp_path: Path) -> None:
    """All but the two causal masks (16·16 bytes each), which are constants that no strategy can change."""
    decoder, ids = Decoder(), torch.zeros(2, 16, dtype=torch.int64)
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")  # of the exporter, about itself
        torch.onnx.export(
            decoder, (ids,), tmp_path / "model.onnx", dynamo=False, opset_version=17, do_constant_folding=False,
            training=torch.onnx.TrainingMode.TRAINING, input_names=["ids"],
            dynamic_axes={"ids": {0: "batch", 1: "sequence"}},
        )  # fmt: skip
    graph = importers.call("onnx", file=str(tmp_path / "model.onnx"), dims={"sequence": 16}, batch=2)
    places: dict[int, Any] = {}
    own = {p.untyped_storage().data_ptr() for p in decoder.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: places.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
    ):
        decoder(ids)
    saved = sum(t.untyped_storage().nbytes() for place, t in places.items() if place not in own)
    assert saved_bytes(graph) == saved - 2 * 16 * 16
    assert graph.parameter_count == sum(p.numel() for p in decoder.parameters())


def test_the_measurement_tells_input_from_output() -> None:
    scalars = 2 * 6 * 8 * 8
    assert kept_by_torch(torch.exp) == (False, True, 0)
    assert kept_by_torch(torch.log) == (True, False, 0)
    assert kept_by_torch(lambda x: torch.log(x + 1)) == (False, False, 4 * scalars)
