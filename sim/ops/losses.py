"""Rules of the ops that end in one scalar. Means are over all predictions of the batch (PyTorch's `mean` reduction)."""

from __future__ import annotations

from typing import Literal

from sim.graphs.graph import LocalJacobian, Node
from sim.ops.contractions import SOFTMAX_FLOPS
from sim.ops.core import GraphBuilder, Tensor, check_rank, fail, make_node, ops

Loss = Literal["cross_entropy", "mse", "sum", "mean", "none"]


@ops.register("cross_entropy")
def cross_entropy(name: str, logits: Tensor, labels: Tensor, *, axis: int = -1) -> Node:
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


@ops.register("mse")
def mse(name: str, x: Tensor, target: Tensor) -> Node:
    """The mean of (x − target)² over all scalars: 3 flops each, and 3 per tangent or cotangent."""
    if x.shape != target.shape:
        fail(name, f"got a target of shape {target.shape}, expected {x.shape}")
    return make_node(
        "mse", name, [x, target], (), forward_flops=3 * x.size, jacobian=LocalJacobian("dense", 2 * x.size)
    )


@ops.register("sum")
def sum_all(name: str, x: Tensor) -> Node:
    """The sum of all scalars; a VJP is a view of its cotangent and costs nothing."""
    return make_node(
        "sum", name, [x], (),
        forward_flops=x.size, jvp_flops=x.size, vjp_flops=0, needs="none",
        jacobian=LocalJacobian("constant"), vjp_broadcasts=True,
    )  # fmt: skip


@ops.register("mean")
def mean_all(name: str, x: Tensor) -> Node:
    """The mean of all scalars; PyTorch's VJP divides an expanded cotangent, which makes a whole new tensor."""
    return make_node("mean", name, [x], (), forward_flops=x.size, needs="none", jacobian=LocalJacobian("constant"))


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
