"""Streams: what computation and copies do over time, one panel a plan that copies, and where they wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from sim.base.json import spelled
from sim.plots.drawing import style
from sim.report.finding import share, time

COLOURS: Mapping[str, tuple[str, str]] = {
    "forward": (style.BLUE, "evaluation"),
    "jvp": (style.SKY, "JVP"),
    "vjp": (style.GREEN, "VJP"),
    "jacobian": (style.PURPLE, "local Jacobian"),
    "multiply": (style.ORANGE, "product"),
    "copy": (style.MUTED, "copy"),
}
WAIT = style.VERMILLION
NAMES = {
    "device_to_host": "to host",
    "host_to_device": "from host",
    "host_to_disk": "to disk",
    "disk_to_host": "from disk",
}
MOST_PANELS = 6
NARROWEST_EDGED = 2.5
"""Dots of a bar from which it has an edge; a narrower one would be all edge."""
LANE = 0.28
"""Inches of a stream."""


def draw(results: Mapping[str, Any], stem: Path) -> tuple[Path, ...]:
    """`<stem>.png` and `<stem>.svg` of the first `plans` that copy in the parsed results.json; nothing without any.

    All panels have one time axis, so that plans compare; a thin bar is a wait of the action that follows it.
    """
    points = results["points"]
    plans = [plan for plan in results.get("plans") or () if plan.get("spans") and plan["point"] < len(points)]
    plans = plans[:MOST_PANELS]
    if not plans:
        return ()
    lanes = [plan["spans"]["stream"]["words"] for plan in plans]
    end = max(style.drawable(stop) for plan in plans for stop in plan["spans"]["stop"]) or 1.0
    above, between, below = 1.3, 0.42, 0.55
    tall = above + LANE * sum(map(len, lanes)) + between * len(plans) + below
    with style.canvas(12.0, tall) as figure:
        title = style.named(results, _finding([points[plan["point"]] for plan in plans]))
        top = style.heading(figure, results, title=title, what="what each stream does, and where it waits")
        _legend(figure, plans, top)
        at = above
        for plan, streams in zip(plans, lanes, strict=True):
            at += between
            height = LANE * len(streams)
            axes = figure.add_axes((0.9 / 12, 1 - (at + height) / tall, 10.75 / 12, height / tall))
            _panel(axes, plan, streams, points[plan["point"]], end)
            style.linear_scale(0.0, end, "s", most_ticks=9).apply(axes.xaxis)
            last = plan is plans[-1]
            axes.tick_params(axis="x", labelbottom=last, length=3 if last else 0)
            if last:
                axes.set_xlabel("simulated time")
            at += height
        return style.save(figure, stem)


def _finding(points: Sequence[Mapping[str, Any]]) -> str:
    """How much of its time the computation waits with the plan that waits most, and with the one that waits least."""

    def part(p: Mapping[str, Any]) -> float:
        return (p.get("stall_seconds") or 0.0) / p["seconds"] if p.get("seconds") else 0.0

    most, least = max(points, key=part), min(points, key=part)
    if part(most) < 5e-5:
        return "no computation waits for a copy"
    alike = most["strategy"] == least["strategy"]
    few, many = (p["label"].removeprefix(f"{p['strategy']} " if alike else "") for p in (least, most))
    wait = f"computation waits {share(part(most))} of the time with {many}"
    if most is least:
        return wait
    return f"{wait}, {share(part(least)) if part(least) >= 5e-5 else 'never'} with {few}"


def _legend(figure: Figure, plans: list[Mapping[str, Any]], top: float) -> None:
    used = {kind for plan in plans for kind in plan["spans"]["kind"]["words"]}
    handles = [Patch(facecolor=colour, label=text) for kind, (colour, text) in COLOURS.items() if kind in used]
    handles.append(Patch(facecolor=WAIT, label="waits for data or memory"))
    style.key(figure, handles, top)


def _panel(axes: Axes, plan: Mapping[str, Any], streams: Sequence[str], point: Mapping[str, Any], end: float) -> None:
    """Draw every span of a plan, and the wait before it, half as tall."""
    spans = plan["spans"]
    shapes, colours = [], []
    words = (spelled(spans[key]) for key in ("stream", "kind"))
    times = (spans[key] for key in ("start", "stop", "wait"))
    for stream, kind, start, stop, wait in zip(*words, *times, strict=True):
        row, begin, finish, waited = streams.index(stream), *map(style.drawable, (start, stop, wait))
        if waited:
            shapes.append(Rectangle((begin - waited, row - 0.16), waited, 0.32))
            colours.append(WAIT)
        shapes.append(Rectangle((begin, row - 0.4), finish - begin, 0.8))
        colours.append(COLOURS.get(kind, (style.INK, kind))[0])
    axes.set_xlim(0, end)
    dots = float(axes.get_window_extent().width) / end
    edges = [0.25 if shape.get_width() * dots > NARROWEST_EDGED else 0.0 for shape in shapes]
    patches = PatchCollection(shapes, linewidths=edges, zorder=2)
    patches.set_facecolor(colours)
    patches.set_edgecolor(style.PAPER)
    axes.add_collection(patches)
    axes.set_ylim(len(streams) - 0.5, -0.5)
    axes.set_yticks(range(len(streams)), [NAMES.get(stream, stream) for stream in streams])
    axes.tick_params(axis="y", labelsize=8.5, length=0)
    axes.grid(visible=False, axis="y")
    told = []
    if point.get("seconds") is not None:
        told.append(time(point["seconds"]))
    if point.get("stall_seconds") is not None:
        told.append(f"compute waits {time(point['stall_seconds'])}" if point["stall_seconds"] else "no wait")
    axes.set_title(": ".join([point["label"], ", ".join(told)]), loc="left", fontsize=10.5, fontweight="bold", pad=5)
