"""Rules of pooling and upsampling of (batch, channels, height, width): one flop for each scalar read by a window."""

from __future__ import annotations

import math

from sim.graphs.graph import LocalJacobian, Node
from sim.ops.contractions import window_count
from sim.ops.core import Margin, Pair, Tensor, check_rank, fail, make_node, ops, pair

INDEX_BYTES = 8  # PyTorch keeps the place of each maximum as int64


def _windows(
    name: str, x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[int, ...]:
    if len(x.shape) != 4:
        fail(name, f"got an input of shape {x.shape}, expected (batch, channels, height, width)")
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        fail(name, f"a padding of {padding} is more than half the kernel {kernel}")
    rows, columns = (
        window_count(name, x.shape[2 + d], kernel=kernel[d], stride=stride[d], padding=padding[d]) for d in (0, 1)
    )
    return (*x.shape[:2], rows, columns)


@ops.register("max_pool2d")
def max_pool2d(name: str, x: Tensor, *, kernel: Pair, stride: Pair | None = None, padding: Margin = 0) -> Node:
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


@ops.register("avg_pool2d")
def avg_pool2d(name: str, x: Tensor, *, kernel: Pair, stride: Pair | None = None, padding: Margin = 0) -> Node:
    """The mean of each window, padding counted as zeros. PyTorch keeps the input, though only its shape is used."""
    window, steps, margin = pair(kernel), pair(kernel if stride is None else stride), pair(padding)
    shape = _windows(name, x, window, steps, margin)
    return make_node(
        "avg_pool2d", name, [x], shape,
        forward_flops=math.prod(shape) * math.prod(window), jacobian=LocalJacobian("constant"),
        kernel=window, stride=steps, padding=margin,
    )  # fmt: skip


@ops.register("adaptive_avg_pool2d")
def adaptive_avg_pool2d(name: str, x: Tensor, *, size: Pair) -> Node:
    """Means over windows ⌊i·n/size⌋ … ⌈(i+1)·n/size⌉, so that the output has `size`. PyTorch keeps the input."""
    rows, columns = pair(size)
    if len(x.shape) != 4:
        fail(name, f"got an input of shape {x.shape}, expected (batch, channels, height, width)")
    read = math.prod(_adaptive_reads(n, out) for n, out in zip(x.shape[2:], (rows, columns), strict=True))
    return make_node(
        "adaptive_avg_pool2d", name, [x], (*x.shape[:2], rows, columns),
        forward_flops=math.prod(x.shape[:2]) * read, jacobian=LocalJacobian("constant"), size=(rows, columns),
    )  # fmt: skip


def _adaptive_reads(size: int, windows: int) -> int:
    """Σ ⌈(i+1)·size/windows⌉ − ⌊i·size/windows⌋: the pixels, and each inner border that falls inside one."""
    return size + windows - math.gcd(size, windows)


@ops.register("global_avg_pool")
def global_avg_pool(name: str, x: Tensor) -> Node:
    """The mean of each channel, (batch, channels): one flop a scalar; the derivative reads nothing."""
    check_rank(name, x, at_least=3, what="(batch, channels, …)")
    return make_node(
        "global_avg_pool", name, [x], x.shape[:2],
        forward_flops=x.size, needs="none", jacobian=LocalJacobian("constant"),
    )  # fmt: skip


@ops.register("upsample")
def upsample(name: str, x: Tensor, *, scale: Pair = 2) -> Node:
    """Each pixel repeated `scale` times (nearest neighbour): copies; a VJP adds up what each pixel became."""
    rows, columns = pair(scale)
    if len(x.shape) != 4:
        fail(name, f"got an input of shape {x.shape}, expected (batch, channels, height, width)")
    shape = (*x.shape[:2], x.shape[2] * rows, x.shape[3] * columns)
    return make_node(
        "upsample", name, [x], shape,
        forward_flops=0, jvp_flops=0, vjp_flops=math.prod(shape), needs="none",
        jacobian=LocalJacobian("constant"), scale=(rows, columns),
    )  # fmt: skip
