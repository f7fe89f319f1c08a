"""The Gantt chart of streams: a panel for each plan that copies, its bars where the simulation has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from figures import looking_at
from matplotlib.collections import PatchCollection

from sim.base.yaml import parse
from sim.experiment.run import run
from sim.plots import streams
from sim.scenario.scenario import from_document

SCENARIO = """\
version: 1
name: demo
graph: {kind: mlp, widths: [{repeat: 64, times: 9}, 4], batch: 512, activation: tanh, loss: mse}
device: {flops: 1 GFLOP/s, bandwidth: 1 GB/s, memory: 100 MB, to_host: 0.02 GB/s, from_host: 0.02 GB/s}
strategies:
  - reverse_full
  - reverse_offload: {prefetch: [1, 2]}
"""
RAN = run(from_document(parse(SCENARIO, name="f.yaml"))).to_dict()


def test_each_plan_that_copies_has_a_panel_on_one_time_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    def panels(figure: Any) -> Any:
        return [(axes.get_title(loc="left"), axes.get_xlim(), len(axes.get_yticks())) for axes in figure.axes]

    (seen,) = looking_at(monkeypatch)(streams.draw, RAN, panels)
    copying = [p for p in RAN["points"] if p["strategy"] == "reverse_offload"]
    assert [title.partition(":")[0] for title, _, _ in seen] == [p["label"] for p in copying]
    assert all("compute waits" in title for title, _, _ in seen)
    (limits,) = {limits for _, limits, _ in seen}
    assert limits == pytest.approx((0.0, max(p["seconds"] for p in copying)), rel=1e-5)
    assert all(lanes == 3 for _, _, lanes in seen)


def test_bars_and_waits_lie_where_the_simulation_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def bars(figure: Any) -> Any:
        (collection,) = (c for c in figure.axes[0].collections if isinstance(c, PatchCollection))
        return sorted((p.vertices[:, 0].min(), p.vertices[:, 0].max()) for p in collection.get_paths())

    (seen,) = looking_at(monkeypatch)(streams.draw, RAN, bars)
    spans = next(plan["spans"] for plan in RAN["plans"] if "spans" in plan)
    times = list(zip(spans["start"], spans["stop"], spans["wait"], strict=True))
    assert any(wait for _, _, wait in times)
    expected = [(a, b) for a, b, _ in times] + [(a - wait, a) for a, _, wait in times if wait]
    assert seen == [pytest.approx(pair) for pair in sorted(expected)]


def test_results_without_copies_have_no_such_figure(tmp_path: Path) -> None:
    none = RAN | {"plans": [plan for plan in RAN["plans"] if "spans" not in plan]}
    assert none["plans"]
    assert streams.draw(none, tmp_path / "streams") == ()
    assert streams.draw({"scenario": {}, "points": []}, tmp_path / "streams") == ()
