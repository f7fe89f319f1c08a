"""Values: what lies in memory, the tiers it lies in, and the numbers that arrays have for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

ValueKind = Literal["activation", "residual", "cotangent", "gradient", "tangent", "jacobian"]
Tier = Literal["device", "host", "disk"]

VALUE_KINDS: tuple[ValueKind, ...] = get_args(ValueKind)
TIERS: tuple[Tier, ...] = get_args(Tier)
ACTIVATION, RESIDUAL, COTANGENT, GRADIENT, TANGENT, JACOBIAN_VALUE = range(len(VALUE_KINDS))
OF_NODES = JACOBIAN_VALUE
"""Kinds of which each node has one value; Jacobians are of two positions and come with a schedule."""
DEVICE = 0

READ, CONSUME, ACCUMULATE, WRITE, SAVE = range(5)
"""The ways to touch a value. CONSUME is the read that ends the life of an accumulated value;
SAVE is the write of a residual, which takes no memory unless somebody reads it later."""

IntOrInts = TypeVar("IntOrInts", int, NDArray[np.int32], NDArray[np.int64])


@dataclass(frozen=True, slots=True)
class Value:
    """Something that lies in memory, by the name of its node; a Jacobian is of `node` with respect to `source`.

    Either name may be that of a graph input: a tangent enters there, and its activation is the
    caller's, so that only copies of it take memory.

    >>> print(Value("jacobian", "loss", "x", "host"))
    jacobian(loss by x) on host
    """

    kind: ValueKind
    node: str
    source: str | None = None
    tier: Tier = "device"

    def __str__(self) -> str:
        inside = self.node if self.source is None else f"{self.node} by {self.source}"
        return f"{self.kind}({inside})" + ("" if self.tier == "device" else f" on {self.tier}")


class Numbers(NamedTuple):
    """The numbers that the values and rows of a graph's own have: the only place that knows them.

    First come the values of each kind, node by node, then the tangents of the graph inputs, then what
    a schedule adds. Rows are numbered by opcode (forward, VJP, JVP) and node, then what a schedule
    adds. A *position* counts graph inputs first, then nodes. Everything works on arrays as well.
    """

    nodes: int
    inputs: int

    def value(self, kind: int, node: IntOrInts) -> IntOrInts:
        """The number of a node's value of a kind on the device."""
        return kind * self.nodes + node

    def values(self, kind: int) -> slice:
        """The numbers of all nodes' values of a kind on the device."""
        return slice(kind * self.nodes, (kind + 1) * self.nodes)

    def tangent(self, position: int) -> int:
        """The number of the tangent of a node or of a graph input."""
        if position < self.inputs:
            return OF_NODES * self.nodes + position
        return TANGENT * self.nodes + position - self.inputs

    @property
    def first_added(self) -> int:
        """The number of the first value that a schedule adds."""
        return OF_NODES * self.nodes + self.inputs

    def is_of_node(self, value: Any) -> Any:
        """Tell whether a value on the device is that of a node."""
        return value < OF_NODES * self.nodes

    def is_made_by_forward(self, value: Any) -> Any:
        """Tell whether a value is an activation or a residual of a node on the device."""
        return value < (RESIDUAL + 1) * self.nodes

    def kind_and_node(self, value: int) -> tuple[int, int]:
        """The kind and the node of a node's value on the device."""
        return divmod(value, self.nodes)

    def node(self, value: IntOrInts) -> IntOrInts:
        """The node of a node's value on the device, or of a row of the graph's own."""
        return value % self.nodes

    def row(self, opcode: int, node: IntOrInts) -> IntOrInts:
        """The number of a node's forward, VJP or JVP."""
        return opcode * self.nodes + node

    def rows(self, opcode: int) -> slice:
        """The numbers of all nodes' rows of an opcode."""
        return slice(opcode * self.nodes, (opcode + 1) * self.nodes)

    @property
    def first_added_row(self) -> int:
        """The number of the first row that a schedule adds."""
        return 3 * self.nodes
