"""Memory over time: a panel for each of a few schedules, stacked by kind; lines where peaks are far apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, StepPatch
from matplotlib.transforms import blended_transform_factory
from numpy.typing import NDArray

from sim.base import pareto
from sim.base.units import format_bytes, format_flops
from sim.plots.drawing import labels, marking, style
from sim.plots.drawing.spots import short_label
from sim.report.finding import points_finding, time

Floats = NDArray[np.float64]
XUnit = Literal["seconds", "flops", "percent"]
TITLES: Mapping[XUnit, str] = {"seconds": "simulated time", "flops": "work done", "percent": "share of the schedule"}
UNITS: Mapping[XUnit, str] = {"seconds": "s", "flops": "FLOP", "percent": "%"}
PANELS, LINES = 4, 6
FAR_APART = 12.0
"""Peaks that differ by more than this do not show on one linear axis."""
SHARED_SCALE = 4.0
MOST_STEPS = 240
LONGEST_NAME = 30
NEARLY_THE_SAME = 0.01
SMALLEST_TITLE = 0.7
"""The share of its size to which the name of a panel may shrink."""
SHORTEST_LOOP = 0.03
"""The share of a time axis below which a loop is not worth a mark."""
SLACK_INCHES = 0.3
"""How much a line may sink along a name that stands below it."""
PLACES = 40
"""Places along a line that are tried for its name."""
LINE_COLOURS = (style.BLUE, style.VERMILLION, style.GREEN, style.PURPLE, style.ORANGE, style.BLACK)


@dataclass(frozen=True)
class Loop:
    """A part of the time axis that stands for several equal turns: drawn once, from `start` to `end`."""

    start: float
    end: float
    times: int


@dataclass(frozen=True)
class Profile:
    """Device memory of one schedule over time: a point of the results with its entry in `plans`.

    Sample k holds from `x[k]` to `x[k + 1]`, so `x` has one entry more than there are samples; each is the
    fullest of the actions that it stands for, so that the peak is among them. Turns of a loop that are not
    laid out are not on the axis: `loops` says which part stands for how many. `name` is the label without a
    budget, which is a number near the peak.
    """

    label: str
    name: str
    x_unit: XUnit
    x: tuple[float, ...]
    bytes: Mapping[str, tuple[int, ...]]
    peak_name: str
    loops: tuple[Loop, ...] = ()

    def __post_init__(self) -> None:
        samples = len(self.x) - 1
        assert samples >= 1, "a profile needs at least one sample"
        assert all(len(b) == samples for b in self.bytes.values()), "x has one entry more than there are samples"

    @property
    def totals(self) -> tuple[int, ...]:
        return tuple(map(sum, zip(*self.bytes.values(), strict=True))) or (0,) * (len(self.x) - 1)

    @property
    def peak_index(self) -> int:
        return self.totals.index(max(self.totals))

    @property
    def peak_bytes(self) -> int:
        return max(self.totals)

    @property
    def whole(self) -> float:
        """The end of the time axis with every turn of its loops on it."""
        return self.x[-1] + sum((loop.times - 1) * (loop.end - loop.start) for loop in self.loops)

    def unrolled(self, x: float) -> float:
        """Where a place of the axis would be with every turn on it."""
        return x + sum((p.times - 1) * (min(max(x, p.start), p.end) - p.start) for p in self.loops)

    def without_resident(self) -> Profile:
        """The profile of what a strategy can change; the constant resident bytes left out."""
        return replace(self, bytes={kind: values for kind, values in self.bytes.items() if kind != "resident"})


def read_profile(plan: Mapping[str, Any], point: Mapping[str, Any], unit: XUnit) -> Profile:
    """The memory of a point of the parsed results.json, by its entry in `plans`."""
    samples = len(plan["at_node"])
    x = [100 * k / samples for k in range(samples + 1)] if unit == "percent" else plan[_CLOCKS[unit]]
    turns = () if unit == "percent" else [(*loop[_CLOCKS[unit]], loop["times"]) for loop in plan["loops"]]
    resident = {"resident": (point["resident_bytes"],) * samples} if point["resident_bytes"] else {}
    parameters = dict(point.get("parameters") or {})
    return Profile(
        label=short_label(point["strategy"], parameters),
        name=short_label(point["strategy"], {k: v for k, v in parameters.items() if k != "budget"}),
        x_unit=unit,
        x=tuple(map(style.drawable, x)),
        bytes={kind: tuple(values) for kind, values in plan["bytes"].items()} | resident,
        peak_name=_peak_name(point),
        loops=tuple(Loop(*turn) for turn in turns),
    )


_CLOCKS: Mapping[XUnit, str] = {"seconds": "seconds", "flops": "work"}


def _peak_name(point: Mapping[str, Any]) -> str:
    """`vjp(layer3), action 1,437`, or nothing where it is not known."""
    at = point.get("peak_at")
    if not at or not at["node"]:
        return ""
    node = at["node"] if len(at["node"]) <= LONGEST_NAME else f"{at['node'][:14]}…{at['node'][-LONGEST_NAME + 15 :]}"
    return f"{at['kind']}({node}), action {at['action']:,}"


def draw(results: Mapping[str, Any], stem: Path, *, panels: int = PANELS) -> tuple[Path, ...]:
    """`<stem>.png` and `<stem>.svg` of a few of the `plans` in the parsed results.json; nothing without any.

    Where peaks are alike all panels have one memory axis, so that heights compare; resident bytes that would
    take most of it are left out and named instead. They share the time axis too if none of them is more than
    four times as long as another and none shows a loop, and the heading says if they do not. A loop is drawn
    once, with the number of its turns. Peaks that are far apart are lines over one logarithmic axis. No two
    profiles are the same.
    """
    profiles = _worth_a_look(results)[:LINES]
    if not profiles:
        return ()
    resident = {b for p in profiles for b in p.bytes.get("resident", ())}
    highest = max(p.peak_bytes for p in profiles)
    hidden = resident.pop() if len(resident) == 1 and 2 * min(resident) > highest else 0
    if hidden:
        profiles = [p.without_resident() for p in profiles]
    peaks = [p.peak_bytes for p in profiles[:panels]]
    title = style.named(results, _finding(profiles if _far_apart(peaks) else profiles[:panels]))
    if _far_apart(peaks):
        return _lines(results, profiles, stem, title, hidden)
    profiles, highest = profiles[:panels], max(peaks)
    columns = 1 if len(profiles) == 1 else 2
    rows = math.ceil(len(profiles) / columns)
    budget = style.budget_of(results)
    budget = None if budget is None else budget - hidden
    kinds = _kinds(profiles)
    top_value = style.drawable(highest) * 1.3 or 1.0
    if budget is not None and highest < budget <= 2 * highest:
        top_value = max(top_value, style.drawable(budget) * 1.08)
    shared = _shared_end(profiles)
    with style.canvas(10.4, 1.95 + 2.75 * rows + (0.9 if rows == 1 else 0)) as figure:
        apart = "" if shared or len(profiles) == 1 else "; each panel has its own time axis"
        top = style.heading(
            figure, results, title=title, what=f"device memory over time{_beside(hidden)}{apart}"
        )  # fmt: skip
        within = budget is not None and style.drawable(budget) < top_value
        legend_bottom = _legend(figure, kinds, top, budget + hidden if budget is not None and within else None)
        vertical = style.linear_scale(0.0, top_value, "B", most_ticks=6)
        for i, (profile, box) in enumerate(zip(profiles, _boxes(figure, rows, columns, legend_bottom), strict=False)):
            axes = figure.add_axes(box)
            vertical.apply(axes.yaxis)
            if i % columns:
                axes.tick_params(axis="y", labelleft=False)
            else:
                axes.set_ylabel("memory")
            _fill(figure, axes, profile, kinds, end=shared or profile.x[-1])
            if budget is not None:
                style.budget_line(axes, budget, does_not_fit=False)
        return style.save(figure, stem)


def _far_apart(peaks: Sequence[int]) -> bool:
    return len(peaks) > 1 and max(peaks) > FAR_APART * max(min(peaks), 1)


def _beside(hidden: int) -> str:
    return f" beside {style.short_bytes(hidden)} resident" if hidden else ""


def _worth_a_look(results: Mapping[str, Any]) -> list[Profile]:
    """The profiles to draw: what the finding compares, the smallest peak of each strategy, then along the front."""
    points = results["points"]
    plans = {plan["point"]: plan for plan in results.get("plans") or () if plan["point"] < len(points)}
    if not plans:
        return []
    told = points_finding(results)
    smallest: dict[str, int] = {}
    for i in sorted(plans, key=lambda i: points[i]["peak_bytes"]):
        smallest.setdefault(points[i]["strategy"], i)
    known = list(plans)
    pairs = [(points[i]["peak_bytes"], points[i]["flops"]["total"]) for i in known]
    along = pareto.landmarks(pairs, [points[i]["strategy"] for i in known], count=LINES)
    order = [told.base, told.a, *smallest.values(), *(known[k] for k in along), *known]
    chosen: list[int] = []
    for i in dict.fromkeys(order):
        if i in plans and not any(_alike(points[i], points[k]) for k in chosen):
            chosen.append(i)
    timed = all("seconds" in plans[i] for i in chosen[:LINES])
    unit: XUnit = "seconds" if timed else "flops"
    if timed:  # those that have no clock are left out
        chosen = [i for i in chosen if "seconds" in plans[i]]
    if any(not plans[i][_CLOCKS[unit]][-1] for i in chosen):
        unit = "percent"
    profiles = [read_profile(plans[i], points[i], unit) for i in chosen]
    same: dict[tuple[tuple[int, ...], float], list[Profile]] = {}
    for profile in profiles:
        same.setdefault((profile.totals, profile.whole), []).append(profile)
    return [_together(members) for members in same.values()]


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two points are of one strategy and nearly the same in memory and work, but not quite."""
    same = one["strategy"] == other["strategy"]
    pairs = [(p["peak_bytes"], p["flops"]["total"]) for p in (one, other)]
    near = all(math.isclose(a, b, rel_tol=NEARLY_THE_SAME) for a, b in zip(*pairs, strict=True))
    return same and near and pairs[0] != pairs[1]


