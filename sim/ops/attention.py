"""Rules of attention: scores and context of each head, and both with the softmax between in one op.

Arrays are (batch, sequence, hidden), heads are a view (batch, sequence, heads, hidden/heads); a
leading width is carried along.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sim.ops.dense import masked_softmax, softmax_derivative
from sim.ops.rule import Array, At, Rule, bilinear, total


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


def _context(at: At, weights: Array, v: Array) -> Array:
    """Σ_t weights·v of each head, joined to (…, sequence, hidden)."""
    return _joined(np.einsum("...ast,...tad->...sad", weights, _heads(at, v), optimize=True))


def _to_weights(at: At, g: Array, v: Array) -> Array:
    return np.asarray(np.einsum("...sad,...tad->...ast", _heads(at, g), _heads(at, v), optimize=True))


def _to_values(at: At, g: Array, weights: Array) -> Array:
    return _joined(np.einsum("...ast,...sad->...tad", weights, _heads(at, g), optimize=True))


scores = bilinear(_scores, _from_scores, lambda at, g, q: _from_scores(at, g, q, to_keys=True))
context = bilinear(_context, _to_weights, _to_values)


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


fused = Rule(forward=_fused_forward, jvp=_fused_jvp, vjp=_fused_vjp)
