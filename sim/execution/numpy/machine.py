"""The state of one execution on NumPy arrays, and what all its actions share.

Positions count graph inputs first, then nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sim.base.errors import NotApplicable
from sim.execution.numpy.arrays import input_shapes, parameter_shapes
from sim.execution.numpy.memory import Memory
from sim.execution.numpy.seeds import Seeds
from sim.graphs.graph import Graph
from sim.graphs.node import Node, Structure
from sim.ops import rule_of
from sim.ops.rule import Array, At, Rule, Shape, split, total
from sim.schedules.actions import Action
from sim.schedules.lifetimes import Ends
from sim.schedules.schedule import Schedule
from sim.schedules.values import ACTIVATION, GRADIENT, READ, RESIDUAL, Value

A = TypeVar("A", bound=Action)


class Step(NamedTuple):
    """The touches of an action (how, by value), and the values that end with it."""

    touches: Mapping[int, int]
    ends: Ends


class Machine:
    """Arrays in memory, seeds, and the derivative as far as it has been computed."""

    def __init__(
        self, schedule: Schedule, inputs: Mapping[str, Array], parameters: Mapping[str, Array], seed: int
    ) -> None:
        graph = self.graph = schedule.graph
        self.table, self.n, self.m = schedule.table, len(graph), len(graph.inputs)
        self.numbers = self.table.numbers
        self.added_values = {v: k for k, v in enumerate(self.table.added_values, start=self.numbers.first_added)}
        self.nodes: list[Node] = list(graph.nodes)
        self.rules: list[Rule] = [rule_of(node) for node in self.nodes]
        _check_samples(graph, self.nodes, self.rules)
        self.position = {i.name: p for p, i in enumerate(graph.inputs)}
        self.position |= {node.name: self.m + i for i, node in enumerate(self.nodes)}
        self._names = list(self.position)
        self.operands = [tuple(self.position[name] for name in node.inputs) for node in self.nodes]
        self.inputs = [inputs[i.name] for i in graph.inputs]
        self.sites = [self._site(i, parameters, seed) for i in range(self.n)]
        self.memory = Memory(self.table, [*self.inputs, *parameters.values()])
        self.seeds = Seeds(graph)
        self.sinks = frozenset(graph.sinks.tolist())
        self.added: dict[int, int] = {}
        """The number of VJPs that have added to each cotangent in memory."""
        readers = Counter(p for i in range(self.n) if graph.active[self.m + i] for p in self.active_inputs(i))
        self.consumers: list[int] = [readers[self.m + i] for i in range(self.n)]
        """The number of VJPs that make the cotangent of each node complete."""
        self.structure: dict[int, Structure] = {}
        """The structure of each accumulated Jacobian."""
        self.outputs: dict[str, Array] = {}
        self.gradients: dict[int, Array] = {}
        """Gradients by node that are results, not working values."""
        self.jacobian = np.zeros((0, 0, 0))
        """Shape (batch, n_out, n_in) with `wrt="input"`."""
        if graph.wrt == "input":
            shape = (graph.batch, graph.output_scalars, graph.input_scalars)
            self.jacobian = np.zeros(shape, dtype=self.nodes[-1].dtype)

    def _site(self, i: int, parameters: Mapping[str, Array], seed: int) -> At:
        node = self.nodes[i]
        shapes = parameter_shapes(self.graph, node)
        p = split(parameters[self.nodes[self.owner(i)].name], shapes) if shapes else ()
        return At(node, input_shapes(self.graph, node), p, seed=(seed, i))

    def owner(self, i: int) -> int:
        """The node whose parameters node i uses: itself, or the one it is tied to."""
        tied = self.nodes[i].tied_to
        return self.position[tied] - self.m if tied else i

    def shape(self, position: int) -> Shape:
        """The shape in which the value at a position is stored."""
        return self.graph.inputs[position].shape if position < self.m else self.nodes[position - self.m].output_shape

    def node(self, action: Action) -> int:
        """The number of an action's node."""
        return self.position[action.node] - self.m

    def jacobian_value(self, node: int, source: int) -> int:
        """The number of the accumulated Jacobian of one position by another."""
        return self.added_values[Value("jacobian", self._names[node], self._names[source])]

    def active_inputs(self, i: int) -> list[int]:
        """The distinct positions that node i reads and that carry tangents or cotangents."""
        return [p for p in dict.fromkeys(self.operands[i]) if self.graph.active[p]]

    def at(self, i: int, touches: Mapping[int, int]) -> At:
        """The site of node i with what its action reads, and nothing else; graph inputs are always there."""
        site, number = self.sites[i], self.numbers.value

        def read(value: int) -> Array | None:
            return self.memory.read(value) if touches.get(value) == READ else None

        def operand(position: int, shape: Shape) -> Array | None:
            array = self.inputs[position] if position < self.m else read(number(ACTIVATION, position - self.m))
            return None if array is None else array.reshape(shape)

        x = tuple(operand(p, s) for p, s in zip(self.operands[i], site.shapes, strict=True))
        y, residual = read(number(ACTIVATION, i)), read(number(RESIDUAL, i))
        return At(site.node, site.shapes, site.p, x, y, residual, site.seed)

    def pushed(self, i: int, at: At, tangents: Mapping[int, Array]) -> Array:
        """The JVP of node i for tangents by position, each (width, *shape)."""
        pairs = zip(self.operands[i], self.sites[i].shapes, strict=True)
        viewed = [tangents[p].reshape(-1, *shape) if p in tangents else None for p, shape in pairs]
        rule = self.rules[i]
        dy = rule.jvp(at, viewed)
        return dy if rule.reduces else dy.reshape(len(dy), *self.nodes[i].output_shape)

    def pulled(self, i: int, at: At, g: Array) -> dict[int, Array]:
        """The VJP's contribution to the cotangent of each active input of node i, (width, *shape)."""
        parts: dict[int, list[Array]] = {}
        for position, part in zip(self.operands[i], self.rules[i].vjp(at, g), strict=True):
            if self.graph.active[position]:
                assert part is not None
                parts.setdefault(position, []).append(part.reshape(len(g), *self.shape(position)))
        return {position: total(terms) for position, terms in parts.items()}

    def gradient(self, owner: int) -> Array:
        """The gradient of a node's parameters, (n_out, parameters), made of zeros where it is first asked for.

        It is working memory, unless gradients are preallocated and so belong to the caller.
        """
        preallocated = self.graph.preallocated_gradients
        held, key = (
            (self.gradients, owner) if preallocated else (self.memory.arrays, self.numbers.value(GRADIENT, owner))
        )
        if key not in held:
            node = self.nodes[owner]
            held[key] = np.zeros((self.graph.output_scalars, node.param_size), dtype=node.dtype)
        return held[key]


