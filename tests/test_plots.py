"""Laws of the figures: what must be on them, that nothing covers anything, that they repeat bit for bit."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from figures import STRATEGIES, Results, drawn, even_front, overlapping, point, results, scattered, tents, words
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from points import dominates

from sim import plots
from sim.base.files import OutputError
from sim.plots import pareto, timeline
from sim.plots.drawing import labels, style
from sim.plots.drawing.spots import read_spot, short_label, sweeps

DATA: Mapping[str, Results] = {
    "two points, budget far above": results(
        [point("reverse_full", 10**9, 10**12), point("other", 10**9, 10**12 + 1)], budget_bytes=80 * 10**9
    ),
    "nothing is computed": results([point("reverse_full", 0, 0), point("other", 8, 0)]),
    "a few": results(even_front(6), budget_bytes=10**8),
    "an even front": results(even_front(14)),
    "sixty points of six strategies": results(scattered(60, 1), budget_bytes=5 * 10**7),
    "sixty others": results(scattered(60, 2)),
    "near each other": results([point("forward_recompute", 10**9 - i, 10**12 + i, chunk=i) for i in range(12)]),
    "beyond 2^63": results(
        [point("forward_recompute", 10**6 * c, 10**24 // c + 1, chunk=c) for c in (1, 10, 100, 1000)]
        + [point("reverse_full", 10**13, 2**70)]
    ),
    "beyond float64": results([point("reverse_full", 10**9, 10**400), point("other", 10**10, 10**390)]),
    "nothing fits": results(even_front(4), budget_bytes=10),
    "time tells otherwise": results(
        [point(s, 10**9 // (i + 1), 10**12 * (i + 1), 1e-3 / (i + 1)) for i, s in enumerate(STRATEGIES)],
        budget_bytes=6 * 10**8,
    ),
    "a long front over a curve": results(
        [
            point("reverse_checkpointed", 10**9 // i, 10**10 * (100 + i * i), schedule="optimal", budget=10**9 // i)
            for i in range(1, 60)
        ],
        curves=[
            {"label": "exact", "kind": "exact", "breakpoints": [[10**9 // i, 10**12 + i**2] for i in range(1, 99)]},
            {"label": "lower bound", "kind": "bound", "breakpoints": [[10**7, 10**13], [10**9, 9 * 10**11]]},
        ],
    ),
}


@pytest.mark.parametrize("name", DATA)
def test_every_point_is_drawn_and_the_front_stands_out(name: str, look: Callable[..., list[Any]]) -> None:
    [marks] = look(pareto.draw, DATA[name], drawn)
    pairs = [(p["flops"]["total"], p["peak_bytes"]) for p in DATA[name]["points"]]
    on_front = {i for i, b in enumerate(pairs) if not any(dominates(a, b) for a in pairs)}
    assert {g for g in marks if g.startswith("FLOP")} == {
        f"FLOP-{'front' if i in on_front else 'dominated'}-{i}" for i in range(len(pairs))
    }
    for i in on_front:
        assert marks[f"FLOP-front-{i}"] == tuple(float(min(v, 10**300)) for v in pairs[i])


@pytest.mark.parametrize("name", DATA)
def test_no_words_on_the_pareto_chart_cover_others_or_leave_the_figure(
    name: str, look: Callable[..., list[Any]]
) -> None:
    def check(figure: Figure) -> None:
        texts = words(figure)
        assert overlapping(texts) == []
        for text, box in texts:
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, text
            assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, text

    assert look(pareto.draw, DATA[name], check) == [None]


def test_the_check_for_overlaps_finds_one(look: Callable[..., list[Any]]) -> None:
    def spoil(figure: Figure) -> list[tuple[str, str]]:
        figure.text(0.5, 0.5, "one name")
        figure.text(0.51, 0.505, "another name")
        return overlapping(words(figure))

    assert ("one name", "another name") in look(pareto.draw, DATA["a few"], spoil)[0]


@pytest.mark.parametrize("name", ["a few", "an even front", "beyond 2^63"])
def test_every_point_of_a_short_front_is_named(name: str, look: Callable[..., list[Any]]) -> None:
    [texts] = look(pareto.draw, DATA[name], lambda figure: {t for t, _ in words(figure)})
    for p in DATA[name]["points"]:
        assert short_label(p["strategy"], p["parameters"]) in texts


def test_points_in_one_place_share_one_text(look: Callable[..., list[Any]]) -> None:
    [texts] = look(pareto.draw, DATA["near each other"], lambda figure: [t for t, _ in words(figure)])
    first = [f"forward_recompute chunk={i}" for i in range(3)]
    assert "\n".join([*first, "and 9 more"]) in texts


def test_a_long_front_has_a_few_names_its_ends_among_them(look: Callable[..., list[Any]]) -> None:
    [texts] = look(pareto.draw, DATA["a long front over a curve"], lambda figure: [t for t, _ in words(figure)])
    named = [t for t in texts if t.startswith("optimal budget=")]
    assert 3 <= len(named) <= 10
    assert {"optimal budget=1\N{NO-BREAK SPACE}GB", "optimal budget=16.9\N{NO-BREAK SPACE}MB"} <= set(named)


def test_time_gets_a_panel_of_its_own_only_where_it_changes_the_front(look: Callable[..., list[Any]]) -> None:
    slower = results([point(s, 10**9 // (i + 1), 10**12 * (i + 1), i + 1.0) for i, s in enumerate(STRATEGIES)])
    assert look(pareto.draw, slower, lambda figure: len(figure.axes)) == [1]
    assert look(pareto.draw, DATA["time tells otherwise"], lambda figure: len(figure.axes)) == [2]


def test_points_that_copy_pay_in_time_and_stay_out_of_the_front_over_work(look: Callable[..., list[Any]]) -> None:
    copying = point("reverse_offload", 10, 100, 9.0, prefetch=1) | {"copied_bytes": {"device_to_host": 5}}
    plain = [point("reverse_full", 50, 100, 1.0), point("reverse_checkpointed", 20, 150, 2.0, schedule="sqrt")]
    [marks] = look(pareto.draw, results([copying, *plain]), drawn)
    assert set(marks) == {"FLOP-copies-0", "FLOP-front-1", "FLOP-front-2", "s-front-0", "s-front-1", "s-front-2"}


def test_points_without_a_time_are_left_out_of_the_time_panel_alone(look: Callable[..., list[Any]]) -> None:
    points = [point("reverse_full", 100, 1), point("forward_cached", 50, 2, 3.0), point("other", 20, 3, 1.0)]
    [marks] = look(pareto.draw, results(points), drawn)
    assert sorted(marks) == ["FLOP-front-0", "FLOP-front-1", "FLOP-front-2", "s-dominated-0", "s-front-1"]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (10, "budget of 10 B: nothing fits"),
        (10**8, "does not fit the budget of 100 MB"),
        (10**14, "budget of 100 TB: all fit"),
    ],
)
def test_the_chart_says_what_the_budget_means(budget: int, message: str, look: Callable[..., list[Any]]) -> None:
    data = results(even_front(6), budget_bytes=budget)
    assert message in look(pareto.draw, data, lambda figure: [t for t, _ in words(figure)])[0]


def beside(resident: int, **more: Any) -> Results:
    """Three points whose working bytes are 400, 200 and 100."""
    points = [
        point("other", resident + w, f) | {"working_bytes": w, "resident_bytes": resident}
        for w, f in ((400, 1), (200, 2), (100, 3))
    ]
    return results(points, **more)


@pytest.mark.parametrize(
    ("resident", "memory", "charted"),
    [
        (100, "auto", [500, 300, 200]),  # half of the smallest peak
        (101, "auto", [400, 200, 100]),
        (101, "total", [501, 301, 201]),
        (1, "working", [400, 200, 100]),
    ],
)
def test_resident_bytes_are_left_out_where_they_would_take_most_of_the_axis(
    resident: int, memory: str, charted: list[int], look: Callable[..., list[Any]]
) -> None:
    [marks] = look(pareto.draw, beside(resident), drawn, memory=memory)
    assert [y for _, y in marks.values()] == charted


def test_resident_bytes_left_out_are_named_and_taken_off_budget_and_curves(look: Callable[..., list[Any]]) -> None:
    curve = {"label": "exact", "kind": "exact", "breakpoints": [[1150, 3], [1350, 1]]}

    def lines(figure: Figure) -> tuple[set[float], list[str]]:
        levels = {float(y) for line in figure.axes[0].lines[:2] for y in line.get_ydata()}
        return levels, [t for t, _ in words(figure)]

    [(levels, texts)] = look(pareto.draw, beside(1000, budget_bytes=1250, curves=[curve]), lines)
    assert {150, 350} <= levels
    assert "does not fit the budget of 1.25 kB" in texts
    assert "peak working memory, beside 1 kB resident" in texts
    # The budget's own line lies at what it leaves beside the resident bytes.
    [heights] = look(
        pareto.draw,
        beside(1000, budget_bytes=1250),
        lambda figure: {float(y) for line in figure.axes[0].lines for y in line.get_ydata()},
    )
    assert 250 in heights


def test_a_curve_is_drawn_through_all_its_breakpoints(look: Callable[..., list[Any]]) -> None:
    data = DATA["a long front over a curve"]

    def corners(figure: Figure) -> list[set[tuple[float, float]]]:
        return [set(map(tuple, line.get_xydata())) for line in figure.axes[0].lines[: len(data["curves"])]]

    [found] = look(pareto.draw, data, corners)
    for curve, xy in zip(data["curves"], found, strict=True):
        assert {(float(f), float(b)) for b, f in curve["breakpoints"]} <= xy


boxes = st.tuples(st.floats(0.1, 4.9), st.floats(0.1, 2.9))
sizes = st.tuples(st.floats(0.05, 2), st.floats(0.05, 0.5))


@given(st.lists(st.tuples(boxes, sizes), max_size=25), st.lists(boxes, max_size=20))
def test_a_name_is_placed_without_overlap_or_left_out(
    named: list[tuple[tuple[float, float], tuple[float, float]]], others: list[tuple[float, float]]
) -> None:
    anchors, extents = [a for a, _ in named], [s for _, s in named]
    taken = [(1.0, 1.0, 2.0, 1.2)]
    found = labels.place(anchors, extents, inside=(0, 0, 5, 3), points=others, segments=[(0, 3, 5, 0)], taken=taken)
    placed = [
        (x, y, x + w, y + h) for corner, (w, h) in zip(found, extents, strict=True) if corner for x, y in [corner]
    ]
    discs = [(x - 0.06, y - 0.06, x + 0.06, y + 0.06) for x, y in anchors]
    for left, bottom, right, top in placed:
        assert left >= 0
        assert bottom >= 0
        assert right <= 5
        assert top <= 3
        for x0, y0, x1, y1 in taken + discs:
            assert right <= x0 or left >= x1 or top <= y0 or bottom >= y1
    for (a0, b0, a1, b1), (c0, d0, c1, d1) in itertools.combinations(placed, 2):
        assert a1 <= c0 or c1 <= a0 or b1 <= d0 or d1 <= b0


def test_a_lone_name_lies_beside_its_point() -> None:
    [corner] = labels.place([(2, 1)], [(0.5, 0.1)], inside=(0, 0, 5, 3), points=[(2, 1)], segments=[])
    assert corner is not None
    x0, y0, x1, y1 = labels.leader((2, 1), (*corner, corner[0] + 0.5, corner[1] + 0.1))
    assert math.hypot(x1 - x0, y1 - y0) < 0.16


def test_a_box_that_covers_nothing_is_preferred() -> None:
    boxes = [(0.0, 0.0, 1.0, 1.0), (2.0, 0.0, 3.0, 1.0), (4.0, 0.0, 5.0, 1.0)]
    assert labels.clearest(boxes, points=[(0.5, 0.5)], segments=[(1.9, 0.5, 3.5, 0.5)]) == 2


@given(
    st.lists(st.floats(1e-9, 1e25) | st.integers(0, 10**25), min_size=1, max_size=9), st.sampled_from(["B", "s", ""])
)
def test_an_axis_shows_all_its_values_and_ticks_that_differ(values: list[float], unit: str) -> None:
    scale = style.scale_of([float(v) for v in values], unit)
    assert scale.low <= min(values)
    assert max(values) <= scale.high
    assert not scale.log or scale.low > 0
    assert all(scale.low <= t <= scale.high * (1 + 1e-9) for t in scale.ticks)
    assert len(scale.ticks) <= 8
    assert len(set(scale.texts)) == len(scale.texts) == len(scale.ticks)


@pytest.mark.parametrize(("values", "log"), [([1, 4.9], False), ([1, 5], True), ([0, 1e9], False), ([3, 3], False)])
def test_an_axis_is_logarithmic_where_the_values_span_much(values: list[float], log: bool) -> None:
    assert style.scale_of(values, "B").log is log


def test_ticks_are_written_as_people_write_them() -> None:
    assert style.scale_of([1.1e6, 0.9e9], "B").texts == ("1 MB", "3 MB", "10 MB", "30 MB", "100 MB", "300 MB", "1 GB")
    assert style.linear_scale(0, 0.002, "s").texts == ("0 s", "0.5 ms", "1 ms", "1.5 ms", "2 ms")


def test_points_joined_by_a_line_differ_in_one_number() -> None:
    points = [point("reverse_offload", 1, 1, prefetch=p, chunk=c) for p in (4, 1, 2) for c in (8, 1)]
    points += [point("reverse_checkpointed", 1, 1, schedule=s, slots=3) for s in ("binomial", "uniform")]
    joined = sweeps([read_spot(p, working=False) for p in points])
    assert joined == [[2, 4, 0], [3, 5, 1]]


def test_names_say_what_tells_points_apart() -> None:
    assert short_label("reverse_checkpointed", {"schedule": "periodic", "every": 4}) == "periodic every=4"
    assert short_label("jacobian_chain", {"order": "optimal_matrix_free", "tape": 8 * 10**9}) == (
        "jacobian_chain optimal_matrix_free tape=8\N{NO-BREAK SPACE}GB"
    )
    assert short_label("reverse_full", {}) == "reverse_full"


def test_the_well_known_strategies_have_colours_of_their_own() -> None:
    plain = {"in_order", "rematerialize", "reorder"}  # of plain graphs, to which the others do not apply
    for together in (plain, style.STRATEGY_COLOURS.keys() - plain):
        assert len({style.STRATEGY_COLOURS[s] for s in together}) == len(together)
    assert len(set(style.SERIES_MARKERS.values())) == len(style.SERIES_MARKERS)
    assert len(set(style.KIND_COLOURS.values())) == len(style.KIND_COLOURS)


@pytest.mark.parametrize(
    ("draw", "data"),
    [
        (pareto.draw, DATA["sixty points of six strategies"]),
        (timeline.draw, tents(200, 190, 180, 170, budget_bytes=250)),
    ],
)
def test_the_same_results_give_the_same_bytes_whatever_the_settings(
    draw: Callable[..., tuple[Path, ...]], data: Results, tmp_path: Path
) -> None:
    first = draw(data, tmp_path / "first")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": None}):
        second = draw(data, tmp_path / "second")
    assert [p.suffix for p in first] == [".png", ".svg"]
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_drawing_leaves_the_settings_as_they_were(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    pareto.draw(DATA["a few"], tmp_path / "chart")
    assert dict(matplotlib.rcParams) == before


def test_files_tell_neither_a_date_nor_a_version(tmp_path: Path) -> None:
    png, svg = pareto.draw(DATA["a few"], tmp_path / "chart")
    assert b"Software" not in png.read_bytes()
    assert b"tEXt" not in png.read_bytes()
    assert "dc:date" not in svg.read_text()
    assert matplotlib.__version__ not in svg.read_text()


def test_all_figures_with_data_are_drawn(tmp_path: Path) -> None:
    names = [p.name for p in plots.draw_all(tents(200, 100), tmp_path / "new")]
    assert names == ["pareto.png", "pareto.svg", "timeline.png", "timeline.svg"]
    assert [p.name for p in plots.draw_all(DATA["a few"], tmp_path)] == ["pareto.png", "pareto.svg"]
    assert plots.draw_all(results([]), tmp_path) == []


@pytest.mark.parametrize(
    "points",
    [
        [point("reverse_full", 10**9, 10**12)],
        [point("reverse_full", 5, 7), point("forward_cached", 5, 7, chunk=1)],
        [point(s, 2400, 22_000) for s in STRATEGIES],
    ],
)
def test_points_in_one_place_have_no_chart(points: list[dict[str, Any]], tmp_path: Path) -> None:
    assert pareto.draw(results(points), tmp_path / "pareto") == ()


def test_work_is_told_in_multiples_of_full_store_with_flops_above(look: Callable[..., list[Any]]) -> None:
    points = [point("reverse_full", 400, 10**9), point("reverse_checkpointed", 200, 2 * 10**9, schedule="sqrt")]

    def scales(figure: Figure) -> tuple[dict[str, float], dict[str, float]]:
        [axes] = figure.axes
        [above] = axes.child_axes
        figure.canvas.draw()
        return tuple(
            {t.get_text(): float(x) for t, x in zip(one.get_xticklabels(), one.get_xticks(), strict=True)}
            for one in (axes, above)
        )

    [(below, above)] = look(pareto.draw, results(points), scales)
    assert below["× 1"] == 10**9
    assert below["× 2"] == 2 * 10**9
    assert all(float(text.removesuffix(" GFLOP")) * 10**9 == pytest.approx(at) for text, at in above.items())


def test_a_linear_axis_of_memory_begins_at_zero(look: Callable[..., list[Any]]) -> None:
    points = [point("reverse_full", 400, 10**9), point("reverse_checkpointed", 300, 2 * 10**9, schedule="sqrt")]
    [(low, high)] = look(pareto.draw, results(points), lambda figure: figure.axes[0].get_ylim())
    assert low == 0
    assert high > 400


def test_the_point_that_the_heading_tells_of_has_a_ring(look: Callable[..., list[Any]]) -> None:
    def ring(figure: Figure) -> tuple[float, float]:
        [line] = [line for line in figure.axes[0].lines if line.get_gid() == "told"]
        return tuple(line.get_xydata()[0])

    points = [point("reverse_full", 400, 100), point("reverse_checkpointed", 100, 110, schedule="sqrt")]
    data = results(points)
    assert look(pareto.draw, data, ring) == [(110, 100)]
    [texts] = look(pareto.draw, data, lambda figure: [t for t, _ in words(figure)])
    assert "a_scenario: 25 % of the memory of full store for 10 % more work" in texts


def test_a_leader_is_dotted_as_no_line_of_data_is(look: Callable[..., list[Any]]) -> None:
    def styles(figure: Figure) -> tuple[set[Any], set[Any]]:
        leaders = {str(x._dash_pattern) for x in figure.findobj(Line2D) if x.get_gid() == "leader"}
        data = {str(x._dash_pattern) for axes in figure.axes for x in axes.lines if len(x.get_xydata()) > 1}
        return leaders, data

    [(leaders, data)] = look(pareto.draw, DATA["sixty points of six strategies"], styles)
    assert leaders
    assert not leaders & data


def test_a_figure_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        pareto.draw(DATA["a few"], tmp_path / "file" / "pareto")


def test_the_package_loads_matplotlib_only_to_draw_and_never_pyplot() -> None:
    code = (
        "import sys, sim.plots; assert 'matplotlib' not in sys.modules; "
        "import sim.plots.pareto, sim.plots.timeline; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_does_not_fit_is_shaded(look: Callable[..., list[Any]]) -> None:
    def shaded(figure: Figure) -> list[tuple[float, float]]:
        spans = [p for p in figure.axes[0].patches if not isinstance(p, StepPatch | PolyCollection)]
        return [(p.get_xy()[1], p.get_xy()[1] + p.get_height()) for p in spans]

    [[(low, high)]] = look(pareto.draw, DATA["a few"], shaded)
    assert low == 10**8
    assert high > 10**9
