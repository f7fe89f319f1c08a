"""Rules of the ops on (batch, channels, height, width): convolutions, pooling, upsampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sim.execute.rule import Array, At, Rule, Shape, linear, samplewise


def _layout(at: At) -> tuple[Any, Any, Any, Any]:
    """(kernel, stride, padding, dilation), each (height, width)."""
    return at["kernel"], at["stride"], at["padding"], at.node.attributes.get("dilation", (1, 1))


def _patches(at: At, x: Array, fill: float = 0.0) -> Array:
    """The windows of images (n, c, h, w) as a view (n, c, rows, columns, kernel height, kernel width)."""
    kernel, stride, padding, dilation = _layout(at)
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2), constant_values=fill)
    window = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    view = sliding_window_view(x, window, axis=(2, 3))
    return np.asarray(view[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]])


def _folded(at: At, patches: Array, shape: Shape) -> Array:
    """The transpose of `_patches`: windows added up into images (n, *shape)."""
    kernel, stride, padding, dilation = _layout(at)
    rows, columns = patches.shape[2:4]
    image = np.zeros(
        (len(patches), shape[0], shape[1] + 2 * padding[0], shape[2] + 2 * padding[1]), dtype=patches.dtype
    )
    for a in range(kernel[0]):
        for b in range(kernel[1]):
            top, left = a * dilation[0], b * dilation[1]
            bottom, right = top + stride[0] * (rows - 1) + 1, left + stride[1] * (columns - 1) + 1
            image[:, :, top : bottom : stride[0], left : right : stride[1]] += patches[..., a, b]
    return image[:, :, padding[0] : padding[0] + shape[1], padding[1] : padding[1] + shape[2]]


def _grouped(at: At, x: Array, axis: int = 1) -> Array:
    """x with its channels, along `axis`, split into (groups, channels of one)."""
    groups = at["groups"]
    return x.reshape(*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])


def _merged(x: Array, axis: int = 1) -> Array:
    return x.reshape(*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])


def _conv_shapes(at: At) -> tuple[Shape, ...]:
    out = at.node.output_shape[1]
    weight = (out, at.shapes[0][1] // at["groups"], *at["kernel"])
    return (weight, (out,)) if at["bias"] else (weight,)


def _convolve(at: At, x: Array) -> Array:
    windows, weight = _grouped(at, _patches(at, x)), _grouped(at, at.p[0], axis=0)
    return _merged(np.einsum("ngcxyab,gocab->ngoxy", windows, weight, optimize=True))


def _conv_transpose(at: At, g: Array) -> Array:
    windows = np.einsum("ngoxy,gocab->ngcxyab", _grouped(at, g), _grouped(at, at.p[0], axis=0), optimize=True)
    return _folded(at, _merged(windows), at.shapes[0][1:])


def _conv_parameter_jvp(at: At, dp: tuple[Array, ...]) -> Array:
    windows, weight = _grouped(at, _patches(at, at.x[0])), _grouped(at, dp[0])
    dy = _merged(np.einsum("ngcxyab,wgocab->wngoxy", windows, weight, optimize=True), axis=2)
    return np.asarray(dy + dp[1][:, None, :, None, None] if at["bias"] else dy)


def _conv_parameter_vjp(at: At, g: Array) -> tuple[Array, ...]:
    windows = _grouped(at, _patches(at, at.x[0]))
    weight = _merged(np.einsum("wngoxy,ngcxyab->wgocab", _grouped(at, g, axis=2), windows, optimize=True))
    return (weight, g.sum(axis=(1, 3, 4))) if at["bias"] else (weight,)


def _biased(at: At, y: Array) -> Array:
    return np.asarray(y + at.p[1][:, None, None] if at["bias"] else y)


convolution = Rule(
    forward=lambda at: (_biased(at, _convolve(at, at.x[0])), None),
    jvp=lambda at, dx: samplewise(lambda t: _convolve(at, t), dx[0]),
    vjp=lambda at, g: (samplewise(lambda c: _conv_transpose(at, c), g),),
    parameters=_conv_shapes,
    parameter_jvp=_conv_parameter_jvp,
    parameter_vjp=_conv_parameter_vjp,
)


def _up_shapes(at: At) -> tuple[Shape, ...]:
    """The weight is (in, out, kernel height, kernel width), as in PyTorch."""
    out = at.node.output_shape[1]
    weight = (at.shapes[0][1], out, *at["kernel"])
    return (weight, (out,)) if at["bias"] else (weight,)


def _up(at: At, x: Array) -> Array:
    windows = np.einsum("nixy,ioab->noxyab", x, at.p[0], optimize=True)
    return _folded(at, windows, at.node.output_shape[1:])


def _up_parameter_jvp(at: At, dp: tuple[Array, ...]) -> Array:
    windows = np.einsum("nixy,wioab->wnoxyab", at.x[0], dp[0], optimize=True)
    dy = samplewise(lambda t: _folded(at, t, at.node.output_shape[1:]), windows)
    return np.asarray(dy + dp[1][:, None, :, None, None] if at["bias"] else dy)


def _up_parameter_vjp(at: At, g: Array) -> tuple[Array, ...]:
    windows = samplewise(lambda c: _patches(at, c), g)
    weight = np.einsum("wnoxyab,nixy->wioab", windows, at.x[0], optimize=True)
    return (weight, g.sum(axis=(1, 3, 4))) if at["bias"] else (weight,)


transposed_convolution = Rule(
    forward=lambda at: (_biased(at, _up(at, at.x[0])), None),
    jvp=lambda at, dx: samplewise(lambda t: _up(at, t), dx[0]),
    vjp=lambda at, g: (
        samplewise(lambda c: np.einsum("noxyab,ioab->nixy", _patches(at, c), at.p[0], optimize=True), g),
    ),
    parameters=_up_shapes,
    parameter_jvp=_up_parameter_jvp,
    parameter_vjp=_up_parameter_vjp,
)


def _max_forward(at: At) -> tuple[Array, Array]:
    """The maxima, and the place of each in its image, height and width as one index (int64)."""
    x = at.x[0]
    height, width = x.shape[2:]
    places = np.broadcast_to(np.arange(height * width, dtype=np.int64).reshape(1, 1, height, width), x.shape)
    windows, where = _patches(at, x, fill=-np.inf), _patches(at, places)
    windows, where = windows.reshape(*windows.shape[:4], -1), where.reshape(*where.shape[:4], -1)
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
    """y = R·x·Cᵀ of each image; `matrix(at, axis)` gives R for axis 0 and C for axis 1."""

    def apply(at: At, x: Array) -> Array:
        rows, columns = (matrix(at, axis).astype(x.dtype) for axis in (0, 1))
        return np.asarray(rows @ x @ columns.T)

    def transpose(at: At, g: Array) -> Array:
        rows, columns = (matrix(at, axis).astype(g.dtype) for axis in (0, 1))
        return np.asarray(rows.T @ g @ columns)

    return linear(apply, transpose)


def mean_matrix(at: At, axis: int) -> Array:
    """Means of windows along an axis, zeros of the padding counted."""
    kernel, stride, padding = at["kernel"][axis], at["stride"][axis], at["padding"][axis]
    first = np.arange(at.node.output_shape[2 + axis])[:, None] * stride - padding
    place = np.arange(at.shapes[0][2 + axis])[None, :]
    return np.asarray(((place >= first) & (place < first + kernel)) / kernel)


def adaptive_matrix(at: At, axis: int) -> Array:
    """Means over ⌊i·n/size⌋ … ⌈(i+1)·n/size⌉ along an axis."""
    n, size = at.shapes[0][2 + axis], at["size"][axis]
    i, place = np.arange(size)[:, None], np.arange(n)[None, :]
    inside = (place >= i * n // size) & (place < -(-(i + 1) * n // size))
    return np.asarray(inside / inside.sum(axis=1, keepdims=True))


def repeat_matrix(at: At, axis: int) -> Array:
    """Each place repeated `scale` times along an axis."""
    return np.repeat(np.eye(at.shapes[0][2 + axis]), at["scale"][axis], axis=0)
