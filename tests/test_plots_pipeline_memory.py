"""The memory of pipelines over a step: it reaches each rank's peak, rows share their axes, nothing covers words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figures import overlapping, words
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

import sim
from sim.experiment.held import _most
from sim.plots import pipeline_memory

TIMES = {"forward": 1.0, "input_vjp": 1.0, "weight_vjp": 1.0}
GRAPH = {"kind": "transformer", "layers": 4, "hidden": 64, "heads": 4, "sequence": 32, "vocab": 100}


def ran(schedules: list[str], **more: Any) -> dict[str, Any]:
    pipeline = {"stages": 4, "schedule": schedules, "micro_batches": 8, **({} if more else {"times": TIMES})}
    spread = {"data": 2, "link": "infiniband-ndr"} if more else {}
    scenario = {"version": 1, "name": "demo", "parallel": {"pipeline": pipeline, **spread}, **more}
    return sim.run(scenario).to_dict()


COUNTED = ran(["gpipe", "1f1b"])
HELD = ran(["1f1b", "zb_h1"], graph=GRAPH | {"loss": "cross_entropy"}, device="a100-40", budget="40 MB")


@pytest.mark.parametrize("data", [COUNTED, HELD], ids=["micro-batches", "bytes"])
def test_lines_reach_the_peaks_and_rows_share_their_axes(data: dict[str, Any], look: Callable[..., list[Any]]) -> None:
    def seen(figure: Figure) -> tuple[list[dict[str, float]], set[Any], list[tuple[str, str]]]:
        rows = figure.axes[::2]
        lines = [{str(x.get_gid()): max(x.get_ydata()) for x in axes.lines if x.get_gid()} for axes in rows]
        return lines, {(axes.get_xlim(), axes.get_ylim()) for axes in rows}, overlapping(words(figure))

    [(lines, limits, covered)] = look(pipeline_memory.draw, data, seen)
    for found, run in zip(lines, data["pipelines"], strict=True):
        peaks = [lane.get("peak_bytes", lane["in_flight"]) for lane in run["lanes"]]
        assert [found[f"rank-{k}"] for k in range(4)] == peaks
    assert len(limits) == 1
    assert covered == []


def test_bars_are_the_peaks_by_kind(look: Callable[..., list[Any]]) -> None:
    def lengths(figure: Figure) -> np.ndarray[Any, Any]:
        return np.array([[bar.get_x() + bar.get_width() for bar in row.patches[-4:]] for row in figure.axes[1::2]])

    [ends] = look(pipeline_memory.draw, HELD, lengths)  # where the last kind ends
    assert ends.tolist() == [[lane["peak_bytes"] for lane in run["lanes"]] for run in HELD["pipelines"]]


def test_results_without_pipelines_have_no_such_figure(tmp_path: Path) -> None:
    assert pipeline_memory.draw({"scenario": {}, "points": []}, tmp_path / "none") == ()


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), min_size=1, max_size=12),
    st.lists(st.integers(1, 7), min_size=1, max_size=6),
)
def test_the_most_of_a_stretch_is_that_of_all_its_moments(changes: list[tuple[int, int]], steps: list[int]) -> None:
    """Against every quarter of a second looked at; of changes at one moment each counts."""
    changes = sorted(changes, key=lambda change: change[0])
    times, levels = (np.array(column, dtype=np.float64) for column in zip(*changes, strict=True))
    edges = np.cumsum([0, *steps]).astype(np.float64)

    def there(t: float) -> list[float]:
        before = [level for time, level in changes if time <= t]
        return [*(level for time, level in changes if time == t), before[-1] if before else 0.0]

    for k, most in enumerate(_most(levels, times, edges)):
        moments = np.arange(edges[k], edges[k + 1], 0.25)
        assert most == max(level for t in moments for level in there(float(t)))
