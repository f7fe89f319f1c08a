"""Scenarios of many devices: what they compute and show, and what is wrong with them at its place."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from figures import words
from matplotlib.figure import Figure

from sim.base import yaml as yamltext
from sim.base.document import DocumentError
from sim.commands.cli import main
from sim.experiment.run import compute, results_of, traces
from sim.scenario.scenario import Scenario, from_document

ROOT = Path(__file__).parent.parent
HEAD = """\
version: 1
name: demo
parallel:
  pipeline:
    stages: 4
    schedule: [gpipe, 1f1b, interleaved, zb_h1, zb_h2, zb_v, dualpipe]
    micro_batches: 8
    times: {forward: 1 ms, input_vjp: 2 ms, weight_vjp: [1, 2, 3, 4]}
"""


def scenario(text: str) -> Scenario:
    return from_document(yamltext.parse(text, name="f.yaml"))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("stages: 4", "stages: 0", "f.yaml:5:13: parallel.pipeline.stages: got 0, expected a whole number from 1"),
        ("stages: 4", "stages: many", "f.yaml:5:13: parallel.pipeline.stages: got 'many', expected a whole number"),
        ("stages: 4", "stages: [4, 2.5]", "f.yaml:5:17: parallel.pipeline.stages[1]: got 2.5, expected a whole"),
        ("    stages: 4\n", "", "f.yaml:5:5: parallel.pipeline: 'stages' is missing"),
        ("gpipe", "gpip", "f.yaml:6:16: parallel.pipeline.schedule[0]: unknown pipeline schedule 'gpip'; did you mean"),
        ("gpipe", "3", "f.yaml:6:16: parallel.pipeline.schedule[0]: got 3, expected the name of a pipeline schedule"),
        ("gpipe", "interleaved: {chunks: 1}", "schedule[0].interleaved.chunks: got 1, expected at least 2"),
        ("gpipe", "interleaved: {chunk: 2}", "interleaved.chunk: unknown key 'chunk'; did you mean 'chunks'?"),
        ("stages: 4", "stages: 4\n    chunks: 1", "f.yaml:6:13: parallel.pipeline.chunks: got 1, expected at least 2"),
        (
            "micro_batches: 8",
            "micro_batches: 6",
            "f.yaml:6:29: parallel.pipeline.schedule[2]: interleaved: got 6 micro-",
        ),
        ("micro_batches: 8", "micro_batches: 4000000", "gpipe: makes 48000000 passes, expected at most 20000000"),
        ("micro_batches: 8", "micro_batches: {from: 1, to: 9999, step: 2}", "makes 35000 points, expected at most"),
        ("micro_batches: 8", "micro_batches: {from: 8}", "parallel.pipeline.micro_batches: 'to' is missing; expected"),
        ("1 ms", "1 km", "f.yaml:8:22: parallel.pipeline.times.forward: got '1 km', expected a time such as 5 us or 2"),
        ("1 ms", "[]", "parallel.pipeline.times.forward: got [], expected a time such as 5 us or 2 ms, or a list"),
        ("[1, 2, 3, 4]", "[1, 2, 3]", "f.yaml:8:57: parallel.pipeline.times.weight_vjp: got 3 times for 4 stages"),
        ("forward: 1 ms, ", "", "f.yaml:8:12: parallel.pipeline.times: 'forward' is missing"),
        ("name: demo", "name: demo\nbudget: 8 GB", "f.yaml:3:1: budget: needs a graph; of these"),
        ("name: demo", "name: demo\nstrategies: [reverse_full]", "f.yaml:3:1: strategies: does not go with parallel"),
        ("  pipeline", "  pipelines", "f.yaml:4:3: parallel.pipelines: unknown key 'pipelines'; did you mean"),
    ],
)
def test_each_wrong_key_or_value_is_told_at_its_place(before: str, after: str, message: str) -> None:
    with pytest.raises(DocumentError) as refusal:
        scenario(HEAD.replace(before, after, 1))
    assert any(message in str(finding) for finding in refusal.value.findings), [*map(str, refusal.value.findings)]


def test_chunks_are_refused_where_no_schedule_takes_them() -> None:
    text = HEAD.replace("[gpipe, 1f1b, interleaved, zb_h1, zb_h2, zb_v, dualpipe]", "1f1b\n    chunks: 2")
    with pytest.raises(
        DocumentError, match=r"f.yaml:7:5: parallel.pipeline.chunks: is for the schedules .* interleaved"
    ):
        scenario(text)


def test_numbers_are_tried_in_turn_and_named_where_they_differ() -> None:
    text = HEAD.replace("micro_batches: 8", "micro_batches: [8, 16]\n    chunks: {from: 2, to: 3}")
    labels = [p.label for p in scenario(text).pipelines]
    assert labels[:2] == ["gpipe micro_batches=8", "gpipe micro_batches=16"]
    assert "interleaved chunks=3 micro_batches=16" in labels
    assert len(labels) == len(set(labels)) == 6 * 2 + 4


def test_each_point_has_its_step_its_bubble_and_its_ranks() -> None:
    """GPipe with passes of 1 and 2 + 1 s on 2 ranks, 4 micro-batches: 4 s each, and one more while it fills."""
    text = HEAD.replace("stages: 4", "stages: 2").replace("[1, 2, 3, 4]", "1 s, send: 0").replace(" ms", " s")
    results = results_of(compute(scenario(text.replace("micro_batches: 8", "micro_batches: 4"))))
    gpipe, plain = results.points[0], results.points[1]
    assert (gpipe.seconds, gpipe.bubble) == (5 * 4, 1 / 5)
    assert list(gpipe.ranks) == [
        {
            "ranks": [0, 1], "count": 2, "in_flight": 4.0, "busy_seconds": 16.0, "idle_seconds": 4.0,
            "communication_seconds": 0.0,
        }
    ]  # fmt: skip
    assert [(r["ranks"], r["in_flight"]) for r in plain.ranks] == [([0], 2.0), ([1], 1.0)]
    assert gpipe.actions == {"forward": 8, "vjp": 8, "send": 8}
    assert gpipe.peak_at == {"action": 3, "kind": "forward", "node": "stage 0 on rank 0, micro-batch 3"}


def test_the_front_is_over_micro_batches_held_and_seconds() -> None:
    points = results_of(compute(scenario(HEAD))).points
    costs = {p.label: (max(r["in_flight"] for r in p.ranks), p.seconds) for p in points}
    for p in points:
        held, seconds = costs[p.label]
        beaten = any(h <= held and s <= seconds and (h, s) != (held, seconds) for h, s in costs.values())
        assert p.pareto["seconds"] == (not beaten), p.label


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.yaml").write_text(HEAD)
    return tmp_path / "f.yaml"


def test_run_prints_and_writes_pipelines(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(file)]) == 0
    out = capsys.readouterr().out
    assert "demo: pipelines, times given for each stage" in out
    data = json.loads(Path("outputs/demo/results.json").read_text())
    rows = list(csv.DictReader(Path("outputs/demo/results.csv").read_text().splitlines()))
    for point, row in zip(data["points"], rows, strict=True):
        assert {point["label"].split()[0], f"{point['bubble']:.4f}"} <= set(out.split())
        assert (json.loads(row["ranks"]), float(row["bubble"])) == (point["ranks"], point["bubble"])
    written = {p.name for p in Path("outputs/demo").iterdir()}
    figures = {f"{name}.{kind}" for name in ("pipeline", "pipeline_memory") for kind in ("png", "svg")}
    assert written == {"results.json", "results.csv", "trace.json", *figures}


@pytest.mark.parametrize("command", [["plan", "--budget", "8GB"], ["verify"]])
def test_what_is_for_one_device_says_so(command: list[str], file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command[0], str(file), *command[1:]]) == 2
    assert "f.yaml:4:3: parallel: many devices are for `sim run` and `sim fits`" in capsys.readouterr().err


def test_validate_tells_how_many_pipelines_there_are(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: valid: demo, pipelines, 7 points\n"


def test_the_trace_has_a_process_a_pipeline_and_a_thread_a_rank_and_a_link() -> None:
    measurements = compute(scenario(HEAD))
    trace = traces(measurements)
    assert trace is not None
    events = trace["traceEvents"]
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert list(processes.values()) == [p.label for p in measurements.points]
    threads = [e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == 2]
    assert threads == [*(f"rank {k}" for k in range(4)), "link 0 → 1", "link 1 → 0", "link 1 → 2", "link 2 → 1",
                       "link 2 → 3", "link 3 → 2"]  # fmt: skip
    for pid, pipeline in enumerate(measurements.pipelines, start=1):
        spans = [e for e in events if e["ph"] == "X" and e["pid"] == pid]
        assert len(spans) == len(pipeline.schedule) + len(pipeline.sends)


def test_the_figure_shows_every_pass_and_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sim.plots import pipeline
    from sim.plots.drawing import style

    drawn: list[Figure] = []
    monkeypatch.setattr(style, "save", lambda figure, stem: drawn.append(figure))
    data: dict[str, Any] = json.loads(results_of(compute(scenario(HEAD))).to_json())
    pipeline.draw(data, tmp_path / "pipeline")
    (figure,) = drawn
    shown = " ".join(text for text, _ in words(figure))
    lanes = figure.axes[::2]
    for run, axes in zip(data["pipelines"], lanes, strict=True):
        assert f"{run['label']}: " in shown
        assert sum(len(c.get_paths()) for c in axes.collections) == sum(len(lane["stage"]) for lane in run["lanes"])
    assert pipeline.draw({**data, "pipelines": []}, tmp_path / "none") == ()
