"""Vertex elimination: the Jacobian of a graph of dense blocks, one intermediate after another multiplied away.

Vertices are numbered in topological order; an edge (u, v) carries the local Jacobian of v by u, n_v × n_u.
Eliminating v multiplies, for each predecessor p and successor s, block (v, s) with block (p, v) and adds
the product to (p, s), which fills in that edge if it was not there (Griewank & Walther, Evaluating
Derivatives, 2nd ed., 2008, chapter 9, doi 10.1137/1.9780898717761; Naumann, Optimal Jacobian accumulation is
NP-complete, Mathematical Programming 112, 2008, doi 10.1007/s10107-006-0042-z). Every block has one structure
for its whole life: the one that holds all that may ever be added to it.

On a chain, eliminating vertices in topological order is the product from the first element on, in
reverse order the product from the last; `optimal` is the best bracketing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from sim.base.errors import NotApplicable
from sim.graphs.graph import Graph
from sim.graphs.node import STRUCTURES, Structure
from sim.schedules.actions import LocalJacobian, Multiply, Scope, product_cost
from sim.schedules.schedule import Builder, Schedule
from sim.strategies import strategies

Rule = Literal["forward", "reverse", "markowitz", "optimal"]

MOST_VERTICES = 14
"""Intermediates whose subsets are searched: 2^14 of them, within some seconds."""

Order = Annotated[Rule, Field(description="topological, reverse, cheapest next, or the best of all (14 intermediates)")]


def check_blocks(graph: Graph, *, order: Rule = "markowitz") -> None:
    """Raise NotApplicable where parameters are differentiated, or there are too many intermediates to search."""
    if graph.wrt != "input":
        raise NotApplicable(
            "vertex_elimination accumulates the Jacobian between inputs and outputs; it does not apply to "
            "wrt: parameters, whose gradients branch off at every layer. Set wrt: input"
        )
    m = len(graph.inputs)
    intermediates = int(np.count_nonzero(graph.active[m:] & (graph.consumer_counts[m:] > 0)))
    if order == "optimal" and intermediates > MOST_VERTICES:
        raise NotApplicable(
            f"order: optimal searches the subsets of at most {MOST_VERTICES} intermediates; the graph has "
            f"{intermediates}. Use order: markowitz"
        )


@strategies.register("vertex_elimination", requires=check_blocks)
def vertex_elimination(graph: Graph, *, order: Order = "markowitz") -> Schedule:
    """The Jacobian of the outputs by the inputs, intermediates eliminated in a chosen order.

    Each node is evaluated, and its local Jacobians by each of its inputs formed, when an elimination
    first needs them. Prefer it over `jacobian_chain` where blocks are not in a row.
    """
    check_blocks(graph, order=order)
    blocks = blocks_of(graph)
    return _schedule(graph, blocks, elimination_by(blocks, order))


def blocks_of(graph: Graph) -> Blocks:
    """The graph of local Jacobians between active positions."""
    m, c = len(graph.inputs), graph.columns
    scope = Scope(graph)
    edges: dict[tuple[int, int], Structure] = {}
    for node in range(len(graph)):
        if graph.active[m + node]:
            for source in scope.active_inputs(node):
                structure = STRUCTURES[int(c.jacobian_structure[node])]
                fits = structure != "diagonal" or scope.scalars(source) == int(c.scalars[node])
                edges[source, m + node] = structure if fits else "dense"
    sizes = {p: scope.scalars(p) for edge in edges for p in edge}
    return Blocks(sizes, edges, graph.batch)


def _schedule(graph: Graph, blocks: Blocks, plan: Elimination) -> Schedule:
    builder, names, m = Builder(graph), graph.names, len(graph.inputs)
    evaluated, formed = 0, set()

    def form(source: int, target: int) -> None:
        nonlocal evaluated
        if (source, target) in formed or (source, target) not in blocks.edges:
            return
        formed.add((source, target))
        builder.forward(range(evaluated, max(evaluated, target - m + 1)))
        evaluated = max(evaluated, target - m + 1)
        builder.add(LocalJacobian(names[target], names[source], blocks.structure(source, target)))

    for source, middle, target in steps(blocks, plan.order):
        form(source, middle)
        form(middle, target)
        into = blocks.structure(source, target)
        builder.add(Multiply(names[target], names[middle], names[source], into))
    for source, target in sorted(blocks.edges, key=lambda edge: edge[::-1]):
        form(source, target)
    builder.forward(range(evaluated, len(graph)))
    eliminated = ", ".join(graph.nodes[v - m].name for v in plan.order)
    return builder.build(
        notes=(("elimination order", eliminated), ("products", str(plan.products)), ("fill-in", str(plan.fill_in)))
    )


@dataclass(frozen=True, slots=True)
class Elimination:
    """An order, the flops of its products, how many they are and how many edges they filled in."""

    order: tuple[int, ...]
    flops: int
    products: int
    fill_in: int


@dataclass(frozen=True, eq=False)
class Blocks:
    """Scalars of each vertex, and the structure (dense, diagonal, constant) of each edge's local Jacobian.

    Vertices without predecessors are inputs, those without successors outputs, the others intermediates.
    """

    sizes: Mapping[int, int]
    edges: Mapping[tuple[int, int], Structure]
    batch: int = 1

    @cached_property
    def intermediates(self) -> tuple[int, ...]:
        """The positions to eliminate, in topological order."""
        entered, left = {v for _, v in self.edges}, {u for u, _ in self.edges}
        return tuple(sorted(entered & left))

    def structure(self, source: int, target: int) -> Structure:
        """The structure of the block of a pair that a path joins: what all its paths' products fit in."""
        return "dense" if self._all_dense else self._structures[source, target]

    @cached_property
    def _all_dense(self) -> bool:
        return set(self.edges.values()) == {"dense"}

    @cached_property
    def _structures(self) -> Mapping[tuple[int, int], Structure]:
        structures: dict[tuple[int, int], Structure] = {}
        reached: dict[int, set[int]] = {}
        for (u, v), kind in sorted(self.edges.items(), key=lambda edge: edge[0][::-1]):
            reached.setdefault(v, set())
            for source, middle in [(u, None), *((w, u) for w in sorted(reached.get(u, ())))]:
                piece = kind if middle is None else kind if kind == structures[source, u] != "dense" else "dense"
                structures[source, v] = piece if structures.get((source, v), piece) == piece else "dense"
                reached[v].add(source)
        return structures

    def price(self, source: int, middle: int, target: int) -> int:
        """Flops of one product of blocks, for the whole batch."""
        p, q, r = self.sizes[target], self.sizes[middle], self.sizes[source]
        left, right = self.structure(middle, target), self.structure(source, middle)
        return product_cost(p, q, r, left, right, self.batch)[0]


