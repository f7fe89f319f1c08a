"""The command line: what it prints where, its exit codes, and one message without a traceback for what goes wrong."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sim import strategies
from sim.commands import cli
from sim.commands.list import Topic
from sim.experiment import measurements as experiment
from sim.parallel import schedules as pipeline_schedules

SCENARIO = """\
version: 1
name: demo
graph: {kind: chain, length: 9, activation_bytes: 8}
device: h100-sxm
budget: 64
strategies:
  - reverse_full
  - reverse_checkpointed: {schedule: binomial, slots: {from: 1, to: 3}}
"""


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIM_DEBUG", raising=False)
    path = tmp_path / "demo.yaml"
    path.write_text(SCENARIO)
    return path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sim(capfd: pytest.CaptureFixture[str]) -> Run:
    """Exit code, stdout and stderr of a command line."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = cli.main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def test_run_prints_a_table_and_writes_every_file(scenario: Path, sim: Run) -> None:
    code, out, err = sim("run", scenario)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("demo: 9 nodes, forward 9 FLOP, resident 16 B, h100-sxm, budget 64 B")
    assert lines[2].split() == ["strategy", "peak", "working", "flops", "/F", "redone", "time", "front", "fits"]
    assert [line.split()[0] for line in lines[3:]] == ["reverse_full", "binomial", "binomial", "binomial"]
    assert max(map(len, lines)) <= 100
    figures = {f"{name}.{suffix}" for name in ("pareto", "timeline", "schedule") for suffix in ("png", "svg")}
    names = {"results.json", "results.csv", "trace.json"} | figures
    assert {p.name for p in Path("outputs/demo").iterdir()} == names
    for name in names:
        assert f"wrote outputs/demo/{name}" in err


def test_json_and_csv_on_stdout_are_the_files_and_the_same_on_every_run(scenario: Path, sim: Run) -> None:
    _, table, _ = sim("run", scenario, "--format", "csv", "--no-plots")
    assert table == Path("outputs/demo/results.csv").read_text()
    assert next(row["label"] for row in csv.DictReader(io.StringIO(table))) == "reverse_full"
    code, out, _ = sim("run", scenario, "--format", "json", "-q")
    assert code == 0
    assert out == Path("outputs/demo/results.json").read_text()
    assert json.loads(out)["points"][0]["label"] == "reverse_full"
    assert sim("run", scenario, "--format", "json", "--output", "elsewhere")[1] == out
    assert sorted(p.name for p in Path("elsewhere").iterdir()) == sorted(p.name for p in Path("outputs/demo").iterdir())


def test_results_say_where_they_come_from(scenario: Path, sim: Run) -> None:
    import hashlib

    data = json.loads(sim("run", scenario, "--format", "json", "--no-plots")[1])
    assert data["scenario"]["name"] == "demo"
    assert data["scenario"]["sha256"] == hashlib.sha256(scenario.read_bytes()).hexdigest()
    assert data["scenario"]["graph"]["nodes"] == 9
    assert data["complete"] is True
    assert not list(Path("outputs/demo").glob("*.png"))


def test_points_on_the_front_are_those_that_no_other_point_beats(scenario: Path, sim: Run) -> None:
    points = json.loads(sim("run", scenario, "--format", "json", "--no-plots")[1])["points"]
    timed = [p for p in points if p["seconds"] is not None]
    flops = [(p["peak_bytes"], p["flops"]["total"]) for p in points]
    seconds = [(p["simulated_peak_bytes"], p["seconds"]) for p in timed]
    for axis, chosen, coordinates in (("flops", points, flops), ("seconds", timed, seconds)):
        for p, own in zip(chosen, coordinates, strict=True):
            beaten = any(other[0] <= own[0] and other[1] <= own[1] and other != own for other in coordinates)
            assert p["pareto"][axis] is not beaten


def test_quiet_writes_nothing_on_stderr(scenario: Path, sim: Run) -> None:
    assert sim("run", scenario, "--quiet", "--no-plots")[2] == ""


def test_what_exceeds_the_budget_is_marked_and_kept(scenario: Path, sim: Run) -> None:
    code, out, err = sim("run", scenario, "--format", "json", "--no-plots", "--strict")
    points = json.loads(out)["points"]
    assert code == 0
    assert [p["fits"] for p in points] == [p["peak_bytes"] <= 64 for p in points]
    assert {p["fits"] for p in points} == {True, False}
    assert "does not fit: reverse_full: the peak of 96 B is 32 B over the budget" in err


def test_strict_exits_with_3_where_nothing_fits(scenario: Path, sim: Run) -> None:
    scenario.write_text(SCENARIO.replace("budget: 64", "budget: 1"))
    code, out, err = sim("run", scenario, "--strict", "--no-plots", "-q")
    assert code == 3
    assert "nothing fits; the smallest peak is " in err
    assert "reverse_full" in out
    assert sim("run", scenario, "--no-plots")[0] == 0


