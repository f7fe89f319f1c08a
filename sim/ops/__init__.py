"""All that is known of one op: its cost rule and its array rule, side by side under one name.

A cost rule makes of a name, tensors and sizes a `Node` with all costs, by documented formulas; an array
rule says how NumPy evaluates and differentiates the op (see `sim.ops.rule`). `ops["softmax"]` knows
both. `apply("conv2d", name, [tensor], channels=64, kernel=3)` checks what a person wrote; the functions
here (`conv2d(name, tensor, channels=64, kernel=3)`) are for families, which know what they do. To add
an op, write a decorated function in a file of this room: `layers` and `cnn`, execution and the tests
over all ops pick it up.

Imports `base` and `graphs`. `core` has what cost rules are made with, `rule` what array rules are;
`norms`, `softmax`, `pointwise`, `convolutions` and `pools` also have flops and array rules that importers share.
"""

from __future__ import annotations

import importlib
import pkgutil

from sim.ops.attention import attention_context, attention_scores, flash_attention
from sim.ops.contractions import embedding, linear, matmul, positions
from sim.ops.convolutions import conv2d, conv_transpose2d
from sim.ops.core import GraphBuilder, Tensor, apply, ops, rule_of
from sim.ops.experts import expert_combine, expert_dispatch, expert_linear
from sim.ops.losses import Loss, add_loss, cross_entropy, mean_all, mse, sum_all
from sim.ops.norms import batch_norm, layer_norm, rms_norm
from sim.ops.pointwise import ACTIVATIONS, add, concat, dropout, gelu, mul, relu, sigmoid, silu, tanh
from sim.ops.pools import adaptive_avg_pool2d, avg_pool2d, global_avg_pool, max_pool2d, upsample
from sim.ops.rotary import rope
from sim.ops.softmax import softmax

__all__ = [
    "ACTIVATIONS", "GraphBuilder", "Loss", "Tensor", "adaptive_avg_pool2d", "add", "add_loss", "apply",
    "attention_context", "attention_scores", "avg_pool2d", "batch_norm", "concat", "conv2d",
    "conv_transpose2d", "convolutions", "core", "cross_entropy", "dropout", "embedding", "expert_combine",
    "expert_dispatch", "expert_linear", "experts", "flash_attention",
    "gelu", "global_avg_pool", "layer_norm", "linear", "matmul", "max_pool2d", "mean_all", "mse", "mul",
    "norms", "ops", "pointwise", "pools", "positions", "relu", "rms_norm", "rope", "rule", "rule_of", "sigmoid",
    "silu", "softmax", "sum_all", "tanh", "upsample",
]  # fmt: skip

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
