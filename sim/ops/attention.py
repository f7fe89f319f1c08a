"""Attention: scores and context of each head, and both with the softmax between in one op.

Activations are (batch, sequence, hidden), heads are a view (batch, sequence, heads, hidden/heads);
array rules carry a leading width along.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sim.base.registry import Count
from sim.graphs.node import Node
from sim.ops.core import FACTORS, Tensor, check_rank, fail, make_node, ops
from sim.ops.rule import Array, At, Rule, bilinear, total
from sim.ops.softmax import SOFTMAX_DERIVATIVE_FLOPS, SOFTMAX_FLOPS, masked_softmax, softmax_derivative


def _heads(at: At, x: Array) -> Array:
    return x.reshape(*x.shape[:-1], at["heads"], -1)


def _joined(x: Array) -> Array:
    return x.reshape(*x.shape[:-2], -1)


def _scores(at: At, q: Array, k: Array) -> Array:
    """q·kᵀ/√d of each head: (…, heads, sequence, sequence)."""
    q, k = _heads(at, q), _heads(at, k)
    return np.asarray(np.einsum("...sad,...tad->...ast", q, k, optimize=True) / math.sqrt(q.shape[-1]))


def _from_scores(at: At, g: Array, other: Array, *, to_keys: bool = False) -> Array:
    """The cotangent of q, or of k, for a cotangent of the scores."""
    other = _heads(at, other)
    path = "...ast,...sad->...tad" if to_keys else "...ast,...tad->...sad"
    return _joined(np.einsum(path, g, other, optimize=True) / math.sqrt(other.shape[-1]))


@ops.define(
    "attention_scores",
    arrays=bilinear(_scores, _from_scores, lambda at, g, q: _from_scores(at, g, q, to_keys=True)),
)
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


def _context(at: At, weights: Array, v: Array) -> Array:
    """Σ_t weights·v of each head, joined to (…, sequence, hidden)."""
    return _joined(np.einsum("...ast,...tad->...sad", weights, _heads(at, v), optimize=True))


def _to_weights(at: At, g: Array, v: Array) -> Array:
    return np.asarray(np.einsum("...sad,...tad->...ast", _heads(at, g), _heads(at, v), optimize=True))


def _to_values(at: At, g: Array, weights: Array) -> Array:
    return _joined(np.einsum("...ast,...sad->...tad", weights, _heads(at, g), optimize=True))


@ops.define("attention_context", arrays=bilinear(_context, _to_weights, _to_values))
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


def _fused_forward(at: At) -> tuple[Array, Array]:
    """The output, and the log-sum-exp of each row of scores."""
    q, k, v = at.x
    s = _scores(at, q, k)
    weights = masked_softmax(s, causal=at["causal"])
    # With the weight w of the first key, which no causal mask hides, log-sum-exp is s − log w.
    saved = s[..., 0] - np.log(weights[..., 0])
    return _context(at, weights, v), saved.astype(np.promote_types(q.dtype, np.float32))


def _weights(at: At) -> Array:
    s = _scores(at, at.x[0], at.x[1])
    w = np.exp(s - at.residual[..., None].astype(s.dtype))
    return np.asarray(np.tril(w) if at["causal"] else w)


def _fused_jvp(at: At, dx: Sequence[Any]) -> Array:
    q, k, v = at.x
    weights = _weights(at)
    terms = [] if dx[2] is None else [_context(at, weights, dx[2])]
    moved = [] if dx[0] is None else [_scores(at, dx[0], k)]
    moved += [] if dx[1] is None else [_scores(at, q, dx[1])]
    if moved:
        terms.append(_context(at, softmax_derivative(weights, total(moved)), v))
    return total(terms)


def _fused_vjp(at: At, g: Array) -> tuple[Array, Array, Array]:
    q, k, v = at.x
    weights = _weights(at)
    # Σ_t weights·(g·v) of each row is g·y: the output saves a pass over the scores.
    rows = np.swapaxes((_heads(at, g) * _heads(at, at.y)).sum(axis=-1), -1, -2)
    to_scores = weights * (_to_weights(at, g, v) - rows[..., None])
    return (
        _from_scores(at, to_scores, k), _from_scores(at, to_scores, q, to_keys=True), _to_values(at, g, weights)
    )  # fmt: skip


@ops.define("flash_attention", arrays=Rule(forward=_fused_forward, jvp=_fused_jvp, vjp=_fused_vjp))
def flash_attention(name: str, q: Tensor, k: Tensor, v: Tensor, *, heads: Count, causal: bool = False) -> Node:
    """softmax(q·kᵀ/√d)·v in one kernel: 4·batch·sequence²·hidden flops and no sequence² tensor.

    Its derivative reads q, k, v, its output and the log-sum-exp of each row (4 bytes at least), and
    computes the scores again: 5 products where the forward has 2 (Dao, Fu, Ermon, Rudra & Ré 2022,
    FlashAttention, arXiv:2205.14135, Algorithm 4). The softmax inside is counted like the op of that
    name. A causal mask halves neither, as in the counters of frameworks.
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
