"""Operators on windows of (batch, channels, *sides), in any number of sides: convolutions, pooling, resizing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from sim import ops
from sim.graphs.node import Node
from sim.models.onnx.call import AFFINE, Attributes, Call, Refused, copied, operator, own, same
from sim.ops.convolutions import convolution, transposed_convolution
from sim.ops.core import CONSTANT, Tensor, fail, make_node
from sim.ops.pools import max_pool as maximum
from sim.ops.pools import mean_pool
from sim.ops.rule import Rule


def _plane(sizes: Sequence[int]) -> tuple[int, int]:
    """Spatial sizes as (height, width): one is a width, those behind the second belong to the width."""
    return (1, sizes[0]) if len(sizes) == 1 else (sizes[0], math.prod(sizes[1:]))


def _windows(call: Call, kernel: Sequence[int]) -> Tensor:
    """The input as the image in which windows of `kernel`, one pixel apart, are as many as the outputs.

    Padding (on one side, implied, for the ceiling of a division), strides and dilations change which
    pixels a window reads, not how many: the costs are those of this image.
    """
    sides = (o + k - 1 for o, k in zip(_plane(call.shape[2:]), _plane(kernel), strict=True))
    return replace(call.x, shape=(*call.x.shape[:2], *sides))


def _laid_out(call: Call, node: Node, kernel: Sequence[int], op: str) -> Node:
    """The node with the layout that the model gives, named after its rank."""
    rank = len(kernel)
    attributes = call.attributes
    ones = (1,) * rank
    begin, end = attributes.get("pads", (0,) * 2 * rank)[:rank], attributes.get("pads", (0,) * 2 * rank)[rank:]
    layout = {
        "kernel": tuple(kernel),
        "stride": attributes.get("strides", ones),
        "dilation": attributes.get("dilations", ones),
        "padding": begin if begin == end else tuple(zip(begin, end, strict=True)),
    }
    more = {k: attributes[k] for k in ("auto_pad", "ceil_mode") if attributes.get(k) not in (None, 0, "NOTSET")}
    return replace(node, op=f"{op}{rank}d", attributes={**node.attributes, **layout, **more})


def _windowed(rule: Rule) -> Callable[[Call], Attributes]:
    """A rule on windows, whose padding before the image is given or follows from the number of windows."""

    def padded(call: Call) -> Attributes:
        attributes = call.attributes
        kind = attributes.get("auto_pad", "NOTSET")
        if kind not in ("SAME_UPPER", "SAME_LOWER"):
            return {"rule": rule}
        if call.op == "ConvTranspose":
            raise Refused(f"its padding is given as {kind}")
        kernel = attributes.get("kernel_shape") or call.weight(1).shape[2:]
        ones = (1,) * len(kernel)
        sides = zip(
            call.x.shape[2:], call.shape[2:], kernel, attributes.get("strides", ones),
            attributes.get("dilations", ones), strict=True,
        )  # fmt: skip
        padding = []
        for side, count, size, stride, dilation in sides:
            missing = max(0, (count - 1) * stride + dilation * (size - 1) + 1 - side)
            less, more = missing // 2, missing - missing // 2
            padding.append((less, more) if kind == "SAME_UPPER" else (more, less))
        return {"rule": rule, "padding": tuple(padding)}

    return padded


@operator("Conv", weights=AFFINE, runs=_windowed(convolution))
def conv(call: Call) -> Node:
    """Conv: the rule of conv2d on an image that has as many windows as the output says (any padding, any rank)."""
    weight = call.weight(1)
    kernel = weight.shape[2:]
    if weight.shape[1] * call.attributes.get("group", 1) != call.x.shape[1]:
        fail(call.name, f"cannot convolve {call.x.shape} with a weight of shape {weight.shape}")
    node = ops.conv2d(
        call.name, _windows(call, kernel), channels=weight.shape[0], kernel=_plane(kernel),
        groups=call.attributes.get("group", 1), bias=call.has(2),
    )  # fmt: skip
    return _laid_out(call, node, kernel, "conv")


def _runs_conv_transpose(call: Call) -> Attributes:
    if "output_shape" in call.attributes:
        raise Refused("its padding follows from output_shape")
    return _windowed(transposed_convolution)(call)


@operator("ConvTranspose", weights=AFFINE, runs=_runs_conv_transpose)
def conv_transpose(call: Call) -> Node:
    """ConvTranspose: 2·B·in·height·width·(out/groups)·kernel flops with the input's height and width."""
    weight = call.weight(1)
    work = 2 * (call.x.size // call.x.shape[1]) * weight.size
    adds = call.size if call.has(2) else 0
    node = make_node(
        "conv_transpose2d", call.name, [call.x], call.shape,
        forward_flops=work + adds, jvp_flops=work, vjp_flops=work, param_vjp_flops=work + adds,
        jacobian=CONSTANT, groups=call.attributes.get("group", 1), bias=call.has(2),
    )  # fmt: skip
    return _laid_out(call, node, weight.shape[2:], "conv_transpose")


@operator("MaxPool", runs=_windowed(maximum))
def max_pool(call: Call) -> Node:
    kernel = call.attributes["kernel_shape"]
    node = ops.max_pool2d(call.name, _windows(call, kernel), kernel=_plane(kernel), stride=1)
    return _laid_out(call, node, kernel, "max_pool")


def _runs_average_pool(call: Call) -> Attributes:
    return {**_windowed(mean_pool)(call), "counts_padding": bool(call.attributes.get("count_include_pad", 0))}


@operator("AveragePool", runs=_runs_average_pool)
def average_pool(call: Call) -> Node:
    kernel = call.attributes["kernel_shape"]
    node = ops.avg_pool2d(call.name, _windows(call, kernel), kernel=_plane(kernel), stride=1)
    return _laid_out(call, node, kernel, "avg_pool")


@operator("GlobalMaxPool", runs=lambda call: {"rule": maximum})
def global_max_pool(call: Call) -> Node:
    """GlobalMaxPool: a window as large as the image."""
    kernel = call.x.shape[2:]
    node = ops.max_pool2d(call.name, _windows(call, kernel), kernel=_plane(kernel), stride=1)
    return _laid_out(call, node, kernel, "max_pool")


operator("GlobalAveragePool", runs=own)(same(ops.global_avg_pool))


@operator("Resize", "Upsample")
def resize(call: Call) -> Node:
    """Resize, Upsample: copies for nearest neighbours, else 2 flops for each of 2^d (4^d cubic) neighbours."""
    mode = call.attributes.get("mode", "nearest")
    if mode == "nearest":
        return replace(copied(call), vjp_flops=call.size)
    changed = sum(a != b for a, b in zip(call.x.shape, call.shape, strict=True))
    work = 2 * (4 if mode == "cubic" else 2) ** changed * call.size
    return make_node(call.word, call.name, [call.x], call.shape, forward_flops=work, needs="none", jacobian=CONSTANT)
