"""JSON read with places: values as the json module reads them, and every fault shown where it stands."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict

from sim.base.document import LINE_BREAK, DocumentError
from sim.base.json import DEEPEST, parse, read, validated
from sim.base.registry import Problem

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@dataclasses.dataclass(frozen=True)
class Tree:
    """A value with others inside it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    size: int
    names: Mapping[str, float] = dataclasses.field(default_factory=dict)
    below: tuple[Tree, ...] = ()


def paths(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[tuple[str | int, ...], Any]]:
    inner = enumerate(data) if isinstance(data, list) else data.items() if isinstance(data, dict) else ()
    return [(path, data), *(found for key, value in inner for found in paths(value, (*path, key)))]


@given(plain, st.sampled_from([None, 0, 1]), st.booleans())
def test_every_value_is_found_where_it_stands(data: Any, indent: int | None, escaped: bool) -> None:
    text = json.dumps(data, indent=indent, ensure_ascii=escaped)
    document = parse(text, name="f.json")
    assert document.data == data
    places = paths(data)
    document.error([Problem(path, "wrong") for path, _ in places])
    starts = [0, *(m.end() for m in LINE_BREAK.finditer(text))]
    for path, value in places:
        at = document.values[path]
        assert json.JSONDecoder().raw_decode(text, starts[at.line - 1] + at.column - 1)[0] == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "f.json: the file is empty"),
        (" \n", "f.json: the file is empty"),
        ('{"size": 1,}', "f.json:1:12: this is not JSON: expecting property name enclosed in double quotes"),
        ('{"size": 1} 2', "f.json:1:13: this is not JSON: extra data"),
        ('{"NaN": 1,\n "size": NaN}', "f.json:2:10: got NaN, expected a number that JSON knows"),
        ('[1,\n -Infinity]', "f.json:2:2: got -Infinity, expected a number that JSON knows"),
        ("[1" + "0" * 5000 + "]", "f.json:1:2: got a number of thousands of digits, expected fewer"),
        ("[" * 10**6, f"f.json:1:{DEEPEST + 1}: nested more than {DEEPEST} levels deep"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused_at_its_place(text: str, told: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(text, name="f.json")
    assert str(caught.value).partition("\n")[0] == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "f.json:1:1: got [], expected a mapping of keys to values"),
        ('{"names": {}}', "f.json:1:1: 'size' is missing"),
        ('{"size": "3"}', "f.json:1:10: size: got '3', expected a whole number"),
        ('{"size": 3,\n "names": {"a": 1, "b": null}}', "f.json:2:25: names.b: got nothing, expected a number"),
        (
            '{"size": 3,\n "below": [{"size": 1, "sise": 2}]}',
            "f.json:2:24: below[0].sise: unknown key 'sise'; did you mean 'size'? known: below, names, size",
        ),
        ('{"size": 1, "names": {"\\ud800": 1}}', "f.json:1:1: this is not JSON: "),
    ],
)
def test_values_of_other_types_are_refused_at_their_places(text: str, told: str) -> None:
    with pytest.raises(DocumentError) as caught:
        validated(Tree, parse(text, name="f.json"))
    assert str(caught.value).startswith(told)


def test_all_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    with pytest.raises(DocumentError) as caught:
        validated(Tree, parse('{"below": [{"size": 1.5}],\n "x": 1}', name="f.json"))
    assert [(f.path, f.at and (f.at.line, f.at.column)) for f in caught.value.findings] == [
        ("", (1, 1)), ("below[0].size", (1, 21)), ("x", (2, 2)),
    ]  # fmt: skip


def test_a_file_is_its_value(tmp_path: Path) -> None:
    path = tmp_path / "tree.json"
    path.write_text('{"size": 1, "below": [{"size": 2, "names": {"é": 0.5}}]}', encoding="utf-8")
    assert validated(Tree, read(path)) == Tree(1, below=(Tree(2, {"é": 0.5}),))
    with pytest.raises(DocumentError, match="this is a folder, expected a JSON file"):
        read(tmp_path)
