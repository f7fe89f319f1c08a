"""Results: exact integers through JSON and back, the same bytes every time, and files whole or not at all."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from points import flops, point, some

from sim import plots
from sim.base import files
from sim.base.document import DocumentError
from sim.base.files import OutputError
from sim.base.yaml import parse
from sim.commands.cli import main
from sim.experiment import results, views
from sim.experiment.results import Results
from sim.experiment.run import run
from sim.plots.drawing import style
from sim.scenario.scenario import from_document

SCENARIO = """\
version: 1
name: demo
description: A chain with something for every figure
graph:
  kind: chain
  sizes: [1, 1, 1, 1, 1, 1, 1, 1]
  forward_flops: 1
  jvp_flops: 1
  vjp_flops: 1
  activation_bytes: [8, 2, 8, 3, 8, 1, 8]
device: cpu-server
budget: 64
strategies:
  - reverse_full
  - forward_recompute
  - reverse_offload
  - reverse_checkpointed: {schedule: [binomial, multilevel], slots: 2}
  - reverse_checkpointed: {schedule: optimal}
  - jacobian_chain: {order: reverse}
regimes:
  x: {key: "graph.activation_bytes[0]", values: [7]}
  y: {key: budget, values: [30, 60]}
"""
PARALLEL = """\
version: 1
name: demo
parallel: {pipeline: {stages: 2, schedule: zb_v, micro_batches: 3, times: {forward: 1, input_vjp: 1, weight_vjp: 1}}}
"""
RAN = run(from_document(parse(SCENARIO, name="f.yaml")))
SWEPT = """\
version: 1
name: demo
graph: {kind: chain, length: 3}
strategies: [reverse_full, {reverse_checkpointed: {schedule: binomial, slots: 9}}]
sweep: {graph.length: [3, 4], graph.activation_bytes: [8, 16], optimizer: [none, adam]}
"""
RAN_IN_CELLS = run(from_document(parse(SWEPT, name="f.yaml")))
RAN_ON_MANY = run(from_document(parse(PARALLEL, name="f.yaml")))
EVERY_VIEW = {key: data or RAN_ON_MANY.views[key] for key, data in RAN.views.items()}


def other(kind: Any, than: Any = None) -> Any:
    """A value of a type, with something in all that it may hold, and other than one given."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return other(arguments[0], than)
    if origin in (Union, UnionType):
        return other(next(a for a in arguments if a is not NoneType), than)
    if origin is Literal:
        return next(a for a in arguments if a != than)
    if origin in (tuple, Sequence):
        return tuple(other(a) for a in arguments if a is not ...)
    if origin is list:
        return [other(arguments[0])]
    if origin is not None and issubclass(origin, Mapping):
        return {"key": other(arguments[1])}
    if kind in (bool, int, float, str, Any):
        samples = {bool: (True, False), int: (7, 8), float: (0.1, 0.2)}.get(kind, ("one", "two"))
        return next(s for s in samples if s != than)
    hints = get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        defaults = {f.name: default_of(f) for f in dataclasses.fields(kind)}
        return kind(**{name: other(hints[name], default) for name, default in defaults.items()})
    return {key: other(get_args(hint)[0] if get_origin(hint) is NotRequired else hint) for key, hint in hints.items()}


def default_of(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


@given(
    st.integers(0, 10**40),
    st.floats(0, 1e99) | st.none(),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.booleans() | st.none(), max_size=3),
)
def test_json_reads_back_as_it_was(count: int, seconds: float | None, parameters: dict[str, object]) -> None:
    made = some(point(peak_bytes=count, seconds=seconds, parameters=parameters), point())
    text = made.to_json()
    assert results.from_json(text) == made
    assert results.from_json(text).to_json() == text


def test_results_in_which_every_field_differs_from_its_default_are_read_back() -> None:
    """Every field of the types, whatever they will be, and the data of every view."""
    made = dataclasses.replace(other(Results), views=EVERY_VIEW, sweep=RAN_IN_CELLS.sweep)
    for value in (made, *made.points):
        assert all(getattr(value, f.name) != default_of(f) for f in dataclasses.fields(value))
    assert made.views.keys() == views.load().keys()
    assert all(data != views.load()[key].nothing for key, data in made.views.items())
    assert results.from_json(made.to_json()) == made


def test_what_a_run_made_is_read_back() -> None:
    assert results.from_json(RAN.to_json()) == RAN
    assert results.from_json(RAN_ON_MANY.to_json()) == RAN_ON_MANY
    in_cells = results.from_json(RAN_IN_CELLS.to_json())
    assert dataclasses.replace(in_cells, points=()) == dataclasses.replace(RAN_IN_CELLS, points=())
    assert in_cells.points == tuple(RAN_IN_CELLS.points)
    assert [*json.loads(RAN.to_json())] == ["scenario", "version", "points", "complete", *views.load()]


def test_counts_are_json_integers_with_every_digit() -> None:
    count = 2**63 + 1
    text = some(point(flops=flops(count))).to_json()
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


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('"complete": true', '"complete": "yes"', "14: complete: got 'yes', expected true or false"),
        ('"version"', '"versoin"', "2: unknown key 'versoin'; did you mean 'version'?"),
        ('"seconds": true', '"seconds": NaN', "15: got NaN, expected a number that JSON knows"),
        ('"total": 14', '"total": -14', "14: points[0].flops.total: got -14, expected at least 0"),
        ('"total": 14', f'"total": {10**400}', "14: points[0].flops.total: got 1000"),
        ('"kind": "exact"', '"kind": "miles"', "14: curves[0].kind: got 'miles', expected one of"),
    ],
)
def test_what_is_wrong_with_results_is_told_at_its_place(before: str, after: str, told: str) -> None:
    text = RAN.to_json()
    assert before in text
    with pytest.raises(DocumentError) as caught:
        results.from_json(text.replace(before, after, 1), name="r.json")
    assert any(str(f).startswith("r.json:") and told.partition(": ")[2] in str(f) for f in caught.value.findings)


