"""Fixed schedules over the exact front: what each of them pays more than the least for its memory."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sim.base.pareto import Number
from sim.plots.drawing import marking, style
from sim.plots.drawing.spots import Curve, Memory, Spot, hidden_resident, read_curve, read_spot
from sim.report.finding import factor, points_finding
from sim.report.finding import share as share_text

MOST_LABELS = 16
GAP = "#DCE9F2"
HEIGHT = 6.9


@dataclass(frozen=True)
class Least:
    """The least flops for every memory that a curve tells: breakpoints with memory rising, flops falling."""

    memory: tuple[Number, ...]
    flops: tuple[Number, ...]

    @classmethod
    def of(cls, curves: Sequence[Curve]) -> Least:
        """The best of several curves at each memory."""
        pairs = sorted(pair for curve in curves for pair in curve.breakpoints)
        return cls(tuple(m for m, _ in pairs), tuple(accumulate((f for _, f in pairs), min)))

    def at(self, memory: Number) -> Number | None:
        """The least flops within a memory; `None` where the curve says nothing of so little."""
        k = bisect_right(self.memory, memory)
        return self.flops[k - 1] if k else None


def draw(results: Mapping[str, Any], stem: Path, *, memory: Memory = "auto") -> tuple[Path, ...]:
    """`<stem>.png` and `<stem>.svg` from the parsed results.json; nothing without schedules or a front of two points.

    Peak bytes over flops of the reverse-mode schedules that copy nothing, and under them the exact front
    and its lower bound: no schedule of its class lies left of it, and what lies between the two is shaded. A
    line from each schedule leads to the front at the same memory, and the share of work that it pays
    beyond stands with its name. `curves` is as `pareto.draw` has it; the axes show where the schedules
    are, so that a front may go on beyond them.
    """
    points = [p for p in results["points"] if str(p["strategy"]).startswith("reverse_")]
    if not results.get("curves") or not points:
        return ()
    hidden = hidden_resident(points, memory)
    spots = [s for s in (read_spot(p, working=hidden is not None) for p in points) if not s.copies]
    curves = [read_curve(c, resident=hidden or 0) for c in results["curves"]]
    exact = [c for c in curves if not c.is_bound and c.breakpoints]
    bounds = [c for c in curves if c.is_bound and c.breakpoints]
    front = Least.of(exact or bounds)
    if not spots or len(set(zip(front.memory, front.flops, strict=True))) < 2:
        return ()
    markers = marking.markers_of(spots)
    with style.canvas(10.0, HEIGHT) as figure:
        drawn = [*bounds, *exact][-1].label
        title = style.named(results, _finding(spots, front, drawn))
        top = style.heading(figure, results, title=title, what=_summary(spots, front, drawn)) + 0.4
        bottom = _legend(figure, markers, exact, bounds)
        axes = figure.add_axes((0.095, bottom / HEIGHT, 0.865, 1 - (top + bottom) / HEIGHT))
        told = points_finding(results)
        base = results["points"][told.base or 0]["flops"]["total"]
        _scales(axes, spots, front, base)
        axes.set_xlabel(f"work, × that of {told.base_name}" if base else "work")
        axes.set_ylabel(
            "peak memory" if hidden is None else f"peak working memory, beside {style.short_bytes(hidden)} resident"
        )
        if exact and bounds:
            _gap(axes, front, Least.of(bounds))
        for curve in [*bounds, *exact]:
            axes.plot(*np.array(_stairs(curve, axes)).T, **_look(curve), gid=f"curve-{curve.label}")
        _spots(figure, axes, spots, front, markers)
        return style.save(figure, stem)


def beyond(spot: Spot, front: Least) -> float | None:
    """The share of work beyond the least for the same memory: 0.12 for 12 %; `None` where that is not known."""
    least = front.at(spot.memory)
    return spot.flops / least - 1 if least else None


def percent(share: float) -> str:
    """`+12 %`, `+0.4 %`, `×3.1` from twice the work on; `on the front` where there is nothing beyond."""
    if abs(share) < 5e-5:
        return "on the front"
    if share >= 1:
        return f"×{share + 1:.3g}" if share < 999 else f"×{share + 1:.1e}"
    digits = 0 if abs(share) >= 0.095 else 1 if abs(share) >= 0.0095 else 2
    return f"{'+' if share > 0 else '−'}{100 * abs(share):.{digits}f} %"


def _summary(spots: Sequence[Spot], front: Least, curve: str) -> str:
    count = f"{len(spots)} schedule{'s' if len(spots) != 1 else ''}"
    distances = [share for share in (beyond(s, front) for s in spots) if share is not None]
    touching = sum(abs(share) < 5e-5 for share in distances)
    return f"{count} over the {curve}, {touching or 'none'} of them on it"


def _finding(spots: Sequence[Spot], front: Least, curve: str) -> str:
    """What schedules that nobody planned pay more than the least for their memory."""
    fixed = [s for s in spots if not s.is_planned]
    paid = sorted(share for s in fixed if (share := beyond(s, front)) is not None and share >= 5e-5)
    if not paid:
        return f"{'no schedule pays' if fixed else 'no plan pays'} more work than the {curve} for its memory"
    least, most = paid[0], paid[-1]
    who, whose = (
        ("fixed schedules take", "their") if len(paid) > 1 else (f"{_of_share(fixed, front, least)} takes", "its")
    )
    if most < 1:
        range_ = share_text(least) if least == most else f"{share_text(least)} to {share_text(most)}"
        return f"{who} {range_} more work than the {curve} for {whose} memory"
    begins = factor(1 + least) if least >= 1 else f"{share_text(least)} more"
    range_ = f"{factor(1 + most)} times" if least == most else f"{begins} to {factor(1 + most)} times"
    return f"{who} {range_} the work of the {curve} for {whose} memory"


def _of_share(spots: Sequence[Spot], front: Least, share: float) -> str:
    return next(s.label for s in spots if beyond(s, front) == share)


def _look(curve: Curve) -> dict[str, Any]:
    if curve.is_bound:
        return {"color": style.BLUE, "linewidth": 1.1, "linestyle": (0, (4, 2.5)), "zorder": 2}
    return {"color": style.BLUE, "linewidth": 1.8, "linestyle": "-", "zorder": 2.2, "solid_joinstyle": "miter"}


def _scales(axes: Axes, spots: Sequence[Spot], front: Least, base: int) -> None:
    """Set up axes that show every schedule, the front at its memory, and the least memory of the front by then."""
    most = max(s.flops for s in spots)
    within = [(m, f) for m, f in zip(front.memory, front.flops, strict=True) if f <= most]
    flops = [s.flops for s in spots] + [f for _, f in within] + [f for s in spots if (f := front.at(s.memory))]
    memory = [s.memory for s in spots] + [m for m, _ in within if m <= max(s.memory for s in spots)]
    across = style.scale_of([style.drawable(f) for f in flops], "FLOP")
    style.both_scales(axes, across, style.drawable(base), "FLOP", most_ticks=7)
    style.scale_of([style.drawable(m) for m in memory], "B", zero=True).apply(axes.yaxis)


def _stairs(curve: Curve, axes: Axes) -> list[tuple[float, float]]:
    """The edge of what is reachable, from the upper end of the axes to the right one where the curve goes so far."""
    pairs = [(style.drawable(f), style.drawable(m)) for m, f in reversed(curve.breakpoints)]
    steps = marking.staircase(pairs)
    (left, right), (_, high) = axes.get_xlim(), axes.get_ylim()
    top = [(steps[0][0], max(high, steps[0][1]))] if left <= steps[0][0] else []
    last = steps[-1]
    return [*top, *steps, *([(right, last[1])] if last[0] < right else [])]


def _gap(axes: Axes, front: Least, bound: Least) -> None:
    """Shade what lies between the lower bound and the exact front at the same memory."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    levels = sorted({low, high, *(style.drawable(m) for m in (*front.memory, *bound.memory))})
    levels = [m for m in levels if low <= m <= high]
    edges: list[tuple[float, float]] = []
    for level in levels:
        best, least = front.at(level), bound.at(level)
        end = right if best is None else style.drawable(best)
        start = end if least is None else style.drawable(least)
        edges.append((min(max(start, left), right), min(end, right)))
    starts, ends = np.array(edges).T
    axes.fill_betweenx(levels, starts, ends, step="post", color=GAP, linewidth=0, zorder=1, gid="gap")


