"""The reference has everything: each key of a scenario with its meaning, what it takes, and an example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sim.base import yaml as yamltext
from sim.scenario.reference import _EXAMPLES, KEYS_FOLLOW, Section, sections
from sim.scenario.scenario import ScenarioFile, graph_kinds
from sim.scenario.schema import scenario_schema
from sim.strategies import load

KEYS = [key for section in sections() for key in section.keys]


def properties(part: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property of a schema, with where it is; conditions ask and describe nothing."""
    if isinstance(part, list):
        for i, inner in enumerate(part):
            yield from properties(inner, f"{path}/{i}")
    elif isinstance(part, dict):
        for name, inner in part.items():
            if name == "properties":
                yield from ((f"{path}/{key}", p) for key, p in inner.items())
            if name not in ("if", "not"):
                yield from properties(inner, f"{path}/{name}")


def test_every_property_of_the_schema_is_described() -> None:
    found = [(path, part) for path, part in properties(scenario_schema()) if set(part) != {"const"}]
    assert len(found) > 300
    assert [path for path, part in found if not part.get("description")] == []


def test_a_property_without_a_description_is_found() -> None:
    schema = {"anyOf": [{"properties": {"a": {"type": "integer"}}}]}
    assert list(properties(schema)) == [("/anyOf/0/a", {"type": "integer"})]


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.title)
def test_every_key_has_a_meaning_and_an_example(section: Section) -> None:
    assert section.about
    assert [key.path for key in section.keys if not (key.about and key.example)] == []
    for key in section.keys:
        yamltext.parse(f"x: {key.example}", name=key.path)


def test_every_key_strategy_and_kind_has_its_place() -> None:
    titles = [section.title for section in sections()]
    assert {key.path for key in sections()[0].keys} == {*ScenarioFile.model_fields}
    assert {title.removeprefix("graph: kind: ") for title in titles if title.startswith("graph")} == {*graph_kinds()}
    for name, entry in load().items():
        told = [title for title in titles if title.startswith(f"strategies: {name}")]
        key, registry = entry.variants or ("", {})
        assert told == [f"strategies: {name}: {key}: {v}" for v in sorted(registry)] or told == [f"strategies: {name}"]


def test_no_example_is_left_over() -> None:
    names = {key.path.rpartition(".")[2] for key in KEYS} | {key.path for key in KEYS}
    assert [name for name in _EXAMPLES if name.rpartition(" ")[2] not in names] == []
    assert KEYS_FOLLOW in {key.example for key in KEYS}
