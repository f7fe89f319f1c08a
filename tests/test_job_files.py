"""Jobs in scenarios: what files say, what is wrong with them told at its place, and whether they fit."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from sim.commands.cli import main


def test_ranks_that_divide_layers_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = JOB.replace("kind: mlp, widths: [64, 64, 64, 64, 64], batch: 8, loss: none",
                       "kind: transformer, layers: 4, hidden: 64, heads: 4, sequence: 32")  # fmt: skip
    path = tmp_path / "job.yaml"
    path.write_text(text + "  data: 2\n  tensor: 2\n  sequence: true\n")
    assert main(["run", str(path), "--format", "json", "--no-plots", "-q", "-o", str(tmp_path)]) == 0
    (point,) = json.loads(capsys.readouterr().out)["points"]
    assert sum(rank["count"] for rank in point["ranks"]) == 2 * 2 * 2
    for wrong, message in (
        ("  tensor: 3\n", "8:11: parallel.tensor: got 3, by which 4 heads cannot be divided"),
        ("  sequence: true\n", "8:13: parallel.sequence: got true, but one rank has all tokens"),
    ):
        path.write_text(text + wrong)
        assert main(["validate", str(path)]) == 2
        assert message in capsys.readouterr().err
    path.write_text(JOB + "  tensor: 2\n")
    assert main(["validate", str(path)]) == 2
    assert "8:3: parallel.tensor: is for graphs of `kind: transformer`" in capsys.readouterr().err


JOB = """\
version: 1
name: job
graph: {kind: mlp, widths: [64, 64, 64, 64, 64], batch: 8, loss: none}
device: a100-80
budget: 150 kB
parallel:
  pipeline: {stages: 2, schedule: 1f1b, micro_batches: 4}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path / "job.yaml"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("stages: 2", "stages: 20", "job.yaml:7:22: parallel.pipeline.stages: 1f1b: got 20 stages, expected at most 7"),
        ("micro_batches: 4", "micro_batches: 4, cuts: [a]", "parallel.pipeline.cuts: 1f1b: cannot cut after 'a'"),
        ("micro_batches: 4}", "micro_batches: 4}\n  zero: 2", "job.yaml:8:9: parallel.zero: got 2, but there is one"),
        ("micro_batches: 4}", "micro_batches: 4}\n  zero: 4", "parallel.zero: got 4, expected one of 0, 1, 2, 3"),
        ("micro_batches: 4}", "micro_batches: 4}\n  recompute: all", "parallel.recompute"),
        ("device: a100-80\n", "", "job.yaml:6:3: parallel: needs a device, or the times of stages, beside the graph"),
        ("micro_batches: 4}", "micro_batches: 4}\n  link: {bandwith: 1 GB/s}", "did you mean 'bandwidth'?"),
    ],
)
def test_what_is_wrong_with_a_job_is_told_at_its_place(
    before: str, after: str, message: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(JOB.replace(before, after))
    assert main(["validate", str(file)]) == 2
    assert message in capsys.readouterr().err


SPREAD = """\
version: 1
name: spread
graph: {kind: transformer, layers: 4, hidden: 64, heads: 8, kv_heads: 4, sequence: 32, batch: 2, experts: 4, loss: sum}
device: a100-80
parallel:
  pipeline: {stages: 2, schedule: 1f1b, cuts: blocks}
  batch: 32
  data: 4
  zero: 3
  tensor: 2
  context: 2
  expert: 2
  gather: {prefetch: 2}
  machine: {devices: 8, link: nvlink3}
  link: infiniband-hdr
"""


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "batch: 32",
            "batch: 30",
            ":7:10: parallel.batch: got 30 samples, of which 4 replicas cannot have micro-batches",
        ),
        ("batch: 32", "batch: 4", "micro-batches of 2 each; expected a multiple of 8"),
        (
            "batch: 32\n  data",
            "data",
            ":6:13: parallel.pipeline: 'micro_batches' is missing; or give the step's `batch`",
        ),
        ("1f1b,", "1f1b, micro_batches: 3,", "which are 4 micro-batches of 2 on each of 4 replicas; leave out"),
        ("tensor: 2", "tensor: 8", ":10:11: parallel.tensor: got 8, by which 4 heads of keys and values cannot be"),
        ("context: 2", "context: 64", ":11:12: parallel.context: got 64, by which 32 tokens cannot be divided"),
        (
            "expert: 2",
            "expert: 3",
            ":12:11: parallel.expert: got 3, by which 4 replicas cannot be divided; expected one of 1,",
        ),
        ("experts: 4", "experts: 1, top_k: 1", ":12:11: parallel.expert: got 2, by which 1 experts cannot be divided"),
        ("  link: infiniband-hdr\n", "", "the 2 ranks of `expert` are on several machines of 8, and no link between"),
        (", link: nvlink3", "", ":14:12: parallel.machine: 1f1b: the 2 ranks of `tensor` are on one machine, and no"),
        ("infiniband-hdr", "infiniband", ":15:9: parallel.link: unknown link 'infiniband'; did you mean 'infiniband-"),
        ("infiniband-hdr", "{latency: 1 us}", "parallel.link: 'bandwidth' is missing; or name a preset"),
        ("zero: 3", "zero: 2", ":13:3: parallel.gather: is for `zero: 3`, which alone gathers parameters"),
        ("stages: 2", "stages: 6", "got 6 stages, expected at most 5: the graph has 4 places between blocks"),
    ],
)
def test_what_does_not_divide_is_told_at_its_place(
    before: str, after: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spread.yaml").write_text(SPREAD.replace(before, after, 1))
    assert main(["validate", str(tmp_path / "spread.yaml")]) == 2
    assert message in capsys.readouterr().err


def test_a_job_spread_in_every_way_has_as_many_ranks_as_the_product(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spread.yaml").write_text(SPREAD)
    assert (
        main(["run", str(tmp_path / "spread.yaml"), "--format", "json", "--no-plots", "-q", "-o", str(tmp_path)]) == 0
    )
    (point,) = json.loads(capsys.readouterr().out)["points"]
    assert sum(rank["count"] for rank in point["ranks"]) == 2 * 4 * 2 * 2
    assert point["parameters"]["micro_batches"] == 4
    text = SPREAD.replace(" batch: 2,", "").replace("loss: sum}", "loss: sum}  # one sample a micro-batch")
    (tmp_path / "spread.yaml").write_text(text)
    assert (
        main(["run", str(tmp_path / "spread.yaml"), "--format", "json", "--no-plots", "-q", "-o", str(tmp_path)]) == 0
    )
    (one,) = json.loads(capsys.readouterr().out)["points"]
    assert one["parameters"]["micro_batches"] == 8
    for rank in point["ranks"]:
        assert rank["busy_seconds"] + rank["idle_seconds"] == pytest.approx(point["seconds"])


def test_throughput_is_what_all_ranks_do_in_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """32 samples of 32 tokens a step; model flops thrice the forward ones, hardware flops those of all rows."""
    (tmp_path / "spread.yaml").write_text(SPREAD.replace("a100-80", "{preset: a100-80, peak_flops: 312 TFLOP/s}"))
    run_it = ["run", str(tmp_path / "spread.yaml"), "--format", "json", "--no-plots", "-q", "-o", str(tmp_path)]
    assert main([*run_it, "--set", "parallel.recompute=block"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["scenario"]["device"]["peak_flops_per_s"] == 312e12
    (point,) = results["points"]
    seconds, flops, got = point["seconds"], point["flops"], point["throughput"]
    assert got["samples_per_second"] == pytest.approx(32 / seconds)
    assert got["tokens_per_second"] == pytest.approx(32 * 32 / seconds)
    able = seconds * 8 * 312e12  # of one replica's 2 · 2 · 2 ranks, whose flops are those of the point
    assert got["model_flops_utilization"] == pytest.approx(3 * flops["primal"] / able)
    assert got["hardware_flops_utilization"] == pytest.approx(flops["total"] / able)
    for rank in point["ranks"]:
        assert 0 <= rank["peak_seconds"] <= seconds
        assert set(rank["phases"]) == {"forward", "vjp"}
        assert max(phase["peak_bytes"] for phase in rank["phases"].values()) == rank["peak_bytes"]
        assert sum(phase["busy_seconds"] for phase in rank["phases"].values()) == pytest.approx(rank["busy_seconds"])
        for phase in rank["phases"].values():
            assert sum(phase["breakdown"].values()) == phase["peak_bytes"]
    assert main(["run", str(tmp_path / "spread.yaml"), "--no-plots", "-q", "-o", str(tmp_path)]) == 0
    assert {"tokens/s", "used"} <= set(capsys.readouterr().out.split())


def test_fits_says_yes_or_no_what_decides_and_what_helps(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four layers of 64 × 65 parameters; half of them and of their gradients on each rank."""
    assert main(["fits", str(file), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["fits"], found["limit_bytes"]) == (True, 150_000)
    assert sum(found["breakdown"].values()) == found["peak_bytes"]
    assert found["breakdown"]["parameters"] == 2 * 64 * 65 * 4
    changes = found["changes"]
    assert [c["peak_bytes"] for c in changes] == sorted(c["peak_bytes"] for c in changes)
    less = f"budget={found['peak_bytes'] - 1}"
    assert main(["fits", str(file), "--set", less]) == 3
    out = capsys.readouterr().out
    assert out.startswith("no: ")
    assert " 1 B too much of " in out
    assert "decided by " in out
    best = changes[0]
    settings = [part for s in best["settings"] for part in ("--set", s)]
    assert main(["fits", str(file), "--format", "json", *settings]) == 0
    assert json.loads(capsys.readouterr().out)["peak_bytes"] == best["peak_bytes"]


def test_a_job_from_standard_input_is_answered_like_its_file(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be read but once, and every change is of what was read."""
    assert main(["fits", str(file), "--set", "budget=1 MB"]) == 0
    answer = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(JOB.encode())))
    assert main(["fits", "-", "--set", "budget=1 MB"]) == 0
    assert capsys.readouterr().out == answer


def test_fits_is_about_jobs_with_a_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("version: 1\nname: one\ngraph: {kind: chain, length: 3}\nstrategies: [reverse_full]\n")
    assert main(["fits", str(path)]) == 2
    assert "expected a graph and `parallel`" in capsys.readouterr().err


def test_a_job_within_its_budget_fits_and_another_says_by_how_much_not(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(JOB.replace("schedule: 1f1b", "schedule: [gpipe, 1f1b]"))
    assert main(["run", str(file), "--format", "json", "--no-plots", "-q", "--set", "budget=82000"]) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    for point in points:
        peaks = [rank["peak_bytes"] for rank in point["ranks"]]
        assert point["peak_bytes"] == sum(point["peak_breakdown"].values()) == max(peaks)
        assert point["fits"] == (max(peaks) <= 82000)
        assert ("too much" in (point["why_not"] or "")) == (max(peaks) > 82000)
