"""Functions of one scalar: what the derivative reads, and how arrays run them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sim import ops
from sim.graphs.node import LocalJacobian, Needs, Node
from sim.models.onnx.call import Attributes, Call, Refused, comparison, copied, operator, own, runs, same
from sim.ops.core import make_node
from sim.ops.pointwise import erf
from sim.ops.rule import Array, At, Rule, pointwise


def _function(
    op: str, needs: Needs, arrays: Rule | None = None, *, derivative_flops: int = 1, **defaults: float
) -> None:
    """Register a function: 1 flop by convention, `derivative_flops` for each scalar of a tangent or cotangent.

    `defaults` are those of the attributes that its array rule reads.
    """

    @operator(op, runs=None if arrays is None else runs(arrays, **defaults))
    def make(call: Call) -> Node:
        work = derivative_flops * call.size
        return make_node(
            call.word, call.name, [call.x], call.shape, forward_flops=call.size, jvp_flops=work, vjp_flops=work,
            needs=needs, jacobian=LocalJacobian("diagonal", call.size),
        )  # fmt: skip


def _leaky(at: At, x: Array, v: Array) -> Array:
    return np.where(x > 0, v, at["alpha"] * v)


# fmt: off
_function("Exp",      "output", pointwise(np.exp,      lambda at: at.y))
_function("Abs",      "input",  pointwise(np.abs,      lambda at: np.sign(at.x[0])))
_function("Sin",      "input",  pointwise(np.sin,      lambda at: np.cos(at.x[0])))
_function("Cos",      "input",  pointwise(np.cos,      lambda at: -np.sin(at.x[0])))
_function("Atan",     "input",  pointwise(np.arctan,   lambda at: 1 / (1 + at.x[0] ** 2)))
_function("Neg",      "none",   pointwise(np.negative, lambda at: np.asarray(-1)))
_function("Erf",      "input",  pointwise(
    lambda x: erf(x).astype(x.dtype), lambda at: 2 / math.sqrt(math.pi) * np.exp(-at.x[0] ** 2)
))
_function("Softplus", "input",  pointwise(
    lambda x: np.logaddexp(x, x.dtype.type(0)), lambda at: 1 / (1 + np.exp(-at.x[0]))
))
# fmt: on
_function(
    "LeakyRelu",
    "input",
    Rule(
        forward=lambda at: (_leaky(at, at.x[0], at.x[0]), None),
        jvp=lambda at, dx: _leaky(at, at.x[0], dx[0]),
        vjp=lambda at, g: (_leaky(at, at.x[0], g),),
    ),
    alpha=0.01,
)
for _op in ("Sqrt", "Reciprocal", "Tan"):
    _function(_op, "output")
for _op in (
    "Log", "Clip", "Elu", "Celu", "Selu", "Mish", "HardSigmoid", "HardSwish", "ThresholdedRelu",
):  # fmt: skip
    _function(_op, "input")
for _op in ("Floor", "Ceil", "Round", "Sign"):
    _function(_op, "none", derivative_flops=0)
operator("Not")(comparison)

operator("Relu", runs=own)(same(ops.relu))
operator("Sigmoid", runs=own)(same(ops.sigmoid))
operator("Tanh", runs=own)(same(ops.tanh))


def _runs_if(attribute: str, value: object, otherwise: str) -> Callable[[Call], Attributes]:
    def check(call: Call) -> Attributes:
        if call.attributes.get(attribute, value) != value:
            raise Refused(otherwise)
        return {}

    return check


operator("Gelu", runs=_runs_if("approximate", "none", "it is the approximation by tanh"))(same(ops.gelu))
operator("Swish", runs=_runs_if("alpha", 1.0, "its alpha is not 1"))(same(ops.silu))


@operator(
    "Cast",
    runs=runs(
        Rule(
            forward=lambda at: (at.x[0].astype(at.node.dtype), None),
            jvp=lambda at, dx: dx[0].astype(at.node.dtype),
            vjp=lambda at, g: (g,),
        )
    ),
)
def cast(call: Call) -> Node | None:
    """Cast: a copy in another dtype; a view where the dtype stays."""
    return None if call.x.dtype == call.dtype else copied(call)
