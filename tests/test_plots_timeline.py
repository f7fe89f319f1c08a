"""Laws of the timeline: it reaches the peak, names it, and leaves out what would flatten it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from figures import STRATEGIES, overlapping, point, profile, results, words
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from sim.plots import timeline

PROFILES: Mapping[str, list[dict[str, Any]]] = {
    "one": [profile("reverse_full")],
    "two of different length": [profile("reverse_full", 7), profile("other", 400, x_unit="flops", x=[*range(401)])],
    "four": [profile(s) for s in STRATEGIES[:4]],
    "three in time": [profile("reverse_full", 4, x=[0, 1e-3, 2e-3, 3e-3, 4e-3], x_unit="seconds")] * 3,
}


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("budget", [None, 250, 10**6])
def test_no_words_on_the_timeline_cover_others(name: str, budget: int | None, look: Callable[..., list[Any]]) -> None:
    points = [{**point(s, 300, 1), "label": f"{s} {{}}"} for s in STRATEGIES]
    data = results(points, profiles=PROFILES[name], budget_bytes=budget)
    assert look(timeline.draw, data, lambda figure: overlapping(words(figure))) == [[]]


def test_the_timeline_reaches_the_peak_and_names_it(look: Callable[..., list[Any]]) -> None:
    data = results(
        [{**point("reverse_full", 300, 1), "label": "reverse_full {}"}], profiles=[profile("reverse_full", 5000)]
    )

    def check(figure: Figure) -> tuple[float, list[str]]:
        [axes] = figure.axes
        steps = [p for p in axes.patches if isinstance(p, StepPatch)]
        return max(float(np.max(p.get_data().values)) for p in steps), [t for t, _ in words(figure)]

    [(highest, texts)] = look(timeline.draw, data, check)
    assert highest == 300
    assert "peak 300 B\nvjp(block3.attention.softmax), action 17" in texts
    assert {"activation", "resident"} <= set(texts)


def test_the_timeline_leaves_out_resident_bytes_that_would_take_most_of_it(look: Callable[..., list[Any]]) -> None:
    rows = [[10, 1000], [30, 1000], [20, 1000]]
    data = results([point("other", 1030, 1)], profiles=[profile("reverse_full", 3) | {"bytes": rows}])

    def check(figure: Figure) -> tuple[float, list[str]]:
        steps = [p for p in figure.axes[0].patches if isinstance(p, StepPatch)]
        return max(float(np.max(p.get_data().values)) for p in steps), [t for t, _ in words(figure)]

    [(highest, texts)] = look(timeline.draw, data, check)
    assert highest == 30
    assert "resident" not in texts
    assert "peak 30 B" in texts
    assert any("beside 1 kB resident" in t for t in texts)


def test_layers_of_the_timeline_lie_on_one_another(look: Callable[..., list[Any]]) -> None:
    rows = [[3, 0, 1], [0, 2, 4], [1, 1, 1]]
    entry = profile("reverse_full", 3) | {"kinds": ["activation", "workspace", "resident"], "bytes": rows}

    def layers(figure: Figure) -> list[tuple[list[float], list[float]]]:
        found = [p.get_data() for p in figure.axes[0].patches if isinstance(p, StepPatch) and p.get_fill()]
        return [(list(d.baseline), list(d.values)) for d in found]

    # From the lowest: resident 1, 4, 1; activation 3, 0, 1; workspace 0, 2, 1.
    [found] = look(timeline.draw, results([point("other", 6, 1)], profiles=[entry]), layers)
    assert found == [([0, 0, 0], [1, 4, 1]), ([1, 4, 1], [4, 4, 2]), ([4, 4, 2], [4, 6, 3])]


def test_a_loop_is_drawn_once_with_the_number_of_its_turns(look: Callable[..., list[Any]]) -> None:
    entry = profile("reverse_full", 10, x=[*range(11)], x_unit="actions", loops=[{"start": 2, "end": 8, "times": 784}])
    data = results([point("other", 300, 1)], profiles=[entry])
    assert "× 784" in look(timeline.draw, data, lambda figure: [t for t, _ in words(figure)])[0]


def test_all_panels_have_one_memory_axis(look: Callable[..., list[Any]]) -> None:
    small = profile("other", 4) | {"bytes": [[1, 1]] * 4}
    data = results([point("other", 300, 1)], profiles=[profile("reverse_full"), small])
    [limits] = look(timeline.draw, data, lambda figure: [a.get_ylim() for a in figure.axes])
    assert limits[0] == limits[1]
    assert limits[0][1] > 300
