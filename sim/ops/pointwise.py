"""Rules of the ops that work scalar by scalar: 1 flop for each output scalar, by convention.

That is one to evaluate, one for each tangent or cotangent, and one to form the (diagonal) Jacobian,
also where the function is transcendental. Such flops are a small share of any network; memory
traffic, not arithmetic, is what these ops cost. What the derivative reads is what PyTorch saves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from sim.graphs.graph import LocalJacobian, Needs, Node
from sim.ops.core import FACTORS, Tensor, fail, make_node, ops


def _pointwise(op: str, *, needs: Needs) -> Callable[[str, Tensor], Node]:
    def rule(name: str, x: Tensor) -> Node:
        return make_node(
            op, name, [x], x.shape, forward_flops=x.size, needs=needs, jacobian=LocalJacobian("diagonal", x.size)
        )

    rule.__doc__ = f"{op} of each scalar; its derivative reads the {needs}."
    return ops.register(op)(rule)


relu = _pointwise("relu", needs="output")
tanh = _pointwise("tanh", needs="output")
sigmoid = _pointwise("sigmoid", needs="output")
gelu = _pointwise("gelu", needs="input")
silu = _pointwise("silu", needs="input")

ACTIVATIONS = {"relu": relu, "tanh": tanh, "sigmoid": sigmoid, "gelu": gelu, "silu": silu}


@ops.register("add")
def add(name: str, x: Tensor, y: Tensor, *others: Tensor) -> Node:
    """The sum of equal shapes: one flop a scalar for each input but the first; the derivative reads nothing."""
    inputs = [x, y, *others]
    _check_equal(name, "add", inputs)
    work = (len(inputs) - 1) * x.size
    return make_node(
        "add", name, inputs, x.shape,
        forward_flops=work, jvp_flops=work, vjp_flops=0, needs="none", jacobian=LocalJacobian("diagonal"),
    )  # fmt: skip


@ops.register("mul")
def mul(name: str, x: Tensor, y: Tensor) -> Node:
    """The product of two equal shapes: 1 flop a scalar, 3 per tangent (dx·y + x·dy), 2 per cotangent.

    Each factor is read for the derivative by the other.
    """
    _check_equal(name, "multiply", [x, y])
    return make_node(
        "mul", name, [x, y], x.shape,
        forward_flops=x.size, jvp_flops=3 * x.size, vjp_flops=2 * x.size, reads=FACTORS,
        jacobian=LocalJacobian("diagonal"),
    )  # fmt: skip


def _check_equal(name: str, verb: str, inputs: list[Tensor]) -> None:
    if any(i.shape != inputs[0].shape for i in inputs):
        fail(name, f"cannot {verb} shapes {' and '.join(str(i.shape) for i in inputs)}")


@ops.register("concat")
def concat(name: str, x: Tensor, y: Tensor, *others: Tensor, axis: int = 1) -> Node:
    """The inputs one after another along `axis`: a copy, no flops; the derivative reads nothing."""
    inputs = [x, y, *others]
    rank = len(x.shape)
    if not -rank <= axis < rank or axis % rank == 0:
        fail(name, f"cannot concatenate along axis {axis} of {x.shape}, whose first dimension is the batch")
    axis %= rank
    if any(len(i.shape) != rank or _without(i.shape, axis) != _without(x.shape, axis) for i in inputs):
        fail(name, f"cannot concatenate {' and '.join(str(i.shape) for i in inputs)} along axis {axis}")
    shape = (*x.shape[:axis], sum(i.shape[axis] for i in inputs), *x.shape[axis + 1 :])
    return make_node(
        "concat", name, inputs, shape, forward_flops=0, needs="none", jacobian=LocalJacobian("constant"), axis=axis
    )


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


@ops.register("dropout")
def dropout(name: str, x: Tensor, *, rate: Annotated[float, Field(ge=0, lt=1)] = 0.5) -> Node:
    """x times a random mask over 1 − rate; the mask is a residual of one byte a scalar (native_dropout's bool)."""
    return make_node(
        "dropout", name, [x], x.shape,
        forward_flops=x.size, residual_bytes=math.prod(x.shape), needs="none",
        jacobian=LocalJacobian("diagonal", x.size), rate=rate,
    )  # fmt: skip
