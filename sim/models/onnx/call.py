"""What a rule for an ONNX operation sees and gives, and the rules that every operator may use.

A rule gets a `Call`: its operands with the shapes of inference (scaled to the batch), and the output
that inference promises. It gives a node whose costs are those of PyTorch's function of the same
meaning, or `None` for a view. Shape, dtype and parameters of the node are set by the importer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sim.graphs.graph import LocalJacobian, Node, Reads
from sim.ops.core import Shape, Tensor, fail, make_node

CONSTANT = LocalJacobian("constant")


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
class Rule:
    """What makes the node, and the positions of the operands that are parameters if trainable (`None`: all)."""

    make: Callable[[Call], Node | None]
    weights: tuple[int, ...] | None = ()


def rows(x: Tensor, features: int) -> Tensor:
    """x as (rows, features)."""
    if x.size % features:
        fail(x.name, f"its shape {x.shape} has no rows of {features}")
    return replace(x, shape=(x.size // features, features))


def view(call: Call) -> None:
    """A view: the same storage, read as another shape or in part."""


def reshaped(call: Call) -> None:
    """A view of all of the storage; an error where the shapes hold different numbers of scalars.

    That happens where a symbolic batch meets a reshape to the numbers of another batch.
    """
    if call.x.size != call.size:
        advice = "if the file was made for one batch, give that under 'dims', and 'batch' beside it"
        fail(call.name, f"cannot reshape {call.x.shape} to {call.shape}; {advice}")


def same(rule: Callable[[str, Tensor], Node]) -> Callable[[Call], Node]:
    """An op rule of the same meaning that takes no parameters."""
    return lambda call: rule(call.name, call.x)


def reads_of(call: Call, words: Sequence[Reads]) -> tuple[Reads, ...]:
    """When the derivative reads each operand that is no constant, given that of every operand.

    What is read for the derivative by others is read for the gradient of parameters where those are constants.
    """
    found = zip(call.operands, words, strict=True)
    alone: Reads = "parameters" if len(call.data) == 1 else "others"
    return tuple(alone if word == "others" else word for operand, word in found if isinstance(operand, Tensor))


def copied(call: Call) -> Node:
    """The same scalars in another order or place: a copy without flops, whose derivative reads nothing."""
    return make_node(call.word, call.name, call.data, call.shape, forward_flops=0, needs="none", jacobian=CONSTANT)
