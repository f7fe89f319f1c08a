"""Actions: a class for each kind, which says its effects, its text and its JSON.

The forward, VJP and JVP of a node are tabulated for a whole graph at once (`sim.schedules.effects`);
the other actions say what they touch here, in terms of the `Scope` of a schedule. A new action is a
class here, its handler where arrays are real (`sim.execution`), and the strategy that uses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from sim.base.errors import CountOverflow, NotApplicable
from sim.graphs.columns import per_sample
from sim.graphs.graph import Graph
from sim.graphs.node import LARGEST, STRUCTURES, Structure
from sim.schedules.effects import FORWARD, JVP, KINDS, VJP, Columns, Kind, own_effects
from sim.schedules.values import (
    ACCUMULATE,
    CONSUME,
    GRADIENT,
    READ,
    SAVE,
    TANGENT,
    TIERS,
    VALUE_KINDS,
    WRITE,
    Numbers,
    Tier,
    Value,
)

Touches = list[tuple[int, int]]
"""The touches of an action, in order: the number of a value, and how."""


class Row(NamedTuple):
    """The effects of an action, whatever its width: its touches, flops per unit of width, and workspace bytes."""

    touches: Touches
    flops: int
    workspace_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Action:
    """One computation or copy, as people read it; `width` tangents or cotangents at once.

    >>> print(SeededJvp("fc", carried=(), seeded=True, width=8))
    jvp(fc, 8, seeded)
    """

    node: str
    width: int = field(default=1, kw_only=True)
    kind: ClassVar[Kind]

    def __str__(self) -> str:
        return f"{self.kind}({self.node}{self._times()})"

    def _times(self) -> str:
        return f", {self.width}" if self.width > 1 else ""

    def json(self) -> dict[str, Any]:
        """The action as plain data; `None` and a width of 1 are left out."""
        item: dict[str, Any] = {"kind": self.kind}
        for key in self.keys():
            value = getattr(self, key)
            if value is not None:
                item[key] = list(value) if isinstance(value, tuple) else value
        return item if self.width == 1 else item | {"width": self.width}

    @classmethod
    def keys(cls) -> dict[str, bool]:
        """The keys of its JSON beside `kind` and `width`, and whether it must have them."""
        return {f.name: f.default is MISSING for f in fields(cls) if f.name != "width"}

    @classmethod
    def takes(cls, item: Mapping[str, Any]) -> bool:
        """Tell whether an item with these keys, `kind` and `width` left out, is such an action."""
        keys = cls.keys()
        return item.keys() <= keys.keys() and all(key in item for key, must in keys.items() if must)

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Self:
        """The action of an item that it `takes`.

        Raises
        ------
        ValueError
            For a value of another type, or an unknown word.
        """
        return cls(**{key: _text(key, value) for key, value in item.items()})

    def names(self) -> Iterator[str]:
        """The nodes and graph inputs that it names."""
        yield self.node
        others = (getattr(self, key, None) for key in ("source", "middle", "target"))
        yield from (name for name in others if name is not None)

    def row(self, scope: Scope) -> Row:
        """The effects of the action on the graph of `scope`, per unit of width.

        Raises
        ------
        NotApplicable
            If its node has not what it asks for.
        """
        raise NotImplementedError(f"the rows of a graph's own are tabulated: {self}")


_WORDS = {"into": STRUCTURES, "value": VALUE_KINDS, "tier": TIERS, "to": TIERS}


def _text(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError(f"got {value!r:.60} as '{key}', expected a name")
    if value not in _WORDS.get(key, (value,)):
        raise ValueError(f"got '{value:.60}' as '{key}', expected one of {', '.join(_WORDS[key])}")
    return value


@dataclass(frozen=True, slots=True)
class Forward(Action):
    """The evaluation of a node; it saves its residual if somebody reads that later."""

    kind: ClassVar[Kind] = "forward"


@dataclass(frozen=True, slots=True)
class Vjp(Action):
    """The cotangent of a node, taken to those of its inputs and to the gradient of its parameters."""

    kind: ClassVar[Kind] = "vjp"


@dataclass(frozen=True, slots=True)
class Jvp(Action):
    """The tangents of a node's inputs, taken to that of its output."""

    kind: ClassVar[Kind] = "jvp"


OWN = (Forward, Vjp, Jvp)
"""The actions of a graph's own rows, by opcode."""
assert tuple(own.kind for own in OWN) == tuple(KINDS[opcode] for opcode in (FORWARD, VJP, JVP))