def _together(members: Sequence[Profile]) -> Profile:
    """One profile for several that are the same, with the names of two of them."""
    first, *others = members
    if not others:
        return first
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return replace(first, label=f"{first.label} = {others[0].label}{more}")


def _finding(profiles: Sequence[Profile]) -> str:
    """The smallest peak and the largest."""
    most, least = (one(profiles, key=lambda p: p.peak_bytes) for one in (max, min))
    if least.peak_bytes == most.peak_bytes:
        return f"{format_bytes(most.peak_bytes)} in memory at the peak"
    return (
        f"peaks from {format_bytes(least.peak_bytes)} ({least.name}) to {format_bytes(most.peak_bytes)} ({most.name})"
    )


def _kinds(profiles: Sequence[Profile]) -> dict[str, str]:
    """The kinds of value that occur, from the lowest layer to the highest, with their colours."""
    kinds = {kind for p in profiles for kind, values in p.bytes.items() if any(values)}
    colours = {kind: colour for kind, colour in style.KIND_COLOURS.items() if kind in kinds}
    return colours | dict.fromkeys(sorted(kinds - colours.keys()), style.MUTED)


def _shared_end(profiles: Sequence[Profile]) -> float | None:
    """The end of the common time axis, or `None` where each panel is better off with its own."""
    ends = [p.x[-1] for p in profiles]
    return max(ends) if not any(p.loops for p in profiles) and max(ends) <= SHARED_SCALE * min(ends) else None