HANDLERS: dict[type[Action], Callable[[Machine, Any, Step], None]] = {}
"""The handler of each class of actions."""


def handles(
    kind: type[A],
) -> Callable[[Callable[[Machine, A, Step], None]], Callable[[Machine, A, Step], None]]:
    """Decorator: the function does the actions of a class."""

    def registered(function: Callable[[Machine, A, Step], None]) -> Callable[[Machine, A, Step], None]:
        HANDLERS[kind] = function
        return function

    return registered


def _check_samples(graph: Graph, nodes: Sequence[Node], rules: Sequence[Rule]) -> None:
    """Raise `NotApplicable` unless each sample has a Jacobian, where one is asked for.

    Raises
    ------
    NotApplicable
        With `wrt="input"` and several samples, for an op that couples them.
    """
    if graph.wrt != "input" or graph.batch == 1:
        return
    sinks = frozenset(graph.sinks.tolist())
    for i, (node, rule) in enumerate(zip(nodes, rules, strict=True)):
        if rule.couples or (rule.reduces and i not in sinks):
            raise NotApplicable(
                f"node '{node.name}' ({node.op}) couples the samples of a batch, so no sample has a Jacobian of its "
                "own; set wrt: parameters, or batch: 1"
            )
    for item in (graph.inputs[p] for p in graph.variables):
        if item.shape[:1] != (graph.batch,):
            raise NotApplicable(f"input '{item.name}' is shared by the samples of a batch; mark it as constant")
