"""Small ONNX files made in a test, and their import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from sim.graphs.graph import Graph
from sim.models.importers import importers, load

load()


def imported(file: str | Path, **parameters: Any) -> Graph:
    return importers.call("onnx", file=str(file), **parameters)


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
