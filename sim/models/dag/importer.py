"""Plain graphs as scenarios name them: `graph: {kind: dag, file: graph.json, cost: duration, bytes: out_cost}`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, PlainValidator, WithJsonSchema

from sim.base.errors import GraphError, ParameterError
from sim.base.json import STRICT
from sim.base.registry import Problem, Size, first_of
from sim.base.units import Bytes
from sim.graphs.graph import Graph
from sim.graphs.node import GraphInput
from sim.models.dag.files import read, read_edges
from sim.models.dag.listing import Edge, Listed, Listing, Meaning, graph_of
from sim.models.importers import importers


class PlainNode(BaseModel):
    """A computation: what it costs, the bytes of its output, what it reads, and what it needs while it runs."""

    model_config = STRICT

    name: Annotated[str, Field(description="Its name, which others read it by.")]
    cost: Annotated[Size, Field(description="The work of one run, in flops or any unit of one's own.")]
    bytes: Annotated[Bytes, Field(description="Memory of its output.")]
    inputs: Annotated[list[str], Field(description="What it reads.")] = []
    workspace: Annotated[Bytes, Field(description="Memory that it takes while it runs.")] = 0


def _path(value: Any) -> Path:
    if isinstance(value, Path) or (isinstance(value, str) and value):
        return Path(value)
    raise ValueError("a path, relative to the scenario file")


GraphFile = Annotated[Path, PlainValidator(_path), WithJsonSchema({"type": "string"})]


@importers.register("dag", runs_on=None)
def dag(
    *,
    nodes: Annotated[
        list[PlainNode] | None, Field(min_length=1, description="Nodes by hand, in the order of evaluation.")
    ] = None,
    file: Annotated[GraphFile | None, Field(description="Node-link JSON, a CSV of nodes, or a log of DTR.")] = None,
    edges: Annotated[GraphFile | None, Field(description="A CSV with the columns source and target.")] = None,
    inputs: Annotated[
        dict[str, Bytes] | None, Field(description="Graph inputs with their bytes, which are always in memory.")
    ] = None,
    cost: Annotated[str | None, Field(description="The attribute that is a node's cost.")] = None,
    bytes: Annotated[str | None, Field(description="The attribute that is the size of a node's output.")] = None,
    workspace: Annotated[str | None, Field(description="The attribute that is needed while a node runs.")] = None,
    cost_unit: Annotated[float, Field(gt=0, description="How much of the attribute counts as one flop.")] = 1,
    outputs: Annotated[
        list[str] | None, Field(description="Nodes whose outputs remain in memory to the end; none unless given.")
    ] = None,
) -> Graph:
    """A plain computation graph: forward and backward operations alike, none of which has a derivative.

    Costs count as forward flops. An output is in memory from its node's run to the last one that reads it; one
    that nobody reads only while its node runs, unless it is among `outputs`. Without `cost` and `bytes` the
    attributes are those of the first node: `cost` and `bytes`, or the published pairs `duration` and `out_cost`
    (Moccasin) or `cost_cpu` and `cost_ram` (Checkmate). The order of evaluation is that of the file (of
    `graph.order` where a file has one), or if that is none the first topological one.

    Raises
    ------
    DocumentError
        For a file that is no graph: at the node or edge at fault.
    GraphError, ParameterError
        For nodes by hand that are none.
    """
    meaning = Meaning(cost, bytes, workspace, cost_unit)
    resident = [GraphInput(name, (), bytes=size) for name, size in (inputs or {}).items()]
    if (nodes is None) == (file is None):
        raise ParameterError("expected either 'nodes' or a 'file'", parameter=("file",) if file else ())
    if nodes is not None:
        if edges or meaning != Meaning():
            raise ParameterError(
                "edges, cost, bytes, workspace and cost_unit are for files; nodes by hand have keys of their own",
                parameter=("nodes",),
            )
        listed = [
            Listed(n.name, n.model_dump(exclude={"name", "inputs"}), tuple(n.inputs), ("nodes", i))
            for i, n in enumerate(nodes)
        ]
        return graph_of(
            Listing(listed, inputs=resident), meaning, nodes_in=_refusal, edges_in=_refusal, outputs=outputs or ()
        )
    assert file is not None
    listing, document = read(file)
    listing.inputs += resident
    source = document
    if edges is not None:
        more, source = read_edges(edges)
        listing.edges += more
    return graph_of(listing, meaning, nodes_in=document.error, edges_in=source.error, outputs=outputs or ())


def from_networkx(
    graph: Any,
    *,
    cost: str | None = None,
    bytes: str | None = None,
    workspace: str | None = None,
    cost_unit: float = 1,
    outputs: Sequence[Any] = (),
) -> Graph:
    """The plain graph of a `networkx.DiGraph`: an edge (u, v) says that v reads the output of u.

    Nodes are called by `str`; their attributes and the other parameters mean what they do in `dag`.

    Raises
    ------
    GraphError, ParameterError
        For a graph that is undirected or has a cycle, or an attribute that is missing, negative or no number.
    """
    if not graph.is_directed():
        raise GraphError("got an undirected graph, expected a networkx.DiGraph whose edges lead to who reads")
    listing = Listing(
        [Listed(str(n), attributes) for n, attributes in graph.nodes(data=True)],
        [Edge(str(u), str(v)) for u, v in graph.edges()],
        name=str(graph.name or "dag"),
    )
    return graph_of(
        listing,
        Meaning(cost, bytes, workspace, cost_unit),
        nodes_in=_refusal,
        edges_in=_refusal,
        outputs=[str(n) for n in outputs],
    )


def _refusal(problems: Iterable[Problem]) -> ParameterError:
    """The first problem at the node that it is about; the message names the node, so that its key need not be."""
    all_of = list(problems)
    error = first_of([replace(p, path=()) for p in all_of])
    return ParameterError(str(error), parameter=all_of[0].path)
