"""Products with weights and of two activations, whose flops frameworks and papers publish, and tables of rows.

A multiply-add is 2 flops. B is the batch with all leading dimensions. A bias adds one flop for each
output scalar to the forward and to the weight gradient. The Jacobian of a linear map is its weight:
one block for all samples that costs nothing to form.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from sim.base.registry import Size
from sim.graphs.node import LocalJacobian, Node
from sim.ops.core import (
    CONSTANT,
    FACTORS,
    Bias,
    Dtype,
    Entries,
    Features,
    Tensor,
    TiedTo,
    TransposeB,
    check_rank,
    fail,
    make_node,
    ops,
)
from sim.ops.rule import Array, At, Rule, Shape, bilinear


def _linear_shapes(at: At) -> tuple[Shape, ...]:
    out = at.node.output_shape[-1]
    return ((out, at.shapes[0][-1]), (out,)) if at["bias"] else ((out, at.shapes[0][-1]),)


def _linear_forward(at: At) -> tuple[Array, None]:
    y = at.x[0] @ at.p[0].T
    return np.asarray(y + at.p[1] if at["bias"] else y), None


def _linear_parameter_jvp(at: At, dp: tuple[Array, ...]) -> Array:
    x = at.x[0]
    dy = np.einsum("ni,woi->wno", x.reshape(-1, x.shape[-1]), dp[0], optimize=True)
    if at["bias"]:
        dy = dy + dp[1][:, None, :]
    return np.asarray(dy).reshape(len(dy), *at.node.output_shape)


def _linear_parameter_vjp(at: At, g: Array) -> tuple[Array, ...]:
    x = at.x[0]
    g = g.reshape(len(g), -1, g.shape[-1])
    weight = np.swapaxes(g, 1, 2) @ x.reshape(-1, x.shape[-1])
    return (weight, g.sum(axis=1)) if at["bias"] else (weight,)


@ops.define(
    "linear",
    arrays=Rule(
        forward=_linear_forward,
        jvp=lambda at, dx: dx[0] @ at.p[0].T,
        vjp=lambda at, g: (g @ at.p[0],),
        parameters=_linear_shapes,
        parameter_jvp=_linear_parameter_jvp,
        parameter_vjp=_linear_parameter_vjp,
        matrix=lambda at: at.p[0] if len(at.shapes[0]) == 2 else None,
    ),
)
def linear(name: str, x: Tensor, *, features: Features, bias: Bias = True, tied_to: TiedTo = None) -> Node:
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
        reads=("parameters",), jacobian=CONSTANT, bias=bias, tied_to=tied_to,
    )  # fmt: skip


def _second_factor(at: At, b: Array) -> Array:
    """b as it enters the product: (…, k, n), whichever way it is stored."""
    return np.swapaxes(b, -1, -2) if at["transpose_b"] else b


@ops.define(
    "matmul",
    arrays=bilinear(
        lambda at, a, b: a @ _second_factor(at, b),
        lambda at, g, b: g @ np.swapaxes(_second_factor(at, b), -1, -2),
        lambda at, g, a: _second_factor(at, np.swapaxes(a, -1, -2) @ g),
    ),
)
def matmul(name: str, a: Tensor, b: Tensor, *, transpose_b: TransposeB = False) -> Node:
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


def _embedding_parameter_vjp(at: At, g: Array) -> tuple[Array]:
    rows = np.zeros((len(g), at["entries"], g.shape[-1]), dtype=g.dtype)
    places: Any = (slice(None), at.x[0])
    np.add.at(rows, places, g)
    return (rows,)


@ops.define(
    "embedding",
    arrays=Rule(
        forward=lambda at: (at.p[0][at.x[0]], None),
        parameters=lambda at: ((at["entries"], at.node.output_shape[-1]),),
        parameter_jvp=lambda at, dp: dp[0][:, at.x[0]],
        parameter_vjp=_embedding_parameter_vjp,
        below=lambda at: int(at["entries"]),
    ),
    indices=0,
)
def embedding(name: str, ids: Tensor, *, entries: Entries, features: Features, dtype: Dtype = "float32") -> Node:
    """A row of an (entries, features) table for each id: no flops forward, one addition a scalar backward.

    The gradient is dense, as in PyTorch unless `sparse=True`.
    """
    shape = (*ids.shape, features)
    return make_node(
        "embedding", name, [ids], shape,
        forward_flops=0, param_vjp_flops=math.prod(shape), param_size=entries * features, dtype=dtype, entries=entries,
    )  # fmt: skip


def _positions_parameter_vjp(at: At, g: Array) -> tuple[Array]:
    rows = np.zeros((len(g), at["entries"], *g.shape[3:]), dtype=g.dtype)
    rows[:, : g.shape[2]] = g.sum(axis=1)
    return (rows,)


@ops.define(
    "positions",
    arrays=Rule(
        forward=lambda at: (at.x[0] + at.p[0][: at.shapes[0][1]], None),
        jvp=lambda at, dx: dx[0],
        vjp=lambda at, g: (g,),
        parameters=lambda at: ((at["entries"], *at.shapes[0][2:]),),
        parameter_jvp=lambda at, dp: np.broadcast_to(
            dp[0][:, None, : at.shapes[0][1]], (len(dp[0]), *at.node.output_shape)
        ),
        parameter_vjp=_positions_parameter_vjp,
    ),
)
def positions(
    name: str,
    x: Tensor,
    *,
    entries: Annotated[Size, Field(description="Rows of the table; 0 for as many as the sequence is long.")] = 0,
) -> Node:
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
