"""Plain graphs from nodes by hand, node-link JSON, CSV, NetworkX and logs of DTR are one graph, or a clear refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import GraphError, ParameterError, SimError
from sim.graphs.graph import Graph
from sim.models import importers
from sim.models.dag.importer import from_networkx
from sim.scenario.scenario import load
from sim.schedules.plan import graph_sha256
from sim.schedules.replay import replay
from sim.strategies.plain import in_order

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PUBLISHED = [  # nodes, edges, cost and peak of the order given: Bartan et al., ICML 2023, arXiv:2304.14463
    ("random_layered_100", 100, 236, 47_769, 46_319),
    ("random_layered_250", 250, 944, 125_569, 146_840),
    ("fcn8_train", 73, 149, 10_275_337_746_048, 13_484_795_520),
]


def dag(**parameters: Any) -> Graph:
    return importers.load().call("dag", **parameters)


@st.composite
def listings(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Nodes in topological order, each with a cost, bytes, a workspace and what it reads."""
    sizes = st.integers(0, 9)
    nodes: list[dict[str, Any]] = []
    for i in range(draw(st.integers(1, 6))):
        reads = sorted(draw(st.sets(st.sampled_from([n["name"] for n in nodes]), max_size=3))) if nodes else []
        own = {"cost": draw(sizes), "bytes": draw(sizes), "workspace": draw(sizes)}
        nodes.append({"name": f"n{i}", "inputs": reads, **own})
    return nodes


