"""Results: exact integers through JSON and back, the same bytes every time, and files whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.base import files
from sim.base.errors import SimError
from sim.base.files import OutputError
from sim.experiment import results
from sim.experiment.results import Point, Results


def point(**changes: object) -> Point:
    values: dict[str, object] = {
        "strategy": "reverse_checkpointed",
        "parameters": {"schedule": "binomial", "slots": 3},
        "label": "binomial slots=3",
        "peak_bytes": 12,
        "working_bytes": 8,
        "resident_bytes": 4,
        "peak_at": {"action": 7, "kind": "vjp", "node": "layer3"},
        "peak_breakdown": {"activation": 8, "resident": 4},
        "flops": {"primal": 3, "total": 3},
        "actions": {"forward": 3},
    }
    return Point(**(values | changes))  # type: ignore[arg-type]


def some(*points: Point) -> Results:
    scenario = {
        "name": "demo",
        "sha256": "0" * 64,
        "graph": {"nodes": 3, "parameters": 0, "forward_flops": 3},
        "device": None,
        "budget_bytes": None,
    }
    return Results(scenario=scenario, version="0.1.0", points=points)


@given(
    st.integers(0, 10**40),
    st.floats(0, 1e300, allow_nan=False) | st.none(),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.booleans() | st.none(), max_size=3),
)
def test_json_reads_back_as_it_was(count: int, seconds: float | None, parameters: dict[str, object]) -> None:
    made = some(point(peak_bytes=count, seconds=seconds, parameters=parameters), point())
    text = made.to_json()
    assert results.from_json(text) == made
    assert results.from_json(text).to_json() == text


def test_counts_are_json_integers_with_every_digit() -> None:
    count = 2**63 + 1
    text = some(point(flops={"primal": count, "total": count})).to_json()
    assert f'"total": {count}' in text
    assert json.loads(text)["points"][0]["flops"]["total"] == count


def test_json_has_the_documented_keys() -> None:
    data = json.loads(some(point()).to_json())
    assert {"scenario", "version", "points"} <= set(data)
    assert {
        "strategy", "parameters", "label", "peak_bytes", "working_bytes", "resident_bytes", "peak_at",
        "peak_breakdown", "flops", "actions", "seconds", "stall_seconds", "copied_bytes", "fits", "pareto",
    } <= set(data["points"][0])  # fmt: skip
    assert set(data["points"][0]["pareto"]) == {"flops", "seconds"}


def test_csv_has_one_row_a_point_and_one_column_a_value() -> None:
    made = some(point(), point(parameters={"chunk": 8}, seconds=0.5, fits=False, why_not="too much, by 1 byte"))
    first, second = csv.DictReader(io.StringIO(made.to_csv()))
    assert (first["parameters.slots"], first["parameters.chunk"], second["parameters.chunk"]) == ("3", "", "8")
    assert (first["flops.total"], first["peak_at.node"], first["fits"], first["seconds"]) == ("3", "layer3", "true", "")
    assert (second["seconds"], second["fits"], second["why_not"]) == ("0.5", "false", "too much, by 1 byte")


def test_the_front_is_in_the_order_of_memory() -> None:
    on = {"flops": True, "seconds": False}
    made = some(point(peak_bytes=9, pareto=on), point(peak_bytes=7), point(peak_bytes=5, pareto=on))
    assert [p.peak_bytes for p in made.front()] == [5, 9]
    assert made.front(by="seconds") == ()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"points": [{}], "scenario": {}, "version": ""}', "[" * 10**6, "3"])
def test_what_is_no_result_is_refused(text: str) -> None:
    with pytest.raises(SimError, match="these are no results of `sim run`"):
        results.from_json(text)


def test_files_read_back(tmp_path: Path) -> None:
    made = some(point())
    assert made.write(tmp_path / "new" / "folder") == [
        tmp_path / "new" / "folder" / "results.json",
        tmp_path / "new" / "folder" / "results.csv",
    ]
    assert results.read(tmp_path / "new" / "folder" / "results.json") == made
    with pytest.raises(SimError, match="cannot be read: no such file"):
        results.read(tmp_path / "missing.json")
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(SimError, match="not UTF-8"):
        results.read(tmp_path / "bytes")


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = files.write(tmp_path / "results.json", "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"results\.json: cannot be written: no space left on device") as caught:
        files.write(target, "new")
    assert caught.value.out_of_space
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    files.write(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("attempt", [lambda p: files.write(p / "x", ""), files.check_writable])
def test_a_file_in_the_place_of_the_folder_is_one_message(tmp_path: Path, attempt: Callable[[Path], object]) -> None:
    (tmp_path / "taken").write_text("")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(OutputError, match="this is a file, expected a folder for the output") as caught:
            attempt(folder)
        assert not caught.value.out_of_space