def _boxes(figure: Figure, rows: int, columns: int, top: float) -> list[tuple[float, float, float, float]]:
    """The boxes of the panels, row by row, in fractions of the figure: left, bottom, width, height."""
    width, height = (float(v) for v in figure.get_size_inches())
    left, right, across, bottom, title, below = 0.95, 0.5, 0.85, 0.55, 0.42, 0.55
    wide = (width - left - right - across * (columns - 1)) / columns
    tall = (height - top - bottom + below) / rows - title - below
    return [
        (
            (left + c * (wide + across)) / width,
            1 - (top + title + tall + r * (title + tall + below)) / height,
            wide / width,
            tall / height,
        )
        for r in range(rows)
        for c in range(columns)
    ]


def _legend(figure: Figure, kinds: Mapping[str, str], top: float, budget: int | None) -> float:
    """Draw the kinds of value under the heading; the inches from the upper edge at which panels may begin."""
    handles: list[Patch | Line2D] = [Patch(facecolor=colour, linewidth=0, label=kind) for kind, colour in kinds.items()]
    if budget is not None:
        handles.append(Line2D([], [], **style.BUDGET, label=style.budget_text(budget)))
    style.key(figure, handles, top)
    return top + 0.14


def _fill(figure: Figure, axes: Axes, profile: Profile, kinds: Mapping[str, str], *, end: float) -> None:
    """Draw one profile: the layers, the loops, the peak and the name."""
    x, layers = _thinned(profile, kinds)
    scale = style.linear_scale(0.0, end or 1.0, UNITS[profile.x_unit], most_ticks=6)
    scale.apply(axes.xaxis)
    axes.set_xlabel(TITLES[profile.x_unit] + _in_all(profile), fontsize=9)
    axes.grid(visible=False, axis="x")
    base = np.zeros(len(x) - 1)
    # Not axes.stairs, which walks along every step to find limits that are known here.
    for layer, colour in zip(layers, kinds.values(), strict=True):
        if layer.any():
            look: dict[str, Any] = {"baseline": base, "facecolor": colour, "edgecolor": style.PAPER, "linewidth": 0.25}
            axes.add_artist(StepPatch(base + layer, x, fill=True, zorder=2, **look))
            base = base + layer
    outline: dict[str, Any] = {"baseline": None, "edgecolor": style.INK, "linewidth": 0.7}
    axes.add_artist(StepPatch(base, x, fill=False, zorder=2.5, **outline))
    for loop in profile.loops:
        if loop.end - loop.start > SHORTEST_LOOP * profile.x[-1]:
            _loop(axes, loop)
    _peak(figure, axes, profile)
    title = axes.set_title(profile.label, loc="left", fontsize=10.5, fontweight="bold", pad=8)
    renderer = style.renderer(figure)
    room = axes.get_window_extent(renderer).width / title.get_window_extent(renderer).width
    if room < 1:
        title.set_fontsize(10.5 * max(room, SMALLEST_TITLE))


