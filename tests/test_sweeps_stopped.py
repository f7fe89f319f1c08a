"""Sweeps whose workers or whose own process is killed: the same bytes as without, and what was finished is kept."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sim.base.store import folder
from sim.experiment import cells
from sim.experiment.run import run
from sim.scenario.scenario import load

CELLS = 50
SCENARIO = f"""\
version: 1
name: s
graph: {{kind: chain, length: 60, activation_bytes: 8}}
strategies: [forward_recompute, reverse_full]
sweep:
  graph.length: {{from: 11, to: {10 + CELLS}}}
"""
SLOW = """\
import sys
import time

from sim.commands import process
from sim.experiment import cells

original = getattr(cells._of_request, "original", cells._of_request)  # Dask reads this file twice


def slow(*arguments):
    time.sleep(0.05)
    return original(*arguments)


slow.original = original
cells._of_request = slow
cells.KEEP_S = 0.05
if __name__ == "__main__":
    process.own()
    from sim.commands.cli import main

    process.leave(main(sys.argv[1:]))
"""
"""The command line with points that take a while, in its workers too: they read this file again."""
PATIENCE_S = 60

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "s.yaml"
    file.write_text(SCENARIO)
    (tmp_path / "slow.py").write_text(SLOW)
    return file


@pytest.fixture(autouse=True)
def _listening() -> Iterator[None]:
    """Commands listen to signals, also where the tests run in the background of a shell, which ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def started(path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a run that is ended with the block."""
    command = [sys.executable, "slow.py", "run", str(path), "--no-plots", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=path.parent
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def until(true: Callable[[], object]) -> None:
    """Wait for something to be so."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def kept() -> int:
    """The number of outcomes in the store."""
    file = folder() / "results.sqlite"
    with contextlib.suppress(sqlite3.Error):
        if file.exists():
            with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
                [count] = connection.execute("SELECT count(*) FROM results").fetchone()
            return int(count)
    return 0


def children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def workers(process: int) -> list[int]:
    """The processes that compute for another."""
    return [pid for pid in children(process) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """The results of the scenario in this process, and how many outcomes it still measured for them."""
    measured: list[object] = []
    original = getattr(cells._of_request, "original", cells._of_request)  # Dask reads this file twice

    def noted(*arguments: object) -> str:
        measured.append(arguments)
        return original(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as counted:
        counted.setattr(cells, "_of_request", noted)
        return run(load(path)).to_json(), len(measured)


def undisturbed(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    with monkeypatch.context() as apart:
        apart.setenv("SIM_CACHE_DIR", str(tmp_path / "another"))
        return whole(path, monkeypatch)[0]


def test_kill_9_of_a_worker_and_then_of_the_run_loses_what_was_in_hand(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(path, "--jobs", "2") as running:
        until(lambda: kept() > 0)
        first = workers(running.pid)
        os.kill(first[0], signal.SIGKILL)
        before = kept()
        until(lambda: kept() > before or running.poll() is not None)
        computing = workers(running.pid) if running.poll() is None else []
        running.kill()
        running.communicate()
    until(lambda: all(is_gone(pid) for pid in [*first, *computing]))  # nobody computes for nobody
    finished = kept()
    results, measured = whole(path, monkeypatch)
    assert 0 < before <= finished
    assert measured == 2 * CELLS - finished
    assert results == undisturbed(path, monkeypatch, tmp_path)


def test_ctrl_c_ends_a_run_and_its_workers_and_says_what_is_kept(path: Path) -> None:
    with started(path, "--jobs", "2") as running:
        until(lambda: kept() > 0)
        computing = workers(running.pid)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 130
    said = f"interrupted: {kept()} of {2 * CELLS} points are finished and kept; the same command goes on from there"
    assert err.splitlines()[-1] == said
    until(lambda: all(is_gone(pid) for pid in computing))
    assert not (path.parent / "outputs").exists()


@contextlib.contextmanager
def cluster(count: int, preload: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Yield the address of a Dask cluster of this machine, and its workers."""
    pytest.importorskip("distributed", reason="needs the extra cluster")
    python = [sys.executable, "-W", "ignore"]
    scheduler = subprocess.Popen(
        [*python, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    members: list[subprocess.Popen[bytes]] = []
    try:
        assert scheduler.stderr is not None
        address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
        for _ in range(count):
            command = [
                *python,
                "-m",
                "distributed.cli.dask_worker",
                address,
                "--nthreads",
                "1",
                "--no-nanny",
                "--preload",
                str(preload),
            ]
            members.append(
                subprocess.Popen([*command, "--no-dashboard"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
        yield address, members
    finally:
        for process in (*members, scheduler):
            process.kill()
            process.communicate()


def test_a_dask_cluster_that_loses_a_worker_has_the_same_results(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster(2, tmp_path / "slow.py") as (address, members):
        import distributed

        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=PATIENCE_S)
        with started(path, "--scheduler", address, "--quiet") as running:
            until(lambda: kept() > 0)
            members[0].kill()
            assert kept() < 2 * CELLS, "nothing was left to lose"
            _, err = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 0, err
    swept = (path.parent / "outputs/s/results.json").read_text()
    assert swept == undisturbed(path, monkeypatch, tmp_path)


def test_a_scheduler_that_does_not_answer_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="needs the extra cluster")
    from sim.base import workers as places

    monkeypatch.setattr(places, "_CONNECT_S", 0.3)
    with pytest.raises(places.ClusterLost, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        run(load(path), workers=places.Workers(scheduler="tcp://127.0.0.1:9"))