def _spots(
    figure: Figure, axes: Axes, spots: Sequence[Spot], front: Least, markers: Mapping[str, tuple[str, str]]
) -> None:
    """Draw the schedules, their distances to the front, and their names with what they pay."""
    places = [(style.drawable(s.flops), style.drawable(s.memory)) for s in spots]
    shares = [beyond(s, front) for s in spots]
    lines = []
    for spot, (x, y), share in zip(spots, places, shares, strict=True):
        marker, colour = markers[spot.series]
        least = front.at(spot.memory)
        if least is not None and share is not None and abs(share) >= 5e-5:
            lines.append([(style.drawable(least), y), (x, y)])
            axes.plot(*np.array(lines[-1]).T, color=colour, linewidth=1.0, alpha=0.7, zorder=3, gid="distance")
        axes.plot(
            x, y, marker=marker, linestyle="", color=colour, markersize=marking.size_of(marker, marking.FRONT_SIZE),
            markeredgecolor=style.PAPER, markeredgewidth=0.8, zorder=5, clip_on=False, gid=f"spot-{spot.label}",
        )  # fmt: skip
    corners = [(style.drawable(f), style.drawable(m)) for m, f in zip(front.memory, front.flops, strict=True)]
    stairs = marking.staircase(corners[::-1])
    upwards = [stairs[0], (stairs[0][0], max(axes.get_ylim()[1], stairs[0][1]))]
    edges = [*lines, upwards, stairs[:: max(1, len(stairs) // 200)]]
    segments = [(*a, *b) for line in edges for a, b in pairwise(marking.inches(figure, axes, line))]
    names = [
        s if share is None else replace(s, label=f"{s.label}  {percent(share)}")
        for s, share in zip(spots, shares, strict=True)
    ]
    chosen = _chosen(spots, shares)
    marks = marking.inches(figure, axes, places)
    marking.write_names(figure, axes, names, marks, chosen, set(chosen), markers, segments, (), towards=(1.0, 1.0))


def _chosen(spots: Sequence[Spot], shares: Sequence[float | None]) -> list[int]:
    """The schedules to name: fixed ones; those planned to lie on the front only if there is room."""
    order = sorted(range(len(spots)), key=lambda i: (spots[i].is_planned, -(shares[i] or math.inf)))
    fixed = [i for i in order if not spots[i].is_planned]
    return (fixed or order)[:MOST_LABELS]


def _legend(
    figure: Figure, markers: Mapping[str, tuple[str, str]], exact: Sequence[Curve], bounds: Sequence[Curve]
) -> float:
    """Draw the legend along the lower edge; the inches above that edge at which the axes may begin."""
    handles: list[Line2D | Patch] = [
        Line2D(
            [], [], color=colour, marker=marker, linestyle="", label=name,
            markersize=marking.size_of(marker, marking.FRONT_SIZE),
        )
        for name, (marker, colour) in markers.items()
    ]  # fmt: skip
    handles += [Line2D([], [], **_look(c), label=c.label) for c in [*exact, *bounds]]
    if exact and bounds:
        within = f", {bounds[0].holds_for}" if bounds[0].holds_for else ""
        handles.append(Patch(facecolor=GAP, label=f"what could still be gained at most{within}"))
    handles.append(Line2D([], [], color=style.MUTED, linewidth=1.0, label="work beyond the least for this memory"))
    return marking.legend(figure, handles) + 0.64
