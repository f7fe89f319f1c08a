"""The shape of every tensor of an ONNX model, where exporters compute shapes at run time too.

ONNX's own inference follows most computations on shapes. For the others (`Reshape` to a shape that
went through a division, `Expand` to one that was compared) what depends on shapes and constants alone
is evaluated here, its values are given to the inference, and it runs again.
"""

from __future__ import annotations

import math
from typing import Any

from sim.base.errors import GraphError
from sim.models.importers import extra

LARGEST_KEPT = 1024
"""Scalars of a constant that may say a shape; larger ones are weights, whose values nobody reads."""

SHAPE_KEPT = frozenset({"GroupNormalization", "RMSNormalization"})
"""Operators with the shape of their first input for which ONNX's inference has no rule."""


def inferred(proto: Any, file: str) -> Any:
    """The model with a shape for every tensor whose shape does not depend on the values of its inputs.

    Raises
    ------
    GraphError
        If operators are given shapes that they cannot work on.
    """
    result = _infer(proto, file)
    opens = _open(result)
    while opens:
        result = _with_kept_shapes(result)
        result = _with_shapes(result, _infer(_folded(result), file))
        before, opens = opens, _open(result)
        if opens == before:
            break
    return result


def _infer(proto: Any, file: str) -> Any:
    (inference,) = extra("onnx", "onnx.shape_inference")
    try:
        return inference.infer_shapes(proto, data_prop=True)
    except (inference.InferenceError, ValueError) as error:
        advice = "if the file was made for other sizes, give those under 'dims'"
        raise GraphError(f"file: {file}: shapes cannot be inferred: {line(error)}; {advice}", key="file") from None


def line(error: Exception) -> str:
    """The first line of a library's message."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    """The shapes without open dimensions."""
    shapes = {i.name: tuple(i.dims) for i in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
    return shapes


def _open(proto: Any) -> int:
    """Count the outputs of nodes that have no shape yet."""
    shapes = _shapes(proto.graph)
    return sum(bool(o) and o not in shapes for node in proto.graph.node for o in node.output)


def _with_kept_shapes(proto: Any) -> Any:
    """The model with the outputs of `SHAPE_KEPT` in the shape of what they read."""
    shapes = _shapes(proto.graph)
    outputs = {o.name: o for o in proto.graph.output}
    values = {v.name: v for v in (*proto.graph.input, *proto.graph.value_info) if v.name in shapes}
    for node in proto.graph.node:
        if node.op_type in SHAPE_KEPT and node.output[0] not in shapes and node.input[0] in values:
            value = outputs.get(node.output[0]) or proto.graph.value_info.add()
            value.CopyFrom(values[node.input[0]])
            value.name = node.output[0]
    return proto


def _folded(proto: Any) -> Any:
    """A copy in which small tensors that depend on shapes and constants alone are constants."""
    (numpy_helper,) = extra("onnx", "onnx.numpy_helper")
    graph = proto.graph
    shapes = _shapes(graph)
    values = {i.name: numpy_helper.to_array(i) for i in graph.initializer if math.prod(i.dims) <= LARGEST_KEPT}
    constants = dict(values)
    kept = []
    for node in graph.node:
        results = _evaluated(proto, node, values, shapes)
        if results is None:
            kept.append(node)
        else:
            values |= results
    read = {i for node in kept for i in node.input} | {o.name for o in graph.output}
    copy = type(proto)()
    copy.CopyFrom(proto)
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    fresh = {name: v for name, v in values.items() if name in read and name not in constants}
    copy.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in fresh.items())
    return copy


def _evaluated(proto: Any, node: Any, values: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> Any | None:
    """The small values of a node's outputs by name, if they follow from known values and shapes."""
    import numpy as np

    if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
        # all that these read is a shape, which an array without memory has too
        operands = {node.input[0]: np.broadcast_to(np.float32(0), shapes[node.input[0]])}
    else:
        operands = {name: values[name] for name in node.input if name in values}
        if any(name and name not in values for name in node.input) or not (operands or node.op_type == "Constant"):
            return None
    if any(math.prod(shapes.get(o, ())) > LARGEST_KEPT for o in node.output) or _grows(node, operands):
        return None
    helper, reference = extra("onnx", "onnx.helper", "onnx.reference")
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in operands.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(o) for o in node.output if o]
    single = helper.make_model(helper.make_graph([node], "single", inputs, outputs), opset_imports=proto.opset_import)
    try:
        results = reference.ReferenceEvaluator(single).run(None, operands)
    except Exception:  # an operator that the evaluator does not know; the shape stays open and is reported
        return None
    outcome = {o.name: np.asarray(r) for o, r in zip(outputs, results, strict=True)}
    return outcome if all(r.size <= LARGEST_KEPT for r in outcome.values()) else None


def _grows(node: Any, operands: dict[str, Any]) -> bool:
    """Tell whether the sizes that a node reads ask for a large tensor."""
    if node.op_type not in ("ConstantOfShape", "Expand") or not operands:
        return False
    return math.prod(int(d) for d in operands[node.input[-1]].ravel()) > LARGEST_KEPT


def _with_shapes(proto: Any, more: Any) -> Any:
    """The model with the shapes that are known of `more`, a version of it with fewer nodes."""
    (helper,) = extra("onnx", "onnx.helper")
    result = type(proto)()
    result.CopyFrom(proto)
    shapes = _shapes(proto.graph)
    fresh = {v.name: v for v in (*more.graph.value_info, *more.graph.output)}
    fresh |= {i.name: helper.make_tensor_value_info(i.name, i.data_type, list(i.dims)) for i in more.graph.initializer}
    fresh = {name: fresh[name] for name in _shapes(more.graph) if name in fresh and name not in shapes}
    for output in result.graph.output:
        if output.name in fresh:
            output.CopyFrom(fresh.pop(output.name))
    kept = [v for v in result.graph.value_info if v.name not in fresh]
    del result.graph.value_info[:]
    result.graph.value_info.extend([*kept, *fresh.values()])
    return result
