"""Pipelines: what each rank computes over time, one panel a schedule, and how much it holds at its peak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from sim.base.json import spelled
from sim.plots.drawing import style
from sim.report.finding import finding, time

COLOURS: Mapping[str, tuple[str, str]] = {
    "forward": (style.SKY, "forward"),
    "vjp": (style.BLUE, "VJP, both parts"),
    "input_vjp": (style.GREEN, "VJP of the input"),
    "weight_vjp": (style.ORANGE, "VJP of the weights"),
}
IDLE, SHARING = "#DDE0E3", style.MUTED
LANE, THINNEST = 0.17, 0.045
"""Inches of a lane, and of one of many."""
TALLEST = 2.2
PALEST = 0.72
"""The share of white in the colour of a rank's last stage, of more than two."""
NUMBERED_PASSES = 1_200
"""Passes of a figure up to which micro-batches are numbered."""


def draw(results: Mapping[str, Any], stem: Path) -> tuple[Path, ...]:
    """`<stem>.png` and `<stem>.svg` of the `pipelines` in the parsed results.json; nothing without any.

    All panels have one time axis, so that steps compare; grey is idle, the later of a rank's stages are
    paler, and the first micro-batch is outlined, so that its way can be followed. Beside each lane stands
    what the rank holds at its peak: bytes, or if there is no graph, of how many micro-batches the activations.
    """
    runs = results.get("pipelines") or ()
    if not runs:
        return ()
    heights = [max(min(LANE * len(run["lanes"]), TALLEST), THINNEST * len(run["lanes"])) for run in runs]
    end = max(lane["done"] for run in runs for lane in run["lanes"])
    most = max(_amount(lane) for run in runs for lane in run["lanes"])
    above, between, below = 1.3, 0.42, 0.55
    tall = above + sum(heights) + between * len(runs) + below
    numbered = sum(len(lane["stage"]) for run in runs for lane in run["lanes"]) <= NUMBERED_PASSES
    with style.canvas(12.0, tall) as figure:
        what = "what each rank computes, and what it holds"
        top = style.heading(figure, results, title=finding(results).sentence, what=what, graph=False)
        _legend(figure, runs, top)
        at = above
        for run, height in zip(runs, heights, strict=True):
            at += between
            bottom = 1 - (at + height) / tall
            lanes = figure.add_axes((0.62 / 12, bottom, 8.9 / 12, height / tall))
            held = figure.add_axes((9.85 / 12, bottom, 1.55 / 12, height / tall))
            _lanes(lanes, run, end, numbered=numbered)
            _held(held, run, most, first=run is runs[0])
            last = run is runs[-1]
            style.linear_scale(0.0, end, "s", most_ticks=9).apply(lanes.xaxis)
            lanes.tick_params(axis="x", labelbottom=last, length=3 if last else 0)
            if last:
                lanes.set_xlabel("simulated time of one step")
            at += height
        return style.save(figure, stem)


def _legend(figure: Figure, runs: Sequence[Mapping[str, Any]], top: float) -> None:
    used = {part for run in runs for lane in run["lanes"] for part in lane["part"]["words"]}
    handles = [Patch(facecolor=colour, label=text) for part, (colour, text) in COLOURS.items() if part in used]
    if any(len(set(lane["stage"])) > 1 for run in runs for lane in run["lanes"]):
        handles.append(Patch(facecolor=_paler(style.SKY, 1), label="paler: a later stage of the rank"))
    handles.append(Patch(facecolor=IDLE, label="idle"))
    if any(lane["done"] > lane["end"][-1] for run in runs for lane in run["lanes"]):
        handles.append(Patch(facecolor=SHARING, label="collectives of replicas"))
    handles.append(Patch(facecolor=style.PAPER, edgecolor=style.INK, linewidth=1.0, label="first micro-batch"))
    style.key(figure, handles, top)


