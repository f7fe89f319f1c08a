"""Ops that end in one scalar: means over all predictions of the batch (PyTorch's `mean` reduction), and sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from sim.graphs.node import LocalJacobian, Node
from sim.ops.core import CONSTANT, Axis, GraphBuilder, Tensor, check_rank, fail, make_node, ops
from sim.ops.rule import Array, At, Rule
from sim.ops.softmax import SOFTMAX_FLOPS, log_softmax

Loss = Literal["cross_entropy", "mse", "sum", "mean", "none"]


def _shares(products: Array) -> Array:
    """Sums over all but width and batch: shape (width, batch)."""
    return np.asarray(products.reshape(*products.shape[:2], -1).sum(axis=-1))


def _against(g: Array, slope: Array) -> Array:
    """Scalar cotangents g, shape (width,), times a slope: shape (width, *slope)."""
    return np.multiply.outer(g, slope)


def _spread(at: At, g: Array) -> Array:
    """A view of scalar cotangents, shape (width,), as cotangents of all scalars of the input."""
    lead = np.array(g).reshape(-1, *[1] * len(at.shapes[0]))
    return np.broadcast_to(lead, (len(g), *at.shapes[0]))


def _cross_entropy_forward(at: At) -> tuple[Array, Array]:
    """The mean of −log softmax(x)[label], and the log-probabilities with the number of predictions."""
    x, labels = at.x
    logs = log_softmax(x, at["axis"])
    chosen = np.take_along_axis(logs, np.expand_dims(labels, at["axis"]), axis=at["axis"])
    return -chosen.mean(), np.append(logs.reshape(-1), np.asarray(labels.size, dtype=x.dtype))


def _cross_entropy_slope(at: At) -> Array:
    """(softmax − one-hot)/predictions, of the shape of the logits."""
    out = np.exp(at.residual[:-1].reshape(at.shapes[0]))
    labels = np.expand_dims(at.x[1], at["axis"])
    np.put_along_axis(out, labels, np.take_along_axis(out, labels, axis=at["axis"]) - 1, axis=at["axis"])
    return np.asarray(out / at.residual[-1])


@ops.define(
    "cross_entropy",
    arrays=Rule(
        forward=_cross_entropy_forward,
        jvp=lambda at, dx: _shares(_cross_entropy_slope(at) * dx[0]),
        vjp=lambda at, g: (_against(g, _cross_entropy_slope(at)), None),
        below=lambda at: at.shapes[0][at["axis"]],
        reduces=True,
    ),
    indices=1,
)
def cross_entropy(name: str, logits: Tensor, labels: Tensor, *, axis: Axis = -1) -> Node:
    """The mean of −log softmax(logits)[label] over all predictions; classes lie along `axis`.

    Forward: the flops of a softmax and one addition for each prediction. A tangent or cotangent is
    (softmax − one-hot)/predictions times it: 3 flops a scalar with the exponential. Residual: the
    output of the log-softmax and one scalar (PyTorch's `total_weight`). The derivative reads the labels.
    """
    check_rank(name, logits, at_least=2, what="(batch, …, classes)")
    rank = len(logits.shape)
    if not -rank <= axis < rank or axis % rank == 0:
        fail(name, f"classes cannot lie along axis {axis} of {logits.shape}, whose first dimension is the batch")
    axis %= rank
    expected = logits.shape[:axis] + logits.shape[axis + 1 :]
    if labels.shape != expected:
        fail(name, f"got labels of shape {labels.shape}, expected {expected} for logits of shape {logits.shape}")
    predictions = logits.size // logits.shape[axis]
    return make_node(
        "cross_entropy", name, [logits, labels], (),
        forward_flops=SOFTMAX_FLOPS * logits.size + predictions, jvp_flops=3 * logits.size, vjp_flops=3 * logits.size,
        residual_bytes=(logits.size + 1) * logits.itemsize, reads=("never", "always"),
        jacobian=LocalJacobian("dense", 3 * logits.size), axis=axis,
    )  # fmt: skip


def _mse_slope(at: At) -> Array:
    """2·(x − target)/scalars."""
    return np.asarray(2 * (at.x[0] - at.x[1]) / at.size)


def _difference(dx: Sequence[Any]) -> Array:
    """dx[0] − dx[1], where `None` stands for 0."""
    if dx[1] is None:
        return np.asarray(dx[0])
    return np.asarray(-dx[1] if dx[0] is None else dx[0] - dx[1])


@ops.define(
    "mse",
    arrays=Rule(
        forward=lambda at: (((at.x[0] - at.x[1]) ** 2).mean(), None),
        jvp=lambda at, dx: _shares(_mse_slope(at) * _difference(dx)),
        vjp=lambda at, g: (_against(g, _mse_slope(at)), _against(-g, _mse_slope(at))),
        reduces=True,
    ),
)
def mse(name: str, x: Tensor, target: Tensor) -> Node:
    """The mean of (x − target)² over all scalars: 3 flops each, and 3 per tangent or cotangent."""
    if x.shape != target.shape:
        fail(name, f"got a target of shape {target.shape}, expected {x.shape}")
    return make_node(
        "mse", name, [x, target], (), forward_flops=3 * x.size, jacobian=LocalJacobian("dense", 2 * x.size)
    )


@ops.define(
    "sum",
    arrays=Rule(
        forward=lambda at: (at.x[0].sum(), None),
        jvp=lambda at, dx: _shares(dx[0]),
        vjp=lambda at, g: (_spread(at, g),),
        reduces=True,
    ),
)
def sum_all(name: str, x: Tensor) -> Node:
    """The sum of all scalars; a VJP is a view of its cotangent and costs nothing."""
    return make_node(
        "sum", name, [x], (),
        forward_flops=x.size, jvp_flops=x.size, vjp_flops=0, needs="none",
        jacobian=CONSTANT, vjp_broadcasts=True,
    )  # fmt: skip


@ops.define(
    "mean",
    arrays=Rule(
        forward=lambda at: (at.x[0].mean(), None),
        jvp=lambda at, dx: _shares(dx[0]) / at.size,
        vjp=lambda at, g: (_spread(at, g / at.size),),
        reduces=True,
    ),
)
def mean_all(name: str, x: Tensor) -> Node:
    """The mean of all scalars; PyTorch's VJP divides an expanded cotangent, which makes a whole new tensor."""
    return make_node("mean", name, [x], (), forward_flops=x.size, needs="none", jacobian=CONSTANT)


def add_loss(builder: GraphBuilder, x: Tensor, loss: Loss, *, axis: int = -1) -> Tensor:
    """The tensor of the node `loss` that reads `x`, or `x` itself for `none`.

    `cross_entropy` adds the int64 graph input `labels`, `mse` the graph input `target`; nothing is
    differentiated by either.
    """
    if loss == "none":
        return x
    if loss == "cross_entropy":
        axis %= len(x.shape)
        labels = builder.input("labels", x.shape[:axis] + x.shape[axis + 1 :], "int64")
        return builder.add(cross_entropy("loss", x, labels, axis=axis))
    if loss == "mse":
        return builder.add(mse("loss", x, builder.input("target", x.shape, x.dtype, constant=True)))
    return builder.add(sum_all("loss", x) if loss == "sum" else mean_all("loss", x))
