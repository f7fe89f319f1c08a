"""Op rules: a known op and its sizes to a `Node` with all costs, by documented formulas.

`apply("conv2d", name, [tensor], channels=64, kernel=3)` checks what a person wrote; the functions
here (`conv2d(name, tensor, channels=64, kernel=3)`) are for families, which know what they do. A new
rule is one registered function; `layers` and `cnn` know it at once.
"""

from __future__ import annotations

from sim.ops.contractions import (
    attention_context,
    attention_scores,
    conv2d,
    conv_transpose2d,
    embedding,
    flash_attention,
    linear,
    matmul,
    positions,
)
from sim.ops.core import GraphBuilder, Tensor, apply, arity, ops
from sim.ops.losses import Loss, add_loss, cross_entropy, mean_all, mse, sum_all
from sim.ops.norms import batch_norm, layer_norm, rms_norm, softmax
from sim.ops.pointwise import ACTIVATIONS, add, concat, dropout, gelu, mul, relu, sigmoid, silu, tanh
from sim.ops.pools import adaptive_avg_pool2d, avg_pool2d, global_avg_pool, max_pool2d, upsample

__all__ = [
    "ACTIVATIONS", "GraphBuilder", "Loss", "Tensor", "adaptive_avg_pool2d", "add", "add_loss", "apply", "arity",
    "attention_context", "attention_scores", "avg_pool2d", "batch_norm", "concat", "conv2d", "conv_transpose2d",
    "cross_entropy", "dropout", "embedding", "flash_attention", "gelu", "global_avg_pool", "layer_norm", "linear",
    "matmul", "max_pool2d", "mean_all", "mse", "mul", "ops", "positions", "relu", "rms_norm", "sigmoid", "silu",
    "softmax", "sum_all", "tanh", "upsample",
]  # fmt: skip
