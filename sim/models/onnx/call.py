"""The table of ONNX operators, what an operator sees of a model, and what several of them share.

An operator gets a `Call`: its operands with the shapes of inference (scaled to the batch), and the
output that inference promises. It gives a node whose costs are those of PyTorch's function of the same
meaning, or `None` for a view. Shape, dtype and parameters of the node are set by the importer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sim.graphs.node import FLOATS, Node, Reads
from sim.ops.core import CONSTANT, Tensor, fail, make_node
from sim.ops.rule import Rule, Shape

Attributes = dict[str, Any]
Make = TypeVar("Make", bound="Callable[[Call], Node | None]")


class Refused(Exception):
    """Why arrays cannot run an operation."""


@dataclass(frozen=True, slots=True)
class Constant:
    """An operand that does not depend on the model's inputs: a weight, a literal, something made of shapes.

    `trainable` tells whether it may be a parameter: a float of more than one scalar, not made of shapes.
    """

    name: str
    shape: Shape
    dtype: str
    trainable: bool

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Call:
    """One ONNX operation as a rule sees it; an operand left out is `None`."""

    name: str
    op: str
    operands: tuple[Tensor | Constant | None, ...]
    shape: Shape
    dtype: str
    attributes: Mapping[str, Any]
    opset: int
    training: bool

    @property
    def data(self) -> list[Tensor]:
        """The operands that depend on the model's inputs."""
        return [t for t in self.operands if isinstance(t, Tensor)]

    @property
    def x(self) -> Tensor:
        return self.data[0]

    @property
    def size(self) -> int:
        """Scalars of the output."""
        return math.prod(self.shape)

    @property
    def word(self) -> str:
        """The operator in our spelling: leaky_relu for LeakyRelu."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.op).lower()

    def weight(self, position: int) -> Constant:
        """The constant at a position; an error where a weight is computed from the model's inputs."""
        operand = self.operands[position] if position < len(self.operands) else None
        if not isinstance(operand, Constant):
            fail(self.name, f"{self.op} with a weight that depends on the model's inputs cannot be imported")
        return operand

    def has(self, position: int) -> bool:
        return position < len(self.operands) and self.operands[position] is not None


@dataclass(frozen=True, slots=True)
class Operator:
    """All that is known of one ONNX operator.

    `make` gives the node with its costs, or `None` for a view. `weights` are the positions of the operands
    that are parameters if trainable (`None`: all). `runs` gives the attributes that the array rule
    reads, and under `rule` the rule itself where it is not that of the node's op; it raises `Refused`
    where no rule has the meaning of the call.
    """

    op: str
    make: Callable[[Call], Node | None]
    weights: tuple[int, ...] | None = ()
    runs: Callable[[Call], Attributes] | None = None

    def execution(self, call: Call, parameters: int) -> Attributes:
        """The attributes by which arrays run a node that holds so many parameters, or `refused` and the reason."""
        try:
            if self.runs is None:
                raise Refused(f"{self.op} has no rule")
            attributes = self.runs(call)
            own = sum(c.size for c in self.constants(call) if c.trainable or "operands" not in attributes)
            if own != parameters:
                raise Refused("it shares parameters with another node, or has constants of one scalar in their place")
        except Refused as reason:
            return {"refused": str(reason)}
        return attributes

    def constants(self, call: Call) -> list[Constant]:
        """The floating constants at positions where parameters may be."""
        count = len(call.operands)
        positions = range(count) if self.weights is None else [k for k in self.weights if k < count]
        operands = [call.operands[k] for k in positions]
        return [c for c in operands if isinstance(c, Constant) and c.dtype in FLOATS]


OPERATORS: dict[str, Operator] = {}
"""Operators by name; `operators.load` fills it."""
BOTH, AFFINE, ALL = (0, 1), (1, 2), None
"""Positions of weights: of either factor or term, of weight and bias, anywhere."""


def operator(
    *names: str, weights: tuple[int, ...] | None = (), runs: Callable[[Call], Attributes] | None = None
) -> Callable[[Make], Make]:
    """Decorator: register what makes the nodes of these operators (see `Operator`)."""

    def decorate(make: Make) -> Make:
        OPERATORS.update({name: Operator(name, make, weights, runs) for name in names})
        return make

    return decorate


def own(call: Call) -> Attributes:
    """Run the node by the array rule of its op."""
    return {}


def runs(rule: Rule, **defaults: float) -> Callable[[Call], Attributes]:
    """Run the node by a rule that reads attributes of the operator, with the defaults of the standard."""
    return lambda call: {"rule": rule, **{k: call.attributes.get(k, v) for k, v in defaults.items()}}


def rows(x: Tensor, features: int) -> Tensor:
    """x as (rows, features)."""
    if x.size % features:
        fail(x.name, f"its shape {x.shape} has no rows of {features}")
    return replace(x, shape=(x.size // features, features))


def same(rule: Callable[[str, Tensor], Node]) -> Callable[[Call], Node]:
    """An op rule of the same meaning that takes no parameters."""
    return lambda call: rule(call.name, call.x)


def reads_of(call: Call, words: Sequence[Reads]) -> tuple[Reads, ...]:
    """Say when the derivative reads each operand that is no constant, from the words for every operand.

    What is read for the derivative by others is read for the gradient of parameters where those are constants.
    """
    pairs = zip(call.operands, words, strict=True)
    alone: Reads = "parameters" if len(call.data) == 1 else "others"
    return tuple(alone if word == "others" else word for operand, word in pairs if isinstance(operand, Tensor))


def copied(call: Call) -> Node:
    """The same scalars in another order or place: a copy without flops, whose derivative reads nothing."""
    return make_node(call.word, call.name, call.data, call.shape, forward_flops=0, needs="none", jacobian=CONSTANT)


def comparison(call: Call) -> Node:
    """A truth value or an index, which has no derivative: 1 flop for each scalar read, and nothing to read later."""
    work = max(call.size, call.x.size)
    return make_node(
        call.word, call.name, call.data, call.shape, forward_flops=work, jvp_flops=0, vjp_flops=0, needs="none"
    )
