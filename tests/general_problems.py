"""Small problems for laws of general graphs: any shape, with everything that a node can ask for."""

from __future__ import annotations

import random
from collections.abc import Iterator

from sim.base.errors import GraphError
from sim.graphs.graph import Graph
from sim.graphs.node import NEEDS, GraphInput, Node
from sim.strategies.general.problem import Problem, graph_problem, plain_problem


def shapes(nodes: int) -> Iterator[list[list[int]]]:
    """All DAGs of so many nodes in topological order: the nodes that each one reads."""
    for bits in range(2 ** (nodes * (nodes - 1) // 2)):
        yield [[u for u in range(i) if bits >> (i * (i - 1) // 2 + u) & 1] for i in range(nodes)]


def random_shape(rng: random.Random, nodes: int) -> list[list[int]]:
    return [sorted(rng.sample(range(i), min(i, rng.choice([0, 1, 1, 2, 3])))) for i in range(nodes)]


def random_graph(rng: random.Random, shape: list[list[int]]) -> Graph:
    """A graph of that shape: sizes of 0 too, inputs that are read late, residuals, workspaces, several sinks."""
    while True:
        nodes = []
        for i, of in enumerate(shape):
            names = [f"n{u}" for u in of] + [x for x in ("x", "y") if not of or rng.random() < 0.2]
            needs = rng.choice(NEEDS)
            reads = tuple(rng.choice(["never", "always", "others"]) for _ in names)
            node = Node(
                name=f"n{i}", inputs=tuple(names), output_shape=(1, 1), needs=needs,
                forward_flops=rng.randint(0, 9), vjp_flops=rng.randint(0, 2), param_size=rng.choice([0, 0, 1]),
                activation_bytes=rng.choice([0, rng.randint(1, 9), rng.randint(1, 9)]),
                residual_bytes=rng.choice([None, None, rng.randint(0, 9)]),
                reads=reads if needs in ("input", "both") and rng.random() < 0.4 else None,
                workspace_bytes=rng.choice([0, 0, 3]), vjp_workspace_bytes=rng.choice([None, 2]),
                taping_workspace_bytes=rng.choice([None, 4]),
            )  # fmt: skip
            nodes.append(node)
        try:
            inputs = [GraphInput("x", (1, 1)), GraphInput("y", (1, 1))]
            return Graph.from_nodes(nodes, inputs, wrt=rng.choice(["input", "parameters"]))
        except GraphError:  # no parameter to differentiate by
            continue


def random_problem(rng: random.Random, shape: list[list[int]], *, plain: bool = False) -> Problem:
    """The problem of a graph with VJPs of that shape, or of a plain one."""
    if not plain:
        return graph_problem(random_graph(rng, shape))
    n = len(shape)
    return plain_problem(
        shape,
        cost=[rng.randint(0, 9) for _ in range(n)],
        value_bytes=[rng.choice([0, rng.randint(1, 9), rng.randint(1, 9)]) for _ in range(n)],
        workspace=[rng.choice([0, 0, 3]) for _ in range(n)],
        remains=[i for i in range(n) if rng.random() < 0.2],
    )
