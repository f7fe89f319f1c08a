"""Flops of what was executed, from the shapes of the arrays: a count of its own beside that of the graph.

An op that multiplies matrices does 2 flops for each multiply-add, in its forward and for each operand
that a derivative is taken by; a bias adds one for each output scalar to the forward and to the weight
gradient. Those are counted here from shapes alone. Other ops have no formula but their own rule's, so
their rows count as the graph says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from sim.execution.numpy.arrays import input_shapes, parameter_shapes
from sim.graphs.graph import Graph
from sim.graphs.node import Ints, Node
from sim.ops.rule import Shape
from sim.schedules.actions import Forward, Jvp, JvpOfJacobian, SeededJvp, Vjp, VjpOfJacobian
from sim.schedules.schedule import Schedule

Shapes = tuple[Shape, ...]


def _per_head(node: Node) -> int:
    heads: int = node.attributes["heads"]
    return heads


def _convolution(node: Node, _: Shapes, p: Shapes) -> int:
    return math.prod(node.output_shape) * math.prod(p[0][1:])


def _transposed_convolution(_: Node, x: Shapes, p: Shapes) -> int:
    return math.prod(x[0]) * math.prod(p[0][1:])


_MULTIPLY_ADDS: Mapping[str, Callable[[Node, Shapes, Shapes], int]] = {
    "linear": lambda _, x, p: math.prod(x[0][:-1]) * math.prod(p[0]),
    **{f"conv{d}d": _convolution for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": _transposed_convolution for d in (1, 2, 3)},
    "matmul": lambda node, x, _: math.prod(x[0]) * node.output_shape[-1],
    "attention_scores": lambda node, x, _: math.prod(node.output_shape) * (x[0][-1] // _per_head(node)),
    "attention_context": lambda node, x, _: math.prod(x[0]) * (node.output_shape[-1] // _per_head(node)),
    "expert_linear": lambda node, x, p: math.prod(x[0]) * p[0][1],
}


def executed_flops(schedule: Schedule, actions: Ints) -> int:
    """Flops of the actions (numbers in the schedule) that an execution did, every turn of every loop."""
    own = _row_flops(schedule)
    rows, widths = schedule.rows[actions].tolist(), schedule.widths[actions].tolist()
    return sum(own[row] * width for row, width in zip(rows, widths, strict=True))


def _row_flops(schedule: Schedule) -> dict[int, int]:
    """Flops of each row that the schedule uses, per unit of width."""
    table, graph = schedule.table, schedule.graph
    flops: dict[int, int] = {}
    for row in set(schedule.rows.tolist()):
        i, action = int(table.node[row]), table.action(row)
        node = graph.nodes[i]
        if node.op not in _MULTIPLY_ADDS:
            flops[row] = int(table.flops[row])
            continue
        inputs, weight, adds = _parts(graph, node)
        match action:
            case Forward():
                flops[row] = weight + adds
            case SeededJvp():
                flops[row] = bool(action.carried) * inputs + action.seeded * (weight + adds)
            case Vjp():
                has_gradient = graph.wrt == "parameters" and bool(graph.gradient_of[i] >= 0)
                flops[row] = bool(graph.reads_active[i]) * inputs + has_gradient * (weight + adds)
            case Jvp() | JvpOfJacobian() | VjpOfJacobian():
                flops[row] = inputs
            case _:
                flops[row] = int(table.flops[row])
    return flops


def _parts(graph: Graph, node: Node) -> tuple[int, int, int]:
    """(flops of a derivative by all activations, of one product, of adding a bias)."""
    x, p = input_shapes(graph, node), parameter_shapes(graph, node)
    product = 2 * _MULTIPLY_ADDS[node.op](node, x, p)
    adds = math.prod(node.output_shape) if node.attributes.get("bias") else 0
    return product * len(x), product, adds
