"""The picture of a checkpointing schedule: time down, nodes across, and when each stored value is in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory

from sim.plots.drawing import style
from sim.plots.drawing.spots import short_label

PANELS = 4
SHARED_SCALE = 4.0
SMALLEST_MARK, LARGEST_MARK = 1.8, 7.0
SHORTEST_BAR = 3
"""Actions that a checkpoint is in memory for at the least; fewer pass a value from one to the next."""


@dataclass(frozen=True)
class Look:
    """The drawing of one kind of action: a mark for each, a line along those that follow each other."""

    name: str
    colour: str
    marker: str


LOOKS: Mapping[str, Look] = {
    "forward": Look("forward", style.INK, "o"),
    "recompute": Look("recomputation", style.GREEN, ">"),
    "jvp": Look("JVP", style.ORANGE, "D"),
    "vjp": Look("VJP", style.VERMILLION, "<"),
    "copy": Look("copy", style.PURPLE, "s"),
}


@dataclass(frozen=True)
class Bar:
    """The drawing of one kind of stored value: a bar beside the middle of its column."""

    name: str
    colour: str
    aside: float


def _pale(colour: str, share: float) -> str:
    """The colour mixed with white: opaque, so that bars that touch do not darken each other."""
    red, green, blue = (share * c + 1 - share for c in to_rgb(colour))
    return to_hex((red, green, blue))


BARS: Mapping[tuple[str, str], Bar] = {
    ("activation", "device"): Bar("activation in memory", _pale(style.BLUE, 0.85), -0.14),
    ("residual", "device"): Bar("residual in memory", _pale(style.SKY, 0.6), 0.14),
    ("activation", "host"): Bar("copy on the host", _pale(style.PURPLE, 0.7), 0.38),
    ("residual", "host"): Bar("copy on the host", _pale(style.PURPLE, 0.7), 0.38),
    ("activation", "disk"): Bar("copy on disk", _pale("#8C564B", 0.8), -0.38),
    ("residual", "disk"): Bar("copy on disk", _pale("#8C564B", 0.8), -0.38),
}
INPUT_COLOUR = "#C9CDD2"


def draw(results: Mapping[str, Any], stem: Path, *, panels: int = PANELS) -> tuple[Path, ...]:
    """`<stem>.png` and `<stem>.svg` of the `pictures` in the parsed results.json; nothing without any.

    One panel for each schedule. Each action is a mark at its node and its number; where there are too
    many for marks, lines along the sweeps remain. A vertical bar shows from when to when an activation,
    a residual or a copy in another tier is in memory. The panels share the axis of actions if none has
    more than four times as many as another.
    """
    entries = [entry for entry in results.get("pictures") or () if entry["actions"]][:panels]
    if not entries:
        return ()
    longest = max(entry["actions"] for entry in entries)
    shared = longest <= SHARED_SCALE * min(entry["actions"] for entry in entries)
    with style.canvas((8.6, 11.0, 13.0, 14.5)[len(entries) - 1], 9.2) as figure:
        top = style.heading(figure, results, what="actions from top to bottom")
        top = _legend(figure, entries, top)
        for i, (entry, box) in enumerate(zip(entries, _boxes(figure, len(entries), top, shared=shared), strict=True)):
            axes = figure.add_axes(box)
            _fill(figure, axes, entry, last=longest if shared else entry["actions"])
            if i == 0:
                axes.set_ylabel("action")
            elif shared:
                axes.tick_params(axis="y", labelleft=False)
        return style.save(figure, stem)


def _boxes(figure: Figure, count: int, top: float, *, shared: bool) -> list[tuple[float, float, float, float]]:
    """The boxes of the panels, in fractions of the figure: left, bottom, width, height."""
    width, height = (float(v) for v in figure.get_size_inches())
    left, right, bottom, title, across = 0.85, 0.3, 0.55, 0.52, 0.25 if shared else 0.6
    wide = (width - left - right - across * (count - 1)) / count
    tall = height - top - title - bottom
    return [((left + i * (wide + across)) / width, bottom / height, wide / width, tall / height) for i in range(count)]


def _legend(figure: Figure, entries: Sequence[Mapping[str, Any]], top: float) -> float:
    """Draw what the marks and bars mean under the heading; the inches from the upper edge where panels may begin."""
    width, height = (float(v) for v in figure.get_size_inches())
    kinds = {entry["kinds"][kind] for entry in entries for kind, _, _ in entry["sweeps"]}
    stored = {(s["value"], s["tier"]) for entry in entries for s in entry["stored"] if s["spans"]}
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, markersize=6, linewidth=1.0, label=look.name)
        for kind, look in LOOKS.items()
        if kind in kinds
    ]
    bars = {bar.name: bar.colour for key, bar in BARS.items() if key in stored} | {"graph input": INPUT_COLOUR}
    handles += [
        Line2D([], [], color=c, marker="|", markersize=11, markeredgewidth=3, linestyle="", label=name)
        for name, c in bars.items()
    ]
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(0.35 / width, 1 - (top - 0.06) / height), ncols=columns,
            fontsize=9, handlelength=1.6, handletextpad=0.5, columnspacing=1.5, borderaxespad=0.0, borderpad=0.0,
        )  # fmt: skip
        extent = legend.get_window_extent(style.renderer(figure))
        if extent.x1 <= (width - 0.2) * figure.dpi or columns == 1:
            break
        legend.remove()
    return height - float(extent.y0) / figure.dpi + 0.02


def _fill(figure: Figure, axes: Axes, entry: Mapping[str, Any], *, last: int) -> None:
    """Draw one schedule: the bars, the loops, the sweeps and the name."""
    columns = entry["nodes"]
    room = 0.9 + 0.03 * columns
    axes.set_xlim(-room, columns + room)
    ticks = [t for t in style.linear_scale(0.0, float(last), "", most_ticks=9).ticks if t == int(t)]
    axes.set_yticks(ticks, [f"{int(t):,}" for t in ticks])
    axes.set_ylim(last + 0.012 * last + 0.5, -0.012 * last - 0.5)
    ticks = [t for t in style.linear_scale(0.0, float(columns), "", most_ticks=7).ticks if t == int(t)]
    axes.set_xticks(ticks, [f"{int(t)}" if t else "input" for t in ticks])
    axes.set_xlabel("node" if columns > 1 else "")
    axes.grid(visible=False)
    extent = axes.get_window_extent(style.renderer(figure))
    across = float(extent.width) / figure.dpi * 72 / (columns + 2 * room)
    down = float(extent.height) / figure.dpi * 72 / (last * 1.024 + 1)
    _bars(axes, entry, width=min(max(0.24 * across, 0.7), 4.0))
    size = min(0.78 * across, 1.45 * down, LARGEST_MARK)
    _sweeps(axes, entry, size=size if size >= SMALLEST_MARK else 0.0)
    for loop in entry.get("loops") or ():
        _loop(axes, loop)
    _fitted(figure, axes, 17, short_label(entry["strategy"], entry.get("parameters") or {}), 10.5, fontweight="bold")
    _fitted(figure, axes, 4, _counts(entry), 8.5, color=style.MUTED)


def _bars(axes: Axes, entry: Mapping[str, Any], *, width: float) -> None:
    """Draw when values are in memory, the longest at the back; the graph input all the time."""
    look: dict[str, Any] = {"capstyle": "butt", "linewidths": width}
    edges = [[(0.0, 0.0), (0.0, float(entry["actions"]))]]
    axes.add_collection(LineCollection(edges, colors=INPUT_COLOUR, zorder=1.4, **look), autolim=False)
    for stored in entry["stored"]:
        bar = BARS.get((stored["value"], stored["tier"]))
        if bar is None:
            continue
        lines = [
            [(node + 1 + bar.aside, start), (node + 1 + bar.aside, stop)]
            for node, start, stop in stored["spans"]
            if stop - start >= SHORTEST_BAR or stored["tier"] != "device"
        ]
        collection = LineCollection(lines, colors=bar.colour, zorder=1.5, gid=f"{stored['value']}-bars", **look)
        axes.add_collection(collection, autolim=False)


def _sweeps(axes: Axes, entry: Mapping[str, Any], *, size: float) -> None:
    """Draw a line along each sweep, and a mark of `size` points for each action (none for 0)."""
    at = 0.5
    lines: dict[str, list[list[tuple[float, float]]]] = {}
    places: dict[str, list[tuple[float, float]]] = {}
    for kind, first, last in entry["sweeps"]:
        name, step = entry["kinds"][kind], 1 if last >= first else -1
        nodes = range(first + 1, last + 1 + step, step)
        places.setdefault(name, []).extend((float(node), at + k) for k, node in enumerate(nodes))
        end = at + len(nodes) - 1
        # a lone action is a dash as wide as its column, so that it is seen where there are no marks
        half = 0.0 if len(nodes) > 1 or size else 0.5
        lines.setdefault(name, []).append([(first + 1 - half, at), (last + 1 + half, end)])
        at = end + 1
    for name, look in LOOKS.items():
        if name not in places:
            continue
        thickness = max(0.2 * size, 0.5) if size else 1.0
        collection = LineCollection(
            lines[name], colors=look.colour, linewidths=thickness, capstyle="projecting", zorder=3
        )
        axes.add_collection(collection, autolim=False)
        if size:
            axes.plot(
                *np.array(places[name]).T, marker=look.marker, linestyle="", markersize=size, color=look.colour,
                markeredgewidth=0, zorder=4, gid=f"{name}-marks",
            )  # fmt: skip


def _loop(axes: Axes, loop: Mapping[str, Any]) -> None:
    """Mark actions that are done many times by a break at each end and the number of turns beside them."""
    across = blended_transform_factory(axes.transAxes, axes.transData)
    for edge in (loop["start"], loop["stop"]):
        axes.axhline(edge, color=style.INK, linewidth=0.9, linestyle=(0, (2, 2)), zorder=5)
    axes.text(
        0.985, (loop["start"] + loop["stop"]) / 2, f"× {loop['times']:,}", transform=across, ha="right", va="center",
        fontsize=9, fontweight="bold", zorder=6, bbox=dict(style.VEIL),
    )  # fmt: skip


def _fitted(figure: Figure, axes: Axes, above: float, words: str, size: float, **look: Any) -> None:
    """Write words `above` the panel (in points), set smaller where they would be wider than it."""
    text = axes.annotate(
        words, (0, 1), xycoords="axes fraction", xytext=(0, above), textcoords="offset points", va="bottom",
        fontsize=size, annotation_clip=False, **look,
    )  # fmt: skip
    renderer = style.renderer(figure)
    share = axes.get_window_extent(renderer).width / text.get_window_extent(renderer).width
    text.set_fontsize(size * min(max(0.98 * share, 0.6), 1.0))


def _counts(entry: Mapping[str, Any]) -> str:
    """`30 forward · 69 recomputation · 30 VJP`, loops multiplied out."""
    weights = np.ones(entry["actions"], dtype=object)
    for loop in entry.get("loops") or ():
        weights[loop["start"] : loop["stop"]] *= loop["times"]
    counts: dict[str, int] = {}
    at = 0
    for kind, first, last in entry["sweeps"]:
        stop = at + abs(last - first) + 1
        name = LOOKS[entry["kinds"][kind]].name
        counts[name] = counts.get(name, 0) + int(weights[at:stop].sum())
        at = stop
    parts = [(look.name, counts[look.name]) for look in LOOKS.values() if look.name in counts]
    return " · ".join(f"{count:,} {_plural(name) if count != 1 else name}" for name, count in parts)


def _plural(name: str) -> str:
    return name.removesuffix("y") + "ies" if name.endswith("y") else name + "s"
