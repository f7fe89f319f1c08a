"""Memory over time: one panel for each of a few strategies, stacked by kind of value, the peak named."""

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
from matplotlib.patches import Patch, StepPatch
from matplotlib.transforms import blended_transform_factory
from numpy.typing import NDArray

from sim.base.units import format_bytes, format_flops, format_seconds
from sim.plots.drawing import style
from sim.plots.drawing.spots import short_label

Floats = NDArray[np.float64]
XUnit = Literal["seconds", "flops", "actions", "percent"]
TITLES: Mapping[XUnit, str] = {
    "seconds": "simulated time",
    "flops": "work done",
    "actions": "actions done",
    "percent": "share of the schedule",
}
UNITS: Mapping[XUnit, str] = {"seconds": "s", "flops": "FLOP", "actions": "", "percent": "%"}
PANELS = 4
SHARED_SCALE = 4.0
MOST_STEPS = 240
LONGEST_NAME = 30


@dataclass(frozen=True)
class Loop:
    """A part of the time axis that stands for several equal turns: drawn once, from `start` to `end`."""

    start: float
    end: float
    times: int


@dataclass(frozen=True)
class Profile:
    """Device memory of one schedule over time, an entry of the results' `profiles`.

    Sample k holds from `x[k]` to `x[k + 1]`, so `x` has one entry more than there are samples. The
    producer thins long schedules to a few hundred samples, each the fullest of the actions that it
    stands for, so that the peak is kept. The entry in JSON::

        {"label": …, "strategy": …, "parameters": {…},
         "kinds": ["activation", …, "resident"], "bytes": [[…], …],       one row a sample, one column a kind
         "x": [0, 0.1, …], "x_unit": "seconds" | "flops" | "actions",     optional
         "loops": [{"start": 0.1, "end": 0.3, "times": 784}]}             optional, in units of x

    Without `x` the samples are spread evenly. What ran at the peak is told by the point with the same label.
    """

    label: str
    x_unit: XUnit
    x: tuple[float, ...]
    bytes: Mapping[str, tuple[int, ...]]
    peak_index: int
    peak_bytes: int
    peak_name: str
    loops: tuple[Loop, ...] = ()

    def __post_init__(self) -> None:
        samples = len(self.x) - 1
        assert samples >= 1, "a profile needs at least one sample"
        assert all(len(b) == samples for b in self.bytes.values()), "x has one entry more than there are samples"
        assert 0 <= self.peak_index < samples, "the peak is one of the samples"

    def without_resident(self, resident: int) -> Profile:
        """The profile of what a strategy can change; the constant resident bytes left out."""
        others = {kind: values for kind, values in self.bytes.items() if kind != "resident"}
        return replace(self, bytes=others, peak_bytes=self.peak_bytes - resident)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> Profile:
        """The profile that an entry of `profiles` describes, its peak named by one of the `points`."""
        rows = entry["bytes"]
        totals = [sum(row) for row in rows]
        point = next((p for p in points if p["label"] == entry["label"]), None)
        return cls(
            label=short_label(entry["strategy"], entry.get("parameters") or {}),
            x_unit=entry.get("x_unit", "actions") if "x" in entry else "percent",
            x=tuple(entry["x"]) if "x" in entry else tuple(100 * k / len(rows) for k in range(len(rows) + 1)),
            bytes={kind: tuple(row[c] for row in rows) for c, kind in enumerate(entry["kinds"])},
            peak_index=totals.index(max(totals)),
            peak_bytes=max(totals),
            peak_name=_peak_name(point),
            loops=tuple(Loop(loop["start"], loop["end"], loop["times"]) for loop in entry.get("loops") or ()),
        )


def _beside(hidden: int) -> str:
    return f" beside {style.short_bytes(hidden)} resident" if hidden else ""


def _peak_name(point: Mapping[str, Any] | None) -> str:
    """`vjp(layer3), action 1,437`, or nothing where it is not known."""
    at = (point or {}).get("peak_at")
    if not at or not at["node"]:
        return ""
    node = at["node"] if len(at["node"]) <= LONGEST_NAME else f"{at['node'][:14]}…{at['node'][-LONGEST_NAME + 15 :]}"
    return f"{at['kind']}({node}), action {at['action']:,}"