@given(nodes=listings(), data=st.data())
def test_every_way_to_write_a_graph_makes_the_same(
    nodes: list[dict[str, Any]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    networkx = pytest.importorskip("networkx")
    folder = tmp_path_factory.mktemp("dag")
    outputs = data.draw(st.lists(st.sampled_from([n["name"] for n in nodes]), unique=True))
    edges = [(source, n["name"]) for n in nodes for source in n["inputs"]]
    attributes = [{k: v for k, v in n.items() if k != "inputs"} for n in nodes]
    header = "name,cost,bytes,workspace"
    rows = [",".join(str(n[k]) for k in header.split(",")) for n in nodes]
    (folder / "alone.csv").write_text(
        "\n".join([header + ",inputs", *(f"{r},{' '.join(n['inputs'])}" for r, n in zip(rows, nodes, strict=True))])
    )
    (folder / "nodes.csv").write_text("\n".join([header, *rows]))
    (folder / "edges.csv").write_text("\n".join(["source,target", *map(",".join, edges)]))
    links = [{"source": i, "target": k} for i, k in edges]
    by_id = [{**a, "id": a["name"]} for a in attributes]
    (folder / "links.json").write_text(json.dumps({"nodes": by_id, "links": links}))
    (folder / "inputs.json").write_text(json.dumps({"nodes": nodes}))
    places = {n["name"]: i for i, n in enumerate(nodes)}
    numbered = [{**a, "id": i} for i, a in enumerate(attributes)]
    pairs = [[places[i], places[k]] for i, k in edges]
    (folder / "numbers.json").write_text(json.dumps({"nodes": numbered, "edges": pairs}))
    drawn = networkx.DiGraph()
    drawn.add_nodes_from((n["name"], a) for n, a in zip(nodes, attributes, strict=True))
    drawn.add_edges_from(edges)
    graphs = [
        dag(nodes=nodes, outputs=outputs),
        dag(file=folder / "alone.csv", outputs=outputs),
        dag(file=folder / "nodes.csv", edges=folder / "edges.csv", outputs=outputs),
        *(dag(file=folder / f"{name}.json", outputs=outputs) for name in ("links", "inputs", "numbers")),
        from_networkx(drawn, workspace="workspace", outputs=outputs),
    ]
    first, *others = graphs
    assert [(n.forward_flops, n.activation_bytes, n.workspace_bytes) for n in first.nodes] == [
        (n["cost"], n["bytes"], n["workspace"]) for n in nodes
    ]
    assert [first.nodes[i].name for i in first.outputs] == outputs
    for other in others:
        assert [set(n.inputs) for n in other.nodes] == [set(n["inputs"]) for n in nodes]
        assert replay(in_order(other)) == replay(in_order(first))


@pytest.mark.parametrize(("name", "nodes", "edges", "cost", "peak"), PUBLISHED)
def test_published_graphs_have_the_published_peak_and_cost(
    name: str, nodes: int, edges: int, cost: int, peak: int
) -> None:
    if not DATA.exists():
        pytest.skip("the published graphs are not here")
    graph = dag(file=DATA / f"{name}.json")
    assert (len(graph), len(graph.columns.input_index)) == (nodes, edges)
    assert (graph.forward_flops, replay(in_order(graph)).peak_bytes) == (cost, peak)


def test_the_order_given_in_a_file_is_kept(tmp_path: Path) -> None:
    nodes = [{"name": i, "duration": 1, "out_cost": 1} for i in range(4)]
    file = tmp_path / "moccasin.json"
    links = [{"0": 2, "1": 0}, {"0": 0, "1": 3}]
    file.write_text(json.dumps({"graph": {"order": [2, 1, 0, 3]}, "nodes": nodes, "links": links}))
    assert [n.name for n in dag(file=file).nodes] == ["2", "1", "0", "3"]
    file.write_text(json.dumps({"graph": {"order": [2, 1, 0]}, "nodes": nodes, "links": links}))
    with pytest.raises(GraphError, match="every node once"):
        dag(file=file)


def test_costs_are_counted_in_the_unit_given(tmp_path: Path) -> None:
    file = tmp_path / "seconds.json"
    file.write_text(json.dumps({"nodes": [{"id": "a", "seconds": 0.0015, "bytes": 1}]}))
    assert dag(file=file, cost="seconds", cost_unit=1e-6).forward_flops == 1500
    with pytest.raises(SimError, match="cost_unit"):
        dag(file=file, cost="seconds")


def log(*entries: tuple[str, dict[str, Any]]) -> str:
    return "\n".join(json.dumps({"INSTRUCTION": kind, **rest}) for kind, rest in entries)


def call(
    name: str, arguments: list[str], time: int, *results: tuple[str, int, int]
) -> list[tuple[str, dict[str, Any]]]:
    made: list[tuple[str, dict[str, Any]]] = [
        ("CALL", {"NAME": name, "ARGS": arguments, "RESULT": [r for r, _, _ in results], "TIME": str(time)})
    ]
    for result, size, alias in results:
        made += [("MEMORY", {"NAME": result, "MEMORY": str(size)}), ("ALIAS", {"NAME": result, "ALIAS": str(alias)})]
    return made


def test_a_log_of_dtr_holds_views_and_mutations_as_storages(tmp_path: Path) -> None:
    constant = [("CONSTANT", {"NAME": "w"}), ("MEMORY", {"NAME": "w", "MEMORY": "7"})]
    file = tmp_path / "net.log"
    file.write_text(
        log(
            *call("before", [], 9, ("ignored", 1, -1)),
            ("ANNOTATE", {"ANNOTATION": "START"}),
            *constant,
            *call("mm", ["w"], 5, ("y", 40, -1)),
            *call("view", ["y"], 0, ("v", 40, 0)),
            ("RELEASE", {"NAME": "y"}),
            *call("split", ["v"], 3, ("l", 10, -1), ("r", 20, -1)),
            ("RELEASE", {"NAME": "v"}),
            ("MUTATE", {"NAME": "add_", "ARGS": ["w", "l"], "MUTATE": [0], "TIME": "2"}),
            ("RELEASE", {"NAME": "l"}),
            ("RELEASE", {"NAME": "r"}),
        )
    )
    graph = dag(file=file)
    told = [(n.name, n.inputs, n.forward_flops, n.activation_bytes) for n in graph.nodes]
    assert told == [
        ("mm.1", ("w",), 5, 40),
        ("view.1", ("mm.1",), 0, 0),
        ("split.1", ("mm.1", "view.1"), 3, 30),
        ("add_.1", ("w", "split.1"), 2, 7),
    ]
    assert graph.resident_bytes == 7
    assert [graph.nodes[i].name for i in graph.outputs] == ["add_.1"]
    # at the peak: w, y while it is split, and both halves
    assert replay(in_order(graph)).peak_bytes == 7 + 40 + 30


NODE = "{name: a, cost: 1, bytes: 1}"
BAD = {
    "a cycle": ("{kind: dag, nodes: [{name: a, cost: 1, bytes: 1, inputs: [a]}]}", r":3:28: .*cycle: a -> a"),
    "an output that nobody makes": (f"{{kind: dag, outputs: [z], nodes: [{NODE}]}}", r":3:29: .*no node makes 'z'"),
    "no cost": ("{kind: dag, nodes: [{name: a, bytes: 1}]}", r":3:28: .*'cost' is missing"),
    "negative bytes": ("{kind: dag, nodes: [{name: a, cost: 1, bytes: -1}]}", r":3:54: .*got -1, expected a size"),
    "NaN": ("{kind: dag, nodes: [{name: a, cost: 1, bytes: .nan}]}", r":3:54: .*expected a size"),
    "an unknown node": (
        "{kind: dag, nodes: [{name: a, cost: 1, bytes: 1, inputs: [aa]}]}",
        r":3:28: .*'a' reads 'aa', which does not exist; did you mean 'a'",
    ),
    "a name twice": (f"{{kind: dag, nodes: [{NODE}, {NODE}]}}", r":3:58: .*second node is named 'a'"),
    "nodes and a file": (f"{{kind: dag, file: x.json, nodes: [{NODE}]}}", r":3:26: .*either 'nodes' or a 'file'"),
    "keys of files": (f"{{kind: dag, cost: a, nodes: [{NODE}]}}", r":3:36: .*are for files"),
    "neither": ("{kind: dag}", r":3:8: .*either 'nodes' or a 'file'"),
    "more than can be counted": (
        "{kind: dag, nodes: [{name: a, cost: 4e18, bytes: 1}]}",
        r":3:8: .*costs of all nodes sum to 4e\+18",
    ),
    "no file": ("{kind: dag, file: nowhere.json}", r"nowhere.json: there is no such file"),
    "a row of CSV": ("{kind: dag, file: g.csv}", r"g.csv:3:3: .*'cost' of node 'b': got '-2', expected a cost"),
    "a row too short": ("{kind: dag, file: short.csv}", r"short.csv:2:1: .*2 fields, expected 3"),
    "an edge to nobody": ("{kind: dag, file: ok.csv, edges: e.csv}", r"e.csv:2:1: .*no node 'c'"),
    "an attribute of JSON": (
        "{kind: dag, file: g.json, cost: time}",
        r"g.json:2:12: nodes\[0\]: node '0' has no 'bytes'; its attributes are time, mem: say which is meant",
    ),
    "no nodes": ("{kind: dag, file: empty.json}", r"empty.json:1:1: expected node-link JSON"),
    "a log": ("{kind: dag, file: bad.log}", r"bad.log:1:1: .*names 'x', which the log has not made"),
    "no log": ("{kind: dag, file: no.log}", r"no.log:2:1: .*a JSON object with an INSTRUCTION"),
}
FILES = {
    "g.csv": "name,cost,bytes\na,1,2\nb,-2,1\n",
    "short.csv": "name,cost,bytes\na,1\n",
    "ok.csv": "name,cost,bytes\na,1,2\nb,2,1\n",
    "e.csv": "source,target\na,c\n",
    "g.json": '{"nodes":\n          [{"id": 0, "time": 3, "mem": 2}]}',
    "empty.json": '{"nodes": []}',
    "bad.log": log(*call("mm", ["x"], 1, ("y", 1, -1))),
    "no.log": '{"INSTRUCTION": "ANNOTATE", "ANNOTATION": "BACKWARD"}\nnothing\n',
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_graph_is_refused_at_its_place(what: str, tmp_path: Path) -> None:
    graph, message = BAD[what]
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    file = tmp_path / "bad.yaml"
    file.write_text(f"version: 1\nname: bad\ngraph: {graph}\nstrategies: [in_order]\n")
    with pytest.raises(SimError, match=message):
        load(file).build_graph()


def test_a_networkx_graph_that_is_no_dag_is_refused() -> None:
    networkx = pytest.importorskip("networkx")
    sizes = {"cost": 1, "bytes": 1}
    drawn = networkx.Graph()
    drawn.add_node("a", **sizes)
    with pytest.raises(GraphError, match="undirected"):
        from_networkx(drawn)
    drawn = networkx.DiGraph([("a", "b"), ("b", "a")])
    networkx.set_node_attributes(drawn, {"a": sizes, "b": sizes})
    with pytest.raises(GraphError, match="cycle"):
        from_networkx(drawn)
    drawn = networkx.DiGraph()
    drawn.add_node("a", cost=1)
    with pytest.raises(ParameterError, match="has no 'bytes'"):
        from_networkx(drawn)


def test_the_same_graph_has_the_same_fingerprint() -> None:
    nodes = [{"name": "a", "cost": 1, "bytes": 2}, {"name": "b", "cost": 1, "bytes": 2, "inputs": ["a"]}]
    assert graph_sha256(dag(nodes=nodes)) == graph_sha256(dag(nodes=nodes))
    assert graph_sha256(dag(nodes=nodes)) != graph_sha256(dag(nodes=nodes, outputs=["a"]))
