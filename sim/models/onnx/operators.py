"""The table of ONNX operators: which rule makes a node of each, and which of its constants are parameters.

To add an operator, add a line to `RULES`: a rule of `onnx_layers` or `onnx_scalars`, or a function of
your own that takes a `Call` and gives a `Node`, and the positions of the operands that are parameters
where they are constants. What the derivative reads is what PyTorch saves for the same function. An
operator that only names its input anew is a `view`, which costs nothing. `onnx_execution` says how to
execute it.
"""

from __future__ import annotations

from collections.abc import Mapping

from sim import ops
from sim.models.onnx.call import Rule, copied, reshaped, same, view
from sim.models.onnx.layers import (
    average_pool,
    batch_norm,
    conv,
    conv_transpose,
    dropout,
    embedding,
    gemm,
    global_max_pool,
    layer_norm,
    local_response_norm,
    log_softmax,
    matmul,
    max_pool,
    rms_norm,
    row_norm,
    softmax,
)
from sim.models.onnx.scalars import (
    add,
    binary,
    cast,
    comparison,
    concat,
    mul,
    pointwise,
    reduction,
    resize,
    transpose,
    where,
)

BOTH = (0, 1)
AFFINE = (1, 2)
ALL = None

RULES: Mapping[str, Rule] = {
    # products with weights, or of two activations
    "Conv": Rule(conv, AFFINE),
    "ConvTranspose": Rule(conv_transpose, AFFINE),
    "Gemm": Rule(gemm, ALL),
    "MatMul": Rule(matmul, BOTH),
    "Gather": Rule(embedding, (0,)),
    # normalizations; running averages are constants, not parameters
    "BatchNormalization": Rule(batch_norm, AFFINE),
    "InstanceNormalization": Rule(row_norm(lambda c: c.x.shape[0] * c.x.shape[1]), AFFINE),
    "GroupNormalization": Rule(row_norm(lambda c: c.x.shape[0] * c.attributes["num_groups"]), AFFINE),
    "LayerNormalization": Rule(layer_norm, AFFINE),
    "RMSNormalization": Rule(rms_norm, (1,)),
    "LRN": Rule(local_response_norm),
    "Softmax": Rule(softmax),
    "LogSoftmax": Rule(log_softmax),
    "Dropout": Rule(dropout),
    # pooling and resizing
    "MaxPool": Rule(max_pool),
    "AveragePool": Rule(average_pool),
    "GlobalAveragePool": Rule(same(ops.global_avg_pool)),
    "GlobalMaxPool": Rule(global_max_pool),
    "Resize": Rule(resize),
    "Upsample": Rule(resize),
    # one scalar from one: what the derivative reads
    "Relu": Rule(same(ops.relu)),
    "Sigmoid": Rule(same(ops.sigmoid)),
    "Tanh": Rule(same(ops.tanh)),
    "Gelu": Rule(same(ops.gelu)),
    "Swish": Rule(same(ops.silu)),
    "Exp": Rule(pointwise("output")),
    "Sqrt": Rule(pointwise("output")),
    "Reciprocal": Rule(pointwise("output")),
    "Tan": Rule(pointwise("output")),
    "Log": Rule(pointwise("input")),
    "Abs": Rule(pointwise("input")),
    "Erf": Rule(pointwise("input")),
    "Sin": Rule(pointwise("input")),
    "Cos": Rule(pointwise("input")),
    "Atan": Rule(pointwise("input")),
    "Clip": Rule(pointwise("input")),
    "LeakyRelu": Rule(pointwise("input")),
    "Elu": Rule(pointwise("input")),
    "Celu": Rule(pointwise("input")),
    "Selu": Rule(pointwise("input")),
    "Mish": Rule(pointwise("input")),
    "Softplus": Rule(pointwise("input")),
    "HardSigmoid": Rule(pointwise("input")),
    "HardSwish": Rule(pointwise("input")),
    "ThresholdedRelu": Rule(pointwise("input")),
    "Neg": Rule(pointwise("none")),
    "Floor": Rule(pointwise("none", derivative_flops=0)),
    "Ceil": Rule(pointwise("none", derivative_flops=0)),
    "Round": Rule(pointwise("none", derivative_flops=0)),
    "Sign": Rule(pointwise("none", derivative_flops=0)),
    "Not": Rule(comparison),
    "Cast": Rule(cast),
    # one scalar from several: what the derivative reads, and its flops for each scalar (tangent, cotangent)
    "Add": Rule(add, BOTH),
    "Sum": Rule(add, ALL),
    "Sub": Rule(binary("none", jvp=1, vjp=1), BOTH),
    "Mul": Rule(mul, BOTH),
    "Div": Rule(
        binary("input", jvp=3, vjp=4, reads=("others", "always")), BOTH
    ),  # (dx − z·dy)/y; g/y and −(g/y)·z with z = x/y
    "Pow": Rule(binary("input", jvp=3, vjp=3)),  # c·x^(c − 1), by the tangent or cotangent
    "Max": Rule(binary("input", jvp=1, vjp=2)),
    "Min": Rule(binary("input", jvp=1, vjp=2)),
    "PRelu": Rule(binary("input", jvp=1, vjp=1), (1,)),
    "Where": Rule(where),
    "Equal": Rule(comparison),
    "Greater": Rule(comparison),
    "GreaterOrEqual": Rule(comparison),
    "Less": Rule(comparison),
    "LessOrEqual": Rule(comparison),
    "And": Rule(comparison),
    "Or": Rule(comparison),
    "IsNaN": Rule(comparison),
    # several scalars to one: what the derivative reads, and its flops for each scalar read
    "ReduceMean": Rule(reduction("none", flops=1, derivative_flops=1)),
    "ReduceSum": Rule(reduction("none", flops=1, derivative_flops=0)),
    "ReduceSumSquare": Rule(reduction("input", flops=2, derivative_flops=2)),
    "ReduceL2": Rule(reduction("both", flops=2, derivative_flops=2)),
    "ReduceMax": Rule(reduction("both", flops=1, derivative_flops=2)),
    "ReduceMin": Rule(reduction("both", flops=1, derivative_flops=2)),
    "ArgMax": Rule(comparison),
    # moved without arithmetic: copies, and views that own no memory
    "Concat": Rule(concat),
    "Transpose": Rule(transpose),
    "Pad": Rule(copied),
    "Tile": Rule(copied),
    "DepthToSpace": Rule(copied),
    "SpaceToDepth": Rule(copied),
    "Reshape": Rule(reshaped),
    "Flatten": Rule(reshaped),
    "Squeeze": Rule(reshaped),
    "Unsqueeze": Rule(reshaped),
    "Identity": Rule(reshaped),
    "Expand": Rule(view),
    "Slice": Rule(view),
    "Split": Rule(view),
}

STATIC = frozenset({"Shape", "Size"})
"""What these say of a tensor is known without computing it."""

CONTROL_FLOW: Mapping[str, str] = {
    "If": "which branch runs depends on values",
    "Loop": "how often it runs depends on values",
    "Scan": "its body is a graph of its own",
}
"""Operators that are refused, and why."""
