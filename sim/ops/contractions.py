"""Rules of the ops that multiply matrices, whose flops frameworks and papers publish.

A multiply-add is 2 flops. B is the batch with all leading dimensions. A bias adds one flop for each
output scalar to the forward and to the weight gradient. The Jacobian of a linear map is its weight:
one block for all samples that costs nothing to form.
"""

from __future__ import annotations

import math

from sim.base.registry import Count, Size
from sim.graphs.graph import LocalJacobian, Node
from sim.ops.core import FACTORS, Dtype, Margin, Pair, Tensor, check_rank, fail, make_node, ops, pair

WEIGHT = LocalJacobian("constant")
SOFTMAX_FLOPS = 5
"""For each scalar: maximum, subtraction, exponential, sum, division (the count of ELECTRA's flops_computation.py)."""
SOFTMAX_DERIVATIVE_FLOPS = 4
"""For each scalar of y·(g − Σ y·g), forward and backward alike: product, sum, difference, product."""


@ops.register("linear")
def linear(name: str, x: Tensor, *, features: Count, bias: bool = True, tied_to: str | None = None) -> Node:
    """y = x·Wᵀ + b over the last dimension: 2·B·in·out flops, as many per JVP, VJP and weight gradient.

    The input is read for the weight gradient alone. (A convolution's is kept with frozen weights too, by
    frameworks: one kernel makes both gradients.)
    With `tied_to` it uses the weight of that node (a head that shares the embedding): the flops of
    its share of the gradient are its own, the parameters and the gradient's memory the other's.
    """
    check_rank(name, x, at_least=2, what="(batch, …, features)")
    if tied_to is not None and bias:
        fail(name, "a tied linear layer has no bias of its own; give 'bias: false'")
    shape = (*x.shape[:-1], features)
    work = 2 * x.size * features
    adds = math.prod(shape) if bias else 0
    return make_node(
        "linear", name, [x], shape,
        forward_flops=work + adds, jvp_flops=work, vjp_flops=work, param_vjp_flops=work + adds,
        param_size=0 if tied_to else x.shape[-1] * features + bias * features,
        reads=("parameters",), jacobian=WEIGHT, bias=bias, tied_to=tied_to,
    )  # fmt: skip


@ops.register("conv2d")
def conv2d(
    name: str,
    x: Tensor,
    *,
    channels: Count,
    kernel: Pair,
    stride: Pair = 1,
    padding: Margin = 0,
    dilation: Pair = 1,
    groups: Count = 1,
    bias: bool = True,
) -> Node:
    """A convolution of (batch, channels, height, width): 2·B·out·height·width·(in/groups)·kernel flops.

    The output has ⌊(size + 2·padding − dilation·(kernel − 1) − 1)/stride⌋ + 1 rows and columns. JVP,
    VJP and weight gradient have the same multiply-adds.
    """
    batch, depth, rows, columns = _image(name, x)
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
        param_size=weights + bias * channels, jacobian=WEIGHT,
        kernel=window, stride=steps, padding=margin, dilation=spread, groups=groups, bias=bias,
    )  # fmt: skip


@ops.register("conv_transpose2d")
def conv_transpose2d(
    name: str, x: Tensor, *, channels: Count, kernel: Pair, stride: Pair = 1, padding: Margin = 0, bias: bool = True
) -> Node:
    """The transpose of a convolution: 2·B·in·height·width·out·kernel flops with the input's height and width.

    The output has (size − 1)·stride − 2·padding + kernel rows and columns.
    """
    batch, depth, rows, columns = _image(name, x)
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
        param_size=weights + bias * channels, jacobian=WEIGHT,
        kernel=window, stride=steps, padding=margin, bias=bias,
    )  # fmt: skip


def window_count(name: str, size: int, *, kernel: int, stride: int, padding: int) -> int:
    """How many windows of `kernel` fit along `size` with `padding` on both sides."""
    if kernel > size + 2 * padding:
        padded = f"{size} + 2·{padding}" if padding else f"{size}"
        fail(name, f"a kernel of {kernel} does not fit an image of {padded}")
    return (size + 2 * padding - kernel) // stride + 1


def _image(name: str, x: Tensor) -> tuple[int, int, int, int]:
    if len(x.shape) != 4:
        fail(name, f"got an input of shape {x.shape}, expected (batch, channels, height, width)")
    batch, depth, rows, columns = x.shape
    return batch, depth, rows, columns


@ops.register("matmul")
def matmul(name: str, a: Tensor, b: Tensor, *, transpose_b: bool = False) -> Node:
    """The batched product of (…, m, k) and (…, k, n): 2·B·m·k·n flops, twice that per JVP and per VJP.

    A JVP is da·b + a·db, a VJP makes both cotangents; each factor is read for the derivative by the other.
    """
    check_rank(name, a, at_least=3, what="(batch, …, m, k)")
    n, inner = (b.shape[-2:] if transpose_b else b.shape[:-3:-1]) if len(b.shape) >= 2 else (0, 0)
    if a.shape[:-2] != b.shape[:-2] or a.shape[-1] != inner:
        fail(name, f"cannot multiply {a.shape} by {b.shape}{' transposed' if transpose_b else ''}")
    work = 2 * a.size * n
    return make_node(
        "matmul", name, [a, b], (*a.shape[:-1], n),
        forward_flops=work, jvp_flops=2 * work, vjp_flops=2 * work, reads=FACTORS,
        transpose_b=transpose_b,
    )  # fmt: skip


