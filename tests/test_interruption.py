"""Ctrl-C and SIGTERM end a command within a second, whatever it is doing, and what is finished is kept."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE_S = 10
"""On an idle machine a second is enough."""


def scenario(folder: Path, graph: str, strategies: str) -> Path:
    path = folder / "s.yaml"
    path.write_text(f"version: 1\nname: s\ngraph: {graph}\nstrategies: {strategies}\n")
    return path


def endless(folder: Path) -> Path:
    """One point that is soon finished, then hours in the kernels of the exact planner."""
    draw = random.Random(3)
    flops, sizes, tapes = (str([draw.randrange(1, 10**6) for _ in range(700)]) for _ in range(3))
    graph = f"{{kind: chain, length: 700, forward_flops: {flops}, activation_bytes: {sizes}, residual_bytes: {tapes}}}"
    return scenario(folder, graph, "[reverse_full, {reverse_checkpointed: {schedule: optimal}}]")


@pytest.fixture(autouse=True)
def _listening() -> Iterator[None]:
    """Commands listen to signals, also where the tests run in the background of a shell, which ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def started(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sim", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)


def interrupt(running: subprocess.Popen[str], number: signal.Signals = signal.SIGINT) -> tuple[str, str]:
    """What a process printed in all; fail unless it ends soon, with 130."""
    assert running.poll() is None, running.communicate()
    start = time.monotonic()
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert time.monotonic() - start < PATIENCE_S
    assert running.returncode == 130
    assert "Traceback" not in err
    return out, err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_planner_in_its_kernels_is_left_and_finished_points_are_kept(tmp_path: Path, number: signal.Signals) -> None:
    running = started("run", endless(tmp_path), cwd=tmp_path)
    time.sleep(12)  # by then the first point is there and kernels run
    out, err = interrupt(running, number)
    assert err.splitlines()[-1] == "interrupted: 1 of 2 points are finished and kept"
    assert "reverse_full" in out
    kept = json.loads((tmp_path / "outputs/s/results.json").read_text())
    assert (kept["complete"], [p["label"] for p in kept["points"]]) == (False, ["reverse_full"])
    assert {p.name for p in (tmp_path / "outputs/s").iterdir()} == {"results.json", "results.csv"}


@pytest.mark.parametrize("after", [0.02, 0.3, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.1, 1.0))])
def test_at_the_start_nothing_is_finished_and_nothing_written(tmp_path: Path, after: float) -> None:
    path = endless(tmp_path)
    running = started("plan", path, "--budget", "1GB", cwd=tmp_path)
    time.sleep(0.2)  # the interpreter itself has to be up before it knows of signals
    time.sleep(after)
    _, err = interrupt(running)
    assert err.splitlines()[-1] == "interrupted: nothing was finished"
    assert [p.name for p in tmp_path.iterdir()] == ["s.yaml"]


def test_while_figures_are_drawn_the_results_are_kept(tmp_path: Path) -> None:
    path = scenario(tmp_path, "{kind: chain, length: 9}", "[reverse_full, forward_cached]")
    subprocess.run([sys.executable, "-m", "sim", "run", path], cwd=tmp_path, check=True, capture_output=True)
    before = (tmp_path / "outputs/s/results.json").read_bytes()
    (tmp_path / "outputs/s/results.json").unlink()
    running = started("run", path, cwd=tmp_path)
    while not (tmp_path / "outputs/s/results.json").exists():
        time.sleep(0.005)
    if running.poll() is None:
        running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    if running.returncode:
        assert running.returncode == 130
        assert err.splitlines()[-1] == "interrupted: 2 of 2 points are finished and kept"
    assert (tmp_path / "outputs/s/results.json").read_bytes() == before
    assert not [p for p in (tmp_path / "outputs/s").iterdir() if p.name.startswith(".")]


def searching(folder: Path) -> Path:
    """A search of half a minute, on 2,100 nodes of which none is like another, after a point that is soon finished."""
    draw = random.Random(4)
    layers = [
        f"{{name: n{k}, inputs: [{', '.join(f'n{j}' for j in (k - 3, k - 1) if j >= 0) or 'x'}], "
        f"forward_flops: {draw.randrange(1, 10**6)}, activation_bytes: {draw.randrange(1, 10**5) if k < 2099 else 4}}}"
        for k in range(2100)
    ]
    graph = f"{{kind: layers, inputs: {{x: {{shape: [1, 1]}}}}, layers: [{', '.join(layers)}]}}"
    return scenario(folder, graph, "[reverse_full, {reverse_checkpointed: {schedule: optimal, points: 5}}]")


@pytest.mark.slow
def test_a_search_gives_the_best_so_far(tmp_path: Path) -> None:
    running = started("run", "--no-plots", searching(tmp_path), cwd=tmp_path)
    time.sleep(15)
    out, err = interrupt(running)
    assert err.splitlines()[-1] == "interrupted: the best of the search so far; 6 of 6 points are finished and kept"
    assert out.count("optimal") >= 5
    kept = json.loads((tmp_path / "outputs/s/results.json").read_text())
    peaks = [p["peak_bytes"] for p in kept["points"]]
    assert len(peaks) == 6
    assert min(peaks) < peaks[0]


@pytest.mark.slow
def test_a_plan_is_made_of_the_best_so_far(tmp_path: Path) -> None:
    running = started("plan", searching(tmp_path), "--budget", "70MB", cwd=tmp_path)
    time.sleep(15)
    _, err = interrupt(running)
    assert err.splitlines()[-1] == "interrupted: the best of the search so far; plan.json is written"
    assert json.loads((tmp_path / "plan.json").read_text())["budget_bytes"] == 70 * 10**6