def _paler(colour: str, times: int, of: int = 2) -> str:
    """The colour of a rank's stage after so many others of it, mixed with white."""
    share = 1 - min(0.45 * times, PALEST * times / max(of - 1, 1))
    red, green, blue = (1 - share * (1 - v) for v in to_rgb(colour))
    return to_hex((red, green, blue))


def _lanes(axes: Axes, run: Mapping[str, Any], end: float, *, numbered: bool) -> None:
    """Draw the passes of every rank, the first rank at the top."""
    shapes, colours, edges = [], [], []
    for rank, lane in enumerate(run["lanes"]):
        start, stop = lane["start"][0], lane["end"][-1]
        axes.add_patch(Rectangle((start, rank - 0.44), stop - start, 0.88, facecolor=IDLE, linewidth=0, zorder=1))
        if lane["done"] > stop:
            axes.add_patch(
                Rectangle((stop, rank - 0.3), lane["done"] - stop, 0.6, facecolor=SHARING, linewidth=0, zorder=2)
            )
        order = sorted(set(lane["stage"]))
        columns = (lane[key] for key in ("stage", "micro_batch", "start", "end"))
        for part, stage, micro_batch, begin, finish in zip(spelled(lane["part"]), *columns, strict=True):
            shapes.append(Rectangle((begin, rank - 0.44), finish - begin, 0.88))
            colours.append(_paler(COLOURS[part][0], order.index(stage), len(order)))
            edges.append(micro_batch == 0)
            if numbered:
                axes.text(
                    (begin + finish) / 2, rank, str(micro_batch), ha="center", va="center_baseline", fontsize=5.5,
                    clip_on=True, zorder=4,
                )  # fmt: skip
    for first, colour, width, order_ in ((False, style.PAPER, 0.3, 2.0), (True, style.INK, 0.8, 3.0)):
        own = [k for k, e in enumerate(edges) if e is first]
        patches = PatchCollection([shapes[k] for k in own], zorder=order_)
        patches.set_facecolor([colours[k] for k in own])
        patches.set_edgecolor(colour)
        patches.set_linewidth(width)
        axes.add_collection(patches)
    count = len(run["lanes"])
    axes.set_xlim(0, end)
    axes.set_ylim(count - 0.5, -0.5)
    _rank_ticks(axes, count)
    axes.set_ylabel("rank", fontsize=9)
    axes.grid(visible=False, axis="y")
    axes.set_title(
        f"{run['label']}:  {time(run['seconds'])}, bubble {100 * run['bubble']:.1f} %",
        loc="left", fontsize=10.5, fontweight="bold", pad=5,
    )  # fmt: skip


def _rank_ticks(axes: Axes, count: int) -> None:
    step = next(s for s in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, count) if count / s <= 9)
    places = sorted({*range(0, count, step), count - 1} - ({count - 1 - step // 2} if step > 2 else set()))
    axes.set_yticks(places)
    axes.tick_params(axis="y", labelsize=8, length=0)


def _amount(lane: Mapping[str, Any]) -> float:
    return float(lane.get("peak_bytes", lane["in_flight"]))


def _held(axes: Axes, run: Mapping[str, Any], most: float, *, first: bool) -> None:
    """Draw what each rank holds at its peak, as bars beside its lane: bytes where there are any."""
    values = [_amount(lane) for lane in run["lanes"]]
    in_bytes = "peak_bytes" in run["lanes"][0]
    axes.barh(range(len(values)), values, height=0.88, color=style.MUTED, zorder=2)
    for rank, value in enumerate(values):
        if len(values) <= 16:
            text = style.short_bytes(round(value)) if in_bytes else f"{value:.3g}"
            axes.text(value + 0.03 * most, rank, text, va="center_baseline", fontsize=7.5, color=style.INK)
    axes.set_xlim(0, most * (1.45 if in_bytes else 1.12))
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    if first:
        axes.set_title(
            "memory at its peak" if in_bytes else "micro-batches held", loc="left", fontsize=9, color=style.INK, pad=5
        )
