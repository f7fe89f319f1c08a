"""Files of plain graphs: node-link JSON, CSV, and the logs of DTR.

Node-link JSON is NetworkX's: `nodes` with their attributes and `links` (or `edges`) from `source` to `target`.
Moccasin's files (Bartan et al., ICML 2023, arXiv:2304.14463) call the ends of an edge "0" and "1" and keep the order
of evaluation in `graph.order`; nodes are identified by `id`, or else by `name`. A node may list its `inputs` itself.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sim.base import json
from sim.base.document import Document, Position, read_text
from sim.base.registry import Problem
from sim.models.dag.listing import Edge, Listed, Listing

ENDS = (("source", "target"), ("0", "1"))


def read(path: Path) -> tuple[Listing, Document]:
    """The listing in a file, and the document that shows what is wrong with it.

    Raises
    ------
    DocumentError
        For a file that cannot be read, or one that lists no nodes.
    """
    if path.suffix == ".csv":
        document = read_csv(path)
        return Listing(list(_nodes(document)), name=path.stem), document
    if path.suffix in (".log", ".jsonl"):
        from sim.models.dag.dtr import read_log

        return read_log(path)
    return _node_link(path)


def read_edges(path: Path) -> tuple[list[Edge], Document]:
    """The edges in a CSV file with the columns `source` and `target`."""
    document = read_csv(path)
    return list(_edges(document, "nodes")), document


def read_csv(path: Path) -> Document:
    """The rows of a CSV file below its header, as `nodes`: mappings without what is left empty."""
    text = read_text(path, str(path), kind="a CSV file", largest=json.LARGEST_FILE)
    document = Document(str(path), text, {"nodes": []})
    lines = text.splitlines()
    header = _fields(lines[0])[0] if lines else []
    if not any(header):
        raise document.error([Problem((), "the file is empty, expected a header such as name,cost,bytes,inputs")])
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        values, columns = _fields(line)
        row = len(document.data["nodes"])
        document.values["nodes", row] = Position(number, 1)
        if len(values) != len(header):
            message = f"the row has {len(values)} fields, expected {len(header)} as in the header"
            raise document.error([Problem(("nodes", row), message)])
        document.data["nodes"].append({k: v for k, v in zip(header, values, strict=True) if v})
        for key, column in zip(header, columns, strict=True):
            document.values["nodes", row, key] = Position(number, column)
    return document


def _fields(line: str) -> tuple[list[str], list[int]]:
    """The fields of a line, and the column where each begins."""
    columns, quoted = [1], False
    for at, c in enumerate(line):
        quoted ^= c == '"'
        if c == "," and not quoted:
            columns.append(at + 2)
    return [field.strip() for field in next(csv.reader([line]))], columns


def _node_link(path: Path) -> tuple[Listing, Document]:
    document = json.read(path)
    data = document.data
    if not isinstance(data, dict) or not isinstance(data.get("nodes"), list) or not data["nodes"]:
        raise document.error([Problem((), "expected node-link JSON: a mapping with a list of 'nodes' and of 'links'")])
    about = data["graph"] if isinstance(data.get("graph"), dict) else {}
    edges = list(_edges(document, "edges" if "edges" in data else "links"))
    listing = Listing(list(_nodes(document)), edges, name=str(about.get("name", path.stem)))
    if isinstance(about.get("order"), list):
        listing.order = [str(item) for item in about["order"]]
    return _by_name(listing), document


def _by_name(listing: Listing) -> Listing:
    """The listing with nodes called by their `name` rather than their `id`, if no two have the same."""
    names = {n.name: n.attributes.get("name", n.name) for n in listing.nodes}
    if len(set(names.values())) < len(listing.nodes) or not all(isinstance(name, str) for name in names.values()):
        return listing

    def call(identity: str) -> str:
        return str(names.get(identity, identity))

    return replace(
        listing,
        nodes=[replace(n, name=call(n.name), inputs=tuple(map(call, n.inputs))) for n in listing.nodes],
        edges=[replace(e, source=call(e.source), target=call(e.target)) for e in listing.edges],
        order=None if listing.order is None else [call(item) for item in listing.order],
    )


def _nodes(document: Document) -> Iterator[Listed]:
    """Each node of a document, by its `id` or else its `name`."""
    for i, node in enumerate(document.data["nodes"]):
        path = ("nodes", i)
        if not isinstance(node, dict) or not any(key in node for key in ("id", "name")):
            raise document.error([Problem(path, "expected a node with an 'id' or a 'name'")])
        inputs = node.get("inputs", ())
        if isinstance(inputs, str):
            inputs = inputs.replace(";", " ").split()
        if not isinstance(inputs, list | tuple):
            raise document.error([Problem((*path, "inputs"), f"got {inputs!r:.40}, expected a list of nodes")])
        attributes = {k: v for k, v in node.items() if k != "inputs"}
        yield Listed(_identity(node), attributes, tuple(map(str, inputs)), path)


def _edges(document: Document, key: str) -> Iterator[Edge]:
    for i, edge in enumerate(document.data.get(key, ())):
        ends = None
        if isinstance(edge, dict):
            ends = next(((edge[a], edge[b]) for a, b in ENDS if a in edge and b in edge), None)
        elif isinstance(edge, list) and len(edge) >= 2:
            ends = edge[0], edge[1]
        if ends is None:
            raise document.error([Problem((key, i), "expected an edge with a 'source' and a 'target'")])
        yield Edge(str(ends[0]), str(ends[1]), (key, i))


def _identity(node: dict[str, Any]) -> str:
    return str(node["id"] if "id" in node else node["name"])
