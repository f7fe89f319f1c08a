"""YAML as people expect it: numbers, text, positions, and one message for everything that is no scenario."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sim.base.document import DocumentError, Position, shown_path
from sim.base.registry import Problem
from sim.base.yaml import parse, read


def data(text: str) -> object:
    return parse(text, name="f.yaml").data


def refusal(text: str) -> str:
    with pytest.raises(DocumentError) as caught:
        parse(text, name="f.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e9", 10**9),
        ("312e12", 312 * 10**12),
        ("1.5e3", 1500),
        ("1e-3", 0.001),
        ("1_000", 1000),
        ("0", 0),
        ("-7", -7),
        (".5", 0.5),
        ("2.0", 2.0),
        ("12:30", "12:30"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("0o10", "0o10"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        (".nan", ".nan"),
        (".inf", ".inf"),
        ("1e999", "1e999"),
        ("2024-01-01", "2024-01-01"),
        ("'1'", "1"),
        ("80 GB", "80 GB"),
        ("!!str 12", "12"),
    ],
)
def test_plain_scalars_mean_what_people_expect(written: str, value: object) -> None:
    got = data(f"key: {written}")["key"]  # type: ignore[index]
    assert got == value
    assert type(got) is type(value)


def test_keys_that_yaml_1_1_would_read_as_booleans_are_text() -> None:
    assert data("on: 1\nyes: 2") == {"on": 1, "yes": 2}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text("abc xyz:#-{}[]&*!'\"\n", max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4),
        max_leaves=12,
    )
)
def test_what_a_yaml_writer_writes_reads_back(value: object) -> None:
    assert parse(yaml.safe_dump({"value": value}), name="f").data == {"value": value}


def test_every_key_and_value_has_its_position() -> None:
    document = parse("graph:\n  kind: mlp\n  widths: [784, {repeat: 9}]\n", name="f")
    assert document.keys["graph", "widths"] == Position(3, 3)
    assert document.values["graph", "widths"] == Position(3, 11)
    assert document.values["graph", "widths", 0] == Position(3, 12)
    assert document.values["graph", "widths", 1, "repeat"] == Position(3, 26)


def test_a_problem_points_at_the_closest_thing_that_stands_in_the_file() -> None:
    document = parse("graph:\n  kind: mlp\n", name="f")
    assert document.position(Problem(("graph", "widths", 3), "")) == Position(2, 3)
    assert document.position(Problem(("graph", "kind"), "", on_key=True)) == Position(2, 3)
    assert document.position(Problem(("graph", "kind"), "")) == Position(2, 9)


def test_problems_are_shown_in_the_order_of_lines_each_once_with_a_caret() -> None:
    document = parse("a: 1\nb:\n\t\n\nc: {d: 2}\n".replace("\t", ""), name="f.yaml")
    error = document.error([Problem(("c", "d"), "second"), Problem(("a",), "first"), Problem(("a",), "first")])
    assert str(error) == (
        "f.yaml:1:4: a: first\n    1 | a: 1\n      |    ^\nf.yaml:5:8: c.d: second\n    5 | c: {d: 2}\n      |        ^"
    )


def test_a_long_line_is_cut_around_the_caret() -> None:
    shown = refusal('{"a": "' + "z" * 5000 + '", "b": 1, "b": 2}')
    heading, line, caret = shown.split("\n")
    assert heading == "f.yaml:1:5019: key 'b' is given twice, first at 1:5011"
    assert len(line) < 140
    assert line[caret.index("^") :].startswith('"b": 2}')


def test_the_name_of_a_strategy_is_left_out_of_the_path_shown() -> None:
    assert shown_path(("strategies", 2, "reverse_checkpointed", "slots")) == "strategies[2].slots"
    assert shown_path(("graph", "layers", 3, "inputs", 0)) == "graph.layers[3].inputs[0]"


def test_all_repeated_keys_are_reported_with_both_places() -> None:
    said = refusal("a: 1\nb: {c: 1, c: 2}\na: 2\n")
    assert "f.yaml:3:1: key 'a' is given twice, first at 1:1" in said
    assert "f.yaml:2:11: b: key 'c' is given twice, first at 2:5" in said


def test_anchors_and_merge_keys_work_and_own_keys_win() -> None:
    text = "base: &b {x: 1, y: 2}\nmore: &m {z: 3, x: 9}\none: {<<: *b, y: 5}\ntwo: {<<: [*b, *m]}\nthree: *b\n"
    assert data(text) == {
        "base": {"x": 1, "y": 2},
        "more": {"z": 3, "x": 9},
        "one": {"x": 1, "y": 5},
        "two": {"x": 1, "y": 2, "z": 3},
        "three": {"x": 1, "y": 2},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.yaml: the file is empty"),
        ("# only a comment\n", "f.yaml: the file is empty"),
        ("a: 1\n---\nb: 2\n", "f.yaml:3:1: a second document begins here, expected one"),
        ("a: [1, 2\nb: 3", "f.yaml:2:2: this is not YAML: while parsing a flow sequence did not find expected"),
        ("a:\n\tb: 1", "f.yaml:2:1: this is not YAML: while scanning for the next token"),
        ("a: *b", "f.yaml:1:4: this is not YAML: found undefined alias"),
        ("a\0b: 1", "f.yaml: this is not YAML: unacceptable character #x0000"),
        ("1: 2", "f.yaml:1:1: got '1' as a key, expected text"),
        ("[a]: 2", "f.yaml:1:1: got a list or mapping as a key, expected text"),
        ("a: !!python/object:os.system rm", "a: got 'rm' tagged as !!python/object:os.system, expected plain YAML"),
        ("a: !own {}", "a: unknown tag !own, expected plain YAML"),
        ("a: !!int x", "a: got 'x' tagged as !!int, expected plain YAML"),
        ("a: &x [*x]", "a[0]: an alias stands inside what it names"),
        ("a: &x {<<: *x}", "a: expected a mapping (or a list of them) to merge"),
        ("a: {<<: 3}", "a: expected a mapping (or a list of them) to merge"),
        ("x: " + "[" * 100_000, "nested more than 64 levels deep"),
    ],
)  # fmt: skip
def test_what_is_no_document_is_refused_with_one_message(text: str, message: str) -> None:
    said = refusal(text)
    assert message in said
    assert sum(line.startswith("f.yaml") for line in said.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("row", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_cannot_blow_up_memory(row: str) -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} " + row.format(", ".join([f"*a{i - 1}"] * 10)) for i in range(1, 12)]
    assert "more than 1000000 values once aliases are expanded" in refusal("\n".join(lines))


def test_files_that_cannot_be_read_are_refused_with_one_message(tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(DocumentError) as caught:
            read(path, name="f.yaml")
        return str(caught.value)

    assert said(tmp_path / "missing.yaml") == "f.yaml: there is no such file"
    assert said(tmp_path) == "f.yaml: this is a folder, expected a YAML file"
    assert said(tmp_path / "no\0file").endswith("this is no file name")
    assert said(tmp_path / ("x" * 300)) == "f.yaml: file name too long"
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: 1\nb: caf\xe9\n")
    assert said(latin).startswith("f.yaml:2:7: byte 0xe9 is not UTF-8; save the file as UTF-8")
    os.mkfifo(tmp_path / "pipe")
    assert said(tmp_path / "pipe") == "f.yaml: this is a pipe that nobody writes to, expected a YAML file"
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(16_000_001)
    assert said(large) == said(Path("/dev/zero")) == "f.yaml: the file has over 16000000 bytes, expected at most that"


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read(tmp_path / "f.yaml").data == {"a": 1}
