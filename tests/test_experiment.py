"""What a run computes: the numbers of replay and simulation, and a few plans that agree with them."""

from __future__ import annotations

import pytest

import sim
from sim.base.yaml import parse
from sim.experiment import measure, measurements
from sim.experiment.results import Results
from sim.experiment.run import compute, results_of, run, traces
from sim.scenario.points import StrategyPoint
from sim.scenario.scenario import from_document

TEXT = """\
version: 1
name: demo
graph: {kind: mlp, widths: [{repeat: 6, times: 12}, 3], batch: 2, activation: tanh}
wrt: input
device: {flops: 1 TFLOP/s, bandwidth: 1 TB/s, to_host: 1 MB/s, from_host: 1 MB/s, overhead: 0}
strategies:
  - reverse_full: {chunk: [1, 3]}
  - forward_recompute: {chunk: [1, 4]}
  - forward_cached
  - reverse_checkpointed: {schedule: uniform, segments: [2, 3]}
  - reverse_offload
"""


def results(text: str = TEXT) -> Results:
    return run(from_document(parse(text, name="f.yaml")))


RESULTS = results()


def test_points_are_what_replay_says() -> None:
    graph = sim.mlp(widths=[{"repeat": 6, "times": 12}, 3], batch=2, activation="tanh").configured(wrt="input")
    assert len(RESULTS.points) == 8
    for point in RESULTS.points:
        cost = sim.replay(sim.schedule(graph, point.strategy, **point.parameters))
        assert (point.peak_bytes, point.working_bytes, point.resident_bytes) == (
            cost.peak_bytes,
            cost.working_bytes,
            cost.resident_bytes,
        )
        assert point.flops["total"] == sum(v for k, v in point.flops.items() if k != "total") == cost.flops.total
        assert point.actions == cost.actions
        assert sum(point.peak_breakdown.values()) == point.peak_bytes


def test_the_simulated_peak_is_that_of_replay_unless_copies_lag() -> None:
    *others, offload = RESULTS.points
    assert all(p.simulated_peak_bytes == p.peak_bytes for p in others)
    assert offload.actions["copy"] > 0
    assert offload.stall_seconds is not None
    assert offload.stall_seconds > 0
    assert offload.simulated_peak_bytes is not None
    assert offload.simulated_peak_bytes > offload.peak_bytes


def test_the_simulation_never_exceeds_the_budget() -> None:
    budget = RESULTS.points[-1].peak_bytes + 8
    limited = results(TEXT + f"budget: {budget}\n").points
    for point in limited:
        assert point.fits is (point.seconds is not None)
        assert (point.simulated_peak_bytes or 0) <= budget
        assert (point.why_not is None) is point.fits
    assert {p.fits for p in limited} == {True, False}


def test_without_a_device_there_are_no_times() -> None:
    text = "".join(line for line in TEXT.splitlines(keepends=True) if not line.startswith("device"))
    made = results(text)
    assert all(p.seconds is p.stall_seconds is p.simulated_peak_bytes is None for p in made.points)
    assert made.front(by="seconds") == ()
    assert all(p.fits for p in made.points)
    assert [p.label for p in made.front()] == [p.label for p in RESULTS.front()]


@pytest.mark.parametrize("plan", RESULTS.views["plans"], ids=lambda p: RESULTS.points[p["point"]].label)
def test_plans_reach_the_peak_and_take_all_the_work(plan: dict) -> None:  # type: ignore[type-arg]
    point = RESULTS.points[plan["point"]]
    assert max(map(sum, zip(*plan["bytes"].values(), strict=True))) == point.working_bytes
    turns = sum((loop["times"] - 1) * (loop["work"][1] - loop["work"][0]) for loop in plan["loops"])
    assert plan["work"][-1] + turns == pytest.approx(point.flops["total"], rel=1e-4)
    assert ("seconds" in plan) != any(point.copied_bytes.values())


def test_a_plan_of_each_strategy_is_kept() -> None:
    kept = {RESULTS.points[plan["point"]].strategy for plan in RESULTS.views["plans"]}
    assert kept == {p.strategy for p in RESULTS.points}


def test_each_schedule_is_made_and_simulated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, simulated = [], []
    schedule, simulate = StrategyPoint.schedule, measure.simulate
    monkeypatch.setattr(StrategyPoint, "schedule", lambda self, graph: made.append(self.label) or schedule(self, graph))
    for module in (measure, measurements):
        monkeypatch.setattr(module, "simulate", lambda s, device: simulated.append(s) or simulate(s, device))
    measured = compute(from_document(parse(TEXT, name="f.yaml")))
    assert results_of(measured) == RESULTS
    assert traces(measured) is not None
    assert sorted(made) == sorted(p.label for p in RESULTS.points)
    assert len(simulated) == len(made)


def test_what_there_is_no_room_to_keep_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = compute(from_document(parse(TEXT, name="f.yaml")))
    monkeypatch.setattr(measurements, "KEPT_ACTIONS", 0)
    dropped = compute(from_document(parse(TEXT, name="f.yaml")))
    assert results_of(dropped) == results_of(kept)
    assert traces(dropped) == traces(kept)


def test_progress_counts_every_point() -> None:
    told: list[tuple[int, int]] = []
    run(from_document(parse(TEXT, name="f.yaml")), progress=lambda done: told.append((done.steps_done, done.steps)))
    assert told == [(k, 8) for k in range(1, 9)]
