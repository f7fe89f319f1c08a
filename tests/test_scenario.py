"""Scenarios: what they may say, and one clear message, at its place, for everything they may not."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from sim.base.document import DocumentError
from sim.base.yaml import parse
from sim.scenario import scenario
from sim.scenario.points import expand
from sim.scenario.scenario import Scenario, from_document

HEAD = "version: 1\nname: demo\ngraph: {kind: chain, length: 9}\n"


def load(text: str) -> Scenario:
    return from_document(parse(textwrap.dedent(text), name="f.yaml"))


def refusals(text: str) -> list[str]:
    """The messages about a scenario, without the lines they quote."""
    with pytest.raises(DocumentError) as caught:
        load(text).check()
    return [str(finding) for finding in caught.value.findings]


def points(strategies: list[object]) -> list[tuple[str, dict[str, object]]]:
    found = expand(strategies)
    assert not found.problems
    return [(p.strategy, dict(p.parameters)) for p in found.points]


def test_a_scenario_says_what_is_differentiated_and_with_what() -> None:
    wanted = load(
        """
        version: 1
        name: deep_mlp
        description: A network.
        graph: {kind: mlp, widths: [784, {repeat: 8, times: 3}, 10], batch: 4, loss: cross_entropy}
        wrt: parameters
        optimizer: adam
        gradients: preallocated
        budget: 1.5 MiB
        strategies: [reverse_full]
        """
    )
    assert (wanted.name, wanted.description, wanted.budget_bytes) == ("deep_mlp", "A network.", 3 * 2**19)
    graph = wanted.build_graph()
    weights = 784 * 8 + 8 + 2 * (8 * 8 + 8) + 8 * 10 + 10
    assert graph.parameter_count == weights
    assert (graph.wrt, graph.optimizer, graph.preallocated_gradients) == ("parameters", "adam", True)


def test_what_is_not_said_has_a_default() -> None:
    wanted = load(HEAD + "strategies: [reverse_full]")
    assert (wanted.description, wanted.wrt, wanted.optimizer, wanted.device, wanted.budget_bytes) == (
        "",
        None,
        "none",
        None,
        None,
    )
    assert wanted.build_graph().wrt == "input"


def test_lists_and_ranges_make_one_point_for_each_combination() -> None:
    assert points(["reverse_full", {"forward_recompute": {"chunk": [1, 8]}}]) == [
        ("reverse_full", {}),
        ("forward_recompute", {"chunk": 1}),
        ("forward_recompute", {"chunk": 8}),
    ]
    uniform = {"schedule": "uniform", "segments": {"from": 2, "to": 4}, "chunk": [1, 2]}
    assert points([{"reverse_checkpointed": uniform}]) == [
        ("reverse_checkpointed", {"schedule": "uniform", "segments": s, "chunk": c}) for s in (2, 3, 4) for c in (1, 2)
    ]


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ({"from": 2, "to": 5}, [2, 3, 4, 5]),
        ({"from": 2, "to": 9, "step": 3}, [2, 5, 8]),
        ({"from": 1, "to": 100, "factor": 4}, [1, 4, 16, 64]),
        ({"from": 1, "to": 64, "factor": 2}, [1, 2, 4, 8, 16, 32, 64]),
        ({"from": 1000, "to": 1000}, [1000]),
        ({"from": 1, "to": 4, "factor": 1.5}, [1, 2, 3]),  # 1, 1.5, 2.25, 3.375, rounded, each once
    ],
)
def test_ranges_include_both_ends_that_they_meet(written: dict[str, object], values: list[int]) -> None:
    assert [p["chunk"] for _, p in points([{"forward_cached": {"chunk": written}}])] == values


def test_a_range_of_sizes_gives_exact_bytes() -> None:
    spec = {"jacobian_chain": {"order": "optimal_matrix_free", "tape": {"from": "1 KiB", "to": "4 KiB", "factor": 2}}}
    assert [p["tape"] for _, p in points([spec])] == [1024, 2048, 4096]


def test_points_written_twice_are_computed_once() -> None:
    found = expand([{"forward_cached": {"chunk": [1, 2, 2]}}, {"forward_cached": {"chunk": 1}}, "forward_cached"])
    assert [p.label for p in found.points] == ["forward_cached chunk=1", "forward_cached chunk=2", "forward_cached"]
    assert found.repeated == 2


def test_labels_name_the_choice_and_the_numbers() -> None:
    items = [{"reverse_checkpointed": {"schedule": "binomial", "slots": 3}}, {"jacobian_chain": {"order": "optimal"}}]
    assert [p.label for p in expand(items).points] == ["binomial slots=3", "jacobian_chain optimal"]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("[reverse_full]", "[]", "f.yaml:4:13: strategies: got [], expected a list of 1 or more"),
        ("[reverse_full]", "reverse_full", "f.yaml:4:13: strategies: got 'reverse_full', expected a list"),
        ("END", "wrt: weights", "f.yaml:5:6: wrt: got 'weights', expected one of 'input', 'parameters'"),
        ("END", "budget: 4 GB/s", "budget: got '4 GB/s', expected a size such as 80 GB or 64 GiB"),
        ("END", "budget: -1", "budget: got -1, expected a size"),
        ("END", "budget: 9 EB", "budget: got '9 EB', expected less than 4 EiB"),
        ("END", "optimizer: 3", "optimizer: got 3, expected one of 'none', 'sgd', 'momentum', 'adam'"),
        ("END", "gradients: no", "gradients: got 'no', expected one of 'on_demand', 'preallocated'"),
        ("END", "devise: h100", "f.yaml:5:1: devise: unknown key 'devise'; did you mean 'device'?"),
        ("END", "device: h1000-sxm", "f.yaml:5:9: device: unknown device 'h1000-sxm'; did you mean 'h100-sxm'?"),
        ("version: 1", "version: 2", "f.yaml:1:10: version: got 2, expected 1"),
        ("version: 1", "version: true", "version: got true, expected 1"),
        ("demo", "a/b", "f.yaml:2:7: name: got 'a/b', expected letters, digits"),
        ("demo", "..", "name: got '..', expected letters, digits"),
        ("demo", "12", "f.yaml:2:7: name: got 12, expected text"),
        ("{kind: chain, length: 9}", "7", "f.yaml:3:8: graph: got 7, expected a mapping"),
        ("kind: chain, ", "", "f.yaml:3:8: graph: 'kind' is missing; known: chain"),
        ("chain", "chian", "f.yaml:3:15: graph.kind: unknown kind of graph 'chian'; did you mean 'chain'?"),
        ("length", "lenght", "graph.lenght: unknown key 'lenght'; did you mean 'length'?"),
        ("9", "0", "f.yaml:3:30: graph.length: got 0, expected at least 1"),
        ("9", "2.5", "graph.length: got 2.5, expected a whole number"),
        ("9", "12:30", "graph.length: got '12:30', expected a whole number"),
        ("9", "9, activation_bytes: -4", "f.yaml:3:51: graph.activation_bytes: got -4, expected"),
        ("9", "9, activation_bytes: 1e18", "more than 4 EiB"),
        ("9", "9, forward_flops: 1e18", "graph.forward_flops: all layers together would take about 9e+18 flops"),
        ("9", "9, forward_flops: [1, 2]", "f.yaml:3:48: graph.forward_flops: got 2 values, expected one value or 9"),
        ("END", "wrt: parameters", "f.yaml:5:6: wrt: parameters asks for nothing, because the graph has no parameters"),
    ],
)
def test_each_wrong_key_or_value_is_told_at_its_place(before: str, after: str, message: str) -> None:
    text = HEAD + "strategies: [reverse_full]\n# END\n"
    changed = text.replace("# END" if before == "END" else before, after)
    assert any(message in found for found in refusals(changed))


def test_a_document_of_another_shape_is_told_what_belongs_there() -> None:
    assert refusals("[1]") == ["f.yaml:1:1: expected the keys version, name, graph, strategies"]
    assert "f.yaml:1:1: 'version' is missing" in refusals("{}")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("reverse_ful", "4:15: strategies[0]: unknown strategy 'reverse_ful'; did you mean 'reverse_full'?"),
        ("{reverse_ful: {chunk: 1}}", "4:16: strategies[0]: unknown strategy 'reverse_ful'; did you mean"),
        ("17", "4:15: strategies[0]: got 17, expected the name of a strategy"),
        ("{}", "strategies[0]: got {}, expected the name of a strategy"),
        ("{reverse_full: 3}", "strategies[0]: got 3 after 'reverse_full:', expected its parameters"),
        ("{reverse_full: , chunk: 3}", "expected one strategy; indent its parameters further than its name"),
        ("{reverse_full: {chunk: 0}}", "4:38: strategies[0].chunk: got 0, expected at least 1"),
        ("{reverse_full: {chunk: [1, x]}}", "4:42: strategies[0].chunk[1]: got 'x', expected a whole number"),
        ("{reverse_full: {chunk: []}}", "strategies[0].chunk: got an empty list, expected at least one value"),
        ("{reverse_full: {chunk: 4 GB/s}}", "strategies[0].chunk: got '4 GB/s', expected a whole number"),
        ("{reverse_full: {chunks: 1}}", "4:31: strategies[0].chunks: unknown key 'chunks'; did you mean 'chunk'?"),
        ("reverse_checkpointed", "4:15: strategies[0]: 'schedule' is missing; known: binomial"),
        (
            "{reverse_checkpointed: {schedule: binomal}}",
            "strategies[0].schedule: unknown schedule 'binomal'; did you mean",
        ),
        ("{reverse_checkpointed: {schedule: 3}}", "strategies[0].schedule: got 3, expected one of binomial"),
        (
            "{reverse_checkpointed: {schedule: [[sqrt]]}}",
            "strategies[0].schedule[0]: got ['sqrt'], expected one of binomial",
        ),
        ("{reverse_checkpointed: {schedule: binomial}}", "strategies[0]: 'slots' is missing"),
        ("{reverse_checkpointed: {schedule: sqrt, slots: 3}}", "strategies[0].slots: unknown key 'slots'"),
        ("{reverse_full: {chunk: {from: 3}}}", "strategies[0].chunk: 'to' is missing; expected a range such as"),
        (
            "{reverse_full: {chunk: {from: 3, too: 4}}}",
            "strategies[0].chunk.too: unknown key 'too'; did you mean 'to'?",
        ),
        (
            "{reverse_full: {chunk: {from: 9, to: 2}}}",
            "strategies[0].chunk.to: got 2, expected at least 'from', which is 9",
        ),
        ("{reverse_full: {chunk: {from: 1, to: 9, step: 0}}}", "strategies[0].chunk.step: got 0, expected more than 0"),
        (
            "{reverse_full: {chunk: {from: 1, to: 9, factor: 1}}}",
            "strategies[0].chunk.factor: got 1, expected more than 1",
        ),
        (
            "{reverse_full: {chunk: {from: 0, to: 9, factor: 2}}}",
            "strategies[0].chunk.from: got 0, expected more than 0",
        ),
        (
            "{reverse_full: {chunk: {from: 1, to: 9, step: 1, factor: 2}}}",
            "got both step and factor, expected one of them",
        ),
        ("{reverse_full: {chunk: {from: a, to: 9}}}", "strategies[0].chunk.from: got 'a', expected a number or a size"),
        (
            "{reverse_full: {chunk: {from: 1, to: 1e9}}}",
            "strategies[0].chunk: makes 1000000000 values, expected at most 10000",
        ),
        (
            "{reverse_checkpointed: {schedule: uniform, segments: {from: 1, to: 200}, chunk: {from: 1, to: 200}}}",
            "strategies[0]: makes 40000 points, expected at most 10000 in a scenario",
        ),
    ],
)
def test_each_wrong_strategy_is_told_at_its_place(item: str, message: str) -> None:
    assert any(message in found for found in refusals(HEAD + f"strategies: [ {item}]"))


def test_everything_that_is_wrong_is_told_at_once_in_the_order_of_lines() -> None:
    text = HEAD.replace("1", "3").replace("9", "0")
    text += "budget: 1 s\nstrategies:\n  - nothing\n  - reverse_full: {chunk: 0}\n"
    assert [found.split(": ")[0] for found in refusals(text)] == [
        f"f.yaml:{place}" for place in ("1:10", "3:30", "4:9", "6:5", "7:27")
    ]


def test_what_a_strategy_cannot_do_is_told_at_its_line_with_the_reason() -> None:
    text = """\
        version: 1
        name: demo
        graph: {kind: mlp, widths: [3, 4], batch: 2, loss: cross_entropy}
        wrt: parameters
        strategies:
          - reverse_full
          - jacobian_chain: {order: optimal}
    """
    [found] = refusals(text)
    assert found.startswith("f.yaml:7:21: strategies[1]: jacobian_chain optimal: ")


LAYERS = """\
version: 1
name: demo
graph:
  kind: layers
  inputs: {x: {shape: [4, 8]}, y: {shape: [4, 5]}}
  layers:
    - {name: a, op: linear, features: 16, inputs: [x]}
    - {name: b, op: relu, inputs: [a]}
