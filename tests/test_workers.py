"""Work spread over processes: every item once, whoever is killed, and no processes where they do not pay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import workings

from sim.base import workers
from sim.base.workers import WorkerLost, Workers


@pytest.mark.parametrize("at_once", [False, True])
def test_each_item_has_its_result_once(tmp_path: Path, at_once: bool) -> None:
    items = range(50, 80)
    done = Workers(2, at_once=at_once).results(workings.squares, str(tmp_path), items, count=len(items))
    assert sorted(done) == [(i, i * i) for i in items]


@pytest.mark.slow
def test_killed_workers_cost_what_they_had_in_hand_and_it_is_done_again(tmp_path: Path) -> None:
    """Two items each end their worker once; with one alone in hand later, both are done."""
    items = [*range(20, 50), -1, *range(50, 80), -2]
    done = Workers(2, at_once=True).results(workings.squares, str(tmp_path), items, count=len(items))
    assert sorted(done) == sorted((i, i * i) for i in items)
    assert {p.name for p in tmp_path.iterdir()} == {"-1", "-2"}


@pytest.mark.slow
def test_an_item_that_ends_its_worker_every_time_is_named(tmp_path: Path) -> None:
    """It is tried with others, then twice alone; the others are not blamed."""
    items = [*range(14, 20), 13]
    with pytest.raises(WorkerLost, match="ended 2 times") as caught:
        list(Workers(2, at_once=True).results(workings.squares, str(tmp_path), items, count=len(items)))
    assert caught.value.item == 13


def test_little_work_stays_in_this_process() -> None:
    done = Workers(2).results(workings.processes, None, range(10), count=10)
    assert {pid for _, pid in done} == {os.getpid()}


def test_much_work_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty items of 0.02 s after the first three are 0.4 s of work: more than a tenth of that for processes."""
    monkeypatch.setattr(workers, "WORTH_S", 0.1)
    pids = [pid for _, pid in Workers(2).results(workings.processes, None, range(23), count=23)]
    assert set(pids[:3]) == {os.getpid()}
    assert os.getpid() not in pids[3:]
    assert len(pids) == 23


def test_errors_of_the_work_come_through() -> None:
    with pytest.raises(TypeError):
        list(Workers(2, at_once=True).results(workings.squares, "", ["a"], count=1))
