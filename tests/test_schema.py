"""The JSON Schema accepts what `sim validate` accepts and refuses what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from sim.base import yaml as yamltext
from sim.base.document import DocumentError
from sim.commands.init import GRAPHS, scenario
from sim.scenario.scenario import from_document, graph_kinds
from sim.scenario.schema import scenario_schema, schema_text

SCENARIOS = Path(__file__).parent.parent / "scenarios"
SCHEMA = scenario_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
BASE = {
    "version": 1,
    "name": "demo",
    "graph": {"kind": "chain", "length": 9},
    "strategies": ["reverse_full"],
}


PIPELINE = {
    "stages": 4,
    "schedule": "1f1b",
    "micro_batches": 8,
    "times": {"forward": "1 ms", "input_vjp": 2, "weight_vjp": "3 us"},
}


def spread(changes: dict[str, Any]) -> dict[str, Any]:
    """A scenario of a pipeline with some of its keys changed."""
    return {"version": 1, "name": "demo", "parallel": {"pipeline": PIPELINE | changes}}


def loads(data: dict[str, Any]) -> bool:
    try:
        from_document(yamltext.parse(json.dumps(data), name="f.yaml"))
    except DocumentError:
        return False
    return True


def test_the_schema_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_schema_beside_the_scenarios_is_the_one_that_is_printed() -> None:
    """Make it again with `sim schema > scenarios/schema.json`."""
    assert (SCENARIOS / "schema.json").read_text(encoding="utf-8") == schema_text()


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_scenarios_satisfy_the_schema_and_name_it(path: Path) -> None:
    document = yamltext.read(path)
    assert not list(VALIDATOR.iter_errors(document.data))
    assert "# yaml-language-server: $schema=schema.json" in document.text.splitlines()
    assert from_document(document).name == path.stem


INTEGER = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
"""Numbers of the core schema of YAML 1.2 (section 10.3.2)."""


def plain_scalars(node: yaml.Node) -> Iterator[str]:
    if isinstance(node, yaml.ScalarNode):
        yield from [node.value] if node.style is None else []
    for part in node.value if isinstance(node.value, list) else ():
        for inner in part if isinstance(part, tuple) else (part,):
            yield from plain_scalars(inner)


def read_alike(text: str) -> bool:
    """Whether YAML 1.1, YAML 1.2 and this program read the same numbers."""
    ours = yamltext.parse(text, name="f.yaml").data
    numbers = [
        s for s in plain_scalars(yaml.compose(text)) if isinstance(yamltext.parse(s, name="f").data, int | float)
    ]
    core = all(re.fullmatch(f"{INTEGER}|{FLOAT}|true|false", s) for s in numbers)
    return core and yaml.safe_load(text) == ours


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.yaml")), ids=lambda p: p.stem)
def test_both_versions_of_yaml_read_a_shipped_scenario_alike(path: Path) -> None:
    assert read_alike(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", sorted(GRAPHS))
def test_both_versions_of_yaml_read_what_init_writes_alike(kind: str) -> None:
    assert read_alike(scenario(kind, "demo", "#"))


@pytest.mark.parametrize("number", ["1e9", "100_000"])
def test_numbers_that_the_versions_read_differently_are_found(number: str) -> None:
    assert not read_alike(f"a: {number}")


def test_there_is_a_start_for_every_kind_of_graph() -> None:
    assert {*GRAPHS} == {*graph_kinds()}


@pytest.mark.parametrize("kind", sorted(GRAPHS))
def test_the_scenario_of_init_satisfies_the_schema(kind: str) -> None:
    document = yamltext.parse(scenario(kind, "demo", "#"), name="demo.yaml")
    assert not list(VALIDATOR.iter_errors(document.data))
    assert loads(document.data)
    if not graph_kinds()[kind].user_code and kind != "onnx":
        assert from_document(document).check() is not None


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"description": "text", "wrt": "input", "optimizer": "adam", "gradients": "preallocated"},
        {"budget": "8 GB", "device": "h100-sxm"},
        {"budget": 8_000_000_000},
        {"device": {"preset": "a100-80", "flops": "312 TFLOP/s"}},
        {"device": {"flops": "60 TFLOP/s", "bandwidth": "3.3 TB/s", "memory": "80 GB", "overhead": "5 us"}},
        {"strategies": [{"forward_recompute": {"chunk": [1, 8]}}, {"forward_cached": None}]},
        {"strategies": [{"forward_recompute": {"chunk": {"from": 1, "to": 64, "factor": 2}}}]},
        {"strategies": [{"reverse_checkpointed": {"schedule": "binomial", "slots": {"from": 2, "to": 5}}}]},
        {"strategies": [{"reverse_checkpointed": {"schedule": ["sqrt"], "chunk": 1}}]},
        {"strategies": [{"jacobian_chain": {"order": ["forward", "reverse", "optimal"]}}]},
        {"strategies": [{"jacobian_chain": {"order": "optimal_matrix_free", "tape": "4 kB"}}]},
        {"graph": {"kind": "chain", "sizes": [10, 2, 100, 20]}},
        {"graph": {"kind": "mlp", "widths": [784, {"repeat": 8, "times": 3}, 10]}},
    ],
)
def test_what_is_valid_satisfies_the_schema(changes: dict[str, Any]) -> None:
    data = BASE | changes
    assert loads(data)
    assert not list(VALIDATOR.iter_errors(data))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"name": "a/b"},
        {"naem": "demo"},
        {"wrt": "weights"},
        {"optimizer": "adamw"},
        {"budget": "4 GB/s"},
        {"budget": -1},
        {"device": "no-such"},
        {"device": 3},
        {"device": {"memory": "80 GB"}},
        {"device": {"preset": "a100"}},
        {"device": {"flops": "60 GB", "bandwidth": "3.3 TB/s"}},
        {"device": {"flops": "60 TFLOP/s", "bandwidth": "3.3 TB/s", "memroy": "80 GB"}},
        {"strategies": []},
        {"strategies": ["reverse_ful"]},
        {"strategies": ["reverse_checkpointed"]},
        {"strategies": [{"forward_recompute": {"chunk": 0}}]},
        {"strategies": [{"forward_recompute": {"chunk": []}}]},
        {"strategies": [{"forward_recompute": {"chunk": [0]}}]},
        {"strategies": [{"forward_recompute": {"chunk": {"from": 1}}}]},
        {"strategies": [{"forward_recompute": {"chunk": {"from": 1, "to": 9, "step": 1, "factor": 2}}}]},
        {"strategies": [{"forward_recompute": {"chunks": 1}}]},
        {"strategies": [{"forward_recompute": {}, "forward_cached": {}}]},
        {"strategies": [{"reverse_checkpointed": {"schedule": "binomial"}}]},
        {"strategies": [{"reverse_checkpointed": {"schedule": "binomal", "slots": 3}}]},
        {"strategies": [{"reverse_checkpointed": {"schedule": "sqrt", "slots": 3}}]},
        {"strategies": [{"reverse_checkpointed": {"slots": 3}}]},
        {"graph": {"kind": "chian", "length": 3}},
        {"graph": {"length": 3}},
        {"graph": {"kind": "chain", "lenght": 3}},
        {"graph": {"kind": "chain", "length": 0}},
        {"graph": {"kind": "mlp", "length": 3}},
        {"graph": {"kind": "mlp", "widths": [784, "x"]}},
    ],
)
def test_what_is_invalid_does_not_satisfy_the_schema(changes: dict[str, Any]) -> None:
    data = BASE | changes
    assert not loads(data)
    assert list(VALIDATOR.iter_errors(data))


@pytest.mark.parametrize(
    ("changes", "valid"),
    [
        ({}, True),
        ({"stages": [2, 4], "micro_batches": {"from": 4, "to": 16, "factor": 2}}, True),
        ({"schedule": ["gpipe", {"interleaved": {"chunks": 3}}]}, True),
        ({"schedule": ["interleaved", "zb_v"], "chunks": [2, 4]}, True),
        ({"times": PIPELINE["times"] | {"send": "1 us", "forward": [1, 2, "3 ms", 4]}}, True),
        ({"stages": 0}, False),
        ({"stages": []}, False),
        ({"micro_batches": "8 x"}, False),
        ({"schedule": "2f2b"}, False),
        ({"schedule": []}, False),
        ({"schedule": {"interleaved": {"chunks": 1}}}, False),
        ({"schedule": {"gpipe": {}, "1f1b": {}}}, False),
        ({"times": {"forward": 1}}, False),
        ({"times": PIPELINE["times"] | {"forward": []}}, False),
        ({"times": PIPELINE["times"] | {"back": 1}}, False),
        ({"stage": 3}, False),
    ],
)
def test_the_schema_says_of_pipelines_what_validation_says(changes: dict[str, Any], valid: bool) -> None:
    data = spread(changes)
    assert loads(data) == valid
    assert (not list(VALIDATOR.iter_errors(data))) == valid


@pytest.mark.parametrize("key", ["graph", "strategies"])
def test_a_job_has_a_graph_and_strategies_or_is_parallel(key: str) -> None:
    without = {k: v for k, v in BASE.items() if k != key}
    for data in (without, spread({}) | {"strategies": BASE["strategies"]}):
        assert not loads(data)
        assert list(VALIDATOR.iter_errors(data))


@pytest.mark.parametrize(
    ("changes", "parallel", "valid"),
    [
        ({"device": "a100-80", "budget": "8 GB", "optimizer": "adam"}, {}, True),
        ({"device": "a100-80"}, {"data": 4, "zero": 3, "link": {"bandwidth": "25 GB/s", "latency": "5 us"}}, True),
        ({"device": "a100-80"}, {"recompute": ["none", "block", "selective", "none"]}, True),
        ({"device": "a100-80"}, {"precision": {"gradients": "float32", "main": "float32"}}, True),
        ({"device": "a100-80"}, {"data": 8, "link": "pcie4", "machine": {"devices": 8, "link": "nvlink3"}}, True),
        ({"device": "a100-80"}, {"data": 8, "machine": {"devices": 8, "link": {"preset": "nvlink3"}}}, True),
        ({"device": "a100-80"}, {"link": "nvlink9"}, False),
        ({"device": "a100-80"}, {"machine": {"link": "nvlink3"}}, False),
        ({"device": "a100-80"}, {"zero": 4}, False),
        ({"device": "a100-80"}, {"recompute": "all"}, False),
        ({"device": "a100-80"}, {"link": {"latency": "5 us"}}, False),
        ({"device": "a100-80", "strategies": ["reverse_full"]}, {}, False),
        ({"graph": None, "device": "a100-80"}, {}, False),
    ],
)
def test_the_schema_says_of_jobs_what_validation_says(
    changes: dict[str, Any], parallel: dict[str, Any], valid: bool
) -> None:
    data = spread({}) | {"graph": {"kind": "mlp", "widths": [8, 8, 8]}} | changes
    data = {key: value for key, value in data.items() if value is not None}
    data["parallel"] = data["parallel"] | parallel
    assert loads(data) == valid
    assert (not list(VALIDATOR.iter_errors(data))) == valid
