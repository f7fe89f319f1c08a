"""Rules of the ops on (batch, channels, *sides), in any number of sides: convolutions, pooling, upsampling.

Windows start `padding` before the image (a number for each side, or its first of (before, after)); how
many there are is what the shapes say, so that padding behind the image is whatever they reach.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sim.ops.rule import Array, At, Rule, Shape, linear, samplewise

Sides = tuple[int, ...]


def _layout(at: At) -> tuple[Sides, Sides, Sides, Sides]:
    """(kernel, stride, padding before, dilation), a number for each side."""
    kernel = tuple(at["kernel"])
    before = tuple(p if isinstance(p, int) else p[0] for p in at["padding"])
    return kernel, tuple(at["stride"]), before, tuple(at.node.attributes.get("dilation", (1,) * len(kernel)))


def _reach(at: At, counts: Sides) -> Sides:
    """How far windows, so many along each side, reach from the start of the first one."""
    kernel, stride, _, dilation = _layout(at)
    return tuple((n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(counts, stride, dilation, kernel, strict=True))


def _patches(at: At, x: Array, counts: Sides, fill: float = 0.0) -> Array:
    """The windows of images (n, c, *sides) as a view (n, c, *counts, *kernel)."""
    kernel, stride, before, dilation = _layout(at)
    reach, axes = _reach(at, counts), tuple(range(2, x.ndim))
    after = [max(0, r - b - n) for r, b, n in zip(reach, before, x.shape[2:], strict=True)]
    if any(before) or any(after):
        x = np.pad(x, [(0, 0), (0, 0), *zip(before, after, strict=True)], constant_values=fill)
    x = x[(slice(None), slice(None), *(slice(r) for r in reach))]
    view = sliding_window_view(x, [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)], axis=axes)
    steps = [slice(None, None, s) for s in (*stride, *dilation)]
    return np.asarray(view[(slice(None), slice(None), *steps)])


def _columns(at: At, x: Array, counts: Sides) -> Array:
    """The windows as matrices (n, groups, channels of a group · kernel, windows)."""
    patches, rank = _patches(at, x, counts), len(counts)
    order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    return patches.transpose(order).reshape(len(x), _groups(at), -1, math.prod(counts))


def _folded(at: At, columns: Array, counts: Sides, shape: Shape) -> Array:
    """The transpose of `_columns`: windows added up into images (n, *shape)."""
    kernel, stride, before, dilation = _layout(at)
    patches = columns.reshape(len(columns), shape[0], *kernel, *counts)
    ends = [max(r, b + n) for r, b, n in zip(_reach(at, counts), before, shape[1:], strict=True)]
    image = np.zeros((len(columns), shape[0], *ends), dtype=columns.dtype)
    for place in itertools.product(*map(range, kernel)):
        first = [k * d for k, d in zip(place, dilation, strict=True)]
        window = [slice(f, f + s * (n - 1) + 1, s) for f, s, n in zip(first, stride, counts, strict=True)]
        own: Any = (slice(None), slice(None), *place)
        image[(slice(None), slice(None), *window)] += patches[own]
    inside = [slice(b, b + n) for b, n in zip(before, shape[1:], strict=True)]
    return image[(slice(None), slice(None), *inside)]


def _groups(at: At) -> int:
    return int(at.node.attributes.get("groups", 1))


def _grouped(at: At, weight: Array) -> Array:
    """A weight (…, first, second of a group, *kernel) as matrices (…, groups, first of a group, second · kernel)."""
    lead, groups = weight.shape[: -2 - len(at["kernel"])], _groups(at)
    first = weight.shape[len(lead)] // groups
    return weight.reshape(*lead, groups, first, -1)


def _rows(at: At, y: Array) -> Array:
    """Images (…, channels, *sides) as matrices (…, groups, channels of a group, pixels)."""
    lead = y.shape[: -1 - len(at["kernel"])]
    return y.reshape(*lead, _groups(at), y.shape[len(lead)] // _groups(at), -1)


def _weight_gradient(g: Array, x: Array) -> Array:
    """Σ over images and pixels of g·xᵀ: (width, n, groups, a, pixels) and (n, groups, b, pixels) to (…, a, b)."""
    left = g.transpose(0, 2, 3, 1, 4).reshape(len(g), g.shape[2], g.shape[3], -1)
    right = x.transpose(1, 0, 3, 2).reshape(x.shape[1], -1, x.shape[2])
    return np.asarray(left @ right)


def _shapes(at: At, first: int, second: int, out: int) -> tuple[Shape, ...]:
    weight = (first, second // _groups(at), *at["kernel"])
    return (weight, (out,)) if at["bias"] else (weight,)


def _biased(at: At, y: Array, bias: Array) -> Array:
    """y plus a bias (…, channels), if the node has one."""
    return np.asarray(y + bias.reshape(*bias.shape, *[1] * len(at["kernel"])) if at["bias"] else y)


def _bias_gradient(at: At, g: Array) -> tuple[Array, ...]:
    return (g.sum(axis=(1, *range(3, g.ndim))),) if at["bias"] else ()


def _convolve(at: At, x: Array) -> Array:
    counts = at.node.output_shape[2:]
    y = _grouped(at, at.p[0]) @ _columns(at, x, counts)
    return y.reshape(len(x), -1, *counts)


def _conv_transpose(at: At, g: Array) -> Array:
    columns = np.swapaxes(_grouped(at, at.p[0]), -1, -2) @ _rows(at, g)
    return _folded(at, columns, at.node.output_shape[2:], at.shapes[0][1:])


def _conv_parameter_jvp(at: At, dp: tuple[Array, ...]) -> Array:
    dy = _grouped(at, dp[0])[:, None] @ _columns(at, at.x[0], at.node.output_shape[2:])
    dy = dy.reshape(len(dp[0]), *at.node.output_shape)
    return _biased(at, dy, dp[-1][:, None])


def _conv_parameter_vjp(at: At, g: Array) -> tuple[Array, ...]:
    weight = _weight_gradient(_rows(at, g), _columns(at, at.x[0], at.node.output_shape[2:]))
    return (weight, *_bias_gradient(at, g))


convolution = Rule(
    forward=lambda at: (_biased(at, _convolve(at, at.x[0]), at.p[-1]), None),
    jvp=lambda at, dx: samplewise(lambda t: _convolve(at, t), dx[0]),
    vjp=lambda at, g: (samplewise(lambda c: _conv_transpose(at, c), g),),
    parameters=lambda at: _shapes(at, at.node.output_shape[1], at.shapes[0][1], at.node.output_shape[1]),
    parameter_jvp=_conv_parameter_jvp,
    parameter_vjp=_conv_parameter_vjp,
)


def _up(at: At, x: Array, weight: Array) -> Array:
    """The transposed convolution with a weight (in, out of a group, *kernel), as in PyTorch."""
    columns = np.swapaxes(_grouped(at, weight), -1, -2) @ _rows(at, x)
    return _folded(at, columns, at.shapes[0][2:], at.node.output_shape[1:])


def _down(at: At, g: Array) -> Array:
    counts = at.shapes[0][2:]
    return (_grouped(at, at.p[0]) @ _columns(at, g, counts)).reshape(len(g), -1, *counts)


def _up_parameter_jvp(at: At, dp: tuple[Array, ...]) -> Array:
    return _biased(at, np.stack([_up(at, at.x[0], weight) for weight in dp[0]]), dp[-1][:, None])


def _up_parameter_vjp(at: At, g: Array) -> tuple[Array, ...]:
    columns = samplewise(lambda c: _columns(at, c, at.shapes[0][2:]), g)
    weights = [_weight_gradient(_rows(at, at.x[0])[None], own)[0] for own in columns]
    return (np.stack(weights), *_bias_gradient(at, g))


transposed_convolution = Rule(
    forward=lambda at: (_biased(at, _up(at, at.x[0], at.p[0]), at.p[-1]), None),
    jvp=lambda at, dx: samplewise(lambda t: _up(at, t, at.p[0]), dx[0]),
    vjp=lambda at, g: (samplewise(lambda c: _down(at, c), g),),
    parameters=lambda at: _shapes(at, at.shapes[0][1], at.node.output_shape[1], at.node.output_shape[1]),
    parameter_jvp=_up_parameter_jvp,
    parameter_vjp=_up_parameter_vjp,
)


def _max_forward(at: At) -> tuple[Array, Array]:
    """The maxima, and the place of each in its image, all sides as one index (int64)."""
    x, counts = at.x[0], at.node.output_shape[2:]
    sides = x.shape[2:]
    places = np.broadcast_to(np.arange(math.prod(sides), dtype=np.int64).reshape(1, 1, *sides), x.shape)
    windows, where = _patches(at, x, counts, fill=-np.inf), _patches(at, places, counts)
    shape = at.node.output_shape
    windows, where = windows.reshape(*shape, -1), where.reshape(*shape, -1)
    best = windows.argmax(axis=-1)[..., None]
    return np.take_along_axis(windows, best, -1)[..., 0], np.take_along_axis(where, best, -1)[..., 0]


def _max_jvp(at: At, dx: Array) -> Array:
    n, c = at.shapes[0][:2]
    flat = dx.reshape(len(dx), n, c, -1)
    return np.take_along_axis(flat, at.residual.reshape(1, n, c, -1), axis=-1).reshape(len(dx), *at.node.output_shape)


def _max_vjp(at: At, g: Array) -> Array:
    images = math.prod(at.shapes[0][:2])
    out = np.zeros((len(g), images, math.prod(at.shapes[0][2:])), dtype=g.dtype)
    places: Any = (slice(None), np.arange(images)[:, None], at.residual.reshape(images, -1))
    np.add.at(out, places, g.reshape(len(g), images, -1))
    return out.reshape(len(g), *at.shapes[0])


max_pool = Rule(
    forward=_max_forward, jvp=lambda at, dx: _max_jvp(at, dx[0]), vjp=lambda at, g: (_max_vjp(at, g),)
)  # fmt: skip


def separable(matrix: Callable[[At, int], Array]) -> Rule:
    """y = (R₀ ⊗ R₁ ⊗ …)·x of each image; `matrix(at, axis)` gives the matrix of one side."""

    def along(x: Array, matrices: Sequence[Array]) -> Array:
        for axis, m in enumerate(matrices, start=2):
            x = np.moveaxis(np.moveaxis(x, axis, -1) @ m.T.astype(x.dtype), -1, axis)
        return x

    def matrices(at: At) -> list[Array]:
        return [matrix(at, axis) for axis in range(len(at.shapes[0]) - 2)]

    return linear(lambda at, x: along(x, matrices(at)), lambda at, g: along(g, [m.T for m in matrices(at)]))


def mean_matrix(at: At, axis: int) -> Array:
    """Means of windows along an axis; zeros of the padding are counted unless `counts_padding` is false."""
    kernel, stride, before, dilation = (v[axis] for v in _layout(at))
    padding, n = at["padding"][axis], at.shapes[0][2 + axis]
    after = padding if isinstance(padding, int) else padding[1]
    first = np.arange(at.node.output_shape[2 + axis])[:, None] * stride - before
    far = np.arange(n)[None, :] - first
    inside = (far >= 0) & (far < dilation * kernel) & (far % dilation == 0)
    if not at.node.attributes.get("counts_padding", True):
        return np.asarray(inside / inside.sum(axis=1, keepdims=True))
    reached = first + dilation * np.arange(kernel)[None, :] < n + after  # a window may reach beyond the padding
    return np.asarray(inside / reached.sum(axis=1, keepdims=True))


def adaptive_matrix(at: At, axis: int) -> Array:
    """Means over ⌊i·n/size⌋ … ⌈(i+1)·n/size⌉ along an axis."""
    n, size = at.shapes[0][2 + axis], at["size"][axis]
    i, place = np.arange(size)[:, None], np.arange(n)[None, :]
    inside = (place >= i * n // size) & (place < -(-(i + 1) * n // size))
    return np.asarray(inside / inside.sum(axis=1, keepdims=True))


def repeat_matrix(at: At, axis: int) -> Array:
    """Each place repeated `scale` times along an axis."""
    return np.repeat(np.eye(at.shapes[0][2 + axis]), at["scale"][axis], axis=0)
