"""Vertex elimination: the Jacobian of a graph of dense blocks, one intermediate after another multiplied away.

On a chain, eliminating vertices in topological order is the product from the first element on, in
reverse order the product from the last; `optimal` is the best bracketing.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sim.base.errors import NotApplicable
from sim.graphs.graph import Graph
from sim.graphs.node import STRUCTURES, Structure
from sim.schedules.actions import LocalJacobian, Multiply, Scope
from sim.schedules.schedule import Builder, Schedule
from sim.strategies import strategies
from sim.strategies.jacobians.elimination_plan import Blocks, Elimination, Rule, planned, steps

Order = Annotated[Rule, Field(description="topological, reverse, cheapest next, or the best of all (14 intermediates)")]


@strategies.register("vertex_elimination")
def vertex_elimination(graph: Graph, *, order: Order = "markowitz") -> Schedule:
    """The Jacobian of the outputs by the inputs, intermediates eliminated in a chosen order.

    Each node is evaluated, and its local Jacobians by each of its inputs formed, when an elimination
    first needs them. Prefer it over `jacobian_chain` where blocks are not in a row.
    """
    if graph.wrt != "input":
        raise NotApplicable(
            "vertex_elimination accumulates the Jacobian between inputs and outputs; it does not apply to "
            "wrt: parameters, whose gradients branch off at every layer. Set wrt: input"
        )
    blocks = blocks_of(graph)
    return _schedule(graph, blocks, planned(blocks, order))


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
    builder, m = Builder(graph), len(graph.inputs)
    names = Scope(graph).names
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
