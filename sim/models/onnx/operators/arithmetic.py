"""Functions of several scalars: sums and products of operands that are broadcast, comparisons, reductions.

Array rules draw constants that are no parameters at random, near 1: nobody reads their values here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sim import ops
from sim.graphs.node import LocalJacobian, Needs, Node, Reads
from sim.models.onnx.call import ALL, BOTH, Attributes, Call, Constant, Refused, comparison, copied, operator, reads_of
from sim.ops.core import CONSTANT, FACTORS, Tensor, make_node
from sim.ops.rule import Array, At, Rule, Shape, total

DIAGONAL = LocalJacobian("diagonal")


def _operands(at: At) -> list[tuple[str, Shape]]:
    """The kind of each operand (activation, parameter or constant), and its shape."""
    activations = iter(at.shapes)
    return [(kind, next(activations) if kind == "activation" else shape) for kind, shape in at["operands"]]


def _values(at: At) -> list[Any]:
    """The operands in order; `None` for an activation that is not in memory."""
    kinds = {"activation": iter(at.x), "parameter": iter(at.p)}
    rng = np.random.default_rng(at.seed)
    return [
        next(kinds[kind]) if kind in kinds else rng.uniform(0.5, 1.5, shape).astype(at.node.dtype)
        for kind, shape in _operands(at)
    ]


def _spread(at: At, v: Array, shape: Shape) -> Array:
    """Tangents (width, *shape) of an operand as (width, *ones, *shape), to be broadcast with the output."""
    return v.reshape(len(v), *[1] * (len(at.node.output_shape) - len(shape)), *shape)


def _summed(g: Array, shape: Shape) -> Array:
    """The transpose of a broadcast: cotangents (width, *output) summed to (width, *shape)."""
    lead = g.ndim - 1 - len(shape)
    g = g.sum(axis=tuple(range(1, 1 + lead)))
    axes = tuple(a for a, n in enumerate(shape, start=1) if n == 1 and g.shape[a] > 1)
    return np.asarray(g.sum(axis=axes, keepdims=True))


def _places(at: At, kind: str) -> list[int]:
    return [k for k, (what, _) in enumerate(_operands(at)) if what == kind]


def _parameter_shapes(at: At) -> tuple[Shape, ...]:
    return tuple(shape for kind, shape in _operands(at) if kind == "parameter")


def _broadcast_rule(value: Callable[[Sequence[Any]], Array], by: Callable[[At, int], Any], scales: bool) -> Rule:
    """A function of operands that are broadcast, linear in each; `by(at, k)` is its derivative by operand k.

    That is `None` where it would read what is not there, because nobody asks for it.
    """

    def push(at: At, places: Sequence[int], v: Sequence[Any]) -> Array:
        shapes = [shape for _, shape in _operands(at)]
        pairs = [(k, d) for k, d in zip(places, v, strict=True) if d is not None]
        dy = total([by(at, k) * _spread(at, d, shapes[k]) for k, d in pairs])
        return np.broadcast_to(dy, (len(dy), *at.node.output_shape))

    def pull(at: At, places: Sequence[int], g: Array) -> tuple[Array | None, ...]:
        shapes = [shape for _, shape in _operands(at)]
        slopes = [by(at, k) for k in places]
        return tuple(None if s is None else _summed(s * g, shapes[k]) for s, k in zip(slopes, places, strict=True))

    return Rule(
        forward=lambda at: (value(_values(at)), None),
        jvp=lambda at, dx: push(at, _places(at, "activation"), dx),
        vjp=lambda at, g: pull(at, _places(at, "activation"), g),
        parameters=_parameter_shapes,
        parameter_jvp=lambda at, dp: push(at, _places(at, "parameter"), dp),
        parameter_vjp=lambda at, g: tuple(v for v in pull(at, _places(at, "parameter"), g) if v is not None),
        scales=scales,
    )


def _broadcast(
    value: Callable[[Sequence[Any]], Array], by: Callable[[At, int], Any], *, scales: bool = False
) -> Callable[[Call], Attributes]:
    """Run the function by `_broadcast_rule`, which reads what each operand is, and its shape."""
    rule = _broadcast_rule(value, by, scales)

    def described(call: Call) -> Attributes:
        operands: list[tuple[str, Shape]] = []
        for operand in call.operands:
            if isinstance(operand, Tensor):
                operands.append(("activation", operand.shape))
            elif operand is not None:
                operands.append(("parameter" if operand.trainable else "constant", operand.shape))
        return {"rule": rule, "operands": tuple(operands)}

    return described


def _trained(call: Call) -> int:
    """Count the operands that are trainable constants."""
    return sum(t.trainable for t in call.operands if isinstance(t, Constant))


@operator("Add", weights=BOTH, runs=_broadcast(total, lambda at, k: 1))
@operator("Sum", weights=ALL, runs=_broadcast(total, lambda at, k: 1))
def add(call: Call) -> Node:
    """Add, Sum: the rule of add; what is broadcast has its cotangent summed, a trained constant its gradient."""
    terms = [t for t in call.operands if t is not None]
    summed = sum(call.size for t in call.data if t.size < call.size)
    if len(call.data) == len(terms) > 1 and not summed:
        return ops.add(call.name, *(replace(t, shape=call.shape) for t in call.data))
    return make_node(
        "add", call.name, call.data, call.shape,
        forward_flops=(len(terms) - 1) * call.size, jvp_flops=(len(call.data) - 1) * call.size, vjp_flops=summed,
        param_vjp_flops=call.size * _trained(call), needs="none", jacobian=DIAGONAL,
    )  # fmt: skip


def _binary(needs: Needs, *, jvp: int, vjp: int, reads: tuple[Reads, ...] | None = None) -> Callable[[Call], Node]:
    """A function of two scalars or more, broadcast: 1 flop, and those given for each tangent or cotangent.

    By a constant, a product or a quotient is linear in x, as a difference is: 1 flop, and nothing to
    read unless the constant is trained. The gradient of a trained constant takes 2 flops a scalar.
    `reads` says when the derivative reads each operand (`None`: always).
    """

    def rule(call: Call) -> Node:
        trained = _trained(call)
        linear = len(call.data) == 1 and (call.op in ("Mul", "Sub") or _divides(call))
        kept: Needs = "none" if linear and not trained else needs
        return make_node(
            call.word, call.name, call.data, call.shape,
            forward_flops=(len(call.operands) - 1) * call.size,
            jvp_flops=(1 if linear else jvp) * call.size, vjp_flops=(1 if linear else vjp) * call.size,
            param_vjp_flops=2 * call.size * trained, needs=kept,
            reads=reads_of(call, reads) if reads and kept != "none" else None,
            jacobian=LocalJacobian("diagonal", call.size),
        )  # fmt: skip

    return rule


def _product_of_others(at: At, k: int) -> Any:
    others = [v for other, v in enumerate(_values(at)) if other != k]
    return None if any(v is None for v in others) else math.prod(others[1:], start=others[0])


@operator("Mul", weights=BOTH, runs=_broadcast(lambda v: math.prod(v[1:], start=v[0]), _product_of_others, scales=True))
def mul(call: Call) -> Node:
    """Mul: the rule of mul; by a constant it is linear, and its derivative reads x only if that is trained."""
    if len(call.data) > 1 and all(t.shape == call.shape for t in call.data):
        return ops.mul(call.name, *call.data[:2])
    return _binary("input", jvp=3, vjp=2, reads=FACTORS)(call)


def _divides(call: Call) -> bool:
    return call.op == "Div" and isinstance(call.operands[1], Constant)


_by_constant = _broadcast(lambda v: v[0] / v[1], lambda at, _: np.asarray(1 / _values(at)[1]))


def _runs_div(call: Call) -> Attributes:
    divisor = call.operands[1]
    if not isinstance(divisor, Constant) or divisor.trainable:
        raise Refused("it divides by what may be 0")
    return _by_constant(call)


operator("Sub", weights=BOTH, runs=_broadcast(lambda v: v[0] - v[1], lambda at, k: -1 if k else 1))(
    _binary("none", jvp=1, vjp=1)
)
operator("Div", weights=BOTH, runs=_runs_div)(
    _binary("input", jvp=3, vjp=4, reads=("others", "always"))
)  # (dx − z·dy)/y; g/y and −(g/y)·z with z = x/y
operator("Pow")(_binary("input", jvp=3, vjp=3))  # c·x^(c − 1), by the tangent or cotangent
operator("Max", "Min")(_binary("input", jvp=1, vjp=2))
operator("PRelu", weights=(1,))(_binary("input", jvp=1, vjp=1))
operator("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "IsNaN", "ArgMax")(comparison)


@operator("Where")
def where(call: Call) -> Node:
    """The operator Where: a copy; its derivative reads the condition alone, unless that is a constant."""
    node = replace(copied(call), jvp_flops=call.size, vjp_flops=call.size)
    if isinstance(call.operands[0], Constant):
        return node
    return replace(node, needs="input", reads=reads_of(call, ("always", "never", "never")))


def _reduction(needs: Needs, *, flops: int, derivative_flops: int) -> Callable[[Call], Node]:
    """Several scalars to one; a sum's VJP is a view of its cotangent."""

    def rule(call: Call) -> Node:
        work = derivative_flops * call.x.size
        return make_node(
            call.word, call.name, [call.x], call.shape, forward_flops=flops * call.x.size,
            jvp_flops=max(1, derivative_flops) * call.x.size, vjp_flops=work, needs=needs,
            jacobian=CONSTANT if needs == "none" else LocalJacobian("dense", work), vjp_broadcasts=work == 0,
        )  # fmt: skip

    return rule


operator("ReduceMean")(_reduction("none", flops=1, derivative_flops=1))
operator("ReduceSum")(_reduction("none", flops=1, derivative_flops=0))
operator("ReduceSumSquare")(_reduction("input", flops=2, derivative_flops=2))
operator("ReduceL2")(_reduction("both", flops=2, derivative_flops=2))
operator("ReduceMax", "ReduceMin")(_reduction("both", flops=1, derivative_flops=2))
