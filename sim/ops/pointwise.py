"""Ops that work scalar by scalar: 1 flop for each output scalar, by convention.

That is one to evaluate, one for each tangent or cotangent, and one to form the (diagonal) Jacobian,
also where the function is transcendental. Such flops are a small share of any network; memory
traffic, not arithmetic, is what these ops cost. What the derivative reads is what PyTorch saves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from sim.graphs.node import LocalJacobian, Needs, Node
from sim.ops.core import CONSTANT, FACTORS, Axis, Tensor, fail, make_node, ops
from sim.ops.rule import Array, At, Rule, bilinear, pointwise, selfadjoint, total

erf = np.vectorize(math.erf, otypes=[np.float64])  # NumPy has none


def _normal_distribution(x: Array) -> Array:
    """Φ(x), in the dtype of x."""
    return np.asarray(0.5 * (1.0 + erf(x / math.sqrt(2.0))), dtype=x.dtype)


def _gelu_derivative(at: At) -> Array:
    x = at.x[0]
    return np.asarray(_normal_distribution(x) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi), dtype=x.dtype)


def _silu_derivative(at: At) -> Array:
    x = at.x[0]
    s = 1 / (1 + np.exp(-x))
    return np.asarray(s * (1 + x * (1 - s)))


def _function(
    op: str, needs: Needs, value: Callable[[Array], Array], derivative: Callable[[At], Array]
) -> Callable[[str, Tensor], Node]:
    """The op y = f(x) of each scalar, by f and f' (see `rule.pointwise`)."""

    def cost(name: str, x: Tensor) -> Node:
        return make_node(
            op, name, [x], x.shape, forward_flops=x.size, needs=needs, jacobian=LocalJacobian("diagonal", x.size)
        )

    cost.__doc__ = f"{op} of each scalar; its derivative reads the {needs}."
    return ops.define(op, arrays=pointwise(value, derivative))(cost)


# fmt: off
relu    = _function("relu",    "output", lambda x: np.maximum(x, 0),             lambda at: at.y > 0)
tanh    = _function("tanh",    "output", np.tanh,                                lambda at: 1 - at.y * at.y)
sigmoid = _function("sigmoid", "output", lambda x: 1 / (1 + np.exp(-x)),         lambda at: at.y * (1 - at.y))
gelu    = _function("gelu",    "input",  lambda x: x * _normal_distribution(x),  _gelu_derivative)
silu    = _function("silu",    "input",  lambda x: x / (1 + np.exp(-x)),         _silu_derivative)
# fmt: on
ACTIVATIONS = {"relu": relu, "tanh": tanh, "sigmoid": sigmoid, "gelu": gelu, "silu": silu}


def _present(dx: Any) -> list[Array]:
    return [d for d in dx if d is not None]


@ops.define(
    "add",
    arrays=Rule(
        forward=lambda at: (total(at.x), None),
        jvp=lambda at, dx: total(_present(dx)),
        vjp=lambda at, g: (g,) * len(at.shapes),
    ),
)
def add(name: str, x: Tensor, y: Tensor, *others: Tensor) -> Node:
    """The sum of equal shapes: one flop a scalar for each input but the first; the derivative reads nothing."""
    inputs = [x, y, *others]
    _check_equal(name, "add", inputs)
    work = (len(inputs) - 1) * x.size
    return make_node(
        "add", name, inputs, x.shape,
        forward_flops=work, jvp_flops=work, vjp_flops=0, needs="none", jacobian=LocalJacobian("diagonal"),
    )  # fmt: skip


@ops.define("mul", arrays=bilinear(lambda at, a, b: a * b, lambda at, g, b: g * b, lambda at, g, a: g * a))
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


def _joined_tangents(at: At, dx: Any) -> Array:
    width, dtype = len(_present(dx)[0]), at.node.dtype
    parts = [np.zeros((width, *s), dtype) if d is None else d for d, s in zip(dx, at.shapes, strict=True)]
    return np.concatenate(parts, axis=at["axis"] + 1)


def _parted(at: At, g: Array) -> list[Array]:
    return np.split(g, np.cumsum([s[at["axis"]] for s in at.shapes])[:-1].tolist(), axis=at["axis"] + 1)


@ops.define(
    "concat",
    arrays=Rule(
        forward=lambda at: (np.concatenate(at.x, axis=at["axis"]), None),
        jvp=_joined_tangents,
        vjp=_parted,
    ),
)
def concat(name: str, x: Tensor, y: Tensor, *others: Tensor, axis: Axis = 1) -> Node:
    """The inputs one after another along `axis`: a copy, no flops; the derivative reads nothing."""
    inputs = [x, y, *others]
    rank = len(x.shape)
    if not -rank <= axis < rank or axis % rank == 0:
        fail(name, f"cannot concatenate along axis {axis} of {x.shape}, whose first dimension is the batch")
    axis %= rank
    if any(len(i.shape) != rank or _without(i.shape, axis) != _without(x.shape, axis) for i in inputs):
        fail(name, f"cannot concatenate {' and '.join(str(i.shape) for i in inputs)} along axis {axis}")
    shape = (*x.shape[:axis], sum(i.shape[axis] for i in inputs), *x.shape[axis + 1 :])
    return make_node("concat", name, inputs, shape, forward_flops=0, needs="none", jacobian=CONSTANT, axis=axis)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _mask(at: At) -> tuple[Array, Array]:
    """Dropout with the mask of this node and seed: a recomputation draws the same one."""
    mask = np.random.default_rng(at.seed).random(at.shapes[0]) >= at["rate"]
    return at.x[0] * mask / (1 - at["rate"]), mask


@ops.define("dropout", arrays=selfadjoint(_mask, lambda at, v: v * at.residual / (1 - at["rate"])))
def dropout(
    name: str,
    x: Tensor,
    *,
    rate: Annotated[float, Field(ge=0, lt=1, description="Share of the scalars set to zero.")] = 0.5,
) -> Node:
    """x times a random mask over 1 − rate; the mask is a residual of one byte a scalar (native_dropout's bool)."""
    return make_node(
        "dropout", name, [x], x.shape,
        forward_flops=x.size, residual_bytes=math.prod(x.shape), needs="none",
        jacobian=LocalJacobian("diagonal", x.size), rate=rate,
    )  # fmt: skip
