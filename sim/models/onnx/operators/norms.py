"""The normalizations and dropout; running averages are constants, not parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sim import ops
from sim.graphs.node import Node
from sim.models.onnx.call import AFFINE, Attributes, Call, Refused, operator, rows, runs
from sim.ops.core import make_node
from sim.ops.rule import Array, At, Rule, total


def _scaled(at: At, v: Array) -> Array:
    return v * at.p[0].reshape(-1, *[1] * (len(at.shapes[0]) - 2))


def _scale_shift_gradient(at: At, g: Array) -> tuple[Array, Array]:
    axes = (1, *range(3, g.ndim))
    return (g * at.x[0]).sum(axis=axes), g.sum(axis=axes)


def _scale_shift_tangent(at: At, dp: tuple[Array, ...]) -> Array:
    scale, shift = (d.reshape(len(d), 1, -1, *[1] * (len(at.shapes[0]) - 2)) for d in dp)
    return np.asarray(scale * at.x[0] + shift)


_SCALE_SHIFT = Rule(
    forward=lambda at: (_scaled(at, at.x[0]) + at.p[1].reshape(-1, *[1] * (at.x[0].ndim - 2)), None),
    jvp=lambda at, dx: _scaled(at, dx[0]),
    vjp=lambda at, g: (_scaled(at, g),),
    parameters=lambda at: ((at.shapes[0][1],),) * 2,
    parameter_jvp=_scale_shift_tangent,
    parameter_vjp=_scale_shift_gradient,
    scales=True,
)


@operator("BatchNormalization", weights=AFFINE, runs=lambda call: {} if call.training else {"rule": _SCALE_SHIFT})
def batch_norm(call: Call) -> Node:
    """BatchNormalization: the statistics of the batch in training, constants otherwise (2 flops: scale, shift)."""
    node = ops.batch_norm(call.name, call.x)
    if call.training:
        return node
    return replace(node, forward_flops=2 * call.size, jvp_flops=call.size, vjp_flops=call.size, residual_bytes=None)


def _of_rows(count: Callable[[Call], int]) -> Callable[[Call], Node]:
    """The rule of layer_norm where each of so many rows has statistics of its own."""

    def rule(call: Call) -> Node:
        many = count(call)
        return replace(ops.layer_norm(call.name, replace(call.x, shape=(many, call.x.size // many))), op=call.word)

    return rule


operator("InstanceNormalization", weights=AFFINE)(_of_rows(lambda c: c.x.shape[0] * c.x.shape[1]))
operator("GroupNormalization", weights=AFFINE)(_of_rows(lambda c: c.x.shape[0] * c.attributes["num_groups"]))


def _runs_row_norm(operands: int) -> Callable[[Call], Attributes]:
    def check(call: Call) -> Attributes:
        if math.prod(call.x.shape[call.attributes.get("axis", -1) :]) != call.x.shape[-1]:
            raise Refused("its rows have several dimensions")
        if not all(call.has(k) for k in range(operands)):
            raise Refused("it has no scale or no shift")
        return {}

    return check


@operator("LayerNormalization", weights=AFFINE, runs=_runs_row_norm(3))
def layer_norm(call: Call) -> Node:
    """LayerNormalization of the dimensions from `axis` on."""
    return ops.layer_norm(call.name, rows(call.x, math.prod(call.x.shape[call.attributes.get("axis", -1) :])))


@operator("RMSNormalization", weights=(1,), runs=_runs_row_norm(2))
def rms_norm(call: Call) -> Node:
    """RMSNormalization of the dimensions from `axis` on."""
    return ops.rms_norm(call.name, rows(call.x, math.prod(call.x.shape[call.attributes.get("axis", -1) :])))


def _neighbours(at: At, x: Array, *, mirrored: bool = False) -> Array:
    """Sums over the channels around each one of (…, channels, pixels), more of them behind than before if even."""
    size = int(at["size"])
    before = (size - 1) // 2
    around = (size - 1 - before, before) if mirrored else (before, size - 1 - before)
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [around, (0, 0)])
    return total([padded[..., k : k + x.shape[-2], :] for k in range(size)])


def _channels(at: At, x: Array) -> Array:
    """(…, n, channels, *sides) as (…, n, channels, pixels)."""
    n, c = at.shapes[0][:2]
    return x.reshape(*x.shape[: x.ndim - len(at.shapes[0])], n, c, -1)


def _lrn_forward(at: At) -> tuple[Array, Array]:
    """x/b^β with b = k + α/size·Σ x²; saved as PyTorch does: the padded squares, b and b^β."""
    x, size = _channels(at, at.x[0]), int(at["size"])
    squares = x * x
    base = at["bias"] + at["alpha"] / size * _neighbours(at, squares)
    power = base ** at["beta"]
    padded = np.pad(squares, [(0, 0), (0, size - 1), (0, 0)])
    saved = np.concatenate([padded.reshape(-1), base.reshape(-1), power.reshape(-1)])
    return (x / power).reshape(at.shapes[0]), saved.astype(at.node.dtype)


def _lrn_parts(at: At) -> tuple[Array, Array, Array, float]:
    """x, b, b^β and the factor 2αβ/size of the derivative."""
    x = _channels(at, at.x[0])
    base, power = at.residual[-2 * x.size :].reshape(2, *x.shape)
    return x, base, power, 2 * at["alpha"] * at["beta"] / at["size"]


def _lrn_tangent(at: At, v: Array) -> Array:
    x, base, power, factor = _lrn_parts(at)
    t = _channels(at, v)
    return np.asarray(t / power - factor * x / (power * base) * _neighbours(at, x * t)).reshape(v.shape)


def _lrn_cotangent(at: At, g: Array) -> Array:
    x, base, power, factor = _lrn_parts(at)
    t = _channels(at, g)
    near = _neighbours(at, t * x / (power * base), mirrored=True)
    return np.asarray(t / power - factor * x * near).reshape(g.shape)


_LRN = Rule(
    forward=_lrn_forward,
    jvp=lambda at, dx: _lrn_tangent(at, dx[0]),
    vjp=lambda at, g: (_lrn_cotangent(at, g),),
)


@operator("LRN", runs=runs(_LRN, size=1, alpha=1e-4, beta=0.75, bias=1.0))
def local_response_norm(call: Call) -> Node:
    """LRN, x/(k + α·mean x²)^β over `size` neighbouring channels, as PyTorch's composite keeps it.

    `torch.nn.functional.local_response_norm` saves, beyond x: the squares padded by size − 1 channels
    (of the mean), the base of the power and the power (of the division). Flops for each scalar, by
    counting its steps: the square, the window, times α, plus k, power, division; backward the window
    and 12 more (division 4, power 3, α, square 2, and the sums of both paths).
    """
    x, size = call.x, int(call.attributes["size"])
    padded = x.size // x.shape[1] * (x.shape[1] + size - 1)
    derivative = (size + 12) * x.size
    return make_node(
        "local_response_norm", call.name, [x], x.shape,
        forward_flops=(size + 5) * x.size, jvp_flops=derivative, vjp_flops=derivative,
        residual_bytes=(padded + 2 * x.size) * x.itemsize,
    )  # fmt: skip


def _runs_dropout(call: Call) -> Attributes:
    rate = float(call.attributes.get("ratio", 0.5))
    if not 0 <= rate < 1:
        raise Refused(f"its ratio is {rate:g}")
    return {"rate": rate}


@operator("Dropout", runs=_runs_dropout)
def dropout(call: Call) -> Node | None:
    """Dropout: a mask in training, a view otherwise."""
    return ops.dropout(call.name, call.x) if call.training else None
