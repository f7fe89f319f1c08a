"""The normalizations: a few flops for each scalar, statistics as residuals.

Flops for each scalar, by counting the formulas: normalizations 5 forward (sum, square and sum,
scale, shift: as ELECTRA counts, see `softmax`), 8 per tangent or cotangent with the two
reductions of the derivative, 3 for the gradients of scale and shift. Statistics are kept in float32
at least, as PyTorch does for shorter types.
"""

from __future__ import annotations

import math

import numpy as np

from sim.graphs.node import LocalJacobian, Node
from sim.ops.core import Tensor, check_rank, make_node, ops
from sim.ops.rule import Array, At, Rule, Shape

NORM_FLOPS = 5
NORM_DERIVATIVE_FLOPS = 8
NORM_GRADIENT_FLOPS = 3
EPSILON = 1e-5
"""Added to the variance by the normalizations, as PyTorch does."""


def _normalization(*, channel: int, centred: bool) -> Rule:
    """y = x̂·scale (+ shift), x̂ = (x − μ)/σ (without μ and shift where not `centred`).

    With `channel` = -1 the statistics are of each row of the last dimension; with 1 of each channel,
    over the whole batch, so that samples are coupled. The derivative of x̂ is symmetric:
    (v − mean v − x̂·mean(x̂·v))/σ. Residual: the statistics, μ before 1/σ.
    """

    def layout(at: At) -> tuple[tuple[int, ...], Shape, Shape]:
        """Axes of the statistics (from the end), shape of a statistic, shape of a parameter."""
        shape, rank = at.shapes[0], len(at.shapes[0])
        if channel == -1:
            return (-1,), (*shape[:-1], 1), (shape[-1],)
        axes = tuple(a for a in range(-rank, 0) if a != 1 - rank)
        return axes, (1, shape[1], *[1] * (rank - 2)), (shape[1], *[1] * (rank - 2))

    def statistics(at: At) -> tuple[Array | float, Array]:
        """μ and 1/σ as saved, in the dtype of the data."""
        saved = at.residual.astype(at.node.dtype).reshape(-1, *layout(at)[1])
        return (saved[0], saved[1]) if centred else (0.0, saved[0])

    def normalized(at: At) -> tuple[Array, Array]:
        mean, scale = statistics(at)
        return (at.x[0] - mean) * scale, scale

    def forward(at: At) -> tuple[Array, Array]:
        x, (axes, _, parameter) = at.x[0], layout(at)
        mean = x.mean(axis=axes, keepdims=True) if centred else 0.0
        scale = 1 / np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + EPSILON)
        y = (x - mean) * scale * at.p[0].reshape(parameter)
        wide = np.promote_types(x.dtype, np.float32)
        saved = np.stack([mean, scale] if centred else [scale]).astype(wide)
        return (y + at.p[1].reshape(parameter) if centred else y), saved

    def derivative(at: At, v: Array) -> Array:
        axes = layout(at)[0]
        x, scale = normalized(at)
        out = v - x * (x * v).mean(axis=axes, keepdims=True)
        return np.asarray((out - v.mean(axis=axes, keepdims=True) if centred else out) * scale)

    def parameter_jvp(at: At, dp: tuple[Array, ...]) -> Array:
        rank, parameter = len(at.shapes[0]), layout(at)[2]
        wide = [d.reshape(len(d), *[1] * (rank - len(parameter)), *parameter) for d in dp]
        dy = normalized(at)[0] * wide[0]
        return np.asarray(dy + wide[1] if centred else dy)

    def parameter_vjp(at: At, g: Array) -> tuple[Array, ...]:
        rank = len(at.shapes[0])
        axes = tuple(a for a in range(-rank, 0) if a != (-1 if channel == -1 else 1 - rank))
        scale = (g * normalized(at)[0]).sum(axis=axes)
        return (scale, g.sum(axis=axes)) if centred else (scale,)

    return Rule(
        forward=forward,
        jvp=lambda at, dx: derivative(at, dx[0]) * at.p[0].reshape(layout(at)[2]),
        vjp=lambda at, g: (derivative(at, g * at.p[0].reshape(layout(at)[2])),),
        parameters=lambda at: ((math.prod(layout(at)[2]),),) * (2 if centred else 1),
        parameter_jvp=parameter_jvp,
        parameter_vjp=parameter_vjp,
        couples=channel != -1,
        scales=True,
    )


@ops.define("layer_norm", arrays=_normalization(channel=-1, centred=True))
def layer_norm(name: str, x: Tensor) -> Node:
    """Layer normalization of the last dimension with scale and shift; saves mean and 1/σ of each row."""
    return _row_norm("layer_norm", name, x, statistics=2, parameters=2)


@ops.define("rms_norm", arrays=_normalization(channel=-1, centred=False))
def rms_norm(name: str, x: Tensor) -> Node:
    """Root-mean-square normalization of the last dimension with a scale; saves 1/rms of each row."""
    return _row_norm("rms_norm", name, x, statistics=1, parameters=1)


def _row_norm(op: str, name: str, x: Tensor, *, statistics: int, parameters: int) -> Node:
    check_rank(name, x, at_least=2, what="(batch, …, features)")
    features = x.shape[-1]
    return make_node(
        op, name, [x], x.shape,
        forward_flops=NORM_FLOPS * x.size, jvp_flops=NORM_DERIVATIVE_FLOPS * x.size,
        vjp_flops=NORM_DERIVATIVE_FLOPS * x.size, param_vjp_flops=NORM_GRADIENT_FLOPS * x.size,
        param_size=parameters * features, residual_bytes=statistics * (x.size // features) * max(4, x.itemsize),
        jacobian=LocalJacobian("dense", 3 * x.size * features),
    )  # fmt: skip


@ops.define("batch_norm", arrays=_normalization(channel=1, centred=True))
def batch_norm(name: str, x: Tensor) -> Node:
    """Batch normalization of each channel (dimension 1) with scale and shift; saves mean and 1/σ of each channel.

    In training the statistics couple the samples of a batch: JVP and VJP include that, while the
    accumulated Jacobian of a sample takes them for constants (then it is diagonal, one factor for
    each channel). Running averages are buffers, not parameters, and are not counted.
    """
    check_rank(name, x, at_least=2, what="(batch, channels, …)")
    channels = x.shape[1]
    return make_node(
        "batch_norm", name, [x], x.shape,
        forward_flops=NORM_FLOPS * x.size, jvp_flops=NORM_DERIVATIVE_FLOPS * x.size,
        vjp_flops=NORM_DERIVATIVE_FLOPS * x.size, param_vjp_flops=NORM_GRADIENT_FLOPS * x.size,
        param_size=2 * channels, residual_bytes=2 * channels * max(4, x.itemsize),
        jacobian=LocalJacobian("diagonal", channels),
    )  # fmt: skip
