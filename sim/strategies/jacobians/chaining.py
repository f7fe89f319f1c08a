"""Jacobian chaining: local Jacobians are multiplied, and the order decides the work.

The elements of the chain are the layers of a chain, or the blocks between the articulation points of
a graph. A block of several nodes is taken by JVPs or VJPs, whichever is cheaper.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from sim.base.errors import CountOverflow, NotApplicable
from sim.base.units import Bytes
from sim.graphs.graph import Graph
from sim.graphs.node import LARGEST, Ints
from sim.schedules.actions import Action, JvpOfJacobian, LocalJacobian, Multiply, VjpOfJacobian
from sim.schedules.schedule import Builder, Schedule
from sim.strategies import StrategyRegistry, strategies
from sim.strategies.jacobians.interleave import Move, steps_of
from sim.strategies.jacobians.matrix_chain import Bracketing, Elements, best_matrix_free, best_product, in_order
from sim.strategies.jacobians.search import ChainMemory

orders = StrategyRegistry("order")

LONGEST_NOTE = 5000


@strategies.register("jacobian_chain", variants=("order", orders))
def jacobian_chain(graph: Graph, *, order: str, **parameters: Any) -> Schedule:
    """The Jacobian of the output by the input as a product of local Jacobians, in a chosen order."""
    return orders[order].function(graph, **parameters)


def check_chain(graph: Graph) -> None:
    """Raise NotApplicable for a graph that is no chain of Jacobians from one input to one output."""
    Chain(graph)


@orders.register("forward", requires=check_chain)
def forward(graph: Graph) -> Schedule:
    """Products from the first element on, each local Jacobian formed when it is needed.

    Sizes x→a→b→y cost x·b·(a+y) multiply-adds.
    """
    chain = Chain(graph)
    return chain.schedule(in_order(len(chain), forward=True), interleaved=True)


@orders.register("reverse", requires=check_chain)
def reverse(graph: Graph) -> Schedule:
    """Products from the last element back. Sizes x→a→b→y cost y·a·(b+x) multiply-adds."""
    chain = Chain(graph)
    return chain.schedule(in_order(len(chain), forward=False))


@orders.register("optimal", requires=check_chain)
def optimal(graph: Graph) -> Schedule:
    """The order of products with the fewest flops, by dynamic programming."""
    chain = Chain(graph)
    return chain.schedule(best_product(chain.elements())[1])


@orders.register("optimal_matrix_free", requires=check_chain)
def optimal_matrix_free(
    graph: Graph,
    *,
    tape: Annotated[Bytes | None, Field(description="most bytes of tape that an adjoint sweep may use")] = None,
) -> Schedule:
    """The cheapest mix of products, tangent sweeps and adjoint sweeps (Naumann 2024, arXiv:2406.11862).

    Prefer it over `optimal` wherever JVPs and VJPs are cheaper than forming Jacobians.
    """
    chain = Chain(graph)
    return chain.schedule(best_matrix_free(chain.elements(), tape=tape)[1])


class Chain:
    """A graph seen as a chain of elements, each the nodes between two cuts.

    Raises
    ------
    NotApplicable
        If parameters are differentiated, or there are several inputs or outputs.
    """

    def __init__(self, graph: Graph) -> None:
        if graph.wrt != "input":
            raise NotApplicable(
                "jacobian_chain multiplies the Jacobians between input and output; it does not apply to "
                "wrt: parameters, whose gradients branch off at every layer. Set wrt: input"
            )
        inputs = graph.variables
        outputs = [s for s in graph.sinks.tolist() if graph.active[len(graph.inputs) + s]]
        if len(inputs) != 1 or len(outputs) != 1:
            raise NotApplicable(
                f"jacobian_chain needs one differentiable input and one output; the graph has {len(inputs)} and "
                f"{len(outputs)}"
            )
        self.graph = graph
        self._input = inputs[0]
        c = graph.columns
        readers = np.repeat(np.arange(len(graph)), np.diff(c.input_ptr))[c.input_index == inputs[0]]
        cuts = graph.articulation_points
        start = int(readers.max()) if len(readers) else 0
        self.cuts: Ints = cuts[(cuts == 0) | ((cuts > start) & (cuts <= outputs[0])) | (cuts == len(graph))]

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def position(self, cut: int) -> int:
        """The position whose value crosses a cut: the graph input, or the output of the node before it."""
        if cut == 0:
            return self._input
        if cut == len(self):
            return len(self.graph.inputs) + int(self.graph.sinks[self.graph.active[self._sink_positions()]][0])
        return len(self.graph.inputs) + int(self.cuts[cut]) - 1

    def _sink_positions(self) -> Ints:
        return self.graph.sinks + len(self.graph.inputs)

    def nodes(self, element: int) -> Ints:
        """The active nodes of an element, in topological order."""
        start, stop = int(self.cuts[element]), int(self.cuts[element + 1])
        nodes = np.arange(start, stop)
        return nodes[self.graph.active[len(self.graph.inputs) + nodes]]

    def single(self, element: int) -> int | None:
        """The node of an element that has one with one active input, whose Jacobian can be formed."""
        nodes = self.nodes(element)
        return int(nodes[0]) if len(nodes) == 1 else None

    @property
    def is_single(self) -> bool:
        """Tell whether every element is one node."""
        return all(len(self.nodes(e)) == 1 for e in range(len(self)))

    def elements(self) -> Elements:
        """The costs of the chain, flops for the whole batch."""
        graph, c = self.graph, self.graph.columns
        blocks = [self.nodes(e) for e in range(len(self))]
        sizes = [self._scalars(cut) for cut in range(len(self) + 1)]
        tangent = [sum(c.jvp_flops[b].tolist()) for b in blocks]
        adjoint = [sum(c.vjp_flops[b].tolist()) for b in blocks]
        alone = [self.single(e) for e in range(len(self))]
        form = [
            min(sizes[e] * tangent[e], sizes[e + 1] * adjoint[e]) if i is None else int(c.jacobian_flops[i])
            for e, i in enumerate(alone)
        ]
        if max(*tangent, *adjoint, *form) > LARGEST:
            raise CountOverflow("the Jacobian of one element of this chain could take more than 2^62 flops")
        return Elements(
            sizes=np.array(sizes, dtype=np.int64),
            tangent=np.array(tangent, dtype=np.int64),
            adjoint=np.array(adjoint, dtype=np.int64),
            form=np.array(form, dtype=np.int64),
            structure=np.array([0 if i is None else int(c.jacobian_structure[i]) for i in alone], dtype=np.int64),
            tape=np.array([self._tape(b) for b in blocks], dtype=np.int64),
            batch=graph.batch,
        )

    def _scalars(self, cut: int) -> int:
        if cut == 0:
            return self.graph.input_scalars
        return int(self.graph.columns.scalars[self.position(cut) - len(self.graph.inputs)])

    def _tape(self, nodes: Ints) -> int:
        """Residuals of the nodes, and of a block of several the activations inside it."""
        c = self.graph.columns
        return int(np.maximum(c.residual_bytes[nodes], 0).sum() + c.activation_bytes[nodes[:-1]].sum())

    def memory(self) -> ChainMemory:
        """The bytes of the chain; of a block of several nodes an estimate, all of them held together."""
        c, blocks = self.graph.columns, [self.nodes(e) for e in range(len(self))]
        m = len(self.graph.inputs)
        nodes = [self.position(cut) - m for cut in range(len(self) + 1)]
        read = set(c.input_index[self.graph.derivative_reads].tolist())
        return ChainMemory(
            activation=np.array([0, *c.activation_bytes[nodes[1:]]], dtype=np.int64),
            residual=np.array([self._tape(b) for b in blocks], dtype=np.int64),
            workspace=np.array([int(c.workspace_bytes[b].max()) for b in blocks], dtype=np.int64),
            reads_input=np.array([int(i + m in read) for i in nodes[:-1]], dtype=np.int64),
            reads_output=np.array([int((c.needs[b[-1]] & 2) > 0) for b in blocks], dtype=np.int64),
            itemsize=np.array([0, *c.itemsize[nodes[1:]]], dtype=np.int64),
        )

    def schedule(self, tree: Bracketing, *, interleaved: bool = False) -> Schedule:
        """The schedule of a bracketing: the primal, then the products from the leaves up.

        With `interleaved` each element is evaluated when it is first needed, not before.
        """
        builder, evaluated = Builder(self.graph), 0
        for part in tree.parts():
            for element, actions in self._actions(part):
                reach = int(self.cuts[element + 1]) if interleaved else len(self.graph)
                builder.forward(range(evaluated, max(evaluated, reach)))
                evaluated = max(evaluated, reach)
                builder.add(*actions)
        return builder.build(notes=_notes(tree))

    def ordered(self, tree: Bracketing, moves: list[Move]) -> Schedule:
        """The schedule of a bracketing whose evaluations and steps are done in the order of `moves`."""
        builder = Builder(self.graph)
        actions = [list(self._actions(part)) for part in tree.parts()]
        steps = steps_of(self.elements(), self.memory(), tree)
        for move in moves:
            if move.step < 0:
                builder.forward(range(int(self.cuts[move.element]), int(self.cuts[move.element + 1])))
            else:
                step = steps[move.step]
                builder.add(*actions[step.part][step.number][1])
        return builder.build(notes=_notes(tree))

    def name(self, cut: int) -> str:
        """The name of what crosses a cut."""
        return self.graph.names[self.position(cut)]

    def _of_nodes(self, element: int) -> list[str]:
        m = len(self.graph.inputs)
        return [self.graph.names[m + i] for i in self.nodes(element).tolist()]

    def _actions(self, part: Bracketing) -> Iterator[tuple[int, list[Action]]]:
        """(element that must have been evaluated, actions) of what makes a part from its parts."""
        source, target = self.name(part.first), self.name(part.last + 1)
        first, last, how = part.first, part.last, part.how
        if how == "multiply":
            assert part.right is not None
            yield last, [Multiply(target, self.name(part.right.last + 1), source)]
            return
        if how == "form":
            node = self.single(first)
            if node is not None:
                yield first, [LocalJacobian(self.graph.names[len(self.graph.inputs) + node])]
                return
            c, nodes = self.graph.columns, self.nodes(first)
            by_tangents = self._scalars(first) * int(c.jvp_flops[nodes].sum())
            by_adjoints = self._scalars(last + 1) * int(c.vjp_flops[nodes].sum())
            how = "tangent" if by_tangents <= by_adjoints else "adjoint"
        if how == "tangent":
            begin = first if part.right is None else part.right.last + 1
            for e in range(begin, last + 1):
                yield e, [JvpOfJacobian(name, source, width=self._scalars(first)) for name in self._of_nodes(e)]
        else:
            end = last if part.left is None else part.left.first - 1
            for e in range(end, first - 1, -1):
                width = self._scalars(last + 1)
                yield e, [VjpOfJacobian(name, target, width=width) for name in reversed(self._of_nodes(e))]


def _notes(tree: Bracketing) -> tuple[tuple[str, str], ...]:
    text = str(tree)
    return (("bracketing", text if len(text) <= LONGEST_NOTE else text[:LONGEST_NOTE] + " …"),)