def eliminate(blocks: Blocks, order: Sequence[int]) -> Elimination:
    """The elimination of all intermediates in an order."""
    products = list(steps(blocks, order))
    fill_in = len({(p, s) for p, _, s in products} - set(blocks.edges))
    return Elimination(tuple(order), sum(blocks.price(*x) for x in products), len(products), fill_in)


def steps(blocks: Blocks, order: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """The products (source, eliminated, target) of an order, in the order in which they are done."""
    before, after = _neighbours(blocks)
    for v in order:
        for p in sorted(before[v]):
            for s in sorted(after[v]):
                yield p, v, s
        _remove(v, before, after)


def elimination_by(blocks: Blocks, rule: Rule) -> Elimination:
    """The elimination by a rule: topological order, its reverse, greedily cheapest next, or the cheapest of all.

    Prefer `optimal` up to 14 intermediates, `markowitz` beyond.

    Raises
    ------
    NotApplicable
        If `optimal` is asked for more than 14 intermediates.
    """
    if rule == "forward":
        return eliminate(blocks, blocks.intermediates)
    if rule == "reverse":
        return eliminate(blocks, blocks.intermediates[::-1])
    return eliminate(blocks, _markowitz(blocks) if rule == "markowitz" else _optimal(blocks))


def _neighbours(blocks: Blocks) -> tuple[dict[int, set[int]], dict[int, set[int]]]:
    before: dict[int, set[int]] = {v: set() for v in blocks.sizes}
    after: dict[int, set[int]] = {v: set() for v in blocks.sizes}
    for u, v in blocks.edges:
        before[v].add(u)
        after[u].add(v)
    return before, after


def _remove(v: int, before: dict[int, set[int]], after: dict[int, set[int]]) -> None:
    for p in before[v]:
        after[p] |= after[v]
        after[p].discard(v)
    for s in after[v]:
        before[s] |= before[v]
        before[s].discard(v)


def _markowitz(blocks: Blocks) -> list[int]:
    """Greedily the vertex whose elimination costs the fewest flops now; the first of equals.

    With blocks of one scalar this is the Markowitz degree, predecessors times successors.
    """
    before, after = _neighbours(blocks)
    price: dict[int, int] = {}

    def update(v: int) -> None:
        price[v] = sum(blocks.price(p, v, s) for p in before[v] for s in after[v])

    for v in blocks.intermediates:
        update(v)
    order = []
    while price:
        v = min(price, key=lambda u: (price[u], u))
        del price[v]
        order.append(v)
        touched = (before[v] | after[v]) & price.keys()
        _remove(v, before, after)
        for u in touched:
            update(u)
    return order


def _optimal(blocks: Blocks) -> list[int]:
    """The cheapest order, by dynamic programming over the sets of vertices that are gone.

    Which edges there are depends on the set alone, not on the order in which it was eliminated.
    """
    vertices = blocks.intermediates
    before, after = _neighbours(blocks)
    best = {0: (0, -1)}  # set of eliminated vertices: least flops, and the vertex that went last
    for gone in range(1 << len(vertices)):
        cost = best[gone][0]
        eliminated = {v for k, v in enumerate(vertices) if gone >> k & 1}
        sources, targets = _reachable(vertices, before, eliminated), _reachable(vertices[::-1], after, eliminated)
        for k, v in enumerate(vertices):
            if v in eliminated:
                continue
            total = cost + sum(blocks.price(p, v, s) for p in sources[v] for s in targets[v])
            following = gone | 1 << k
            if following not in best or total < best[following][0]:
                best[following] = (total, k)
    order, gone = [], (1 << len(vertices)) - 1
    while gone:
        k = best[gone][1]
        order.append(vertices[k])
        gone ^= 1 << k
    return order[::-1]


def _reachable(
    vertices: Sequence[int], neighbours: Mapping[int, set[int]], eliminated: set[int]
) -> dict[int, set[int]]:
    """For each intermediate its neighbours once `eliminated` are gone; `vertices` in the neighbours' direction."""
    reachable: dict[int, set[int]] = {}
    for v in vertices:
        near = neighbours[v]
        reachable[v] = (near - eliminated).union(*(reachable[u] for u in near & eliminated))
    return reachable
