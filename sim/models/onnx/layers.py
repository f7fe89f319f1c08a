"""Rules of the ONNX operators with weights or windows: products, normalizations, pooling.

Costs come from the op rules of families, which are given views of the tensors that fit them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from sim import ops
from sim.graphs.graph import FLOATS, Node
from sim.models.onnx.call import CONSTANT, Call, Constant, copied, reads_of, rows
from sim.ops.core import Tensor, fail, make_node


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


def gemm(call: Call) -> Node:
    """Gemm: linear where the second operand is a weight, else a product of activations."""
    a, b = call.operands[:2]
    if isinstance(a, Tensor) and isinstance(b, Constant):
        x = rows(a, a.size // call.shape[0])
        return ops.linear(call.name, x, features=call.shape[1], bias=call.has(2))
    return _product(call, inner=_inner(call, transposed=bool(call.attributes.get("transA"))))


def matmul(call: Call) -> Node:
    """MatMul: linear where an operand is a weight, else a product of activations; the batch may be broadcast."""
    return _product(call, inner=_inner(call, transposed=False))


def _inner(call: Call, *, transposed: bool) -> int:
    """The length of the dimension that is summed over."""
    first = call.operands[0]
    assert first is not None
    return first.shape[-2 if transposed else -1]


def _product(call: Call, *, inner: int) -> Node:
    """2·size·inner flops; as linear with one activation, as matmul with two."""
    if len(call.data) == 1:
        x = rows(call.x, inner)
        if call.size * inner % x.size:
            fail(call.name, f"cannot multiply {call.x.shape} by a weight to give {call.shape}")
        return ops.linear(call.name, x, features=call.size * inner // x.size, bias=False)
    a, b = call.data[:2]
    n = call.shape[-1] if len(b.shape) > 1 else 1
    return ops.matmul(call.name, replace(a, shape=(1, call.size // n, inner)), replace(b, shape=(1, inner, n)))


def embedding(call: Call) -> Node | None:
    """Gather: rows of a table of weights, a view where one place is picked, else a copy of what is picked.

    The derivative reads the places.
    """
    table = call.operands[0]
    if isinstance(table, Constant):
        axis = call.attributes.get("axis", 0)
        entries = table.shape[axis]
        dtype = table.dtype if table.dtype in FLOATS else "float32"
        return ops.embedding(call.name, call.x, entries=entries, features=table.size // entries, dtype=dtype)  # type: ignore[arg-type]
    picked = call.operands[1]
    if isinstance(picked, Constant) and picked.size == 1:
        return None
    node = replace(copied(call), vjp_flops=call.size)
    if isinstance(picked, Constant):
        return node
    return replace(node, needs="input", reads=reads_of(call, ("never", "always")))


def batch_norm(call: Call) -> Node:
    """BatchNormalization: the statistics of the batch in training, constants otherwise (2 flops: scale, shift)."""
    node = ops.batch_norm(call.name, call.x)
    if call.training:
        return node
    return replace(node, forward_flops=2 * call.size, jvp_flops=call.size, vjp_flops=call.size, residual_bytes=None)


def row_norm(count: Callable[[Call], int]) -> Callable[[Call], Node]:
    """The rule of layer_norm where each of so many rows has statistics of its own."""

    def rule(call: Call) -> Node:
        many = count(call)
        return replace(ops.layer_norm(call.name, replace(call.x, shape=(many, call.x.size // many))), op=call.word)

    return rule


def layer_norm(call: Call) -> Node:
    """LayerNormalization of the dimensions from `axis` on."""
    return ops.layer_norm(call.name, rows(call.x, math.prod(call.x.shape[call.attributes.get("axis", -1) :])))


def rms_norm(call: Call) -> Node:
    """RMSNormalization of the dimensions from `axis` on."""
    return ops.rms_norm(call.name, rows(call.x, math.prod(call.x.shape[call.attributes.get("axis", -1) :])))


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


def softmax(call: Call) -> Node:
    """Softmax along `axis`; before opset 13 over all dimensions from `axis` on."""
    shape = call.x.shape
    if call.opset >= 13:
        classes = shape[call.attributes.get("axis", -1)]
    else:
        classes = math.prod(shape[call.attributes.get("axis", 1) :])
    return ops.softmax(call.name, rows(call.x, classes))


def log_softmax(call: Call) -> Node:
    """LogSoftmax: the flops of a softmax; PyTorch keeps its output."""
    return replace(softmax(call), op="log_softmax")


def dropout(call: Call) -> Node | None:
    """Dropout: a mask in training, a view otherwise."""
    return ops.dropout(call.name, call.x) if call.training else None


def max_pool(call: Call) -> Node:
    kernel = call.attributes["kernel_shape"]
    node = ops.max_pool2d(call.name, _windows(call, kernel), kernel=_plane(kernel), stride=1)
    return _laid_out(call, node, kernel, "max_pool")


def average_pool(call: Call) -> Node:
    kernel = call.attributes["kernel_shape"]
    node = ops.avg_pool2d(call.name, _windows(call, kernel), kernel=_plane(kernel), stride=1)
    return _laid_out(call, node, kernel, "avg_pool")


def global_max_pool(call: Call) -> Node:
    """GlobalMaxPool: a window as large as the image."""
    kernel = call.x.shape[2:]
    node = ops.max_pool2d(call.name, _windows(call, kernel), kernel=_plane(kernel), stride=1)
    return _laid_out(call, node, kernel, "max_pool")


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
    given = call.attributes
    ones = (1,) * rank
    begin, end = given.get("pads", (0,) * 2 * rank)[:rank], given.get("pads", (0,) * 2 * rank)[rank:]
    layout = {
        "kernel": tuple(kernel),
        "stride": given.get("strides", ones),
        "dilation": given.get("dilations", ones),
        "padding": begin if begin == end else tuple(zip(begin, end, strict=True)),
    }
    more = {k: given[k] for k in ("auto_pad", "ceil_mode") if given.get(k) not in (None, 0, "NOTSET")}
    return replace(node, op=f"{op}{rank}d", attributes={**node.attributes, **layout, **more})