def _in_all(profile: Profile) -> str:
    """The length of all turns of the loops together, where the axis shows one turn for many."""
    if not profile.loops:
        return ""
    if profile.x_unit == "seconds":
        return f", {time(profile.whole)} in all"
    return f", {format_flops(round(profile.whole))} in all" if profile.x_unit == "flops" else ""


def _thinned(profile: Profile, kinds: Mapping[str, str]) -> tuple[Floats, Floats]:
    """Edges and layers with no more steps than can be seen, shapes (n + 1,) and (kinds, n); the highest are kept."""
    x = np.array([style.drawable(v) for v in profile.x])
    none = (0,) * (len(x) - 1)
    layers = np.array([[style.drawable(v) for v in profile.bytes.get(kind, none)] for kind in kinds])
    changes = np.flatnonzero(np.r_[True, (layers[:, 1:] != layers[:, :-1]).any(axis=0)])
    x, layers = x[np.r_[changes, -1]], layers[:, changes]
    count = layers.shape[1]
    bounds = np.linspace(0, count, min(count, MOST_STEPS) + 1).astype(np.int64)
    total = layers.sum(axis=0)
    highest = [start + int(np.argmax(total[start:end])) for start, end in pairwise(bounds.tolist())]
    return x[bounds], layers[:, highest]


