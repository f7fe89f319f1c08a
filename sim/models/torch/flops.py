"""Flops of the calls below autograd: products of matrices by formula, everything else by scalars touched.

The conventions are those of `sim.ops`: a multiply-add is 2 flops, a bias 1 for each output
scalar, a reduction 1 for each scalar read, normalizations and softmax a few for each scalar, views,
copies and new tensors none, everything else 1 for each output scalar.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import Node
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from sim.models.torch.tensors import tensors_of
from sim.ops.norms import NORM_DERIVATIVE_FLOPS, NORM_FLOPS, NORM_GRADIENT_FLOPS
from sim.ops.softmax import SOFTMAX_DERIVATIVE_FLOPS, SOFTMAX_FLOPS

FREE = frozenset(
    {
        "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "zeros", "zeros_like", "new_zeros",
        "ones", "ones_like", "new_ones", "full", "full_like", "new_full", "scalar_tensor", "arange", "clone", "copy_",
        "copy", "cat", "stack", "_to_copy", "contiguous", "embedding", "index_select", "gather", "index",
        "slice_backward", "select_backward", "zero_", "fill_", "zero", "fill", "lift_fresh_copy", "constant_pad_nd",
        "tril", "triu", "repeat", "flip", "roll", "upsample_nearest2d", "_reshape_copy", "bernoulli_", "bernoulli",
    }
)  # fmt: skip
REDUCTIONS = frozenset(
    {"sum", "mean", "amax", "amin", "max", "min", "prod", "norm", "var", "std", "argmax", "any", "all"}
)
PER_SCALAR: Mapping[str, int] = {
    "_softmax": SOFTMAX_FLOPS,
    "_log_softmax": SOFTMAX_FLOPS,
    "_softmax_backward_data": SOFTMAX_DERIVATIVE_FLOPS,
    "_log_softmax_backward_data": SOFTMAX_DERIVATIVE_FLOPS,
    "native_layer_norm": NORM_FLOPS,
    "native_group_norm": NORM_FLOPS,
    "native_batch_norm": NORM_FLOPS,
    "cudnn_batch_norm": NORM_FLOPS,
    "_fused_rms_norm": NORM_FLOPS,
    "native_layer_norm_backward": NORM_DERIVATIVE_FLOPS + NORM_GRADIENT_FLOPS,
    "native_group_norm_backward": NORM_DERIVATIVE_FLOPS + NORM_GRADIENT_FLOPS,
    "native_batch_norm_backward": NORM_DERIVATIVE_FLOPS + NORM_GRADIENT_FLOPS,
    "cudnn_batch_norm_backward": NORM_DERIVATIVE_FLOPS + NORM_GRADIENT_FLOPS,
    "_fused_rms_norm_backward": NORM_DERIVATIVE_FLOPS + NORM_GRADIENT_FLOPS,
}
"""Flops for each scalar of the first tensor."""


def contraction_flops(node: Node) -> int:
    """Flops in products of matrices, as PyTorch's FlopCounterMode counts them, with attention on the CPU."""
    name = _name(node)
    if name in ATTENTION:
        start = _first_operand(node.target)
        return ATTENTION[name](*(tensors_of(n)[0].shape for n in node.args[start : start + 3]))
    formula = flop_registry.get(getattr(node.target, "overloadpacket", None))
    if formula is None:
        return 0
    args, kwargs = torch.fx.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
    return int(formula(*args, **kwargs, out_val=node.meta["val"]))


def counter() -> FlopCounterMode:
    """PyTorch's counter of the flops of matrix products, which knows attention on the CPU too."""
    names = {name: getattr(torch.ops.aten, name) for name in ATTENTION}
    return FlopCounterMode(display=False, custom_mapping={op: _counted(name) for name, op in names.items()})


def flops(node: Node) -> int:
    """Flops of a recorded call."""
    products = contraction_flops(node)
    if products:
        return products + _bias(node)
    out = tensors_of(node)
    name = _name(node)
    if not out or name in FREE or _is_view(node):
        return 0
    read = [t for n in node.all_input_nodes for t in tensors_of(n)]
    if name in PER_SCALAR:
        return PER_SCALAR[name] * int(out[0].numel() if "norm_backward" not in name else read[0].numel())
    if name in REDUCTIONS and read:
        return int(read[0].numel())
    return int(out[0].numel())


def _name(node: Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return schema.name.partition("::")[2] if schema is not None else ""


def _is_view(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is None or any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)


def _bias(node: Node) -> int:
    """One flop for each output scalar where a bias is added, or its gradient summed."""
    name, out = _name(node), tensors_of(node)
    if name == "addmm" or (name == "convolution" and node.args[2] is not None):
        return int(out[0].numel())
    if name == "convolution_backward" and node.args[-1][2]:
        return int(tensors_of(node.args[0])[0].numel())
    return 0


def _attention(products: int) -> Callable[[Any, Any, Any], int]:
    def count(query: Any, key: Any, v: Any) -> int:
        *lead, rows, size = query
        scores = math.prod(lead) * rows * key[-2]
        sizes = size + v[-1] if products == 2 else 3 * size + 2 * v[-1]
        return int(2 * scores * sizes)

    return count


def _counted(name: str) -> Callable[..., int]:
    """A formula as PyTorch's counter calls it: with shapes in place of tensors."""
    start = _first_operand(getattr(torch.ops.aten, name).default)
    return lambda *shapes, out_shape=None, **_: ATTENTION[name](*shapes[start : start + 3])


def _first_operand(call: Any) -> int:
    """The place of attention's query among the arguments of a call."""
    return [a.name for a in call._schema.arguments].index("query")


ATTENTION: Mapping[str, Callable[[Any, Any, Any], int]] = {
    "_scaled_dot_product_flash_attention_for_cpu": _attention(2),
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention(5),
}
"""Fused attention on the CPU, which FlopCounterMode takes for nothing: 2 products forward, 5 backward."""
