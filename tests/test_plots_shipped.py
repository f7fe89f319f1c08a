"""Laws of every figure of shipped scenarios: a finding on top, words apart from each other, no two equal panels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import pytest
from figures import overlapping, words
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sim
from sim import plots

QUICK = ("three_factors", "sweeps_versus_products")
OTHERS = ("checkpointing", "deep_mlp", "fan_out", "offload", "plain_graph", "regimes", "gpt_pipeline")
ran = cache(lambda name: sim.run(name).to_dict())


@pytest.mark.parametrize("figure", plots.FIGURES)
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_a_figure_says_a_finding_its_words_stand_apart_and_no_two_panels_are_equal(
    name: str, figure: str, look: Callable[..., list[Any]]
) -> None:
    def check(drawn: Figure) -> None:
        title = drawn.texts[0].get_text()
        assert title.startswith(f"{name}: ")
        assert len(title) > len(name) + 10
        texts, paper = words(drawn), drawn.bbox
        assert overlapping(texts) == []
        for text, box in texts:
            assert paper.x0 <= box.x0 <= box.x1 <= paper.x1, text
            assert paper.y0 <= box.y0 <= box.y1 <= paper.y1, text
        shown = [drawing(axes) for axes in drawn.axes]
        assert all(shown[i] != shown[k] for i in range(len(shown)) for k in range(i))

    look(import_module(f"sim.plots.{figure}").draw, ran(name), check)


def drawing(axes: Axes) -> list[Any]:
    """What a panel draws, its name left out."""
    bars = [[*p.get_path().vertices.tolist(), *p.get_patch_transform().get_matrix().tolist()] for p in axes.patches]
    areas = [[path.vertices.tolist() for path in c.get_paths()] for c in axes.collections]
    return [[x.get_xydata().tolist() for x in axes.lines], areas, bars, [t.get_text() for t in axes.texts]]