@dataclass(frozen=True, slots=True)
class SeededJvp(Action):
    """A JVP that reads the tangents of the inputs in `carried` alone.

    With `seeded`, one tangent for each parameter that the node uses enters here: its share costs what
    the VJP's share for the parameters does, because a linear map and its transpose have the same
    multiplications. Their gradient is made here too, because the sweep fills it.
    """

    carried: tuple[str, ...]
    seeded: bool
    kind: ClassVar[Kind] = "jvp"

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Self:
        carried, seeded = item["carried"], item["seeded"]
        if not isinstance(carried, list) or not isinstance(seeded, bool):
            raise ValueError("expected a list of names as 'carried' and true or false as 'seeded'")
        return cls(_text("node", item["node"]), tuple(_text("carried", name) for name in carried), seeded)

    def names(self) -> Iterator[str]:
        yield from (self.node, *self.carried)

    def __str__(self) -> str:
        return f"jvp({self.node}{self._times()}{', seeded' if self.seeded else ''})"

    def row(self, scope: Scope) -> Row:
        graph, numbers, c, node = scope.graph, scope.numbers, scope.graph.columns, scope.node(self.node)
        touches = [(numbers.tangent(scope.position(name)), READ) for name in self.carried]
        touches += scope.derivative_reads(node)
        if graph.wrt == "parameters" or graph.consumer_counts[numbers.inputs + node]:
            touches.append((numbers.value(TANGENT, node), WRITE))
        if self.seeded:
            if graph.gradient_of[node] < 0:
                raise NotApplicable(f"{self}: the node has no parameters")
            touches.append((numbers.value(GRADIENT, int(graph.gradient_of[node])), ACCUMULATE))
        flops = bool(self.carried) * int(c.jvp_flops[node]) + self.seeded * int(c.param_vjp_flops[node])
        return Row(touches, flops, int(c.workspace_bytes[node]))


@dataclass(frozen=True, slots=True)
class JvpOfJacobian(Action):
    """The Jacobians of a node's inputs by `source`, taken to that of the node; all columns at once."""

    source: str
    kind: ClassVar[Kind] = "jvp"

    def __str__(self) -> str:
        return f"jvp({self.node}{self._times()}) of jacobian by {self.source}"

    def row(self, scope: Scope) -> Row:
        c, node, source = scope.graph.columns, scope.node(self.node), scope.position(self.source)
        touches = [(scope.jacobian(p, source), READ) for p in scope.active_inputs(node) if p != source]
        touches += [*scope.derivative_reads(node), (scope.jacobian(scope.position(self.node), source), WRITE)]
        return Row(touches, int(c.jvp_flops[node]), int(c.workspace_bytes[node]))


@dataclass(frozen=True, slots=True)
class VjpOfJacobian(Action):
    """The Jacobian of `target` by a node, taken to those by the node's inputs; all rows at once."""

    target: str
    kind: ClassVar[Kind] = "vjp"

    def __str__(self) -> str:
        return f"vjp({self.node}{self._times()}) of jacobian of {self.target}"

    def row(self, scope: Scope) -> Row:
        c, node, target = scope.graph.columns, scope.node(self.node), scope.position(self.target)
        own = scope.position(self.node)
        touches = [] if target == own else [(scope.jacobian(target, own), CONSUME)]
        touches += scope.derivative_reads(node)
        touches += [(scope.jacobian(target, p), ACCUMULATE) for p in scope.active_inputs(node)]
        return Row(touches, int(c.vjp_flops[node]), int(c.workspace_bytes[node]))


@dataclass(frozen=True, slots=True)
class LocalJacobian(Action):
    """The local Jacobian of a node, formed: by its one active input, in the structure that the node has.

    With `source` it is the one by that input, added to a block of the structure `into`; the node's
    `jacobian.flops` are taken for each of its inputs.
    """

    source: str | None = None
    into: Structure | None = None
    kind: ClassVar[Kind] = "jacobian"

    def __str__(self) -> str:
        return f"jacobian({self.node} by {self.source})" if self.source else f"jacobian({self.node}{self._times()})"

    def row(self, scope: Scope) -> Row:
        c, node, own = scope.graph.columns, scope.node(self.node), scope.position(self.node)
        if self.source is None:
            sources = scope.active_inputs(node)
            if len(sources) != 1:
                raise NotApplicable(f"{self}: the node has {len(sources)} inputs to differentiate by, expected one")
            (source,) = sources
        else:
            source = scope.position(self.source)
        value = scope.jacobian(own, source, self.into or STRUCTURES[int(c.jacobian_structure[node])])
        touches = [*scope.derivative_reads(node), (value, ACCUMULATE if self.into else WRITE)]
        return Row(touches, int(c.jacobian_flops[node]), int(c.workspace_bytes[node]))


