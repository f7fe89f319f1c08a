"""Rules of the ops on (batch, …, features): linear layers, tables, normalizations, attention, losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sim.ops.rule import Array, At, Rule, Shape

EPSILON = 1e-5
"""Added to the variance by the normalizations, as PyTorch does."""

erf = np.vectorize(math.erf, otypes=[np.float64])  # NumPy has none


def normal_distribution(x: Array) -> Array:
    """Φ(x), in the dtype of x."""
    return np.asarray(0.5 * (1.0 + erf(x / math.sqrt(2.0))), dtype=x.dtype)


def gelu_derivative(at: At) -> Array:
    x = at.x[0]
    return np.asarray(normal_distribution(x) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi), dtype=x.dtype)


def silu_derivative(at: At) -> Array:
    x = at.x[0]
    s = 1 / (1 + np.exp(-x))
    return np.asarray(s * (1 + x * (1 - s)))


def _linear_shapes(at: At) -> tuple[Shape, ...]:
    out = at.node.output_shape[-1]
    return ((out, at.shapes[0][-1]), (out,)) if at["bias"] else ((out, at.shapes[0][-1]),)


def _linear_forward(at: At) -> tuple[Array, None]:
    y = at.x[0] @ at.p[0].T
    return np.asarray(y + at.p[1] if at["bias"] else y), None


def _linear_parameter_jvp(at: At, dp: tuple[Array, ...]) -> Array:
    x = at.x[0]
    dy = np.einsum("ni,woi->wno", x.reshape(-1, x.shape[-1]), dp[0], optimize=True)
    if at["bias"]:
        dy = dy + dp[1][:, None, :]
    return np.asarray(dy).reshape(len(dy), *at.node.output_shape)


def _linear_parameter_vjp(at: At, g: Array) -> tuple[Array, ...]:
    x = at.x[0]
    g = g.reshape(len(g), -1, g.shape[-1])
    weight = np.swapaxes(g, 1, 2) @ x.reshape(-1, x.shape[-1])
    return (weight, g.sum(axis=1)) if at["bias"] else (weight,)


linear_layer = Rule(
    forward=_linear_forward,
    jvp=lambda at, dx: dx[0] @ at.p[0].T,
    vjp=lambda at, g: (g @ at.p[0],),
    parameters=_linear_shapes,
    parameter_jvp=_linear_parameter_jvp,
    parameter_vjp=_linear_parameter_vjp,
    matrix=lambda at: at.p[0] if len(at.shapes[0]) == 2 else None,
)


def _embedding_parameter_vjp(at: At, g: Array) -> tuple[Array]:
    rows = np.zeros((len(g), at["entries"], g.shape[-1]), dtype=g.dtype)
    places: Any = (slice(None), at.x[0])
    np.add.at(rows, places, g)
    return (rows,)


embedding = Rule(
    forward=lambda at: (at.p[0][at.x[0]], None),
    parameters=lambda at: ((at["entries"], at.node.output_shape[-1]),),
    parameter_jvp=lambda at, dp: dp[0][:, at.x[0]],
    parameter_vjp=_embedding_parameter_vjp,
)


def _positions_parameter_vjp(at: At, g: Array) -> tuple[Array]:
    rows = np.zeros((len(g), at["entries"], *g.shape[3:]), dtype=g.dtype)
    rows[:, : g.shape[2]] = g.sum(axis=1)
    return (rows,)


positions = Rule(
    forward=lambda at: (at.x[0] + at.p[0][: at.shapes[0][1]], None),
    jvp=lambda at, dx: dx[0],
    vjp=lambda at, g: (g,),
    parameters=lambda at: ((at["entries"], *at.shapes[0][2:]),),
    parameter_jvp=lambda at, dp: np.broadcast_to(
        dp[0][:, None, : at.shapes[0][1]], (len(dp[0]), *at.node.output_shape)
    ),
    parameter_vjp=_positions_parameter_vjp,
)


def normalization(*, channel: int, centred: bool) -> Rule:
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
    )


def masked_softmax(x: Array, *, causal: bool) -> Array:
    """Softmax over the last dimension, with scalars above the diagonal taken for −∞ if `causal`."""
    if causal:
        x = np.where(np.tri(x.shape[-2], x.shape[-1], dtype=np.bool_), x, -np.inf)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def softmax_derivative(y: Array, v: Array) -> Array:
    """(diag(y) − y·yᵀ)·v of each row."""
    return np.asarray(y * (v - (y * v).sum(axis=-1, keepdims=True)))


def _log_softmax(x: Array, axis: int) -> Array:
    x = x - x.max(axis=axis, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=axis, keepdims=True)))


def cross_entropy_forward(at: At) -> tuple[Array, Array]:
    """The mean of −log softmax(x)[label], and the log-probabilities with the number of predictions."""
    x, labels = at.x
    logs = _log_softmax(x, at["axis"])
    chosen = np.take_along_axis(logs, np.expand_dims(labels, at["axis"]), axis=at["axis"])
    return -chosen.mean(), np.append(logs.reshape(-1), np.asarray(labels.size, dtype=x.dtype))


def cross_entropy_slope(at: At) -> Array:
    """(softmax − one-hot)/predictions, of the shape of the logits."""
    out = np.exp(at.residual[:-1].reshape(at.shapes[0]))
    labels = np.expand_dims(at.x[1], at["axis"])
    np.put_along_axis(out, labels, np.take_along_axis(out, labels, axis=at["axis"]) - 1, axis=at["axis"])
    return np.asarray(out / at.residual[-1])


def mse_slope(at: At) -> Array:
    """2·(x − target)/scalars."""
    return np.asarray(2 * (at.x[0] - at.x[1]) / at.size)


def shares(products: Array) -> Array:
    """Sums over all but width and batch: shape (width, batch)."""
    return np.asarray(products.reshape(*products.shape[:2], -1).sum(axis=-1))


def against(g: Array, slope: Array) -> Array:
    """Scalar cotangents g, shape (width,), times a slope: shape (width, *slope)."""
    return np.multiply.outer(g, slope)


def spread(at: At, g: Array) -> Array:
    """A view of scalar cotangents, shape (width,), as cotangents of all scalars of the input."""
    lead = np.array(g).reshape(-1, *[1] * len(at.shapes[0]))
    return np.broadcast_to(lead, (len(g), *at.shapes[0]))


def difference(dx: Sequence[Any]) -> Array:
    """dx[0] − dx[1], where `None` stands for 0."""
    if dx[1] is None:
        return np.asarray(dx[0])
    return np.asarray(-dx[1] if dx[0] is None else dx[0] - dx[1])