def parts(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside."""
    inner = enumerate(data) if isinstance(data, list) else data.items() if isinstance(data, dict) else ()
    return [found for key, value in inner for found in [(*path, key), *parts(value, (*path, key))]]


PARTS = parts(json.loads(RAN.to_json()))
TAMPERED = st.sampled_from(
    [None, True, -1, 0, 0.5, 1e308, 10**18, 10**400, "", "x", "seconds", [], [[]], [1, 2], {}, {"x": 1}, [[[[1]]]]]
)


@st.composite
def tampered(draw: st.DrawFn) -> str:
    """results.json with a few values replaced, taken out or doubled, and perhaps a strange word in the text."""
    data = json.loads(RAN.to_json())
    for _ in range(draw(st.integers(0, 3))):
        *path, key = draw(st.sampled_from(PARTS))
        inside = data
        try:
            for part in path:
                inside = inside[part]
            how = draw(st.sampled_from(["replace", "remove", "repeat"]))
            if how == "replace":
                inside[key] = draw(TAMPERED)
            elif how == "remove":
                del inside[key]
            else:
                inside[f"{key}2" if isinstance(inside, dict) else slice(key, key)] = [inside[key]]
        except (KeyError, IndexError, TypeError):
            assume(False)  # an earlier change has taken it away
    text = json.dumps(data)
    if draw(st.integers(0, 3)) == 0:
        at, to = draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text))))
        text = text[:at] + draw(st.sampled_from(["", "NaN", "[" * 2000, "\x00", "\ud800", '"'])) + text[to:]
    return text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=tampered())
def test_tampered_results_are_drawn_or_refused_in_one_message(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "save", lambda figure, stem: ())
    path = tmp_path / "results.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    code = main(["plot", str(path)])
    error = capsys.readouterr().err
    assert (code, error == "") in ((0, True), (2, False)), error
    assert code == 0 or error.startswith(f"{path}")


def test_bytes_that_no_figure_can_draw_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(RAN.to_json())
    span = next(span for picture in data["pictures"] for stored in picture["stored"] for span in stored["spans"])
    span[3] = 10**400
    (tmp_path / "results.json").write_text(json.dumps(data))
    assert main(["plot", str(tmp_path / "results.json")]) == 2
    assert "pictures" in capsys.readouterr().err


def test_axes_of_maps_may_have_any_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists as widths are, and none as where a budget is left out."""
    monkeypatch.setattr(style, "save", lambda figure, stem: ())
    data = json.loads(RAN.to_json())
    for value in ([4, 8], [], None, True, "fast", 0.5):
        data["regimes"]["x"]["values"][0] = data["regimes"]["y"]["values"][-1] = value
        (tmp_path / "results.json").write_text(json.dumps(data))
        assert main(["plot", str(tmp_path / "results.json"), "-q"]) == 0


def test_a_plan_without_clock_beside_others_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one beyond those that would be drawn: whatever the order of points, no line is on another's clock."""
    monkeypatch.setattr(style, "save", lambda figure, stem: ())
    text = RAN.to_json()
    for k in range(len(json.loads(text)["points"])):
        data = json.loads(text)
        data["points"].insert(k, data["points"][k])
        (tmp_path / "results.json").write_text(json.dumps(data))
        assert main(["plot", str(tmp_path / "results.json"), "-q"]) == 0


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the file is empty"),
        (b"\xff", "1:1: byte 0xff is not UTF-8; save the file as UTF-8"),
        (b"3", "1:1: got 3, expected a mapping of keys to values"),
        (None, "this is a folder, expected a JSON file"),
    ],
)
def test_a_file_that_holds_no_results_is_refused(
    content: bytes | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    assert main(["plot", str(path)]) == 2
    assert capsys.readouterr().err.partition("\n")[0].removeprefix(f"{path}:").removeprefix(" ") == told


def test_figures_drawn_again_are_the_same_bytes(tmp_path: Path) -> None:
    names: list[str] = []
    for asked in (SCENARIO, PARALLEL):
        (tmp_path / "demo.yaml").write_text(asked)
        run_in = tmp_path / f"run{len(names)}"
        assert main(["run", str(tmp_path / "demo.yaml"), "-o", str(run_in), "-q", "--format", "csv"]) == 0
        assert main(["plot", str(run_in / "results.json"), "-o", str(tmp_path / "again"), "-q"]) == 0
        drawn = [p for p in run_in.iterdir() if p.suffix in (".png", ".svg")]
        assert all(p.read_bytes() == (tmp_path / "again" / p.name).read_bytes() for p in drawn)
        names += [p.stem for p in drawn]
    of_runs = set(plots.FIGURES) - {"search", "sweep"}  # drawn by `sim search` and of sweeps
    assert sorted(names) == sorted(name for name in of_runs for _ in range(2))


def test_files_read_back(tmp_path: Path) -> None:
    made = some(point())
    assert made.write(tmp_path / "new" / "folder") == [
        tmp_path / "new" / "folder" / "results.json",
        tmp_path / "new" / "folder" / "results.csv",
    ]
    assert results.read(tmp_path / "new" / "folder" / "results.json") == made
    with pytest.raises(DocumentError, match="there is no such file"):
        results.read(tmp_path / "missing.json")


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
