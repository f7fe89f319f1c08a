"""How the node of an ONNX operation is executed on arrays: the rule of `sim.execution`, and what that reads.

Costs are said in `onnx_ops`, which may take an image for another one with as many windows; here the
operator's own meaning is kept. What has no rule of the same meaning says why not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from sim.graphs.graph import FLOATS
from sim.models.onnx.call import Call, Constant
from sim.ops.core import Tensor

Attributes = dict[str, Any]


class _Refused(Exception):
    """Why an operation has no rule."""


def execution(call: Call, weights: tuple[int, ...] | None, parameters: int) -> Attributes:
    """The attributes `rule` and what the rule reads, or `refused` and the reason.

    `weights` are the positions of operands that may be parameters, `parameters` the scalars that the node holds.
    """
    try:
        if call.op not in _EXECUTED:
            raise _Refused(f"{call.op} has no rule")
        made = _EXECUTED[call.op](call)
        own = sum(c.size for c in _constants(call, weights) if c.trainable or "operands" not in made)
        if own != parameters:
            raise _Refused("it shares parameters with another node, or has constants of one scalar in their place")
    except _Refused as reason:
        return {"refused": str(reason)}
    return made


def _constants(call: Call, positions: tuple[int, ...] | None) -> list[Constant]:
    """The floating constants at positions where parameters may be."""
    chosen = call.operands if positions is None else [call.operands[k] for k in positions if k < len(call.operands)]
    return [c for c in chosen if isinstance(c, Constant) and c.dtype in FLOATS]


def _named(rule: str) -> Callable[[Call], Attributes]:
    return lambda call: {"rule": rule}


def _with(rule: str, **defaults: float) -> Callable[[Call], Attributes]:
    """A rule that reads attributes of the operator, with the defaults of the standard."""
    return lambda call: {"rule": rule, **{k: call.attributes.get(k, v) for k, v in defaults.items()}}


def _windowed(rule: str) -> Callable[[Call], Attributes]:
    """A rule on windows, whose padding before the image is given or follows from the number of windows."""

    def made(call: Call) -> Attributes:
        given = call.attributes
        kind = given.get("auto_pad", "NOTSET")
        if kind not in ("SAME_UPPER", "SAME_LOWER"):
            return {"rule": rule}
        if call.op == "ConvTranspose":
            raise _Refused(f"its padding is given as {kind}")
        kernel = given.get("kernel_shape") or call.weight(1).shape[2:]
        ones = (1,) * len(kernel)
        sides = zip(
            call.x.shape[2:], call.shape[2:], kernel, given.get("strides", ones), given.get("dilations", ones),
            strict=True,
        )  # fmt: skip
        padding = []
        for side, count, size, stride, dilation in sides:
            missing = max(0, (count - 1) * stride + dilation * (size - 1) + 1 - side)
            less, more = missing // 2, missing - missing // 2
            padding.append((less, more) if kind == "SAME_UPPER" else (more, less))
        return {"rule": rule, "padding": tuple(padding)}

    return made


def _conv_transpose(call: Call) -> Attributes:
    if "output_shape" in call.attributes:
        raise _Refused("its padding follows from output_shape")
    return _windowed("transposed_convolution")(call)


def _average_pool(call: Call) -> Attributes:
    return {**_windowed("mean_pool")(call), "counts_padding": bool(call.attributes.get("count_include_pad", 0))}


def _gemm(call: Call) -> Attributes:
    given = call.attributes
    if given.get("transA", 0) or given.get("alpha", 1.0) != 1 or (call.has(2) and given.get("beta", 1.0) != 1):
        raise _Refused("its first factor is transposed or scaled")
    if len(call.data) > 1:
        if call.has(2) or not all(isinstance(t, Tensor) for t in call.operands[:2]):
            raise _Refused("it adds a third operand to a product of activations")
        return {"rule": "matmul", "transpose_b": bool(given.get("transB", 0))}
    bias = call.operands[2] if call.has(2) else None
    if not isinstance(call.operands[0], Tensor) or (isinstance(bias, Constant) and bias.size != call.shape[1]):
        raise _Refused("its weight comes first, or its bias is broadcast")
    return {"rule": "linear"}


def _matmul(call: Call) -> Attributes:
    a, b = call.operands
    if isinstance(a, Tensor) and isinstance(b, Constant) and len(b.shape) == 2 and len(a.shape) > 1:
        return {"rule": "linear"}
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape[:-2] == b.shape[:-2] and len(a.shape) > 1:
        return {"rule": "matmul", "transpose_b": False}
    raise _Refused("its weight comes first, or its batch is broadcast")


def _gather(call: Call) -> Attributes:
    table = call.operands[0]
    if not isinstance(table, Constant) or len(table.shape) != 2 or call.attributes.get("axis", 0):
        raise _Refused("it picks something else than rows of a table of weights")
    return {"rule": "embedding"}


def _batch_norm(call: Call) -> Attributes:
    return {"rule": "batch_norm" if call.training else "scale_shift"}


def _row_norm(rule: str, operands: int) -> Callable[[Call], Attributes]:
    def made(call: Call) -> Attributes:
        if math.prod(call.x.shape[call.attributes.get("axis", -1) :]) != call.x.shape[-1]:
            raise _Refused("its rows have several dimensions")
        if not all(call.has(k) for k in range(operands)):
            raise _Refused("it has no scale or no shift")
        return {"rule": rule}

    return made


def _softmax(rule: str) -> Callable[[Call], Attributes]:
    """Along one axis; before opset 13 over all from that axis on."""

    def made(call: Call) -> Attributes:
        shape, since = call.x.shape, call.opset >= 13
        axis = call.attributes.get("axis", -1 if since else 1) % len(shape)
        classes = shape[axis] if since else math.prod(shape[axis:])
        before = math.prod(shape[:axis])
        return {"rule": rule, "rows": (before, classes, call.x.size // before // classes)}

    return made


def _dropout(call: Call) -> Attributes:
    rate = float(call.attributes.get("ratio", 0.5))
    if not 0 <= rate < 1:
        raise _Refused(f"its ratio is {rate:g}")
    return {"rule": "dropout", "rate": rate}


def _gelu(call: Call) -> Attributes:
    if call.attributes.get("approximate", "none") != "none":
        raise _Refused("it is the approximation by tanh")
    return {"rule": "gelu"}


def _swish(call: Call) -> Attributes:
    if call.attributes.get("alpha", 1.0) != 1:
        raise _Refused("its alpha is not 1")
    return {"rule": "silu"}


def _broadcast(rule: str) -> Callable[[Call], Attributes]:
    def made(call: Call) -> Attributes:
        operands: list[tuple[str, tuple[int, ...]]] = []
        for operand in call.operands:
            if isinstance(operand, Tensor):
                operands.append(("activation", operand.shape))
            elif operand is not None:
                operands.append(("parameter" if operand.trainable else "constant", operand.shape))
        return {"rule": rule, "operands": tuple(operands)}

    return made


def _div(call: Call) -> Attributes:
    divisor = call.operands[1]
    if not isinstance(divisor, Constant) or divisor.trainable:
        raise _Refused("it divides by what may be 0")
    return _broadcast("over_constant")(call)


def _concat(call: Call) -> Attributes:
    if len(call.data) < len(call.operands):
        raise _Refused("it joins constants to activations")
    return {"rule": "concat", "axis": call.attributes["axis"] % len(call.shape)}


def _transpose(call: Call) -> Attributes:
    return {"rule": "transpose", "perm": tuple(call.attributes.get("perm", reversed(range(len(call.x.shape)))))}


_EXECUTED: Mapping[str, Callable[[Call], Attributes]] = {
    "Conv": _windowed("convolution"),
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Gather": _gather,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _row_norm("layer_norm", 3),
    "RMSNormalization": _row_norm("rms_norm", 2),
    "LRN": _with("local_response_norm", size=1, alpha=1e-4, beta=0.75, bias=1.0),
    "Softmax": _softmax("softmax_rows"),
    "LogSoftmax": _softmax("log_softmax_rows"),
    "Dropout": _dropout,
    "MaxPool": _windowed("max_pool"),
    "GlobalMaxPool": _named("max_pool"),
    "AveragePool": _average_pool,
    "GlobalAveragePool": _named("global_avg_pool"),
    "Relu": _named("relu"),
    "Sigmoid": _named("sigmoid"),
    "Tanh": _named("tanh"),
    "Gelu": _gelu,
    "Swish": _swish,
    "Exp": _named("exp"),
    "Abs": _named("abs"),
    "Sin": _named("sin"),
    "Cos": _named("cos"),
    "Atan": _named("atan"),
    "Neg": _named("neg"),
    "Erf": _named("erf"),
    "Softplus": _named("softplus"),
    "LeakyRelu": _with("leaky_relu", alpha=0.01),
    "Add": _broadcast("broadcast_add"),
    "Sum": _broadcast("broadcast_add"),
    "Sub": _broadcast("broadcast_sub"),
    "Mul": _broadcast("broadcast_mul"),
    "Div": _div,
    "Concat": _concat,
    "Transpose": _transpose,
    "Cast": _named("cast"),
}
