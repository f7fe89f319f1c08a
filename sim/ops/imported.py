"""Rules that imported graphs need beside those of the families' ops; a node names one under `rule`.

Constants that are no parameters have values that nobody reads here: they are drawn at random, near 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from sim.ops import images
from sim.ops.dense import erf
from sim.ops.rule import Array, At, Rule, Shape, pointwise, total


def _operands(at: At) -> list[tuple[str, Shape]]:
    """What each operand is (activation, parameter or constant), and its shape."""
    activations = iter(at.shapes)
    return [(kind, next(activations) if kind == "activation" else shape) for kind, shape in at["operands"]]


def _values(at: At) -> list[Any]:
    """The operands in order; `None` for an activation that is not in memory."""
    given = {"activation": iter(at.x), "parameter": iter(at.p)}
    rng = np.random.default_rng(at.seed)
    return [
        next(given[kind]) if kind in given else rng.uniform(0.5, 1.5, shape).astype(at.node.dtype)
        for kind, shape in _operands(at)
    ]


def _spread(at: At, v: Array, shape: Shape) -> Array:
    """Tangents (width, *shape) of an operand as (width, *ones, *shape), to be broadcast with the output."""
    return v.reshape(len(v), *[1] * (len(at.node.output_shape) - len(shape)), *shape)


def _summed(g: Array, shape: Shape) -> Array:
    """The transpose of a broadcast: cotangents (width, *output) summed to (width, *shape)."""
    lead = g.ndim - 1 - len(shape)
    g = g.sum(axis=tuple(range(1, 1 + lead)))
    axes = tuple(a for a, n in enumerate(shape, start=1) if n == 1 and g.shape[a] > 1)
    return np.asarray(g.sum(axis=axes, keepdims=True))


def _places(at: At, kind: str) -> list[int]:
    return [k for k, (what, _) in enumerate(_operands(at)) if what == kind]


def _parameter_shapes(at: At) -> tuple[Shape, ...]:
    return tuple(shape for kind, shape in _operands(at) if kind == "parameter")


def _broadcast(value: Callable[[Sequence[Any]], Array], by: Callable[[At, int], Any]) -> Rule:
    """A function of operands that are broadcast, linear in each; `by(at, k)` is its derivative by operand k.

    That is `None` where it would read what is not there, because nobody asks for it.
    """

    def push(at: At, places: Sequence[int], v: Sequence[Any]) -> Array:
        shapes = [shape for _, shape in _operands(at)]
        pairs = [(k, d) for k, d in zip(places, v, strict=True) if d is not None]
        dy = total([by(at, k) * _spread(at, d, shapes[k]) for k, d in pairs])
        return np.broadcast_to(dy, (len(dy), *at.node.output_shape))

    def pull(at: At, places: Sequence[int], g: Array) -> tuple[Array | None, ...]:
        shapes = [shape for _, shape in _operands(at)]
        slopes = [by(at, k) for k in places]
        return tuple(None if s is None else _summed(s * g, shapes[k]) for s, k in zip(slopes, places, strict=True))

    return Rule(
        forward=lambda at: (value(_values(at)), None),
        jvp=lambda at, dx: push(at, _places(at, "activation"), dx),
        vjp=lambda at, g: pull(at, _places(at, "activation"), g),
        parameters=_parameter_shapes,
        parameter_jvp=lambda at, dp: push(at, _places(at, "parameter"), dp),
        parameter_vjp=lambda at, g: tuple(v for v in pull(at, _places(at, "parameter"), g) if v is not None),
    )


def _product_of_others(at: At, k: int) -> Any:
    others = [v for other, v in enumerate(_values(at)) if other != k]
    return None if any(v is None for v in others) else math.prod(others[1:], start=others[0])


def _over_constant(at: At, _: int) -> Array:
    return np.asarray(1 / _values(at)[1])


def _scaled(at: At, v: Array) -> Array:
    return v * at.p[0].reshape(-1, *[1] * (len(at.shapes[0]) - 2))


def _scale_shift_gradient(at: At, g: Array) -> tuple[Array, Array]:
    axes = (1, *range(3, g.ndim))
    return (g * at.x[0]).sum(axis=axes), g.sum(axis=axes)


def _scale_shift_tangent(at: At, dp: tuple[Array, ...]) -> Array:
    scale, shift = (d.reshape(len(d), 1, -1, *[1] * (len(at.shapes[0]) - 2)) for d in dp)
    return np.asarray(scale * at.x[0] + shift)


scale_shift = Rule(
    forward=lambda at: (_scaled(at, at.x[0]) + at.p[1].reshape(-1, *[1] * (at.x[0].ndim - 2)), None),
    jvp=lambda at, dx: _scaled(at, dx[0]),
    vjp=lambda at, g: (_scaled(at, g),),
    parameters=lambda at: ((at.shapes[0][1],),) * 2,
    parameter_jvp=_scale_shift_tangent,
    parameter_vjp=_scale_shift_gradient,
)


def _log_softmax(x: Array) -> Array:
    """Along axis -2 of (…, rows, classes, places)."""
    x = x - x.max(axis=-2, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-2, keepdims=True)))


def _rows(at: At, x: Array) -> Array:
    return x.reshape(-1, *at["rows"])


def _softmax_slope(at: At, v: Array) -> Array:
    y, t = _rows(at, at.y), _rows(at, v)
    return np.asarray(y * (t - (y * t).sum(axis=-2, keepdims=True))).reshape(v.shape)


def _log_softmax_tangent(at: At, v: Array) -> Array:
    t = _rows(at, v)
    return np.asarray(t - (np.exp(_rows(at, at.y)) * t).sum(axis=-2, keepdims=True)).reshape(v.shape)


def _log_softmax_cotangent(at: At, g: Array) -> Array:
    t = _rows(at, g)
    return np.asarray(t - np.exp(_rows(at, at.y)) * t.sum(axis=-2, keepdims=True)).reshape(g.shape)


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


def _transposed(at: At, v: Array, order: Sequence[int]) -> Array:
    return v.transpose(0, *(1 + axis for axis in order))


_IMPORTED: dict[str, Rule] = {
    "convolution":            images.convolution,
    "transposed_convolution": images.transposed_convolution,
    "max_pool":               images.max_pool,
    "mean_pool":              images.separable(images.mean_matrix),
    "scale_shift":            scale_shift,

    "broadcast_add": _broadcast(total, lambda at, k: 1),
    "broadcast_sub": _broadcast(lambda v: v[0] - v[1], lambda at, k: -1 if k else 1),
    "broadcast_mul": _broadcast(lambda v: math.prod(v[1:], start=v[0]), _product_of_others),
    "over_constant": _broadcast(lambda v: v[0] / v[1], _over_constant),

    "softmax_rows": Rule(
        forward=lambda at: (np.exp(_log_softmax(_rows(at, at.x[0]))).reshape(at.node.output_shape), None),
        jvp=lambda at, dx: _softmax_slope(at, dx[0]),
        vjp=lambda at, g: (_softmax_slope(at, g),),
    ),
    "log_softmax_rows": Rule(
        forward=lambda at: (_log_softmax(_rows(at, at.x[0])).reshape(at.node.output_shape), None),
        jvp=lambda at, dx: _log_softmax_tangent(at, dx[0]),
        vjp=lambda at, g: (_log_softmax_cotangent(at, g),),
    ),
    "local_response_norm": Rule(
        forward=_lrn_forward,
        jvp=lambda at, dx: _lrn_tangent(at, dx[0]),
        vjp=lambda at, g: (_lrn_cotangent(at, g),),
    ),
    "transpose": Rule(
        forward=lambda at: (at.x[0].transpose(at["perm"]), None),
        jvp=lambda at, dx: _transposed(at, dx[0], at["perm"]),
        vjp=lambda at, g: (_transposed(at, g, np.argsort(at["perm"]).tolist()),),
    ),
    "cast": Rule(
        forward=lambda at: (at.x[0].astype(at.node.dtype), None),
        jvp=lambda at, dx: dx[0].astype(at.node.dtype),
        vjp=lambda at, g: (g,),
    ),

    "exp":     pointwise(np.exp,      lambda at: at.y),
    "abs":     pointwise(np.abs,      lambda at: np.sign(at.x[0])),
    "sin":     pointwise(np.sin,      lambda at: np.cos(at.x[0])),
    "cos":     pointwise(np.cos,      lambda at: -np.sin(at.x[0])),
    "atan":    pointwise(np.arctan,   lambda at: 1 / (1 + at.x[0] ** 2)),
    "neg":     pointwise(np.negative, lambda at: np.asarray(-1)),
    "erf":     pointwise(
        lambda x: erf(x).astype(x.dtype), lambda at: 2 / math.sqrt(math.pi) * np.exp(-at.x[0] ** 2)
    ),
    "softplus": pointwise(lambda x: np.logaddexp(x, x.dtype.type(0)), lambda at: 1 / (1 + np.exp(-at.x[0]))),
    "leaky_relu": Rule(
        forward=lambda at: (np.where(at.x[0] > 0, at.x[0], at["alpha"] * at.x[0]), None),
        jvp=lambda at, dx: np.where(at.x[0] > 0, dx[0], at["alpha"] * dx[0]),
        vjp=lambda at, g: (np.where(at.x[0] > 0, g, at["alpha"] * g),),
    ),
}  # fmt: skip

IMPORTED: Mapping[str, Rule] = MappingProxyType(_IMPORTED)
