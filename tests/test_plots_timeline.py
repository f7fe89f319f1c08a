"""Laws of the timeline: it reaches the peak, names it, and leaves out what would flatten it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from figures import overlapping, point, results, tent, tents, words
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from sim.plots import timeline

DATA: Mapping[str, Callable[[int | None], dict[str, Any]]] = {
    "one": lambda budget: tents(200, budget_bytes=budget),
    "two": lambda budget: tents(200, 120, budget_bytes=budget),
    "four": lambda budget: tents(200, 190, 150, 120, budget_bytes=budget),
    "far apart": lambda budget: tents(5 * 10**7, 10**6, 10**4, 300, budget_bytes=budget),
}


def steps(axes: Axes) -> list[StepPatch]:
    return [p for p in axes.patches if isinstance(p, StepPatch)]


def highest(axes: Axes) -> float:
    return max(float(np.max(p.get_data().values)) for p in steps(axes))


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("budget", [None, 250, 10**6])
def test_no_words_on_the_timeline_cover_others(name: str, budget: int | None, look: Callable[..., list[Any]]) -> None:
    assert look(timeline.draw, DATA[name](budget), lambda figure: overlapping(words(figure))) == [[]]


@pytest.mark.parametrize("name", ["one", "two", "four"])
def test_no_words_on_the_timeline_cover_data(name: str, look: Callable[..., list[Any]]) -> None:
    def covered(figure: Figure) -> list[str]:
        found = []
        for axes in figure.axes:
            for text, box in words(figure):
                (left, bottom), (right, top) = axes.transData.inverted().transform([box.min, box.max])
                for patch in steps(axes):
                    edges, levels = patch.get_data().edges, patch.get_data().values
                    inside = (edges[1:] > left) & (edges[:-1] < right)
                    if inside.any() and top > 0 and levels[inside].max() > bottom:
                        found.append(text)
        return found

    assert look(timeline.draw, DATA[name](None), covered) == [[]]


def test_the_timeline_reaches_the_peak_and_names_it(look: Callable[..., list[Any]]) -> None:
    [(level, texts)] = look(
        timeline.draw, tents(200, samples=5000), lambda f: (highest(f.axes[0]), [t for t, _ in words(f)])
    )
    assert level == 300
    assert "peak 300 B\nvjp(block3.attention.softmax), action 17" in texts
    assert {"activation", "resident"} <= set(texts)


def test_the_timeline_leaves_out_resident_bytes_that_would_take_most_of_it(look: Callable[..., list[Any]]) -> None:
    [(level, texts)] = look(
        timeline.draw, tents(30, resident=1000), lambda f: (highest(f.axes[0]), [t for t, _ in words(f)])
    )
    assert level == 30
    assert "resident" not in texts
    assert any(t.startswith("peak 30 B") for t in texts)
    assert any("beside 1 kB resident" in t for t in texts)


def test_layers_of_the_timeline_lie_on_one_another(look: Callable[..., list[Any]]) -> None:
    entry = tent(0, 3) | {"bytes": {"activation": [3, 0, 1], "workspace": [0, 2, 1]}}
    data = results([point("other", 6, 1) | {"resident_bytes": 1}], plans=[entry])

    def layers(figure: Figure) -> list[tuple[list[float], list[float]]]:
        found = [p.get_data() for p in steps(figure.axes[0]) if p.get_fill()]
        return [(list(d.baseline), list(d.values)) for d in found]

    # From the lowest: resident 1, 1, 1; activation 3, 0, 1; workspace 0, 2, 1.
    [found] = look(timeline.draw, data, layers)
    assert found == [([0, 0, 0], [1, 1, 1]), ([1, 1, 1], [4, 1, 2]), ([4, 1, 2], [4, 3, 3])]


LOOP = {"start": 2, "stop": 8, "times": 784, "work": [2, 8]}


def test_a_loop_is_drawn_once_with_the_number_of_its_turns(look: Callable[..., list[Any]]) -> None:
    data = results([point("other", 200, 1)], plans=[tent(0, 10, loops=[LOOP])])
    [texts] = look(timeline.draw, data, lambda figure: [t for t, _ in words(figure)])
    assert "× 784" in texts
    assert "work done, 4.71 kFLOP in all" in texts  # 10 + 783 · 6 flops


def test_panels_of_one_figure_share_their_axes_or_say_that_they_do_not(look: Callable[..., list[Any]]) -> None:
    def seen(figure: Figure) -> tuple[set[Any], set[Any], bool]:
        own = any("each panel has its own time axis" in t for t, _ in words(figure))
        return {a.get_ylim() for a in figure.axes}, {a.get_xlim() for a in figure.axes}, own

    [(heights, times, own)] = look(timeline.draw, tents(200, 120), seen)
    assert len(heights) == len(times) == 1
    assert not own
    two = tents(200, 120)
    two["plans"][1] = tent(1, 10, 120, loops=[LOOP])
    [(heights, times, own)] = look(timeline.draw, two, seen)
    assert len(heights) == 1
    assert len(times) == 2
    assert own


def test_profiles_that_are_the_same_are_one_panel_with_both_names(look: Callable[..., list[Any]]) -> None:
    def panels(figure: Figure) -> list[str]:
        return [axes.get_title(loc="left") for axes in figure.axes]

    [titles] = look(timeline.draw, tents(200, 200, 150), panels)
    assert titles == ["reverse_full turn=0 = reverse_checkpointed turn=1", "reverse_offload turn=2"]


def test_peaks_that_are_far_apart_are_lines_over_one_logarithmic_axis(look: Callable[..., list[Any]]) -> None:
    def seen(figure: Figure) -> tuple[int, str, dict[str, float]]:
        lines = {str(x.get_gid()): float(max(x.get_ydata())) for x in figure.axes[0].lines if x.get_gid()}
        return len(figure.axes), figure.axes[0].get_yscale(), lines

    highs = (5 * 10**7, 10**6, 10**4, 300)
    [(panels, scale, lines)] = look(timeline.draw, tents(*highs, resident=1), seen)
    assert (panels, scale) == (1, "log")
    assert sorted(lines.values()) == [high + 1 for high in sorted(highs)]


def test_a_line_has_every_turn_of_a_loop_on_its_axis(look: Callable[..., list[Any]]) -> None:
    two = tents(10**7, 100, resident=1)
    two["plans"][1] = tent(1, 10, 100, loops=[LOOP])

    def end(figure: Figure) -> list[float]:
        return sorted(float(x.get_xdata()[-1]) for x in figure.axes[0].lines if x.get_gid())

    assert look(timeline.draw, two, end) == [[400, 10 + 783 * 6]]
