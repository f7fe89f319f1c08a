"""The figure of a sweep: a line for each strategy, a panel for each value of another axis, and never too many."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sim.base.yaml import parse
from sim.experiment.run import run
from sim.plots import sweep
from sim.scenario.scenario import from_document

BASE = """\
version: 1
name: demo
graph: {kind: chain, length: 9, activation_bytes: 8}
budget: 100
strategies: [reverse_full, {reverse_checkpointed: {schedule: binomial, slots: {from: 1, to: 12}}}]
sweep:
"""


def framed(section: str) -> dict[str, Any]:
    return run(from_document(parse(BASE + section, name="f.yaml"))).frame()


def words(path: Path) -> str:
    """The text of a figure, from the comments that matplotlib writes beside the outlines of letters."""
    return " ".join(re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8")))


def test_lines_are_the_peaks_of_the_points_along_the_longest_axis_of_numbers() -> None:
    results = run(from_document(parse(BASE + "  wrt: [input]\n  graph.length: [4, 8, 16]\n", name="f.yaml")))
    assert results.sweep is not None
    chart = results.sweep["chart"]
    assert (chart["x"], chart["panel"], chart["fixed"]) == (1, None, {"wrt": "input"})
    line = next(line for line in chart["lines"] if line["label"] == "reverse_full")
    assert line["x"] == [0, 1, 2]
    assert line["peak_bytes"] == [p.peak_bytes for p in results.points if p.label == "reverse_full"]
    assert line["fits"] == [p.fits for p in results.points if p.label == "reverse_full"]


def test_a_figure_says_what_it_leaves_out(tmp_path: Path) -> None:
    section = "  graph.length: [4, 8, 16]\n  graph.activation_bytes: [1, 2, 4, 8, 16]\n  optimizer: [none, adam, sgd]\n"
    frame = framed(section)
    assert frame["points"] == []
    assert len(frame["sweep"]["chart"]["panels"]) == 3
    png, svg = sweep.draw(frame, tmp_path / "sweep")
    assert png.stat().st_size > 0
    told = words(svg)
    assert "45 cells" in told
    assert "8 of 13 strategies shown" in told
    assert "optimizer = adam" in told
    assert "graph.length = 16" in told
    assert "dashed: 100 B" in told


def test_many_values_make_four_panels(tmp_path: Path) -> None:
    frame = framed("  graph.length: {from: 4, to: 30}\n  graph.activation_bytes: {from: 1, to: 20}\n")
    assert len(frame["sweep"]["chart"]["panels"]) == 4
    assert "4 of 20 values of graph.activation_bytes shown" in words(sweep.draw(frame, tmp_path / "sweep")[1])


@pytest.mark.parametrize("section", ["  graph.length: [4]\n", "  optimizer: [none]\n  graph.length: [9]\n"])
def test_one_value_makes_no_figure(section: str, tmp_path: Path) -> None:
    assert sweep.draw(framed(section), tmp_path / "sweep") == ()


def test_other_results_make_none(tmp_path: Path) -> None:
    data = parse(BASE.removesuffix("sweep:\n"), name="f.yaml").data
    from sim.scenario.scenario import load

    assert sweep.draw(run(load(data)).to_dict(), tmp_path / "sweep") == ()
