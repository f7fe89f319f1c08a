"""Rules of the ONNX operators on scalars: functions of each, sums and products of several, copies in another order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sim import ops
from sim.graphs.graph import LocalJacobian, Needs, Node, Reads
from sim.models.onnx.call import CONSTANT, Call, Constant, copied, reads_of
from sim.ops.core import FACTORS, make_node

DIAGONAL = LocalJacobian("diagonal")


def pointwise(needs: Needs, *, derivative_flops: int = 1) -> Callable[[Call], Node]:
    """A function of each scalar: 1 flop by convention, `derivative_flops` for its tangents and cotangents."""

    def rule(call: Call) -> Node:
        work = derivative_flops * call.size
        return make_node(
            call.word, call.name, [call.x], call.shape, forward_flops=call.size, jvp_flops=work, vjp_flops=work,
            needs=needs, jacobian=LocalJacobian("diagonal", call.size),
        )  # fmt: skip

    return rule


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


def mul(call: Call) -> Node:
    """Mul: the rule of mul; by a constant it is linear, and its derivative reads x only if that is trained."""
    if len(call.data) > 1 and all(t.shape == call.shape for t in call.data):
        return ops.mul(call.name, *call.data[:2])
    return binary("input", jvp=3, vjp=2, reads=FACTORS)(call)


def binary(needs: Needs, *, jvp: int, vjp: int, reads: tuple[Reads, ...] | None = None) -> Callable[[Call], Node]:
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


def _divides(call: Call) -> bool:
    return call.op == "Div" and isinstance(call.operands[1], Constant)


def _trained(call: Call) -> int:
    """How many operands are trainable constants."""
    return sum(t.trainable for t in call.operands if isinstance(t, Constant))


def where(call: Call) -> Node:
    """Where: a copy; its derivative reads the condition alone, unless that is a constant."""
    node = replace(copied(call), jvp_flops=call.size, vjp_flops=call.size)
    if isinstance(call.operands[0], Constant):
        return node
    return replace(node, needs="input", reads=reads_of(call, ("always", "never", "never")))


def comparison(call: Call) -> Node:
    """A truth value or an index, which has no derivative: 1 flop for each scalar read, and nothing to read later."""
    work = max(call.size, call.x.size)
    return make_node(
        call.word, call.name, call.data, call.shape, forward_flops=work, jvp_flops=0, vjp_flops=0, needs="none"
    )


def reduction(needs: Needs, *, flops: int, derivative_flops: int) -> Callable[[Call], Node]:
    """Several scalars to one; a sum's VJP is a view of its cotangent."""

    def rule(call: Call) -> Node:
        work = derivative_flops * call.x.size
        return make_node(
            call.word, call.name, [call.x], call.shape, forward_flops=flops * call.x.size,
            jvp_flops=max(1, derivative_flops) * call.x.size, vjp_flops=work, needs=needs,
            jacobian=CONSTANT if needs == "none" else LocalJacobian("dense", work), vjp_broadcasts=work == 0,
        )  # fmt: skip

    return rule


def concat(call: Call) -> Node | None:
    """Concat: a copy; of one tensor, a view."""
    if len(call.operands) == 1:
        return None
    axis = call.attributes["axis"]
    if len(call.data) == len(call.operands) and axis % len(call.shape):
        return ops.concat(call.name, *call.data, axis=axis)
    return copied(call)


def transpose(call: Call) -> Node | None:
    """Transpose: a copy, which whatever reads it contiguously makes in PyTorch; a view where no scalar moves."""
    rank = len(call.x.shape)
    order = call.attributes.get("perm", tuple(reversed(range(rank))))
    moved = [axis for axis in order if call.x.shape[axis] > 1]
    return None if moved == sorted(moved) else copied(call)


def cast(call: Call) -> Node | None:
    """Cast: a copy in another dtype; a view where the dtype stays."""
    return None if call.x.dtype == call.dtype else copied(call)


def resize(call: Call) -> Node:
    """Resize, Upsample: copies for nearest neighbours, else 2 flops for each of 2^d (4^d cubic) neighbours."""
    mode = call.attributes.get("mode", "nearest")
    if mode == "nearest":
        return replace(copied(call), vjp_flops=call.size)
    changed = sum(a != b for a, b in zip(call.x.shape, call.shape, strict=True))
    work = 2 * (4 if mode == "cubic" else 2) ** changed * call.size
    return make_node(call.word, call.name, [call.x], call.shape, forward_flops=work, needs="none", jacobian=CONSTANT)
