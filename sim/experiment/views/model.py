"""The nodes of the graph, in the order in which they are computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from sim.base.json import Amount
from sim.experiment.measurements import Measurements
from sim.experiment.views import view
from sim.graphs.graph import Graph
from sim.graphs.node import Ints

MOST_BARS = 250


class Model(TypedDict):
    """Up to `MOST_BARS` stretches of consecutive nodes, each one node where there are no more than that.

    Stretch k has the nodes `first[k]` up to the next one's; `names` and `ops` are those of its first node,
    `forward_flops` the sum over its nodes.
    """

    nodes: Annotated[int, Field(ge=1, le=10**12)]
    first: Annotated[list[Amount], Field(min_length=1)]
    names: list[str]
    ops: list[str]
    forward_flops: list[Amount]


def _fitting(model: Model) -> Model:
    first = model["first"]
    if any(len(model[key]) != len(first) for key in ("names", "ops", "forward_flops")):
        raise ValueError("a name, an op and flops for each stretch")
    if first[0] or any(b <= a for a, b in zip(first, [*first[1:], model["nodes"]], strict=True)):
        raise ValueError("stretches that begin at node 0, rise, and end within the nodes")
    return model


@view("model", place=4)
def model(run: Measurements) -> Annotated[Model, AfterValidator(_fitting)] | None:
    """The stretches of nodes that bars stand for."""
    graph, first = run.graph, stretches(run.graph)
    nodes = [graph.nodes[i] for i in first.tolist()]
    return Model(
        nodes=len(graph),
        first=first.tolist(),
        names=[n.name for n in nodes],
        ops=[n.op for n in nodes],
        forward_flops=summed(graph.columns.forward_flops, first),
    )


def stretches(graph: Graph) -> Ints:
    """The first node of each stretch; all are as long as each other, give or take one."""
    count = min(len(graph), MOST_BARS)
    return np.arange(count, dtype=np.int64) * len(graph) // count


def summed(of_nodes: Ints, first: Ints) -> list[int]:
    """The sum over the nodes of each stretch."""
    return [int(x) for x in np.add.reduceat(of_nodes.astype(object), first)]


def shares(of_nodes: Mapping[str, Ints], first: Ints) -> dict[str, list[int]]:
    """The sums over stretches of each column that is not zero everywhere."""
    return {name: summed(column, first) for name, column in of_nodes.items() if column.any()}