def draw(results: Mapping[str, Any], stem: Path, *, panels: int = PANELS) -> tuple[Path, ...]:
    """`<stem>.png` and `<stem>.svg` of the first few `profiles` in the parsed results.json; nothing without any.

    All panels have one memory axis, so that heights compare; resident bytes that would take most of it
    are left out and named instead. They share the time axis too if none of them is more than four times
    as long as another and none shows a loop. A sweep loop is drawn once, between two breaks, with the
    number of its turns.
    """
    entries = [entry for entry in results.get("profiles") or () if entry["bytes"]][:panels]
    profiles = [Profile.from_json(entry, results["points"]) for entry in entries]
    if not profiles:
        return ()
    resident = {b for p in profiles for b in p.bytes.get("resident", ())}
    highest = max(p.peak_bytes for p in profiles)
    hidden = resident.pop() if len(resident) == 1 and 2 * min(resident) > highest else 0
    if hidden:
        profiles = [p.without_resident(hidden) for p in profiles]
        highest -= hidden
    columns = 1 if len(profiles) == 1 else 2
    rows = math.ceil(len(profiles) / columns)
    budget = style.budget_of(results)
    if budget is not None:
        budget -= hidden
    kinds = _kinds(profiles)
    top_value = style.drawable(highest) * 1.3 or 1.0
    if budget is not None and highest < budget <= 2 * highest:
        top_value = max(top_value, style.drawable(budget) * 1.08)
    with style.canvas(10.0, 1.95 + 2.75 * rows + (0.9 if rows == 1 else 0)) as figure:
        top = style.heading(figure, results, what="device memory over time" + _beside(hidden))
        legend_bottom = _legend(figure, kinds, top)
        vertical = style.linear_scale(0.0, top_value, "B", most_ticks=6)
        shared = _shared_end(profiles)
        for i, (profile, box) in enumerate(zip(profiles, _boxes(figure, rows, columns, legend_bottom), strict=False)):
            axes = figure.add_axes(box)
            vertical.apply(axes.yaxis)
            if i % columns:
                axes.tick_params(axis="y", labelleft=False)
            else:
                axes.set_ylabel("memory")
            _fill(figure, axes, profile, kinds, end=shared or style.drawable(profile.x[-1]))
            if budget is not None:
                _budget(axes, budget, profile, hidden)
        return style.save(figure, stem)


def _kinds(profiles: Sequence[Profile]) -> dict[str, str]:
    """The kinds of value that occur, from the lowest layer to the highest, with their colours."""
    kinds = {kind for p in profiles for kind, values in p.bytes.items() if any(values)}
    colours = {kind: colour for kind, colour in style.KIND_COLOURS.items() if kind in kinds}
    return colours | dict.fromkeys(sorted(kinds - colours.keys()), style.MUTED)


def _shared_end(profiles: Sequence[Profile]) -> float | None:
    """The end of the common time axis, or `None` where each panel is better off with its own."""
    ends = [style.drawable(p.x[-1]) for p in profiles]
    same = len({p.x_unit for p in profiles}) == 1 and not any(p.loops for p in profiles)
    return max(ends) if same and max(ends) <= SHARED_SCALE * min(ends) else None


def _boxes(figure: Figure, rows: int, columns: int, top: float) -> list[tuple[float, float, float, float]]:
    """The boxes of the panels, row by row, in fractions of the figure: left, bottom, width, height."""
    width, height = (float(v) for v in figure.get_size_inches())
    left, right, across, bottom, title, below = 0.95, 0.4, 0.6, 0.55, 0.42, 0.55
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


def _legend(figure: Figure, kinds: Mapping[str, str], top: float) -> float:
    """Draw the kinds of value under the heading; the inches from the upper edge at which panels may begin."""
    handles = [Patch(facecolor=colour, linewidth=0, label=kind) for kind, colour in kinds.items()]
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
        _loop(axes, loop)
    _peak(figure, axes, profile)
    axes.set_title(profile.label, loc="left", fontsize=10.5, fontweight="bold", pad=8)


def _in_all(profile: Profile) -> str:
    """The length of all turns of the loops together, where the axis shows one turn for many."""
    if not profile.loops:
        return ""
    whole = profile.x[-1] + sum((loop.times - 1) * (loop.end - loop.start) for loop in profile.loops)
    if profile.x_unit == "seconds":
        return f", {format_seconds(whole)} in all"
    return f", {format_flops(round(whole))} in all" if profile.x_unit == "flops" else ""


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
    """Mark a part that is run many times by a break at each end and the number of turns above the panel."""
    across = blended_transform_factory(axes.transData, axes.transAxes)
    start, end = style.drawable(loop.start), style.drawable(loop.end)
    for edge in (start, end):
        axes.axvline(edge, color=style.INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=3)
    axes.annotate(
        "", (start, 0.955), (end, 0.955), xycoords=across, textcoords=across, zorder=4,
        arrowprops={"arrowstyle": "<->", "color": style.INK, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip
    axes.text(
        (start + end) / 2, 0.955, f"× {loop.times:,}", transform=across, ha="center", va="center", fontsize=9,
        fontweight="bold", zorder=5, bbox={"facecolor": style.PAPER, "edgecolor": "none", "pad": 1.5},
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


def _budget(axes: Axes, budget: int, profile: Profile, hidden: int) -> None:
    """Draw the budget (less what is hidden) if it lies within the panel, and name it at the end away from the peak."""
    style.budget_line(axes, budget, does_not_fit=False)
    if style.drawable(budget) < axes.get_ylim()[1]:
        peak_is_late = profile.x[profile.peak_index] > axes.get_xlim()[1] / 2
        axes.annotate(
            style.budget_text(budget + hidden), (0 if peak_is_late else 1, style.drawable(budget)),
            xycoords=("axes fraction", "data"), xytext=(5 if peak_is_late else -3, 3), textcoords="offset points",
            ha="left" if peak_is_late else "right", va="bottom", fontsize=8.5, fontstyle="italic",
            bbox=dict(style.VEIL), zorder=5,
        )  # fmt: skip