@dataclass(frozen=True, slots=True)
class Multiply(Action):
    """The Jacobian of a node by `middle` times that of `middle` by `source`.

    With `into` the product is added to the block of that structure, which may be there already: a
    dense product of 2·p·q·r flops has one addition for each multiplication in any case.
    """

    middle: str
    source: str
    into: Structure | None = None
    kind: ClassVar[Kind] = "multiply"

    @property
    def target(self) -> str:
        """The node whose Jacobian it makes."""
        return self.node

    @classmethod
    def keys(cls) -> dict[str, bool]:
        return super(Multiply, cls).keys() | {"target": False}

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Self:
        return cls(**{key: _text(key, value) for key, value in item.items() if key != "target"})

    def __str__(self) -> str:
        return f"multiply({self.node}, {self.middle}, {self.source}{', added' if self.into else ''})"

    def row(self, scope: Scope) -> Row:
        target, middle, source = (scope.position(name) for name in (self.node, self.middle, self.source))
        left, right = scope.jacobian(target, middle), scope.jacobian(middle, source)
        p, q, r = (scope.scalars(x) for x in (target, middle, source))
        flops, structure = product_cost(p, q, r, scope.structure[left], scope.structure[right], scope.graph.batch)
        product = scope.jacobian(target, source, self.into or structure)
        return Row([(left, READ), (right, READ), (product, ACCUMULATE if self.into else WRITE)], flops)


@dataclass(frozen=True, slots=True)
class Copy(Action):
    """A value, copied from its tier to the tier `to`; `node` is that of the value."""

    value: Value
    to: Tier
    kind: ClassVar[Kind] = "copy"

    @staticmethod
    def of(value: Value, to: Tier) -> Copy:
        """The copy of a value to a tier."""
        return Copy(value.node, value, to)

    def __str__(self) -> str:
        return f"copy({self.value} to {self.to})"

    @classmethod
    def keys(cls) -> dict[str, bool]:
        return {"node": True, "value": True, "tier": True, "to": True, "source": False}

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> Self:
        fields_of = {key: _text(key, value) for key, value in item.items()}
        return cls(
            fields_of["node"],
            Value(fields_of["value"], fields_of["node"], fields_of.get("source"), fields_of["tier"]),
            fields_of["to"],
        )

    def names(self) -> Iterator[str]:
        yield from (self.node, *([] if self.value.source is None else [self.value.source]))

    def json(self) -> dict[str, Any]:
        of = {"value": self.value.kind, "source": self.value.source, "tier": self.value.tier, "to": self.to}
        item = {"kind": self.kind, "node": self.node} | {k: v for k, v in of.items() if v is not None}
        return item if self.width == 1 else item | {"width": self.width}

    def row(self, scope: Scope) -> Row:
        v = self.value
        read, written = scope.number(v), scope.number(Value(v.kind, v.node, v.source, self.to))
        if self.value.kind == "activation" and scope.is_input(self.node):
            # it is the caller's: nobody has written it, and a copy that comes back takes no memory
            from_device, to_device = self.value.tier == "device", self.to == "device"
            return Row([(read, SAVE if from_device else READ), (written, SAVE if to_device else WRITE)], 0)
        return Row([(read, READ), (written, WRITE)], 0)


ADDED = (SeededJvp, JvpOfJacobian, VjpOfJacobian, LocalJacobian, Multiply, Copy)
"""The actions that a schedule adds to a graph's own rows."""