def test_what_a_device_cannot_hold_has_no_time(scenario: Path, sim: Run) -> None:
    small = "{flops: 1 TFLOP/s, bandwidth: 1 TB/s, memory: 40}"
    scenario.write_text(SCENARIO.replace("h100-sxm", small).replace("budget: 64\n", ""))
    code, out, err = sim("run", scenario, "--format", "json", "--no-plots")
    assert code == 0
    full, *rest = json.loads(out)["points"]
    assert (full["fits"], full["seconds"], full["pareto"]["seconds"]) == (False, None, False)
    assert full["peak_bytes"] > 40
    assert "does not fit: reverse_full: " in err
    assert any(p["seconds"] is not None for p in rest)


def test_a_strategy_that_does_not_apply_is_an_error_at_its_line_and_nothing_is_written(
    scenario: Path, sim: Run
) -> None:
    scenario.write_text(
        "version: 1\nname: demo\ngraph: {kind: mlp, widths: [3, 4], loss: cross_entropy}\nwrt: parameters\n"
        "strategies:\n  - reverse_full\n  - jacobian_chain: {order: optimal}\n"
    )
    code, out, err = sim("run", scenario)
    assert (code, out) == (2, "")
    assert f"{scenario}:7:21: strategies[1]: jacobian_chain optimal: " in err
    assert not Path("outputs").exists()


@pytest.mark.parametrize("command", ["run", "validate"])
def test_an_invalid_scenario_exits_with_2_and_shows_every_problem(scenario: Path, sim: Run, command: str) -> None:
    scenario.write_text(SCENARIO.replace("version: 1", "version: 9").replace("reverse_full", "reverse_ful"))
    code, out, err = sim(command, scenario)
    assert (code, out) == (2, "")
    assert f"{scenario}:1:10: version: got 9, expected 1" in err
    assert f"{scenario}:7:5: strategies[0]: unknown strategy 'reverse_ful'; did you mean 'reverse_full'?" in err
    assert sim(command, "missing.yaml")[2] == "missing.yaml: there is no such file\n"


def test_validate_goes_on_after_an_invalid_file(scenario: Path, sim: Run) -> None:
    code, out, err = sim("validate", "missing.yaml", scenario)
    assert code == 2
    assert out == f"{scenario}: valid: demo, 9 nodes, 4 points\n"
    assert err == "missing.yaml: there is no such file\n"
    assert not Path("outputs").exists()


