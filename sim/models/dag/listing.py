"""Nodes and edges as a file lists them, and the plain graph that they make; every problem keeps its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from sim.base.document import KeyPath
from sim.base.errors import CountOverflow, GraphError, suggest
from sim.base.registry import Problem
from sim.base.units import parse_bytes
from sim.graphs.graph import Graph
from sim.graphs.node import LARGEST, GraphInput, Node

ATTRIBUTES = (("cost", "bytes"), ("duration", "out_cost"), ("cost_cpu", "cost_ram"))
"""The names of cost and bytes where nobody gives them: here, in Moccasin's files and in Checkmate's."""
MOST_COST = LARGEST // 2**7
"""The sum of all costs at most, so that a plan with a hundred runs of each node is counted."""


Refusal = Callable[[Iterable[Problem]], Exception]
"""The error that shows problems where they are, such as `Document.error`."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A node: its attributes, what it reads besides its edges, and where it stands."""

    name: str
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...] = ()
    path: KeyPath = ()


@dataclass(frozen=True, slots=True)
class Edge:
    """`target` reads what `source` makes; where it stands."""

    source: str
    target: str
    path: KeyPath = ()


@dataclass(frozen=True, slots=True)
class Meaning:
    """The attributes that tell costs: cost, bytes and workspace of a node, and how much of the cost is one flop."""

    cost: str | None = None
    bytes: str | None = None
    workspace: str | None = None
    cost_unit: float = 1

    def of(self, nodes: Sequence[Listed]) -> tuple[str, str, str]:
        """The three names; of those not given the pair that the first node has."""
        have = nodes[0].attributes if nodes else {}
        pair = next((p for p in ATTRIBUTES if p[0] in have and p[1] in have), ATTRIBUTES[0])
        return self.cost or pair[0], self.bytes or pair[1], self.workspace or "workspace"


@dataclass
class Listing:
    """A plain graph as somebody listed it, in the order of the file."""

    nodes: list[Listed]
    edges: list[Edge] = field(default_factory=list)
    inputs: list[GraphInput] = field(default_factory=list)
    order: Sequence[str] | None = None
    outputs: Sequence[str] = ()
    name: str = "dag"


def graph_of(
    listing: Listing, meaning: Meaning, *, nodes_in: Refusal, edges_in: Refusal, outputs: Sequence[str]
) -> Graph:
    """The plain graph of a listing; what is wrong with it is shown in the documents that its nodes and edges are in.

    Raises
    ------
    DocumentError
        For repeated names, edges to nobody, or attributes that are missing, negative or no numbers.
    GraphError
        For a cycle, outputs that nobody makes, or no nodes.
    CountOverflow
        If the costs or bytes of all nodes are more than can be counted.
    """
    places = {n.name: n.path for n in listing.nodes}
    known = {*places, *(i.name for i in listing.inputs)}
    repeated = [name for name, count in Counter(n.name for n in listing.nodes).items() if count > 1]
    problems = [Problem(places[name], f"a second node is named '{name}'") for name in repeated]
    reads: dict[str, dict[str, None]] = {n.name: dict.fromkeys(n.inputs) for n in listing.nodes}
    for node in listing.nodes:
        for name in node.inputs:
            if name not in known:
                problems.append(
                    Problem(node.path, f"node '{node.name}' reads '{name}', which does not exist{_close(name, known)}")
                )
    wrong = []
    for edge in listing.edges:
        absent = [name for name in (edge.source, edge.target) if name not in known]
        if absent:
            wrong.append(Problem(edge.path, f"there is no node '{absent[0]}'{_close(absent[0], known)}"))
        elif edge.target in reads:
            reads[edge.target][edge.source] = None
    if wrong:
        raise edges_in(wrong)
    sizes = {n.name: _sizes(n, meaning, meaning.of(listing.nodes), problems.append) for n in listing.nodes}
    if problems:
        raise nodes_in(problems)
    nodes = {
        n.name: Node(
            name=n.name,
            inputs=tuple(reads[n.name]),
            output_shape=(),
            op=str(n.attributes.get("op", "")),
            forward_flops=sizes[n.name][0],
            activation_bytes=sizes[n.name][1],
            workspace_bytes=sizes[n.name][2],
        )
        for n in listing.nodes
    }
    for k, (what, most) in enumerate((("costs", MOST_COST), ("bytes", LARGEST), ("workspaces", LARGEST))):
        total = sum(size[k] for size in sizes.values())
        if total > most:
            raise CountOverflow(f"the {what} of all nodes sum to {total:.3g}, expected at most {most:.3g}")
    try:
        return Graph.from_nodes(
            [nodes[name] for name in _sequence(listing, nodes)],
            listing.inputs,
            name=listing.name,
            plain=True,
            outputs=[*listing.outputs, *outputs],
        )
    except GraphError as error:
        if error.node is not None and places.get(error.node):
            raise nodes_in([Problem(places[error.node], str(error))]) from None
        raise


def _sequence(listing: Listing, nodes: Mapping[str, Node]) -> Sequence[str]:
    """The order given, or that of the file."""
    if listing.order is None:
        return list(nodes)
    if Counter(listing.order) != Counter(list(nodes)):
        raise GraphError("the order given does not list every node once")
    return listing.order


def _close(name: str, known: Iterable[str]) -> str:
    """A suggestion, where the graph is small enough to list its names."""
    names = list(known)
    return suggest(name, names) if len(names) <= 20 else ""


def _sizes(
    node: Listed, meaning: Meaning, names: tuple[str, str, str], wrong: Callable[[Problem], object]
) -> tuple[int, int, int]:
    """Cost, bytes and workspace of a node; what is wrong with them goes to `wrong`."""
    out = []
    for name, what in zip(names, ("cost", "bytes", "workspace"), strict=True):
        value = node.attributes.get(name)
        if value is None:
            out.append(0)
            if what != "workspace" or meaning.workspace is not None:
                others = ", ".join(a for a in node.attributes if a not in ("id", "name")) or "none"
                say = "" if name != what else f"; its attributes are {others}: say which is meant by `{what}:`"
                wrong(Problem(node.path, f"node '{node.name}' has no '{name}'{say}"))
            continue
        try:
            out.append(_cost(value, meaning.cost_unit) if what == "cost" else parse_bytes(value))
        except ValueError as error:
            out.append(0)
            place = (*node.path, name) if node.path else ()
            wrong(Problem(place, f"'{name}' of node '{node.name}': got {value!r:.40}, expected {error}"))
    return out[0], out[1], out[2]


def _cost(value: Any, unit: float) -> int:
    try:
        number = Fraction(value if isinstance(value, int) else str(value).strip())
        if isinstance(value, bool) or number < 0:
            raise ValueError
    except ValueError:
        raise ValueError("a cost of at least 0") from None
    if unit == 1 and number.denominator != 1:
        raise ValueError("a whole number, as costs are counted; `cost_unit: 1e-6` counts in millionths")
    count = round(number / Fraction(unit))
    if count >= LARGEST:
        raise ValueError("less than 2^62")
    return count