strategies: [reverse_full]
"""


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("inputs: [a]", "inputs: [c]", "f.yaml:8:7: graph.layers[1]: node 'b' reads 'c', which does not exist"),
        ("inputs: [x]", "inputs: [b]", "graph.layers[0]: the nodes form a cycle: a -> b -> a"),
        ("relu, inputs: [a]", "add, inputs: [a, y]", "f.yaml:8:7: graph.layers[1]: node 'b'"),
        ("name: b", "name: a", "two nodes or inputs are named 'a'"),
        ("op: relu", "op: rule", "f.yaml:8:7: graph.layers[1]: "),
        ("features: 16", "features: -16", "f.yaml:7:7: graph.layers[0]: "),
        ("features: 16", "features: 1e15", "f.yaml:"),
    ],
)
def test_a_graph_that_cannot_be_is_told_at_its_layer(before: str, after: str, message: str) -> None:
    assert load(LAYERS).check()
    [found] = refusals(LAYERS.replace(before, after))
    assert message in found


@pytest.mark.parametrize("file", ["missing.yaml", "."])
def test_a_file_that_is_not_there_is_one_message(file: str, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"there is no such file|this is a folder"):
        scenario.load(tmp_path / file)


def test_a_repeated_key_does_not_hide_what_else_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("version: 1\nname: a\nname: b\ngraph: {kind: chain, length: 3}\nstrategies: [reverse_ful]\n")
    with pytest.raises(DocumentError) as error:
        scenario.load(path)
    assert [(f.at.line, f.message.split(",")[0]) for f in error.value.findings if f.at] == [
        (3, "key 'name' is given twice"),
        (5, "unknown strategy 'reverse_ful'; did you mean 'reverse_full'? known: forward_cached"),
    ]


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("kind: transformer, layers: 2, hidden: 64, heads: 5, sequence: 16, vocab: 100, batch: 2", "heads"),
        ("kind: mlp, widths: [1e15, 1e15, 1], batch: 1000000", "4 EiB"),
        ("kind: cnn, layers: [{conv: {channels: 4, kernel: 9}}], image: [3, 2, 2]", "does not fit an image"),
        ("kind: chain, length: 5, activation_bytes: 4e18", "4 EiB|2\\^62"),
    ],
)
def test_a_graph_that_cannot_be_is_an_error_at_its_place(graph: str, message: str) -> None:
    (refusal,) = refusals(f"version: 1\nname: a\ngraph: {{{graph}}}\nstrategies: [reverse_full]\n")
    assert re.match("f.yaml:3:", refusal)
    assert re.search(message, refusal)
