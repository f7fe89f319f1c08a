"""Products with weights and of activations, and rows of tables."""

from __future__ import annotations

from dataclasses import replace

from sim import ops
from sim.graphs.node import FLOATS, Node
from sim.models.onnx.call import ALL, BOTH, Attributes, Call, Constant, Refused, copied, operator, reads_of, rows
from sim.ops.core import Tensor, fail


def _runs_gemm(call: Call) -> Attributes:
    attributes = call.attributes
    scaled = attributes.get("alpha", 1.0) != 1 or (call.has(2) and attributes.get("beta", 1.0) != 1)
    if attributes.get("transA", 0) or scaled:
        raise Refused("its first factor is transposed or scaled")
    if len(call.data) > 1:
        if call.has(2) or not all(isinstance(t, Tensor) for t in call.operands[:2]):
            raise Refused("it adds a third operand to a product of activations")
        return {"transpose_b": bool(attributes.get("transB", 0))}
    bias = call.operands[2] if call.has(2) else None
    if not isinstance(call.operands[0], Tensor) or (isinstance(bias, Constant) and bias.size != call.shape[1]):
        raise Refused("its weight comes first, or its bias is broadcast")
    return {}


@operator("Gemm", weights=ALL, runs=_runs_gemm)
def gemm(call: Call) -> Node:
    """Gemm: linear where the second operand is a weight, else a product of activations."""
    a, b = call.operands[:2]
    if isinstance(a, Tensor) and isinstance(b, Constant):
        x = rows(a, a.size // call.shape[0])
        return ops.linear(call.name, x, features=call.shape[1], bias=call.has(2))
    return _product(call, inner=_inner(call, transposed=bool(call.attributes.get("transA"))))


def _runs_matmul(call: Call) -> Attributes:
    a, b = call.operands
    with_weight = isinstance(b, Constant) and len(b.shape) == 2
    with_activation = isinstance(b, Tensor) and isinstance(a, Tensor) and a.shape[:-2] == b.shape[:-2]
    if isinstance(a, Tensor) and len(a.shape) > 1 and (with_weight or with_activation):
        return {}
    raise Refused("its weight comes first, or its batch is broadcast")


@operator("MatMul", weights=BOTH, runs=_runs_matmul)
def matmul(call: Call) -> Node:
    """MatMul: linear where an operand is a weight, else a product of activations; the batch may be broadcast."""
    return _product(call, inner=_inner(call, transposed=False))


def _inner(call: Call, *, transposed: bool) -> int:
    """The length of the dimension that is summed over."""
    first = call.operands[0]
    assert first is not None
    return first.shape[-2 if transposed else -1]


def _product(call: Call, *, inner: int) -> Node:
    """2·size·inner flops; as linear with one activation, as matmul with two."""
    if len(call.data) == 1:
        x = rows(call.x, inner)
        if call.size * inner % x.size:
            fail(call.name, f"cannot multiply {call.x.shape} by a weight to give {call.shape}")
        return ops.linear(call.name, x, features=call.size * inner // x.size, bias=False)
    a, b = call.data[:2]
    n = call.shape[-1] if len(b.shape) > 1 else 1
    return ops.matmul(call.name, replace(a, shape=(1, call.size // n, inner)), replace(b, shape=(1, inner, n)))


def _runs_gather(call: Call) -> Attributes:
    table = call.operands[0]
    if not isinstance(table, Constant) or len(table.shape) != 2 or call.attributes.get("axis", 0):
        raise Refused("it picks something else than rows of a table of weights")
    return {}


@operator("Gather", weights=(0,), runs=_runs_gather)
def gather(call: Call) -> Node | None:
    """Gather: rows of a table of weights, a view where one place is picked, else a copy of what is picked.

    The derivative reads the places.
    """
    table = call.operands[0]
    if isinstance(table, Constant):
        axis = call.attributes.get("axis", 0)
        entries = table.shape[axis]
        dtype = table.dtype if table.dtype in FLOATS else "float32"
        return ops.embedding(call.name, call.x, entries=entries, features=table.size // entries, dtype=dtype)  # type: ignore[arg-type]
    picked = call.operands[1]
    if isinstance(picked, Constant) and picked.size == 1:
        return None
    node = replace(copied(call), vjp_flops=call.size)
    if isinstance(picked, Constant):
        return node
    return replace(node, needs="input", reads=reads_of(call, ("never", "always")))