def _loop(axes: Axes, loop: Loop) -> None:
    """Mark a part that is run many times by a band behind it and the number of turns above it."""
    across = blended_transform_factory(axes.transData, axes.transAxes)
    axes.axvspan(loop.start, loop.end, color=style.FAINT, linewidth=0, zorder=0.4)
    axes.annotate(
        "", (loop.start, 0.955), (loop.end, 0.955), xycoords=across, textcoords=across, zorder=4,
        arrowprops={"arrowstyle": "<->", "color": style.INK, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip
    axes.text(
        (loop.start + loop.end) / 2, 0.955, f"× {loop.times:,}", transform=across, ha="center", va="center", fontsize=9,
        fontweight="bold", zorder=5, bbox={"facecolor": style.FAINT, "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip


def _peak(figure: Figure, axes: Axes, profile: Profile) -> None:
    """Mark the peak, and name what was running above it: bytes, action and node."""
    k = profile.peak_index
    x = (style.drawable(profile.x[k]) + style.drawable(profile.x[k + 1])) / 2
    y = style.drawable(profile.peak_bytes)
    axes.plot(x, y, marker="o", markersize=5, color=style.INK, markeredgecolor=style.PAPER, zorder=6, clip_on=False)
    text = axes.annotate(
        f"peak {format_bytes(profile.peak_bytes)}\n{profile.peak_name}".rstrip(), (x, y), xytext=(0, 6),
        textcoords="offset points", ha="center", va="bottom", fontsize=8.5, linespacing=1.15, zorder=6,
        bbox=dict(style.VEIL),
    )  # fmt: skip
    renderer = style.renderer(figure)
    extent, frame = text.get_window_extent(renderer), axes.get_window_extent(renderer)
    shift = max(frame.x0 + 6 - extent.x0, 0) + min(frame.x1 - 2 - extent.x1, 0)
    text.set_position((shift * 72 / figure.dpi, 6))


def _lines(
    results: Mapping[str, Any], profiles: Sequence[Profile], stem: Path, title: str, hidden: int
) -> tuple[Path, ...]:
    """Draw profiles whose peaks are far apart: the total of each as a line, over one logarithmic axis of memory."""
    budget = style.budget_of(results)
    budget = None if budget is None else budget - hidden
    levels = [style.drawable(b) for p in profiles for b in p.totals if b]
    if budget is not None and 0 < budget < 10 * max(levels):
        levels.append(style.drawable(budget))
    unit = profiles[0].x_unit
    with style.canvas(10.4, 6.4) as figure:
        loops = "; a loop by the fullest moment of its turns" if any(p.loops for p in profiles) else ""
        top = style.heading(figure, results, title=title, what=f"device memory over time{_beside(hidden)}{loops}")
        axes = figure.add_axes((0.095, 0.105, 0.87, 1 - (top + 0.12) / 6.4 - 0.105))
        style.scale_of([min(levels), 2.5 * max(levels)], "B").apply(axes.yaxis)
        style.linear_scale(0.0, max(p.whole for p in profiles) * 1.02, UNITS[unit]).apply(axes.xaxis)
        axes.set_xlabel(TITLES[unit])
        axes.set_ylabel("memory")
        runs = []
        for profile, colour in zip(profiles, LINE_COLOURS, strict=False):
            x, y = _steps(profile)
            axes.plot(x, y, color=colour, linewidth=1.3, zorder=3, gid=f"line-{profile.label}")
            k = profile.peak_index
            peak = profile.unrolled((profile.x[k] + profile.x[k + 1]) / 2), style.drawable(profile.peak_bytes)
            axes.plot(*peak, marker="o", markersize=5, color=colour, markeredgecolor=style.PAPER, zorder=5)
            runs.append(marking.inches(figure, axes, list(zip(x, y, strict=True))))
        if budget is not None and budget < axes.get_ylim()[1]:
            style.budget_line(axes, budget, does_not_fit=True)
            handle = Line2D([], [], **style.BUDGET, label=style.budget_text(budget + hidden))
            axes.legend(handles=[handle], loc="upper right", fontsize=9)
            ends = [(x, max(style.drawable(budget), axes.get_ylim()[0])) for x in axes.get_xlim()]
            runs.append(marking.inches(figure, axes, ends))
        _names(figure, axes, profiles, runs)
        return style.save(figure, stem)


def _steps(profile: Profile) -> tuple[list[float], list[float]]:
    """The total over time as a line of steps with every turn on its axis; a loop is level at its fullest moment."""
    x, y = [profile.unrolled(v) for v in profile.x], list(map(style.drawable, profile.totals))
    for loop in profile.loops:
        inside = [k for k in range(len(y)) if profile.x[k] < loop.end and profile.x[k + 1] > loop.start]
        for k in inside:
            y[k] = max(y[i] for i in inside)
    return [v for edge in pairwise(x) for v in edge], [v for level in y for v in (level, level)]


def _names(
    figure: Figure, axes: Axes, profiles: Sequence[Profile], runs: Sequence[Sequence[tuple[float, float]]]
) -> None:
    """Write the name of each line and its peak along it, where they cover nothing."""
    renderer = style.renderer(figure)
    left, _, right, upper = (float(v) / figure.dpi for v in axes.get_window_extent(renderer).extents)
    segments = [(*a, *b) for run in runs for a, b in pairwise(run)]
    taken: list[tuple[float, float, float, float]] = []
    for profile, colour, run in zip(profiles, LINE_COLOURS, runs, strict=False):
        text = figure.text(
            0, 0, f"{profile.label}: {format_bytes(profile.peak_bytes)}", transform=figure.dpi_scale_trans, fontsize=9,
            va="bottom", color=colour, fontweight="bold", zorder=7,
        )  # fmt: skip
        extent = text.get_window_extent(renderer)
        width, height = float(extent.width) / figure.dpi, float(extent.height) / figure.dpi
        boxes = []
        for x in np.linspace(run[0][0] + 0.05, run[-1][0] + 0.1, PLACES).tolist():
            ends = x > run[-1][0]
            x = min(max(x, left + 0.05), right - width - 0.05)
            under = [y for at, y in run if x - 0.05 <= at <= x + width + 0.05] or [run[-1][1]]
            level = min(run[-1][1] - height / 2 if ends else max(under) + 0.06, upper - height)
            boxes.append((x, level, x + width, level + height))
            if not ends and max(under) - min(under) < SLACK_INCHES:
                level = min(under) - 0.08 - height
                boxes.append((x, level, x + width, level + height))
        frames = [side for a, b, c, d in taken for side in ((a, b, c, d), (a, d, c, b))]
        box = boxes[labels.clearest(boxes, points=(), segments=[*segments, *frames])]
        text.set_position(box[:2])
        taken.append(box)
