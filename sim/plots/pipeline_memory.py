"""Memory of pipelines: what each rank holds over a step and at its peak, by kind, one row a schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sim.base.units import format_bytes
from sim.plots.drawing import style

RAMP = LinearSegmentedColormap.from_list("ranks", [style.BLUE, style.GREEN, style.ORANGE, style.VERMILLION])
"""Colours from the first rank to the last."""
KINDS: Mapping[str, str] = {
    "parameters": "#C9CDD2",
    "main": "#AEB4BB",
    "optimizer": "#8A929B",
    "inputs": style.SKY,
    "gradients": style.GREEN,
    "activations": style.BLUE,
    "cotangents": style.VERMILLION,
    "communication": style.PURPLE,
    "workspace": style.YELLOW,
}
SPARE = (style.ORANGE, style.BLACK)
ROW = 1.35
"""Inches of a schedule."""
MOST_IN_LEGEND = 5


def draw(results: Mapping[str, Any], stem: Path) -> tuple[Path, ...]:
    """`<stem>.png` and `<stem>.svg` of the `pipelines` in the parsed results.json; nothing without any.

    All rows share both axes: bytes, or micro-batches where there is no graph, from 0; the budget is a line. On
    the right each rank's peak, in its kinds where there are bytes.
    """
    runs = results.get("pipelines") or ()
    if not runs:
        return ()
    points = {p["label"]: p for p in results["points"]}
    in_bytes = "peak_bytes" in runs[0]["lanes"][0]
    most = max(max(lane["held"]) for run in runs for lane in run["lanes"])
    budget = style.budget_of(results) if in_bytes else None
    top_value = 1.08 * max(most, budget if budget is not None and budget < 2 * most else 0) or 1.0
    end = max(lane["done"] for run in runs for lane in run["lanes"])
    kinds = _kinds(runs, points)
    above, between, below = 1.45, 0.42, 0.55
    tall = above + (ROW + between) * len(runs) + below
    with style.canvas(12.0, tall) as figure:
        title = style.named(results, _finding(runs, in_bytes=in_bytes))
        what = "what each rank holds over a step, and at its peak"
        top = style.heading(figure, results, title=title, what=what, graph=False)
        _legend(figure, runs, kinds, budget, top)
        at = above
        for run in runs:
            at += between
            bottom = 1 - (at + ROW) / tall
            lines = figure.add_axes((0.75 / 12, bottom, 7.6 / 12, ROW / tall))
            bars = figure.add_axes((8.75 / 12, bottom, 2.9 / 12, ROW / tall))
            _lines(lines, run, budget)
            style.linear_scale(0.0, end, "s", most_ticks=8).apply(lines.xaxis)
            for axis in (lines.yaxis, bars.xaxis):
                style.linear_scale(0.0, top_value, "B" if in_bytes else "", most_ticks=5).apply(axis)
            _bars(bars, run, points.get(run["label"]), kinds, budget)
            last = run is runs[-1]
            for axes, label in ((lines, "simulated time of one step"), (bars, "at the peak of each rank")):
                axes.tick_params(axis="x", labelbottom=last, length=3 if last else 0)
                axes.set_xlabel(label if last else "")
            lines.set_ylabel("memory" if in_bytes else "micro-batches", fontsize=9)
            at += ROW
        return style.save(figure, stem)


def _finding(runs: Sequence[Mapping[str, Any]], *, in_bytes: bool) -> str:
    """Which schedule's fullest rank holds least, and which one's most."""
    peaks = {run["label"]: max(max(lane["held"]) for lane in run["lanes"]) for run in runs}
    least, most = min(peaks, key=peaks.__getitem__), max(peaks, key=peaks.__getitem__)

    def text(label: str) -> str:
        return format_bytes(int(peaks[label])) if in_bytes else f"{peaks[label]:.3g} micro-batches"

    if peaks[least] == peaks[most]:
        return f"the fullest rank holds {text(most)}"
    return f"the fullest rank holds from {text(least)} ({least}) to {text(most)} ({most})"


def _kinds(runs: Sequence[Mapping[str, Any]], points: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The kinds of bytes that ranks hold at their peaks, from the left of a bar on, with their colours."""
    ranks = [rank for run in runs for rank in points.get(run["label"], {}).get("ranks") or ()]
    held = {kind for rank in ranks for kind, size in rank.get("breakdown", {}).items() if size}
    known = {kind: colour for kind, colour in KINDS.items() if kind in held}
    others = sorted(held - known.keys())
    return known | {kind: SPARE[k % len(SPARE)] for k, kind in enumerate(others)}


def _colour(rank: int, count: int) -> Any:
    return RAMP(rank / max(count - 1, 1))


def _legend(
    figure: Figure, runs: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], budget: int | None, top: float
) -> None:
    count = max(len(run["lanes"]) for run in runs)
    shown = sorted(
        {round(k * (count - 1) / (min(count, MOST_IN_LEGEND) - 1 or 1)) for k in range(min(count, MOST_IN_LEGEND))}
    )
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=_colour(rank, count), linewidth=1.6, label=f"rank {rank}") for rank in shown
    ]
    handles += [Patch(facecolor=colour, label=kind) for kind, colour in kinds.items()]
    if budget is not None:
        handles.append(Line2D([], [], **style.BUDGET, label=style.budget_text(budget)))
    style.key(figure, handles, top)


def _lines(axes: Axes, run: Mapping[str, Any], budget: int | None) -> None:
    """Draw what each rank holds, the last rank at the back."""
    lanes = run["lanes"]
    ends = max(lane["done"] for lane in lanes)
    edges = np.linspace(0.0, ends, len(lanes[0]["held"]) + 1)
    for rank, lane in reversed(list(enumerate(lanes))):
        held = [float(v) for v in lane["held"]]
        axes.step(
            edges, [*held, held[-1]], where="post", color=_colour(rank, len(lanes)), linewidth=1.1,
            zorder=3, gid=f"rank-{rank}",
        )  # fmt: skip
    if budget is not None:
        style.budget_line(axes, budget, does_not_fit=False)
        axes.axhline(budget, **style.BUDGET, zorder=2.5)
    axes.set_title(run["label"], loc="left", fontsize=10.5, fontweight="bold", pad=5)


def _bars(
    axes: Axes, run: Mapping[str, Any], point: Mapping[str, Any] | None, kinds: Mapping[str, str], budget: int | None
) -> None:
    """Draw the peak of each rank, the first at the top."""
    count = len(run["lanes"])
    groups = [rank for rank in (point or {}).get("ranks") or () if "breakdown" in rank]
    if groups:
        left = np.zeros(count)
        for kind, colour in kinds.items():
            sizes = np.zeros(count)
            for group in groups:
                sizes[group["ranks"]] = group["breakdown"].get(kind, 0)
            axes.barh(range(count), sizes, left=left, height=0.8, color=colour, zorder=2, gid=f"kind-{kind}")
            left += sizes
    else:
        peaks = [max(lane["held"]) for lane in run["lanes"]]
        colours = [_colour(rank, count) for rank in range(count)]
        axes.barh(range(count), peaks, height=0.8, color=colours, zorder=2, gid="peaks")
    if budget is not None:
        axes.axvline(budget, **style.BUDGET, zorder=2.6)
    axes.set_ylim(count - 0.5, -0.5)
    step = -(-count // 8)
    axes.set_yticks(range(0, count, step))
    axes.tick_params(axis="y", labelsize=7.5, length=0)
    axes.grid(visible=False, axis="y")
