"""Attention: scores and context of each head, and both with the softmax between in one op.

Activations are (batch, sequence, hidden), heads are a view (batch, sequence, heads, hidden/heads); array rules
carry a leading width along. Keys and values may have fewer heads than queries, each for a group of these
(Ainslie et al. 2023, GQA, arXiv:2305.13245), and another number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from sim.base.registry import Count
from sim.graphs.node import Node
from sim.ops.core import FACTORS, Causal, Heads, Tensor, check_rank, fail, make_node, ops
from sim.ops.rule import Array, At, Rule, bilinear, total
from sim.ops.softmax import SOFTMAX_DERIVATIVE_FLOPS, SOFTMAX_FLOPS, masked_softmax, softmax_derivative


def _heads(at: At, x: Array) -> Array:
    """The heads of queries."""
    return x.reshape(*x.shape[:-1], at["heads"], -1)


def _shared_heads(at: At, x: Array) -> Array:
    """The heads of keys or values, each once for every head of queries that reads it."""
    return np.repeat(x.reshape(*x.shape[:-1], at["kv_heads"], -1), at["heads"] // at["kv_heads"], axis=-2)


def _joined(x: Array) -> Array:
    return x.reshape(*x.shape[:-2], -1)


def _joined_groups(at: At, x: Array) -> Array:
    """What `_shared_heads` repeats, summed."""
    return _joined(x.reshape(*x.shape[:-2], at["kv_heads"], -1, x.shape[-1]).sum(axis=-2))


def _scores(at: At, q: Array, k: Array) -> Array:
    """q·kᵀ/√d of each head: (…, heads, tokens of q, tokens of k)."""
    q, k = _heads(at, q), _shared_heads(at, k)
    return np.asarray(np.einsum("...sad,...tad->...ast", q, k, optimize=True) / math.sqrt(q.shape[-1]))


def _to_queries(at: At, g: Array, k: Array) -> Array:
    """The cotangent of q for a cotangent of the scores."""
    k = _shared_heads(at, k)
    return _joined(np.einsum("...ast,...tad->...sad", g, k, optimize=True) / math.sqrt(k.shape[-1]))


def _to_keys(at: At, g: Array, q: Array) -> Array:
    """The cotangent of k for a cotangent of the scores."""
    q = _heads(at, q)
    return _joined_groups(at, np.einsum("...ast,...sad->...tad", g, q, optimize=True) / math.sqrt(q.shape[-1]))


KvHeads = Annotated[Count | None, Field(description="Heads of keys and values; as many as `heads` unless given.")]


@ops.define("attention_scores", arrays=bilinear(_scores, _to_queries, _to_keys))
def attention_scores(name: str, q: Tensor, k: Tensor, *, heads: Heads, kv_heads: KvHeads = None) -> Node:
    """q·kᵀ/√d of each head, (batch, heads, sequence, sequence): 2·batch·sequence²·hidden flops.

    q and k are (batch, sequence, hidden), k with `kv_heads` alone; splitting them into heads is a view. The
    scale is part of the product, and a causal mask is left to the softmax.
    """
    groups = _check(name, q, k, heads=heads, kv_heads=kv_heads)
    batch, sequence, hidden = q.shape
    work = 2 * batch * sequence * k.shape[1] * hidden
    return make_node(
        "attention_scores", name, [q, k], (batch, heads, sequence, k.shape[1]),
        forward_flops=work, jvp_flops=2 * work, vjp_flops=2 * work, reads=FACTORS, heads=heads, kv_heads=groups,
    )  # fmt: skip


def _context(at: At, weights: Array, v: Array) -> Array:
    """Σ_t weights·v of each head, joined to (…, sequence, hidden)."""
    return _joined(np.einsum("...ast,...tad->...sad", weights, _shared_heads(at, v), optimize=True))


def _to_weights(at: At, g: Array, v: Array) -> Array:
    return np.asarray(np.einsum("...sad,...tad->...ast", _heads(at, g), _shared_heads(at, v), optimize=True))


def _to_values(at: At, g: Array, weights: Array) -> Array:
    return _joined_groups(at, np.einsum("...ast,...sad->...tad", weights, _heads(at, g), optimize=True))


@ops.define("attention_context", arrays=bilinear(_context, _to_weights, _to_values))
def attention_context(name: str, weights: Tensor, v: Tensor, *, kv_heads: KvHeads = None) -> Node:
    """weights·v of each head, joined to (batch, sequence, hidden): 2·batch·sequence²·hidden flops."""
    check_rank(name, v, at_least=3, what="(batch, sequence, hidden)")
    batch, tokens, width = v.shape
    heads, sequence = weights.shape[1:3] if len(weights.shape) == 4 else (0, 0)
    groups = heads if kv_heads is None else kv_heads
    if not heads or weights.shape != (batch, heads, sequence, tokens) or width % groups or heads % groups:
        fail(name, f"cannot weigh values of shape {v.shape} by {weights.shape}")
    hidden = width // groups * heads
    work = 2 * batch * sequence * tokens * hidden
    return make_node(
        "attention_context", name, [weights, v], (batch, sequence, hidden),
        forward_flops=work, jvp_flops=2 * work, vjp_flops=2 * work, reads=FACTORS, heads=heads, kv_heads=groups,
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
    return _to_queries(at, to_scores, k), _to_keys(at, to_scores, q), _to_values(at, g, weights)


@ops.define("flash_attention", arrays=Rule(forward=_fused_forward, jvp=_fused_jvp, vjp=_fused_vjp))
def flash_attention(
    name: str, q: Tensor, k: Tensor, v: Tensor, *, heads: Heads, kv_heads: KvHeads = None, causal: Causal = False
) -> Node:
    """softmax(q·kᵀ/√d)·v in one kernel: 4·batch·sequence²·hidden flops and no sequence² tensor.

    Its derivative reads q, k, v, its output and the log-sum-exp of each row (4 bytes at least), and
    computes the scores again: 5 products where the forward has 2 (Dao, Fu, Ermon, Rudra & Ré 2022,
    FlashAttention, arXiv:2205.14135, Algorithm 4). The softmax inside is counted like the op of that
    name. A causal mask halves neither, as in the counters of frameworks.
    """
    groups = _check(name, q, k, v, heads=heads, kv_heads=kv_heads)
    batch, sequence, hidden = q.shape
    product = 2 * batch * sequence * k.shape[1] * hidden
    scores = batch * heads * sequence * k.shape[1]
    derivative = 5 * product + (2 + SOFTMAX_DERIVATIVE_FLOPS) * scores
    return make_node(
        "flash_attention", name, [q, k, v], q.shape,
        forward_flops=2 * product + SOFTMAX_FLOPS * scores, jvp_flops=derivative, vjp_flops=derivative,
        residual_bytes=batch * heads * sequence * max(4, q.itemsize), needs="both", heads=heads, kv_heads=groups,
        causal=causal,
    )  # fmt: skip


def _check(name: str, q: Tensor, *others: Tensor, heads: int, kv_heads: int | None) -> int:
    """The heads of keys and values, which fit those of queries."""
    groups = heads if kv_heads is None else kv_heads
    shapes = ", ".join(str(t.shape) for t in (q, *others))
    if len(q.shape) != 3 or any(len(t.shape) != 3 or t.shape[0] != q.shape[0] for t in others):
        fail(name, f"got {shapes}, expected shapes (batch, sequence, hidden)")
    if q.shape[-1] % heads:
        fail(name, f"a hidden size of {q.shape[-1]} cannot be divided among {heads} heads")
    if heads % groups:
        fail(name, f"{heads} heads cannot be divided among {groups} heads of keys and values", key="kv_heads")
    expected = (*others[0].shape[:2], q.shape[-1] // heads * groups)
    if any(t.shape != expected for t in others):
        fail(name, f"got {shapes}, expected keys and values of shape {expected}")
    return groups
