"""Laws of the chart of fronts: what each fixed schedule pays more than the least, and the gap that is left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from figures import overlapping, point, results, words
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from sim import plots
from sim.plots import fronts
from sim.plots.drawing.spots import Curve, read_spot

EXACT = {"label": "exact front", "kind": "exact", "breakpoints": [[100, 400], [200, 200], [400, 100]]}
BOUND = {"label": "lower bound", "kind": "bound", "breakpoints": [[80, 300], [200, 150], [400, 100]]}


def schedule(name: str, peak: int, flops: int, **more: Any) -> dict[str, Any]:
    return point("reverse_checkpointed", peak, flops, schedule=name) | more


POINTS = [
    point("reverse_full", 400, 100),
    schedule("sqrt", 250, 230),  # the least within 250 is 200
    schedule("periodic", 150, 1200),  # within 150: 400
]


def data(points: list[dict[str, Any]] = POINTS, curves: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return results(points, curves=[EXACT, BOUND] if curves is None else curves)


def many(count: int) -> dict[str, Any]:
    random = np.random.default_rng(3)
    least = [[10**6 * 2**i, 10**12 // (i + 1)] for i in range(10)]
    bound = [[b // 2, f // 2] for b, f in least]
    points = [
        schedule("binomial", int(10 ** random.uniform(6, 9)), int(10**12 * (1 + random.random())), parameters={
            "schedule": "binomial", "slots": i
        })
        for i in range(count)
    ]  # fmt: skip
    return data(points, [EXACT | {"breakpoints": least}, BOUND | {"breakpoints": bound}])


breakpoints = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=8)


@given(st.lists(breakpoints, min_size=1, max_size=3), st.integers(0, 60))
def test_the_least_is_that_of_the_best_breakpoint_within_the_memory(
    curves: list[list[tuple[int, int]]], memory: int
) -> None:
    least = fronts.Least.of([Curve("", False, tuple(sorted(c))) for c in curves])
    within = [f for c in curves for m, f in c if m <= memory]
    assert least.at(memory) == (min(within) if within else None)


def test_a_schedule_pays_what_it_takes_beyond_the_least_for_its_memory() -> None:
    least = fronts.Least((100, 200, 400), (400, 200, 100))
    shares = [fronts.beyond(read_spot(p, working=False), least) for p in POINTS]
    assert shares == pytest.approx([0, 0.15, 2])
    assert fronts.beyond(read_spot(schedule("sqrt", 99, 500), working=False), least) is None


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "on the front"), (0.004, "+0.40 %"), (0.023, "+2.3 %"), (0.124, "+12 %"), (0.999, "+100 %"), (2, "×3"),
        (2.14, "×3.14"), (-0.05, "−5.0 %"), (1e6, "×1.0e+06"),
    ],
)  # fmt: skip
def test_shares_are_written_as_people_write_them(share: float, text: str) -> None:
    assert fronts.percent(share) == text


def test_each_schedule_is_named_with_what_it_pays(look: Callable[..., list[Any]]) -> None:
    [texts] = look(fronts.draw, data(), lambda figure: {t for t, _ in words(figure)})
    assert {"reverse_full  on the front", "sqrt  +15 %", "periodic  ×3"} <= texts
    assert any("3 schedules over the exact front, 1 of them on it" in t for t in texts)


def test_a_distance_leads_from_the_front_to_the_schedule_at_its_memory(look: Callable[..., list[Any]]) -> None:
    def distances(figure: Figure) -> set[tuple[tuple[float, float], ...]]:
        lines = [line for line in figure.axes[0].lines if line.get_gid() == "distance"]
        return {tuple(map(tuple, line.get_xydata())) for line in lines}

    [found] = look(fronts.draw, data(), distances)
    assert found == {((200, 250), (230, 250)), ((400, 150), (1200, 150))}


def test_curves_are_staircases_through_all_their_breakpoints(look: Callable[..., list[Any]]) -> None:
    def corners(figure: Figure) -> dict[str, set[tuple[float, float]]]:
        lines = [line for line in figure.axes[0].lines if str(line.get_gid()).startswith("curve-")]
        return {str(line.get_gid()): set(map(tuple, line.get_xydata())) for line in lines}

    [found] = look(fronts.draw, data(), corners)
    # from each breakpoint to the right at its memory, then down to the next
    assert {(100, 400), (200, 400), (200, 200), (400, 200), (400, 100)} <= found["curve-exact front"]
    assert {(100, 400), (150, 400), (150, 200), (300, 200), (300, 80)} <= found["curve-lower bound"]


def test_the_gap_is_shaded_from_the_bound_to_the_front_at_each_memory(look: Callable[..., list[Any]]) -> None:
    def inside(figure: Figure) -> list[bool]:
        [gap] = [c for c in figure.axes[0].collections if c.get_gid() == "gap"]
        assert isinstance(gap, PolyCollection)
        paths = gap.get_paths()
        places = [(350, 150), (310, 150), (290, 150), (175, 300), (140, 300), (210, 300), (600, 90)]
        return [any(path.contains_point(place) for path in paths) for place in places]

    # within 150 from 300 to 400, within 300 from 150 to 200; within 90 from 300 on, where no front is known
    assert look(fronts.draw, data(), inside) == [[True, True, False, True, False, False, True]]


def test_forward_mode_and_schedules_that_copy_have_no_place_on_it(look: Callable[..., list[Any]]) -> None:
    others = [point("forward_cached", 150, 900), point("reverse_offload", 90, 100) | {"copied_bytes": {"to": 1}}]

    def names(figure: Figure) -> list[str]:
        gids = [str(line.get_gid()) for line in figure.axes[0].lines]
        return sorted(g for g in gids if g.startswith("spot-"))

    assert look(fronts.draw, data(POINTS + others), names) == [["spot-periodic", "spot-reverse_full", "spot-sqrt"]]


def test_planned_schedules_are_drawn_but_leave_the_names_to_fixed_ones(look: Callable[..., list[Any]]) -> None:
    planned = [schedule("optimal", 200, 200, parameters={"schedule": "optimal", "budget": 200})]
    [texts] = look(fronts.draw, data(POINTS + planned), lambda figure: [t for t, _ in words(figure)])
    assert "optimal" in texts
    assert not any("budget=" in t for t in texts)


def test_resident_bytes_left_out_are_taken_off_the_curves_too(look: Callable[..., list[Any]]) -> None:
    resident = {"working_bytes": 150, "resident_bytes": 100}
    points = [schedule("sqrt", 250, 230, **resident)]

    def distance(figure: Figure) -> list[tuple[float, float]]:
        [line] = [line for line in figure.axes[0].lines if line.get_gid() == "distance"]
        return [tuple(place) for place in line.get_xydata()]

    assert look(fronts.draw, data(points), distance, memory="working") == [[(200, 150), (230, 150)]]


@pytest.mark.parametrize("count", [1, 5, 16, 40])
def test_no_words_cover_others_or_leave_the_figure(count: int, look: Callable[..., list[Any]]) -> None:
    def check(figure: Figure) -> None:
        texts = words(figure)
        assert overlapping(texts) == []
        for text, box in texts:
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, text
            assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, text

    assert look(fronts.draw, many(count), check) == [None]


def test_a_lower_bound_alone_is_measured_against(look: Callable[..., list[Any]]) -> None:
    [texts] = look(fronts.draw, data(curves=[BOUND]), lambda figure: {t for t, _ in words(figure)})
    assert any("over the lower bound" in t for t in texts)
    assert "sqrt  +53 %" in texts  # 230 over 150
    assert "what could still be gained at most" not in texts


@pytest.mark.parametrize("bound_class", ["listed order", "any order"])
def test_a_bound_says_for_which_schedules_it_holds(bound_class: str, look: Callable[..., list[Any]]) -> None:
    told = BOUND | {"bound_class": bound_class}
    [texts] = look(fronts.draw, data(curves=[EXACT, told]), lambda figure: {t for t, _ in words(figure)})
    assert f"lower bound, {bound_class}" in texts
    assert f"what could still be gained at most, {bound_class}" in texts
    [alone] = look(fronts.draw, data(curves=[told]), lambda figure: {t for t, _ in words(figure)})
    assert any(f"over the lower bound, {bound_class}" in t for t in alone)


def test_the_same_results_give_the_same_bytes_whatever_the_settings(tmp_path: Path) -> None:
    first = fronts.draw(many(12), tmp_path / "first")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": None}):
        second = fronts.draw(many(12), tmp_path / "second")
    assert [p.suffix for p in first] == [".png", ".svg"]
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_without_curves_or_schedules_to_compare_there_is_no_file(tmp_path: Path) -> None:
    assert fronts.draw(data(curves=[]), tmp_path / "fronts") == ()
    assert fronts.draw(data([point("forward_cached", 100, 1)]), tmp_path / "fronts") == ()
    assert fronts.draw(data(curves=[EXACT | {"breakpoints": []}]), tmp_path / "fronts") == ()
    assert not list(tmp_path.iterdir())
    names = [p.name for p in plots.draw_all(data(), tmp_path)]
    assert names == ["fronts.png", "fronts.svg", "pareto.png", "pareto.svg"]
