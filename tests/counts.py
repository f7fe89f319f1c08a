"""Counts of a graph as papers and frameworks publish them: bytes saved for backward, flops of matrix products."""

from __future__ import annotations

import math

import numpy as np

from sim.graphs.graph import Graph
from sim.graphs.node import Node

CONTRACTIONS = frozenset(
    {
        "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "matmul",
        "attention_scores", "attention_context", "expert_linear", "flash_attention",
    }
)  # fmt: skip
"""Ops whose flops frameworks count; PyTorch's FlopCounterMode leaves out all others."""


def saved_bytes(graph: Graph, *, inputs: bool = True) -> int:
    """Bytes that a full store keeps between the forward and the adjoint sweep.

    Counted once each: every activation that the derivative of an active node reads (what `needs`
    and `reads` say), and the residual of every active node. Graph inputs that are read count too, because a
    framework holds on to them, unless `inputs` is false. Parameters and running averages of batch
    normalizations do not count.
    """
    m, c = len(graph.inputs), graph.columns
    active = graph.active[m:]
    read = np.zeros(m + len(graph), dtype=np.bool_)
    read[c.input_index[graph.derivative_reads]] = True
    read[m:] |= active & ((c.needs & 2) > 0)
    if not inputs:
        read[:m] = False
    sizes = np.concatenate([np.array(graph.input_bytes, dtype=np.int64), c.activation_bytes])
    return int(sizes[read].sum()) + int(np.maximum(c.residual_bytes[active], 0).sum())


def contraction_flops(graph: Graph) -> int:
    """Flops of one forward sweep in convolutions, linear layers and other matrix products, without biases.

    Half of it is the multiply-adds that papers give. The softmax inside fused attention is left out.
    """
    return sum(_products(node) for node in graph.nodes if node.op in CONTRACTIONS)


def _products(node: Node) -> int:
    if node.op == "flash_attention":
        batch, sequence, hidden = node.output_shape
        return 4 * batch * sequence * node.attributes["input_shapes"][1][1] * hidden
    bias = math.prod(node.output_shape) if node.attributes.get("bias") else 0
    return node.forward_flops - bias