@pytest.mark.parametrize("arguments", [["run"], ["nonsense"], ["run", "x", "--format", "xml"], ["list", "stars"]])
def test_wrong_usage_exits_with_2(sim: Run, arguments: list[str]) -> None:
    code, out, err = sim(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: sim" in err


def test_a_file_in_the_place_of_the_output_folder_exits_with_2(scenario: Path, sim: Run) -> None:
    Path("outputs").write_text("")
    code, out, err = sim("run", scenario)
    assert (code, out) == (2, "")
    assert err.endswith("outputs: this is a file, expected a folder for the output\n")


def test_a_full_disk_exits_with_1_and_leaves_no_half_written_file(
    scenario: Path, sim: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    code, out, err = sim("run", scenario, "-q")
    assert (code, out) == (1, "")
    assert err == "error: outputs/demo/results.json: cannot be written: no space left on device\n"
    assert not list(Path("outputs/demo").iterdir())


def interrupt_after(points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = experiment.measure
    calls = iter(range(100))

    def interrupted(*arguments: object, **options: object) -> object:
        if next(calls) == points:
            raise KeyboardInterrupt
        return measure(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(experiment, "measure", interrupted)


def test_ctrl_c_keeps_what_is_finished_and_exits_with_130(
    scenario: Path, sim: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(2, monkeypatch)
    code, out, err = sim("run", scenario)
    assert code == 130
    assert "interrupted: 2 of 4 points are finished and kept" in err
    assert "reverse_full" in out
    kept = json.loads(Path("outputs/demo/results.json").read_text())
    assert kept["complete"] is False
    assert [p["label"] for p in kept["points"]] == ["reverse_full", "binomial slots=1"]


def test_ctrl_c_before_the_first_point_writes_nothing(
    scenario: Path, sim: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(0, monkeypatch)
    code, out, err = sim("run", scenario)
    assert (code, out) == (130, "")
    assert err == "interrupted: nothing was finished\n"
    assert not Path("outputs").exists()


def test_an_internal_error_is_one_line_and_debug_shows_where(
    scenario: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> object:
        raise ZeroDivisionError("all is lost")

    monkeypatch.setattr(experiment, "measure", broken)
    monkeypatch.delenv("SIM_DEBUG", raising=False)
    assert cli.main(["run", str(scenario)]) == 1
    assert capfd.readouterr().err == (
        "internal error: ZeroDivisionError: all is lost (--debug shows where; please report it)\n"
    )
    monkeypatch.setenv("SIM_DEBUG", "1")
    assert cli.main(["run", str(scenario)]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_list_shows_every_registered_name(sim: Run) -> None:
    code, out, _ = sim("list")
    assert code == 0
    registry = strategies.load()
    names = {*registry, "chain", "mlp", "cnn", "transformer", "layers", "h100-sxm", "v100"}
    names |= {f"{s.variants[0]}={n}" for s in registry.values() if s.variants for n in s.variants[1]}
    names |= set(pipeline_schedules.load())
    assert names <= set(out.split())
    for topic in Topic:
        assert sim("list", topic.value)[0] == 0


def test_list_scenarios_shows_their_descriptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sim: Run) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scenarios").mkdir()
    Path("scenarios/good.yaml").write_text("description: What it shows.\n")
    Path("scenarios/bad.yaml").write_text("a: [")
    code, out, _ = sim("list", "scenarios")
    assert code == 0
    assert out.splitlines() == [
        "scenarios/bad.yaml   (not YAML: `sim validate` says why)",
        "scenarios/good.yaml  What it shows.",
    ]


def test_schema_prints_json(sim: Run) -> None:
    code, out, _ = sim("schema")
    assert code == 0
    assert json.loads(out)["required"] == ["version", "name"]


def test_init_writes_a_scenario_that_runs_and_never_overwrites_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sim: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sim("init", "mine")[0] == 0
    code, out, _ = sim("run", "mine.yaml", "--strict", "--format", "json", "--no-plots")
    assert code == 0
    assert {p["fits"] for p in json.loads(out)["points"]} == {True, False}
    Path("mine.yaml").write_text("precious")
    code, _, err = sim("init", "mine.yaml")
    assert code == 2
    assert err == "error: mine.yaml: this file is there already; --force overwrites it\n"
    assert Path("mine.yaml").read_text() == "precious"
    assert sim("init", "mine.yaml", "--force")[0] == 0
    assert sim("validate", "mine.yaml")[0] == 0
    assert sim("init", "a b.yaml")[0] == 2


def test_version_is_the_package_version(sim: Run) -> None:
    from importlib.metadata import version

    assert sim("--version") == (0, f"sim {version('ad-tradeoff-sim')}\n", "")


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    heavy = "{'numpy', 'numba', 'pydantic', 'yaml', 'matplotlib', 'simpy', 'rich', 'quantiphy'}"
    code = f"import sys; from sim.commands.cli import main; main(['--help']); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    for command in ("run", "plan", "verify", "calibrate", "validate", "list", "schema", "init"):
        assert any(line.split()[:1] == [command] for line in text)


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What a person sees who runs a command line in a terminal."""
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sim", *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | environment):
        os.close(theirs)
        seen = bytearray()
        with contextlib.suppress(OSError):  # the terminal goes away with the process
            while data := os.read(ours, 1024):
                seen.extend(data)
    os.close(ours)
    return seen.decode()


def test_a_terminal_shows_progress_and_colour_unless_told_otherwise(scenario: Path) -> None:
    shown = on_a_terminal("run", str(scenario), "--no-plots", NO_COLOR="", TERM="xterm")
    assert "computing" in shown
    assert "\x1b[1m" in shown
    plain = on_a_terminal("run", str(scenario), "--no-plots", "-q", NO_COLOR="1", TERM="xterm")
    assert "computing" not in plain
    assert "\x1b[" not in plain
    assert "reverse_full" in plain


def test_the_trace_has_a_named_process_for_each_point_in_it(scenario: Path, sim: Run) -> None:
    sim("run", scenario, "--no-plots")
    events = json.loads(Path("outputs/demo/trace.json").read_text())["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert {e["pid"] for e in events} == set(names)
    assert "binomial slots=1" in names.values()  # the smallest peak is always on the front


def test_validate_never_runs_the_code_that_a_scenario_names(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    scenario = tmp_path / "s.yaml"
    inputs = "{x: {shape: [2, 3], dtype: float32}}"
    for kind in ("torch", "jax"):
        scenario.write_text(
            f'version: 1\nname: s\ngraph: {{kind: {kind}, factory: "mine:make", inputs: {inputs}}}\n'
            "strategies: [reverse_full]\n"
        )
        assert cli.main(["validate", str(scenario)]) == 0
        assert not (tmp_path / "ran").exists()
