"""Rules of softmax and of the normalizations: a few flops for each scalar, statistics as residuals.

Flops for each scalar, by counting the formulas: normalizations 5 forward (sum, square and sum,
scale, shift: the count of ELECTRA's flops_computation.py), 8 per tangent or cotangent with the two
reductions of the derivative, 3 for the gradients of scale and shift. Statistics are kept in float32
at least, as PyTorch does for shorter types.
"""

from __future__ import annotations

from sim.graphs.graph import LocalJacobian, Node
from sim.ops.contractions import SOFTMAX_DERIVATIVE_FLOPS, SOFTMAX_FLOPS
from sim.ops.core import Tensor, check_rank, make_node, ops

NORM_FLOPS = 5
NORM_DERIVATIVE_FLOPS = 8
NORM_GRADIENT_FLOPS = 3


@ops.register("softmax")
def softmax(name: str, x: Tensor, *, causal: bool = False) -> Node:
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


@ops.register("layer_norm")
def layer_norm(name: str, x: Tensor) -> Node:
    """Layer normalization of the last dimension with scale and shift; saves mean and 1/σ of each row."""
    return _row_norm("layer_norm", name, x, statistics=2, parameters=2)


@ops.register("rms_norm")
def rms_norm(name: str, x: Tensor) -> Node:
    """Root-mean-square normalization of the last dimension with a scale; saves 1/rms of each row."""
    return _row_norm("rms_norm", name, x, statistics=1, parameters=1)


def _row_norm(op: str, name: str, x: Tensor, *, statistics: int, parameters: int) -> Node:
    check_rank(name, x, at_least=2, what="(batch, …, features)")
    features = x.shape[-1]
    return make_node(
        op, name, [x], x.shape,
        forward_flops=NORM_FLOPS * x.size, jvp_flops=NORM_DERIVATIVE_FLOPS * x.size,
        vjp_flops=NORM_DERIVATIVE_FLOPS * x.size, param_vjp_flops=NORM_GRADIENT_FLOPS * x.size,
        param_size=parameters * features, residual_bytes=statistics * (x.size // features) * max(4, x.itemsize),
        jacobian=LocalJacobian("dense", 3 * x.size * features),
    )  # fmt: skip


@ops.register("batch_norm")
def batch_norm(name: str, x: Tensor) -> Node:
    """Batch normalization of each channel (dimension 1) with scale and shift; saves mean and 1/σ of each channel.

    In training the statistics couple the samples of a batch: JVP and VJP include that, while the
    accumulated Jacobian of a sample takes them for constants (then it is diagonal, one factor for
    each channel). Running averages are buffers, not parameters, and are not counted.
    """
    check_rank(name, x, at_least=2, what="(batch, channels, …)")
    channels = x.shape[1]
    return make_node(
        "batch_norm", name, [x], x.shape,
        forward_flops=NORM_FLOPS * x.size, jvp_flops=NORM_DERIVATIVE_FLOPS * x.size,
        vjp_flops=NORM_DERIVATIVE_FLOPS * x.size, param_vjp_flops=NORM_GRADIENT_FLOPS * x.size,
        param_size=2 * channels, residual_bytes=2 * channels * max(4, x.itemsize),
        jacobian=LocalJacobian("diagonal", channels),
    )  # fmt: skip
