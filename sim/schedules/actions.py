"""What there is in memory (values), what is done (actions), and the numbers both have in arrays.

A value is a number: kind · n + node for the five kinds that belong to a node, then the tangents of
the graph inputs, then whatever a schedule adds (accumulated Jacobians, copies in other tiers).
A *row* is an action without its width: forward of node i is row i, its VJP n + i, its JVP 2n + i,
then the rows that a schedule adds (sweeps seeded at a parameter, Jacobians, copies).
What each row does is written in `sim.schedules.table` and `sim.schedules.extras`, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["forward", "vjp", "jvp", "jacobian", "multiply", "copy"]
ValueKind = Literal["activation", "residual", "cotangent", "gradient", "tangent", "jacobian"]
Tier = Literal["device", "host", "disk"]

KINDS: tuple[Kind, ...] = get_args(Kind)
VALUE_KINDS: tuple[ValueKind, ...] = get_args(ValueKind)
TIERS: tuple[Tier, ...] = get_args(Tier)
FORWARD, VJP, JVP, JACOBIAN, MULTIPLY, COPY = range(6)
ACTIVATION, RESIDUAL, COTANGENT, GRADIENT, TANGENT, JACOBIAN_VALUE = range(6)

COPIED = 100  # marks the key of a copy in another tier among the extra values
INPUT = 101  # marks the key of a graph input that is copied to another tier

READ, CONSUME, ACCUMULATE, WRITE, SAVE = range(5)
"""How an action touches a value. CONSUME is the read that ends the life of an accumulated value;
SAVE is the write of a residual, which takes no memory unless somebody reads it later."""


@dataclass(frozen=True, slots=True)
class Value:
    """Something that lies in memory. A Jacobian is of `node` with respect to `source` (both positions)."""

    kind: ValueKind
    node: str
    source: str | None = None
    tier: Tier = "device"

    def __str__(self) -> str:
        inside = self.node if self.source is None else f"{self.node} by {self.source}"
        return f"{self.kind}({inside})" + ("" if self.tier == "device" else f" on {self.tier}")


@dataclass(frozen=True, slots=True)
class Action:
    """One computation or copy, as people read it.

    `node` is the name of the node. A `jvp` with `seeded` starts at the node's own parameters and
    reads only the tangents of the inputs in `carried` (`None`: of all active ones). A `jvp` with
    `source`, a `vjp` with `target` and a `multiply` work on accumulated Jacobians. A `jacobian` (by the
    input `source`) or `multiply` with `into` adds to a Jacobian stored in that structure. A `copy` moves
    `value` from its tier to the tier `to`.
    """

    kind: Kind
    node: str
    width: int = 1
    carried: tuple[str, ...] | None = None
    seeded: bool = False
    source: str | None = None
    middle: str | None = None
    target: str | None = None
    value: Value | None = None
    to: Tier | None = None
    into: str | None = None

    def __str__(self) -> str:
        if self.kind == "copy":
            return f"copy({self.value} to {self.to})"
        if self.kind == "multiply":
            return f"multiply({self.target}, {self.middle}, {self.source}{', added' if self.into else ''})"
        if self.kind == "jacobian" and self.source:
            return f"jacobian({self.node} by {self.source})"
        width = f", {self.width}" if self.width > 1 else ""
        by = f" of jacobian by {self.source}" if self.source else ""
        of = by or (f" of jacobian of {self.target}" if self.target else "")
        return f"{self.kind}({self.node}{width}{', seeded' if self.seeded else ''}){of}"


@dataclass(frozen=True, slots=True)
class Effects:
    """What one action does. Bytes and flops are for the whole action, its width multiplied in."""

    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    accumulates: tuple[Value, ...]
    flops: int
    moved_bytes: int
    workspace_bytes: int