@ops.register("attention_scores")
def attention_scores(name: str, q: Tensor, k: Tensor, *, heads: Count) -> Node:
    """q·kᵀ/√d of each head, (batch, heads, sequence, sequence): 2·batch·sequence²·hidden flops.

    q and k are (batch, sequence, hidden); splitting them into heads is a view. The scale is part of
    the product, and a causal mask is left to the softmax.
    """
    batch, sequence, hidden = _sequence(name, q, k, heads=heads)
    work = 2 * batch * sequence**2 * hidden
    shape = (batch, heads, sequence, sequence)
    return make_node(
        "attention_scores", name, [q, k], shape,
        forward_flops=work, jvp_flops=2 * work, vjp_flops=2 * work, reads=FACTORS, heads=heads,
    )  # fmt: skip


@ops.register("attention_context")
def attention_context(name: str, weights: Tensor, v: Tensor) -> Node:
    """weights·v of each head, joined to (batch, sequence, hidden): 2·batch·sequence²·hidden flops."""
    check_rank(name, v, at_least=3, what="(batch, sequence, hidden)")
    batch, sequence, hidden = v.shape
    heads = weights.shape[1] if len(weights.shape) == 4 else 0
    if not heads or weights.shape != (batch, heads, sequence, sequence) or hidden % heads:
        fail(name, f"cannot weigh values of shape {v.shape} by {weights.shape}")
    work = 2 * batch * sequence**2 * hidden
    return make_node(
        "attention_context", name, [weights, v], v.shape,
        forward_flops=work, jvp_flops=2 * work, vjp_flops=2 * work, reads=FACTORS, heads=heads,
    )  # fmt: skip


@ops.register("flash_attention")
def flash_attention(name: str, q: Tensor, k: Tensor, v: Tensor, *, heads: Count, causal: bool = False) -> Node:
    """softmax(q·kᵀ/√d)·v in one kernel: 4·batch·sequence²·hidden flops and no sequence² tensor.

    Its derivative reads q, k, v, its output and the log-sum-exp of each row (4 bytes at least), and
    computes the scores again: 5 products where the forward has 2 (Dao et al., FlashAttention, 2022,
    Algorithm 4). The softmax inside is counted like the op of that name. A causal mask halves neither,
    as in the counters of frameworks.
    """
    batch, sequence, hidden = _sequence(name, q, k, v, heads=heads)
    product = 2 * batch * sequence**2 * hidden
    scores = batch * heads * sequence**2
    derivative = 5 * product + (2 + SOFTMAX_DERIVATIVE_FLOPS) * scores
    return make_node(
        "flash_attention", name, [q, k, v], q.shape,
        forward_flops=2 * product + SOFTMAX_FLOPS * scores, jvp_flops=derivative, vjp_flops=derivative,
        residual_bytes=batch * heads * sequence * max(4, q.itemsize), needs="both", heads=heads, causal=causal,
    )  # fmt: skip


def _sequence(name: str, *tensors: Tensor, heads: int) -> tuple[int, int, int]:
    first = tensors[0]
    if len(first.shape) != 3 or any(t.shape != first.shape for t in tensors):
        shapes = ", ".join(str(t.shape) for t in tensors)
        fail(name, f"got {shapes}, expected equal shapes (batch, sequence, hidden)")
    batch, sequence, hidden = first.shape
    if hidden % heads:
        fail(name, f"a hidden size of {hidden} cannot be divided among {heads} heads")
    return batch, sequence, hidden


@ops.register("embedding")
def embedding(name: str, ids: Tensor, *, entries: Count, features: Count, dtype: Dtype = "float32") -> Node:
    """A row of an (entries, features) table for each id: no flops forward, one addition a scalar backward.

    The gradient is dense, as in PyTorch unless `sparse=True`.
    """
    shape = (*ids.shape, features)
    return make_node(
        "embedding", name, [ids], shape,
        forward_flops=0, param_vjp_flops=math.prod(shape), param_size=entries * features, dtype=dtype, entries=entries,
    )  # fmt: skip


@ops.register("positions")
def positions(name: str, x: Tensor, *, entries: Size = 0) -> Node:
    """x plus a learned row for each place of the sequence, of a table of `entries` (0: as long as the sequence)."""
    check_rank(name, x, at_least=3, what="(batch, sequence, features)")
    rows = entries or x.shape[1]
    if rows < x.shape[1]:
        fail(name, f"a sequence of {x.shape[1]} does not fit {rows} learned positions")
    return make_node(
        "positions", name, [x], x.shape,
        forward_flops=x.size, jvp_flops=0, vjp_flops=0, param_vjp_flops=x.size,
        param_size=rows * math.prod(x.shape[2:]), needs="none", jacobian=LocalJacobian("diagonal"), entries=rows,
    )  # fmt: skip
