"""The program from any folder: shipped scenarios by name, standard input, values set, pages and differences."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sim
from sim.base.document import DocumentError
from sim.commands import cli
from sim.commands.exit import Exit
from sim.scenario import shipped
from sim.scenario.scenario import ScenarioFile, graph_kinds, load
from sim.strategies import load as strategies

Run = Callable[..., tuple[int, str, str]]
CHAIN = """\
version: 1
name: steps
graph: {kind: chain, length: 6, activation_bytes: 8}
strategies: [reverse_full, reverse_checkpointed: {schedule: binomial, slots: 2}]
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.main(arguments)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def test_shipped_scenarios_go_by_name_in_any_folder(run: Run) -> None:
    assert len(shipped.names()) > 10
    for name in shipped.names():
        assert load(name).name == name
    code, out, _ = run("run", "three_factors", "--no-plots", "-q")
    assert code == 0
    assert "((F3·F2)·F1)" in out
    assert Path("outputs/three_factors/results.json").exists()
    assert run("list", "scenarios")[1].split()[0] == shipped.names()[0]


def test_a_file_of_that_name_comes_first(run: Run) -> None:
    Path("three_factors").write_text(CHAIN)
    assert load("three_factors").name == "steps"


def test_an_unknown_name_is_told_with_those_there_are(run: Run) -> None:
    code, _, err = run("validate", "deep_mpl")
    assert code == 2
    assert err.startswith("deep_mpl: there is no such file; did you mean 'deep_mlp'? known: ")


def test_a_scenario_is_read_from_standard_input(run: Run) -> None:
    assert run("run", "-", "--no-plots", stdin=CHAIN.encode())[0] == 0
    code, _, err = run("validate", "-", stdin=CHAIN.replace("6", "-6").encode())
    assert code == 2
    assert err.startswith("standard input:3:30: graph.length: got -6")
    code, _, err = run("validate", "-", stdin=CHAIN.encode() + b"\xff")
    assert code == 2
    assert err.startswith("standard input:5:1: byte 0xff is not UTF-8")


def test_a_value_set_is_the_value_of_the_file(run: Run) -> None:
    Path("a.yaml").write_text(CHAIN)
    Path("b.yaml").write_text(CHAIN.replace("length: 6", "length: 9").replace("slots: 2", "slots: 3"))
    sets = ("--set", "graph.length=9", "--set", "strategies[1].reverse_checkpointed.slots=3", "--set", "budget=1 kB")
    assert run("run", "a.yaml", "--no-plots", "-o", "a", *sets)[0] == 0
    assert run("run", "b.yaml", "--no-plots", "-o", "b", "--set", "budget=1 kB")[0] == 0
    first, second = (json.loads(Path(f"{x}/results.json").read_text()) for x in "ab")
    assert first["points"] == second["points"]
    assert first["scenario"]["budget_bytes"] == 1000
    assert first["scenario"]["sha256"] != load("a.yaml").document.sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("graph.lenth=3", "--set: graph.lenth: unknown key 'lenth'; did you mean 'length'?"),
        ("graph.length=abc", "--set: graph.length: got 'abc', expected"),
        ("graph.length", "--set: got 'graph.length', expected KEY=VALUE"),
        ("strategies[9]=1", "--set: got 'strategies[9]', but the list there has 2 entries"),
        ("graph.widths[0]=1", "--set: got 'graph.widths[0]', but there is no 'widths' there"),
        ("budget=[", "--set budget:2:1: this is not YAML"),
        ("=3", "--set: got '', expected a key such as"),
    ],
)
def test_a_value_that_cannot_be_set_is_refused(run: Run, change: str, message: str) -> None:
    Path("a.yaml").write_text(CHAIN)
    code, _, err = run("run", "a.yaml", "--set", change)
    assert code == 2
    assert message in err
    assert not Path("outputs").exists()


def test_python_takes_names_files_and_mappings(tmp_path: Path) -> None:
    data: dict[str, Any] = {"version": 1, "name": "m", "graph": {"kind": "chain", "length": 3}}
    data["strategies"] = ["reverse_full", {"reverse_checkpointed": {"schedule": "sqrt"}}]
    assert [p.label for p in sim.run(data).points] == ["reverse_full", "sqrt"]
    assert sim.run("three_factors").points == sim.run(sim.load("three_factors")).points
    with pytest.raises(DocumentError, match=r"graph\.length: got -3"):
        sim.load({**data, "graph": {"kind": "chain", "length": -3}})
    assert sim.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sim.nothing  # type: ignore[attr-defined]


def test_everything_that_can_be_named_has_a_page(run: Run) -> None:
    registry = strategies()
    variants = [name for e in registry.values() if e.variants is not None for name in e.variants[1]]
    for name in [*registry, *variants, *graph_kinds(), *ScenarioFile.model_fields, *(str(int(c)) for c in Exit)]:
        code, out, _ = run("explain", name)
        assert (code, name in out.splitlines()[0]) == (0, True)
        assert len(out.splitlines()) > 2
    assert "slots: checkpoints held at once" in run("explain", "binomial")[1]
    code, _, err = run("explain", "optmal")
    assert code == 2
    assert "did you mean 'optimal'?" in err


def test_differences_between_results_are_told_point_by_point(run: Run) -> None:
    Path("a.yaml").write_text(CHAIN)
    run("run", "a.yaml", "--no-plots", "-o", "one")
    run("run", "a.yaml", "--no-plots", "-o", "two", "--set", "graph.activation_bytes=16")
    assert run("diff", "one", "one/results.json")[1] == "2 of 2 points in both are the same\n"
    code, out, _ = run("diff", "one", "two")
    peaks = [
        [p["peak_bytes"] for p in json.loads(Path(f"{x}/results.json").read_text())["points"]] for x in ("one", "two")
    ]
    assert code == 0
    assert f"reverse_full: peak {peaks[0][0]} B → {peaks[1][0]} B (2 ×)" in out
    assert out.endswith("0 of 2 points in both are the same\n")
    run("run", "a.yaml", "--no-plots", "-o", "three", "--set", "strategies=[reverse_full]")
    assert "binomial slots=2: only in one" in run("diff", "one", "three")[1]
    assert run("diff", "one", "nowhere.json")[0] == 2


def test_a_shipped_scenario_is_a_start(run: Run) -> None:
    assert run("init", "mine", "--from", "resnet50")[0] == 0
    mine, there = load("mine.yaml"), load("resnet50")
    assert (mine.name, mine.points, mine.graph_parameters) == ("mine", there.points, there.graph_parameters)
    code, _, err = run("init", "other", "--from", "resnet5")
    assert code == 2
    assert "--from: there is no shipped scenario 'resnet5'; did you mean 'resnet50'?" in err


@pytest.mark.slow
def test_a_wheel_holds_scenarios_and_types(tmp_path: Path) -> None:
    hatchling = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    root = Path(__file__).parents[1]
    [wheel] = hatchling.WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"])
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {f"sim/scenarios/{name}.yaml" for name in shipped.names()} <= held
    assert {"sim/scenarios/schema.json", "sim/py.typed", "sim/strategies/general/README.md"} <= held
    assert {f"sim/report/page/{file.name}" for file in (root / "sim/report/page").iterdir()} <= held
