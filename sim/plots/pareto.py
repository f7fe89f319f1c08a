"""The Pareto chart: peak memory against work, and against time where that changes which points are best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sim.base.pareto import Number, front, landmarks, representatives
from sim.plots.drawing import labels, marking, style
from sim.plots.drawing.marking import DOMINATED_SIZE, FRONT_SIZE, LABEL_SIZE
from sim.plots.drawing.spots import Curve, Memory, Spot, hidden_resident, read_curve, read_spot, sweeps
from sim.report.finding import points_finding

MOST_LABELS, LABELS_OF_LONG_FRONT, LABELS_WITH_DOMINATED = 20, 10, 14
RING_SIZE = 13.5


def draw(results: Mapping[str, Any], stem: Path, *, memory: Memory = "auto") -> tuple[Path, ...]:
    """`<stem>.png` and `<stem>.svg` from the parsed results.json; nothing where there is no trade-off.

    The chart shows peak bytes over work, in multiples of full store's with flops above: the total, or the
    working bytes beside a resident part that would otherwise take most of the axis (`memory` decides it by
    hand). A second panel, over simulated seconds, is added only if another set of points is on the front
    there, so that a reader who chooses by time would choose differently. Over flops, points that copy
    values to the host are drawn hollow and stay out of the front, because they pay in time and not in work.
    The point that the heading tells of has a ring. Points that are all in one place have no chart.

    `results["curves"]`, if given, is a list of `{"label": …, "kind": "exact" | "bound", "breakpoints":
    [[bytes, flops], …]}` in total peak bytes, drawn as staircases under the points.
    """
    points = [p for p in results["points"] if not p.get("ranks")]  # those have no bytes
    if len({(p["peak_bytes"], p["flops"]["total"], p.get("seconds")) for p in points}) < 2:
        return ()
    hidden = hidden_resident(points, memory)
    resident = hidden or 0
    spots = [read_spot(point, working=hidden is not None) for point in points]
    curves = [read_curve(c, resident=resident) for c in results.get("curves") or () if len(c["breakpoints"]) > 1]
    told = points_finding(results)
    base = points[told.base or 0]
    panels = [
        _Panel("work", "FLOP", spots, [s.flops for s in spots], curves, style.drawable(base["flops"]["total"]), told.a)
    ]
    timed = [s for s in spots if s.seconds is not None]
    if timed:
        ringed = timed.index(spots[told.a]) if told.a is not None and spots[told.a] in timed else None
        times = [s.seconds or 0.0 for s in timed]
        panels.append(_Panel("simulated time", "s", timed, times, [], base.get("seconds") or 0.0, ringed))
        if {spots[i] for i in panels[0].front if spots[i] in timed} == {timed[i] for i in panels[1].front}:
            panels.pop()
    markers = marking.markers_of(spots)
    budget = style.budget_of(results)
    with style.canvas(10.0 if len(panels) == 1 else 13.0, 6.9) as figure:
        count = f"{len(spots)} schedule{'s' if len(spots) != 1 else ''}"
        top = style.heading(figure, results, title=told.sentence, what=count) + 0.42
        bottom = _legend(figure, panels, markers, curves)
        heights = [y for p in panels for _, y in p.pairs] + [b for c in curves for b, _ in c.breakpoints]
        levels = _with_budget(heights, None if budget is None else budget - resident)
        vertical = style.scale_of(levels, "B", zero=True)
        for box, panel in zip(_boxes(figure, len(panels), top=top, bottom=bottom), panels, strict=True):
            axes = figure.add_axes(box)
            ticks = 7 if len(panels) == 1 else 5
            style.both_scales(axes, panel.horizontal(most_ticks=ticks), panel.base, panel.unit, most_ticks=ticks)
            vertical.apply(axes.yaxis)
            of = f", × that of {told.base_name}" if panel.base else ""
            axes.set_xlabel(f"{panel.title}{of}")
            if panel is panels[0]:
                beside = f"peak working memory, beside {style.short_bytes(resident)} resident"
                axes.set_ylabel("peak memory" if hidden is None else beside)
            else:
                axes.tick_params(axis="y", labelleft=False)
            _fill(figure, axes, panel, markers, budget, resident)
        return style.save(figure, stem)


class _Panel(NamedTuple):
    """One panel: points over `xs`, which are counts or seconds; `base` is what multiples are of, `told` has a ring."""

    title: str
    unit: str
    spots: Sequence[Spot]
    xs: Sequence[Number]
    curves: Sequence[Curve]
    base: Number
    told: int | None

    @property
    def pairs(self) -> list[tuple[Number, Number]]:
        return [
            (x, s.memory_in_time if self.unit == "s" else s.memory) for x, s in zip(self.xs, self.spots, strict=True)
        ]

    @property
    def competing(self) -> list[int]:
        """The points that pay in what the panel shows."""
        return [i for i, s in enumerate(self.spots) if self.unit == "s" or not s.copies]

    @property
    def front(self) -> list[int]:
        return [self.competing[k] for k in front([self.pairs[i] for i in self.competing])]

    def horizontal(self, *, most_ticks: int) -> style.Scale:
        values = [*self.xs, *(flops for curve in self.curves for _, flops in curve.breakpoints)]
        return style.scale_of([style.drawable(x) for x in values], self.unit, most_ticks=most_ticks)


def _with_budget(memory: Sequence[Number], budget: int | None) -> list[float]:
    """The values that the memory axis shows: the budget too, unless it is so far off that the points would shrink."""
    values = [style.drawable(m) for m in memory]
    if budget is not None and min(values) / 10 <= budget <= 3 * max(values):
        values.append(style.drawable(budget))
    return values


def _boxes(figure: Figure, count: int, *, top: float, bottom: float) -> list[tuple[float, float, float, float]]:
    """The boxes of the panels, in fractions of the figure: left, bottom, width, height."""
    width, height = (float(v) for v in figure.get_size_inches())
    left, right, gap = 0.95, 0.45, 0.45
    each = (width - left - right - gap * (count - 1)) / count
    return [
        ((left + i * (each + gap)) / width, bottom / height, each / width, (height - top - bottom) / height)
        for i in range(count)
    ]


def _legend(
    figure: Figure, panels: Sequence[_Panel], markers: Mapping[str, tuple[str, str]], curves: Sequence[Curve]
) -> float:
    """Draw the legend along the lower edge; the inches above that edge at which the axes may begin."""
    handles = [
        Line2D(
            [],
            [],
            color=colour,
            marker=marker,
            linestyle="",
            markersize=marking.size_of(marker, FRONT_SIZE),
            label=name,
        )
        for name, (marker, colour) in markers.items()
    ]
    if any(len({p.pairs[i] for i in p.front}) > 1 for p in panels):
        handles.append(Line2D([], [], color=style.INK, linewidth=1.3, label="Pareto front"))
    if any(len(p.front) < len(p.competing) for p in panels):
        handles.append(_dot("dominated", color=style.DOMINATED))
    if any(len(p.competing) < len(p.spots) for p in panels):
        handles.append(_dot("copies to the host", markerfacecolor=style.PAPER, markeredgecolor=style.MUTED))
    handles += [Line2D([], [], **marking.line_of(c), label=c.label) for c in curves]
    return marking.legend(figure, handles) + 0.64


def _dot(label: str, **colours: Any) -> Line2D:
    return Line2D([], [], marker="o", linestyle="", markersize=DOMINATED_SIZE, label=label, **colours)


def _fill(
    figure: Figure,
    axes: Axes,
    panel: _Panel,
    markers: Mapping[str, tuple[str, str]],
    budget: int | None,
    resident: int,
) -> None:
    """Draw curves, sweeps, the front, the points, the budget and the names, from back to front."""
    spots, pairs, along = panel.spots, panel.pairs, panel.front
    places = [(style.drawable(x), style.drawable(y)) for x, y in pairs]
    best, competing = set(along), set(panel.competing)
    curve_lines = []
    for curve in panel.curves:
        steps = marking.staircase([(style.drawable(f), style.drawable(b)) for b, f in reversed(curve.breakpoints)])
        axes.plot(*zip(*steps, strict=True), **marking.line_of(curve), zorder=2)
        curve_lines.append(steps[:: max(1, len(steps) // 100)])
    lines_of_sweeps = [line for line in sweeps(spots) if not best.issuperset(line)]  # the front joins those already
    for members in lines_of_sweeps:
        axes.plot(
            *zip(*(places[i] for i in members), strict=True),
            color=markers[spots[members[0]].series][1], linewidth=0.9, alpha=0.4, zorder=2,
        )  # fmt: skip
    stairs = marking.staircase([places[i] for i in along]) if along else []
    if len({pairs[i] for i in along}) > 1:
        axes.plot(*zip(*stairs, strict=True), color=style.INK, linewidth=1.3, zorder=3, solid_joinstyle="miter")
    for i, spot in enumerate(spots):
        marker, colour = markers[spot.series]
        on_front, hollow = i in best, i not in competing
        axes.plot(
            *places[i],
            marker=marker,
            linestyle="",
            markerfacecolor=style.PAPER if hollow else colour if on_front else style.DOMINATED,
            markersize=marking.size_of(marker, FRONT_SIZE if on_front else DOMINATED_SIZE),
            markeredgecolor=colour if hollow else style.PAPER,
            markeredgewidth=1.2 if hollow else 0.8 if on_front else 0.5,
            zorder=5 if on_front else 4,
            clip_on=False,
            gid=f"{panel.unit}-{'front' if on_front else 'copies' if hollow else 'dominated'}-{i}",
        )
    marks = marking.inches(figure, axes, places)
    taken: list[tuple[float, float, float, float]] = []
    if panel.told is not None:
        axes.plot(
            *places[panel.told], marker="o", markersize=RING_SIZE, markerfacecolor="none", markeredgecolor=style.INK,
            markeredgewidth=1.1, zorder=4.5, clip_on=False, gid="told",
        )  # fmt: skip
        (x, y), half = marks[panel.told], RING_SIZE / 144 + 0.03
        taken.append((x - half, y - half, x + half, y + half))
    lines = [stairs] * bool(stairs) + [[places[i] for i in members] for members in lines_of_sweeps] + curve_lines
    pieces = [s for line in lines for s in pairwise(marking.inches(figure, axes, line))]
    segments = [(*a, *b) for a, b in pieces]
    if budget is not None:
        taken += _budget(figure, axes, budget, resident, marks, segments)
        level = style.drawable(max(budget - resident, axes.get_ylim()[0]))
        (left, y), (right, _) = marking.inches(figure, axes, [(x, level) for x in axes.get_xlim()])
        segments.append((left, y, right, y))
    marking.write_names(figure, axes, spots, marks, _chosen(panel, marks), best, markers, segments, taken)


def _chosen(panel: _Panel, marks: Sequence[tuple[float, float]]) -> list[int]:
    """The points to name, the most important first: the one told of, the front or some of it, the best of other series.

    Of points that a planner placed on the front, its ends and its knee are named: the curve is theirs.
    """
    series, along, competing = [s.series for s in panel.spots], panel.front, panel.competing
    among = landmarks([panel.pairs[i] for i in competing], [series[i] for i in competing], count=MOST_LABELS)
    ranked = [competing[k] for k in among]
    told = [panel.told] if panel.told is not None else []
    if len(along) > MOST_LABELS:
        return list(dict.fromkeys([*told, *_spread(ranked, along, marks)]))
    ends = [i for i in along if panel.spots[i].is_planned]
    spared = set(ends) - {*ranked[:3], *ends[:1], *ends[-1:]} if panel.curves or panel.unit == "s" else set()
    first = [i for i in dict.fromkeys([*told, *ranked, *along]) if i not in spared or i in told]
    rest = [i for i in representatives(panel.pairs, series, count=len(series)) if i not in first and i not in spared]
    others = sorted(rest, key=lambda i: i in competing)  # those out of competition first: they stand out
    return first + others[: max(LABELS_WITH_DOMINATED - len(first), 0)]


def _spread(ranked: Sequence[int], along: Sequence[int], marks: Sequence[tuple[float, float]]) -> list[int]:
    """Landmarks of a long front, and more of its points, each as far as can be from those already there."""
    chosen = list(ranked[:LABELS_OF_LONG_FRONT])
    where = np.asarray(marks)
    while len(chosen) < LABELS_OF_LONG_FRONT:
        distance = np.linalg.norm(where[list(along)][:, None] - where[chosen][None], axis=2).min(axis=1)
        if distance.max() == 0:
            break
        chosen.append(along[int(np.argmax(distance))])
    return chosen


def _budget(
    figure: Figure,
    axes: Axes,
    budget: int,
    resident: int,
    marks: Sequence[tuple[float, float]],
    segments: Sequence[tuple[float, float, float, float]],
) -> list[tuple[float, float, float, float]]:
    """Draw the budget and say what it means where least is covered; the box of the words, in inches."""
    style.budget_line(axes, budget - resident, does_not_fit=True)
    low, high = axes.get_ylim()
    at = min(max(style.drawable(budget - resident), low), high)
    name = style.budget_text(budget)
    words = f"{name}: nothing fits" if at <= low else f"{name}: all fit" if at >= high else f"does not fit the {name}"
    text = figure.text(
        0, 0, words, transform=figure.dpi_scale_trans, va="bottom", fontsize=LABEL_SIZE, fontstyle="italic", zorder=6
    )
    extent = text.get_window_extent(style.renderer(figure))
    width, height = float(extent.width) / figure.dpi, float(extent.height) / figure.dpi
    left, right = axes.get_xlim()
    (start, level), (end, _) = marking.inches(figure, axes, [(left, at), (right, at)])
    bottom = level + 0.03 if at < high else level - height - 0.03
    room = end - start - width - 0.12
    boxes = [(x, bottom, x + width, bottom + height) for x in (start + 0.06 + room * (1 - k / 8) for k in range(9))]
    box = boxes[labels.clearest(boxes, points=marks, segments=segments)]
    text.set_position(box[:2])
    return [box]