class Scope:
    """Everything that actions on a graph may name: its nodes and inputs, its values, and those a schedule adds."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.numbers = Numbers(len(graph), len(graph.inputs))
        self.added: dict[Value, int] = {}
        """Number of each value that is not the graph's own."""
        self.structure: dict[int, Structure] = {}
        """The structure of each accumulated Jacobian, by its number."""
        self._sizes: list[int] = []

    @cached_property
    def positions(self) -> dict[str, int]:
        """The position of each name."""
        return {name: p for p, name in enumerate(self.graph.names)}

    def position(self, name: str) -> int:
        return self.positions[name]

    def node(self, name: str) -> int:
        return self.positions[name] - self.numbers.inputs

    def is_input(self, name: str) -> bool:
        return self.positions[name] < self.numbers.inputs

    def value(self, number: int) -> Value:
        """The value on the device that a number of the graph's own stands for."""
        return describe(self.numbers, self.graph.names, number)

    def number(self, value: Value) -> int:
        """The number of a value; one in another tier, and a graph input, becomes one when it is first asked for."""
        if value in self.added:
            return self.added[value]
        if value.tier != "device":
            on_device = self.number(Value(value.kind, value.node, value.source))
            return self._add(value, self._bytes(on_device))
        position = self.position(value.node)
        if value.kind == "jacobian":
            if value.source is None or position < self.numbers.inputs:
                raise NotApplicable(f"{value}: a Jacobian is of a node by a source")
            return self.jacobian(position, self.position(value.source))
        if position >= self.numbers.inputs:
            return self.numbers.value(VALUE_KINDS.index(value.kind), position - self.numbers.inputs)
        if value.kind == "tangent":
            return self.numbers.tangent(position)
        if value.kind != "activation":
            raise NotApplicable(f"{value}: '{value.node}' is an input of the graph")
        return self._add(value, self.graph.input_bytes[position])

    def jacobian(self, node: int, source: int, structure: Structure = "dense") -> int:
        """The number of the accumulated Jacobian of one position by another, in the structure it had first."""
        graph, value = self.graph, Value("jacobian", self.graph.names[node], self.graph.names[source])
        if value not in self.added:
            p, q = self.scalars(node), self.scalars(source)
            scalars = {"dense": graph.batch * p * q, "diagonal": graph.batch * p, "constant": p * q}[structure]
            size = scalars * int(graph.columns.itemsize[node - self.numbers.inputs])
            if size > LARGEST:
                raise CountOverflow(f"a Jacobian of {p} × {q} scalars takes more than 4 EiB")
            is_result = source < self.numbers.inputs and graph.consumer_counts[node] == 0
            self.structure[self._add(value, 0 if is_result else size)] = structure
        return self.added[value]

    def scalars(self, position: int) -> int:
        """The scalars of one sample at a position."""
        m = self.numbers.inputs
        if position >= m:
            return int(self.graph.columns.scalars[position - m])
        return per_sample(self.graph.inputs[position].shape, self.graph.batch)

    def active_inputs(self, node: int) -> list[int]:
        """The positions that a node reads and that what is differentiated reaches."""
        c = self.graph.columns
        inputs = c.input_index[c.input_ptr[node] : c.input_ptr[node + 1]]
        return [int(p) for p in inputs if self.graph.active[p]]

    def derivative_reads(self, node: int) -> Touches:
        """The reads of a node's JVP beyond tangents: those of its own JVP row, so that they are written once."""
        c, numbers = self.own, self.numbers
        row = numbers.row(JVP, node)
        touched = zip(*(x[c.ptr[row] : c.ptr[row + 1]].tolist() for x in (c.value, c.access)), strict=True)
        return [(v, READ) for v, access in touched if access == READ and numbers.is_made_by_forward(v)]

    @cached_property
    def own(self) -> Columns:
        """The columns of the graph's own rows."""
        return own_effects(self.graph).columns

    def _add(self, value: Value, size: int) -> int:
        self._sizes.append(size)
        return self.added.setdefault(value, self.numbers.first_added + len(self.added))

    def _bytes(self, number: int) -> int:
        first = self.numbers.first_added
        return int(self.own.value_bytes[number]) if number < first else self._sizes[number - first]

    def added_columns(self) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8]]:
        """Bytes, kind and tier of each value that was added."""
        kinds = np.array([VALUE_KINDS.index(v.kind) for v in self.added], dtype=np.uint8)
        tiers = np.array([TIERS.index(v.tier) for v in self.added], dtype=np.uint8)
        return np.array(self._sizes, dtype=np.int64), kinds, tiers


def describe(numbers: Numbers, names: Any, value: int) -> Value:
    """The value on the device that a number of the graph's own stands for; `names` has one for each position."""
    if not numbers.is_of_node(value):
        return Value("tangent", names[value - numbers.tangent(0)])
    kind, node = numbers.kind_and_node(value)
    return Value(VALUE_KINDS[kind], names[numbers.inputs + node])


def product_cost(p: int, q: int, r: int, left: str, right: str, batch: int) -> tuple[int, Structure]:
    """Flops of a (p × q)·(q × r) product of Jacobian blocks for the whole batch, and its structure.

    A dense product costs 2·p·q·r for each sample (once if both are constant over the batch); a
    diagonal factor scales rows or columns, one multiplication for each entry.
    """
    if left == "diagonal" and right == "diagonal":
        return batch * p, "diagonal"
    if left == "diagonal" or right == "diagonal":
        return batch * p * r, "dense"
    if left == "constant" and right == "constant":
        return 2 * p * q * r, "constant"
    return 2 * p * q * r * batch, "dense"
