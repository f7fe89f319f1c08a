"""Softmax: its output is all that its derivative reads, so it saves nothing of its own.

Flops are counted as flops_computation.py of ELECTRA does (Clark, Luong, Le & Manning 2020, "ELECTRA: Pre-training
text encoders as discriminators rather than generators", arXiv:2003.10555).
"""

from __future__ import annotations

import numpy as np

from sim.graphs.node import LocalJacobian, Node
from sim.ops.core import Causal, Tensor, check_rank, make_node, ops
from sim.ops.rule import Array, selfadjoint

SOFTMAX_FLOPS = 5
"""For each scalar: maximum, subtraction, exponential, sum, division."""
SOFTMAX_DERIVATIVE_FLOPS = 4
"""For each scalar of y·(g − Σ y·g), forward and backward alike: product, sum, difference, product."""


def masked_softmax(x: Array, *, causal: bool) -> Array:
    """Softmax over the last dimension, with scalars above the diagonal taken for −∞ if `causal`."""
    if causal:
        x = np.where(np.tri(x.shape[-2], x.shape[-1], dtype=np.bool_), x, -np.inf)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def softmax_derivative(y: Array, v: Array, axis: int = -1) -> Array:
    """(diag(y) − y·yᵀ)·v along an axis."""
    return np.asarray(y * (v - (y * v).sum(axis=axis, keepdims=True)))


def log_softmax(x: Array, axis: int) -> Array:
    """x − log Σ exp(x) along an axis."""
    x = x - x.max(axis=axis, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=axis, keepdims=True)))


@ops.define(
    "softmax",
    arrays=selfadjoint(
        lambda at: (masked_softmax(at.x[0], causal=at["causal"]), None),
        lambda at, v: softmax_derivative(at.y, v),
    ),
)
def softmax(name: str, x: Tensor, *, causal: Causal = False) -> Node:
    """Softmax over the last dimension; its derivative reads the output.

    With `causal` the scalars above the diagonal of the last two dimensions are taken for −∞; they
    are stored and counted all the same. Forming the Jacobian, y_i·(δ_ij − y_j) for each row of n
    scalars, takes n·(n + 1) flops.
    """
    check_rank(name, x, at_least=3 if causal else 2, what="(batch, …, scalars)")
    return make_node(
        "softmax", name, [x], x.shape,
        forward_flops=SOFTMAX_FLOPS * x.size, jvp_flops=SOFTMAX_DERIVATIVE_FLOPS * x.size,
        vjp_flops=SOFTMAX_DERIVATIVE_FLOPS * x.size, needs="output",
        jacobian=LocalJacobian("dense", x.size * (x.shape[-1] + 1)), causal=causal,
    )  # fmt: skip
