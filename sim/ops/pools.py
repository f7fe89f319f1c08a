"""Pooling and upsampling of (batch, channels, height, width): one flop for each scalar read by a window.

Array rules take any number of sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from sim.graphs.node import Node
from sim.ops.convolutions import image_shape, layout, patches_of, window_count
from sim.ops.core import CONSTANT, Kernel, Padding, Pair, PoolStride, Tensor, check_rank, fail, make_node, ops, pair
from sim.ops.rule import Array, At, Rule, linear

INDEX_BYTES = 8  # PyTorch keeps the place of each maximum as int64


def _windows(
    name: str, x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[int, ...]:
    batch, channels, *sides = image_shape(name, x)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        fail(name, f"a padding of {padding} is more than half the kernel {kernel}")
    counts = (
        window_count(name, side, kernel=kernel[d], stride=stride[d], padding=padding[d]) for d, side in enumerate(sides)
    )
    return batch, channels, *counts


def _max_forward(at: At) -> tuple[Array, Array]:
    """The maxima, and the place of each in its image, all sides as one index (int64)."""
    x, counts = at.x[0], at.node.output_shape[2:]
    sides = x.shape[2:]
    places = np.broadcast_to(np.arange(math.prod(sides), dtype=np.int64).reshape(1, 1, *sides), x.shape)
    windows, where = patches_of(at, x, counts, fill=-np.inf), patches_of(at, places, counts)
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


@ops.define("max_pool2d", arrays=max_pool)
def max_pool2d(name: str, x: Tensor, *, kernel: Kernel, stride: PoolStride = None, padding: Padding = 0) -> Node:
    """The maximum of each window; its derivative reads the input and an int64 index for each output scalar.

    JVP and VJP move one scalar for each output scalar. The stride is the kernel unless given.
    """
    window, steps, margin = pair(kernel), pair(kernel if stride is None else stride), pair(padding)
    shape = _windows(name, x, window, steps, margin)
    size = math.prod(shape)
    return make_node(
        "max_pool2d", name, [x], shape,
        forward_flops=size * math.prod(window), jvp_flops=size, vjp_flops=size, residual_bytes=size * INDEX_BYTES,
        kernel=window, stride=steps, padding=margin,
    )  # fmt: skip


def _separable(matrix: Callable[[At, int], Array]) -> Rule:
    """y = (R₀ ⊗ R₁ ⊗ …)·x of each image; `matrix(at, axis)` gives the matrix of one side."""

    def along(x: Array, matrices: Sequence[Array]) -> Array:
        for axis, m in enumerate(matrices, start=2):
            x = np.moveaxis(np.moveaxis(x, axis, -1) @ m.T.astype(x.dtype), -1, axis)
        return x

    def matrices(at: At) -> list[Array]:
        return [matrix(at, axis) for axis in range(len(at.shapes[0]) - 2)]

    return linear(lambda at, x: along(x, matrices(at)), lambda at, g: along(g, [m.T for m in matrices(at)]))


def _mean_matrix(at: At, axis: int) -> Array:
    """Means of windows along an axis; zeros of the padding are counted unless `counts_padding` is false."""
    kernel, stride, before, dilation = (v[axis] for v in layout(at))
    padding, n = at["padding"][axis], at.shapes[0][2 + axis]
    after = padding if isinstance(padding, int) else padding[1]
    first = np.arange(at.node.output_shape[2 + axis])[:, None] * stride - before
    far = np.arange(n)[None, :] - first
    inside = (far >= 0) & (far < dilation * kernel) & (far % dilation == 0)
    if not at.node.attributes.get("counts_padding", True):
        return np.asarray(inside / inside.sum(axis=1, keepdims=True))
    reached = first + dilation * np.arange(kernel)[None, :] < n + after  # a window may reach beyond the padding
    return np.asarray(inside / reached.sum(axis=1, keepdims=True))


mean_pool = _separable(_mean_matrix)


@ops.define("avg_pool2d", arrays=mean_pool)
def avg_pool2d(name: str, x: Tensor, *, kernel: Kernel, stride: PoolStride = None, padding: Padding = 0) -> Node:
    """The mean of each window, padding counted as zeros. PyTorch keeps the input, though only its shape is used."""
    window, steps, margin = pair(kernel), pair(kernel if stride is None else stride), pair(padding)
    shape = _windows(name, x, window, steps, margin)
    return make_node(
        "avg_pool2d", name, [x], shape,
        forward_flops=math.prod(shape) * math.prod(window), jacobian=CONSTANT,
        kernel=window, stride=steps, padding=margin,
    )  # fmt: skip


def _adaptive_matrix(at: At, axis: int) -> Array:
    """Means over ⌊i·n/size⌋ … ⌈(i+1)·n/size⌉ along an axis."""
    n, size = at.shapes[0][2 + axis], at["size"][axis]
    i, place = np.arange(size)[:, None], np.arange(n)[None, :]
    inside = (place >= i * n // size) & (place < -(-(i + 1) * n // size))
    return np.asarray(inside / inside.sum(axis=1, keepdims=True))


@ops.define("adaptive_avg_pool2d", arrays=_separable(_adaptive_matrix))
def adaptive_avg_pool2d(
    name: str, x: Tensor, *, size: Annotated[Pair, Field(description="Height and width of the output.")]
) -> Node:
    """Means over windows ⌊i·n/size⌋ … ⌈(i+1)·n/size⌉, so that the output has `size`. PyTorch keeps the input."""
    counts = pair(size)
    batch, channels, *sides = image_shape(name, x)
    read = math.prod(_adaptive_reads(n, out) for n, out in zip(sides, counts, strict=True))
    return make_node(
        "adaptive_avg_pool2d", name, [x], (batch, channels, *counts),
        forward_flops=batch * channels * read, jacobian=CONSTANT, size=counts,
    )  # fmt: skip


def _adaptive_reads(size: int, windows: int) -> int:
    """Σ ⌈(i+1)·size/windows⌉ − ⌊i·size/windows⌋: the pixels, and each inner border that falls inside one."""
    return size + windows - math.gcd(size, windows)


def _channel_means(at: At, x: Array) -> Array:
    return np.asarray(x.reshape(*x.shape[:2], -1).mean(axis=-1))


def _from_channel_means(at: At, g: Array) -> Array:
    shape = at.shapes[0]
    count = np.prod(shape[2:], dtype=np.int64)
    return np.broadcast_to((g / count).reshape(*g.shape[:2], *[1] * (len(shape) - 2)), (len(g), *shape[1:]))


@ops.define("global_avg_pool", arrays=linear(_channel_means, _from_channel_means))
def global_avg_pool(name: str, x: Tensor) -> Node:
    """The mean of each channel, (batch, channels): one flop a scalar; the derivative reads nothing."""
    check_rank(name, x, at_least=3, what="(batch, channels, …)")
    return make_node(
        "global_avg_pool", name, [x], x.shape[:2],
        forward_flops=x.size, needs="none", jacobian=CONSTANT,
    )  # fmt: skip


def _repeat_matrix(at: At, axis: int) -> Array:
    """Each place repeated `scale` times along an axis."""
    return np.repeat(np.eye(at.shapes[0][2 + axis]), at["scale"][axis], axis=0)


@ops.define("upsample", arrays=_separable(_repeat_matrix))
def upsample(
    name: str, x: Tensor, *, scale: Annotated[Pair, Field(description="Times that rows and columns are repeated.")] = 2
) -> Node:
    """Each pixel repeated `scale` times (nearest neighbour): copies; a VJP adds up what each pixel became."""
    rows, columns = pair(scale)
    batch, channels, height, width = image_shape(name, x)
    shape = (batch, channels, height * rows, width * columns)
    return make_node(
        "upsample", name, [x], shape,
        forward_flops=0, jvp_flops=0, vjp_flops=math.prod(shape), needs="none",
        jacobian=CONSTANT, scale=(rows, columns),
    )  # fmt: skip
