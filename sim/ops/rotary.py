"""Rotary positions: pairs of features turned by an angle that grows with the token's place."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from sim.graphs.node import Node
from sim.ops.core import CONSTANT, Heads, Tensor, check_rank, fail, make_node, ops
from sim.ops.rule import Array, At, linear

ROPE_FLOPS = 3
"""For each scalar: two products and a sum."""


def _turned(at: At, x: Array, *, sign: float) -> Array:
    """Features i and i + d/2 of each head turned by ±place·base^(−2i/d)."""
    heads = x.reshape(*x.shape[:-1], at["heads"], 2, -1)
    half = heads.shape[-1]
    angles = sign * np.outer(np.arange(x.shape[-2]), at["base"] ** (-np.arange(half) / half))
    cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
    a, b = heads[..., 0, :], heads[..., 1, :]
    return np.stack([a * cos - b * sin, b * cos + a * sin], axis=-2).reshape(x.shape).astype(x.dtype)


@ops.define("rope", arrays=linear(lambda at, x: _turned(at, x, sign=1.0), lambda at, g: _turned(at, g, sign=-1.0)))
def rope(
    name: str,
    x: Tensor,
    *,
    heads: Heads,
    base: Annotated[float, Field(gt=0, description="Of the angles' geometric sequence.")] = 10000.0,
) -> Node:
    """Rotary position embedding of each head: 3 flops a scalar; the derivative turns back and reads nothing.

    Su et al. 2021, RoFormer, arXiv:2104.09864, equation 34. The tables of sines are constants of the model
    and are not counted.
    """
    check_rank(name, x, at_least=3, what="(batch, sequence, hidden)")
    if x.shape[-1] % (2 * heads):
        fail(name, f"{x.shape[-1]} features cannot be divided into pairs of {heads} heads", key="heads")
    return make_node(
        "rope", name, [x], x.shape, forward_flops=ROPE_FLOPS * x.size, needs="none", jacobian=CONSTANT, heads=heads,
        base=base,
    )  # fmt: skip
