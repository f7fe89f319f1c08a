"""Array rules: how an op is evaluated and differentiated on NumPy arrays, and the kinds that most ops are.

Shapes: a tangent or cotangent of an array of shape S has shape (width, *S). Samples lie along the
first axis of S; the parameters of a node are one flat vector, split into arrays in C order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.graphs.node import Node

Array = NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class At:
    """One application of a rule: a node with what is in memory there.

    `p` are its parameters, `x` its inputs, `y` its output, `residual` what its forward saved. In a
    derivative, what the node's `needs` and `reads` do not name is `None`.
    """

    node: Node
    shapes: tuple[Shape, ...]
    p: tuple[Array, ...] = ()
    x: tuple[Any, ...] = ()
    y: Any = None
    residual: Any = None
    seed: int | tuple[int, ...] = 0

    def __getitem__(self, attribute: str) -> Any:
        return self.node.attributes[attribute]

    @property
    def size(self) -> int:
        """Scalars of the first input, all samples together."""
        return math.prod(self.shapes[0])


def _no_parameters(_: At) -> tuple[Shape, ...]:
    return ()


def _none(*_: Any) -> Any:
    raise NotImplementedError  # an op without parameters, or without differentiable inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The functions that evaluate and differentiate an op.

    forward(at) -> (output, residual or None); jvp(at, tangents of the inputs, `None` where there is
    none) -> tangent; vjp(at, cotangent) -> a cotangent for each input (`None` for integers, and
    where nobody asks for it);
    parameters(at) -> shapes; parameter_jvp(at, tangents as tuple) -> tangent; parameter_vjp(at,
    cotangent) -> tuple. A rule that `reduces` the batch has JVPs of shape (width, batch): the share
    of each sample, to be summed. One that `couples` samples has no Jacobian for each sample.
    matrix(at) -> the Jacobian (p, q) of every sample where it is at hand, else `None`. below(at) -> what
    the integers of an input stay below, for an op that reads some. A rule that `scales` has a factor,
    near 1, for its first parameter.
    """

    forward: Callable[[At], tuple[Array, Array | None]]
    jvp: Callable[[At, Sequence[Any]], Array] = _none
    vjp: Callable[[At, Array], Sequence[Array | None]] = _none
    parameters: Callable[[At], tuple[Shape, ...]] = _no_parameters
    parameter_jvp: Callable[[At, tuple[Array, ...]], Array] = _none
    parameter_vjp: Callable[[At, Array], tuple[Array, ...]] = _none
    matrix: Callable[[At], Array | None] = lambda _: None
    below: Callable[[At], int] | None = None
    reduces: bool = False
    couples: bool = False
    scales: bool = False


def split(flat: Array, shapes: Sequence[Shape]) -> tuple[Array, ...]:
    """Views of shape (…, *shape) of a flat array of shape (…, parameters).

    >>> [part.tolist() for part in split(np.arange(6), [(2, 2), (2,)])]
    [[[0, 1], [2, 3]], [4, 5]]
    """
    ends = np.cumsum([math.prod(s) for s in shapes]).tolist()
    starts = [0, *ends[:-1]]
    lead = flat.shape[:-1]
    return tuple(flat[..., a:b].reshape(*lead, *s) for a, b, s in zip(starts, ends, shapes, strict=True))


def join(parts: Sequence[Array], lead: int = 1) -> Array:
    """The flat array, shape (…, parameters), of parts that share their first `lead` dimensions."""
    return np.concatenate([part.reshape(*part.shape[:lead], -1) for part in parts], axis=-1)


def total(terms: Sequence[Array]) -> Array:
    """The sum of at least one array."""
    return reduce(np.add, terms)


def samplewise(function: Callable[..., Array], *arrays: Array) -> Array:
    """`function` of arrays (width, batch, …) as if the width were part of the batch."""
    out = function(*(a.reshape(-1, *a.shape[2:]) for a in arrays))
    return out.reshape(*arrays[0].shape[:2], *out.shape[1:])


def pointwise(value: Callable[[Array], Array], derivative: Callable[[At], Array]) -> Rule:
    """y_i = f(x_i): JVP and VJP multiply by f', written in terms of `at.x[0]` or `at.y`."""
    return Rule(
        forward=lambda at: (value(at.x[0]), None),
        jvp=lambda at, dx: derivative(at) * dx[0],
        vjp=lambda at, g: (derivative(at) * g,),
    )


def linear(apply: Callable[[At, Array], Array], transpose: Callable[[At, Array], Array]) -> Rule:
    """y = A·x of each sample, without parameters; both functions take (samples, …)."""
    return Rule(
        forward=lambda at: (apply(at, at.x[0]), None),
        jvp=lambda at, dx: samplewise(lambda t: apply(at, t), dx[0]),
        vjp=lambda at, g: (samplewise(lambda c: transpose(at, c), g),),
    )


def bilinear(
    apply: Callable[[At, Array, Array], Array],
    to_left: Callable[[At, Array, Array], Array],
    to_right: Callable[[At, Array, Array], Array],
) -> Rule:
    """y = f(a, b), linear in each: `to_left(at, g, b)` and `to_right(at, g, a)` are the transposes.

    A factor is read for the derivative by the other; where it is `None`, nobody asks for that.
    """

    def jvp(at: At, dx: Sequence[Any]) -> Array:
        terms = [apply(at, dx[0], at.x[1])] if dx[0] is not None else []
        return total(terms + ([apply(at, at.x[0], dx[1])] if dx[1] is not None else []))

    def vjp(at: At, g: Array) -> tuple[Array | None, Array | None]:
        a, b = at.x
        return None if b is None else to_left(at, g, b), None if a is None else to_right(at, g, a)

    return Rule(forward=lambda at: (apply(at, at.x[0], at.x[1]), None), jvp=jvp, vjp=vjp)


def selfadjoint(forward: Callable[[At], tuple[Array, Array | None]], apply: Callable[[At, Array], Array]) -> Rule:
    """An op whose Jacobian is symmetric: JVP and VJP are the same function."""
    return Rule(forward=forward, jvp=lambda at, dx: apply(at, dx[0]), vjp=lambda at, g: (apply(at, g),))
