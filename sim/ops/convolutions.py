"""Convolutions of (batch, channels, *sides) and their transposes, and the windows that pooling shares with them.

Cost rules take images of two sides, array rules any number of sides. Windows start `padding` before
the image (a number for each side, or its first of (before, after)); how many there are is what the
shapes say, so that padding behind the image is whatever they reach.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sim.graphs.node import Node
from sim.ops.core import (
    CONSTANT,
    Bias,
    Channels,
    Dilation,
    Groups,
    Kernel,
    Padding,
    Stride,
    Tensor,
    fail,
    make_node,
    ops,
    pair,
)
from sim.ops.rule import Array, At, Rule, Shape, samplewise

Sides = tuple[int, ...]


def image_shape(name: str, x: Tensor) -> tuple[int, int, int, int]:
    if len(x.shape) != 4:
        fail(name, f"got an input of shape {x.shape}, expected (batch, channels, height, width)")
    batch, depth, rows, columns = x.shape
    return batch, depth, rows, columns


def window_count(name: str, size: int, *, kernel: int, stride: int, padding: int) -> int:
    """Count the windows of `kernel` that fit along `size` with `padding` on both sides."""
    if kernel > size + 2 * padding:
        padded = f"{size} + 2·{padding}" if padding else f"{size}"
        fail(name, f"a kernel of {kernel} does not fit an image of {padded}")
    return (size + 2 * padding - kernel) // stride + 1


def layout(at: At) -> tuple[Sides, Sides, Sides, Sides]:
    """(kernel, stride, padding before, dilation), a number for each side."""
    kernel = tuple(at["kernel"])
    before = tuple(p if isinstance(p, int) else p[0] for p in at["padding"])
    return kernel, tuple(at["stride"]), before, tuple(at.node.attributes.get("dilation", (1,) * len(kernel)))


def _reach(at: At, counts: Sides) -> Sides:
    """The extent of windows, so many along each side, from the start of the first one."""
    kernel, stride, _, dilation = layout(at)
    return tuple((n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(counts, stride, dilation, kernel, strict=True))


def patches_of(at: At, x: Array, counts: Sides, fill: float = 0.0) -> Array:
    """The windows of images (n, c, *sides) as a view (n, c, *counts, *kernel)."""
    kernel, stride, before, dilation = layout(at)
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
    patches, rank = patches_of(at, x, counts), len(counts)
    order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    return patches.transpose(order).reshape(len(x), _groups(at), -1, math.prod(counts))


def _folded(at: At, columns: Array, counts: Sides, shape: Shape) -> Array:
    """The transpose of `_columns`: windows added up into images (n, *shape)."""
    kernel, stride, before, dilation = layout(at)
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


@ops.define("conv2d", arrays=convolution)
def conv2d(
    name: str,
    x: Tensor,
    *,
    channels: Channels,
    kernel: Kernel,
    stride: Stride = 1,
    padding: Padding = 0,
    dilation: Dilation = 1,
    groups: Groups = 1,
    bias: Bias = True,
) -> Node:
    """A convolution of (batch, channels, height, width): 2·B·out·height·width·(in/groups)·kernel flops.

    The output has ⌊(size + 2·padding − dilation·(kernel − 1) − 1)/stride⌋ + 1 rows and columns. JVP,
    VJP and weight gradient have the same multiply-adds.
    """
    batch, depth, rows, columns = image_shape(name, x)
    if depth % groups or channels % groups:
        fail(name, f"{depth} input and {channels} output channels cannot be divided into {groups} groups")
    window, steps, margin, spread = pair(kernel), pair(stride), pair(padding), pair(dilation)
    height, width = (
        window_count(name, size, kernel=spread[d] * (window[d] - 1) + 1, stride=steps[d], padding=margin[d])
        for d, size in enumerate((rows, columns))
    )
    shape = (batch, channels, height, width)
    weights = channels * (depth // groups) * math.prod(window)
    work = 2 * batch * height * width * weights
    adds = math.prod(shape) if bias else 0
    return make_node(
        "conv2d", name, [x], shape,
        forward_flops=work + adds, jvp_flops=work, vjp_flops=work, param_vjp_flops=work + adds,
        param_size=weights + bias * channels, jacobian=CONSTANT,
        kernel=window, stride=steps, padding=margin, dilation=spread, groups=groups, bias=bias,
    )  # fmt: skip


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


@ops.define("conv_transpose2d", arrays=transposed_convolution)
def conv_transpose2d(
    name: str,
    x: Tensor,
    *,
    channels: Channels,
    kernel: Kernel,
    stride: Stride = 1,
    padding: Padding = 0,
    bias: Bias = True,
) -> Node:
    """The transpose of a convolution: 2·B·in·height·width·out·kernel flops with the input's height and width.

    The output has (size − 1)·stride − 2·padding + kernel rows and columns.
    """
    batch, depth, rows, columns = image_shape(name, x)
    window, steps, margin = pair(kernel), pair(stride), pair(padding)
    height, width = (
        (size - 1) * steps[d] - 2 * margin[d] + window[d] for d, size in enumerate((rows, columns))
    )  # fmt: skip
    if height < 1 or width < 1:
        fail(name, f"padding {margin} leaves nothing of an output of kernel {window} and stride {steps}")
    shape = (batch, channels, height, width)
    weights = depth * channels * math.prod(window)
    work = 2 * batch * rows * columns * weights
    adds = math.prod(shape) if bias else 0
    return make_node(
        "conv_transpose2d", name, [x], shape,
        forward_flops=work + adds, jvp_flops=work, vjp_flops=work, param_vjp_flops=work + adds,
        param_size=weights + bias * channels, jacobian=CONSTANT,
        kernel=window, stride=steps, padding=margin, bias=bias,
    )  # fmt: skip
