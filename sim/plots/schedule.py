"""The picture of a checkpointing schedule: time down, nodes across, and when each stored value is in memory."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory
from numpy.typing import NDArray

from sim.plots.drawing import style
from sim.plots.drawing.spots import short_label

PANELS = 6
MOST_NODES = 60
"""Nodes up to which each has a column; more are drawn by blocks."""
MOST_BLOCKS, EVEN_BLOCKS = 40, 24
NARROWEST_BAR = 0.15
"""The share of its column that a bar of the fewest bytes takes at the least, of what the widest takes."""
SHARED_SCALE = 4.0
SMALLEST_MARK, LARGEST_MARK = 1.8, 7.0


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
_LAYERS = tuple(dict.fromkeys(bar.name for bar in BARS.values()))
"""What a block has in memory, in the order in which it is stacked."""


def draw(results: Mapping[str, Any], stem: Path, *, panels: int = PANELS) -> tuple[Path, ...]:
    """`<stem>.png` and `<stem>.svg` of the `pictures` in the parsed results.json; nothing without any.

    One panel for each schedule. Each action is a mark at its node and its number; where there are too
    many for marks, lines along the sweeps remain. A vertical bar shows from when to when an activation,
    a residual or a copy in another tier is in memory, the wider the more bytes. Beyond 60 nodes a column
    is a block of nodes, and its bars are what all of them have in memory. The panels share the axis of
    actions if none has more than four times as many as another; the heading says so if they do not.
    """
    entries = [entry for entry in results.get("pictures") or () if entry["actions"]][:panels]
    if not entries:
        return ()
    longest = max(entry["actions"] for entry in entries)
    shared = longest <= SHARED_SCALE * min(entry["actions"] for entry in entries)
    blocks = blocks_of(results.get("model"), max(entry["nodes"] for entry in entries))
    with style.canvas((8.6, 11.0, 13.0, 14.5, 16.0, 17.5)[len(entries) - 1], 9.2) as figure:
        what = "actions from top to bottom, bars as wide as their bytes"
        if blocks:
            what += ", nodes by block"
        if not shared:
            what += "; each panel has as many actions as its schedule"
        top = style.heading(figure, results, title=style.named(results, _finding(entries)), what=what)
        top = _legend(figure, entries, top)
        largest = max((_largest(entry, blocks) for entry in entries), default=1) or 1
        longest_name = max((len(_short(b.name)) for b in blocks), default=0)
        boxes = _boxes(
            figure, len(entries), top, shared=shared, below=0.55 if not blocks else 0.2 + 0.065 * longest_name
        )
        for i, (entry, box) in enumerate(zip(entries, boxes, strict=True)):
            axes = figure.add_axes(box)
            _fill(figure, axes, entry, blocks, largest, last=longest if shared else entry["actions"])
            if i == 0:
                axes.set_ylabel("action")
            elif shared:
                axes.tick_params(axis="y", labelleft=False)
        return style.save(figure, stem)


@dataclass(frozen=True)
class Block:
    """Nodes `start` … `stop`-1 that share a column."""

    name: str
    start: int
    stop: int


def blocks_of(model: Mapping[str, Any] | None, nodes: int) -> tuple[Block, ...]:
    """The columns of a graph of many nodes, by the dotted names of the results' `model`; none for one of few.

    Consecutive nodes whose names agree but for their last parts are a block; if that makes too many blocks or
    hardly any, blocks are stretches of equal length.
    """
    if nodes <= MOST_NODES:
        return ()
    names = list(model["names"]) if model and len(model["names"]) == nodes else []
    deepest = max((name.count(".") for name in names), default=0)
    for depth in range(deepest, 0, -1):
        heads = [".".join(name.split(".")[:-1][:depth]) or name for name in names]
        starts = [k for k, head in enumerate(heads) if k == 0 or head != heads[k - 1]]
        if 4 <= len(starts) <= MOST_BLOCKS:
            return tuple(Block(heads[a], a, b) for a, b in pairwise([*starts, nodes]))
    count = EVEN_BLOCKS
    edges = [k * nodes // count for k in range(count + 1)]
    return tuple(Block(f"{a + 1:,}–{b:,}", a, b) for a, b in pairwise(edges))


def _places(blocks: Sequence[Block], nodes: int) -> NDArray[np.float64]:
    """Where nodes lie across: k at k + 1, or within the column of its block; last the graph input, which is -1."""
    if not blocks:
        return np.array([*range(1, nodes + 1), 0], dtype=np.float64)
    within = [c + 1 + (k + 0.5) / (b.stop - b.start) for c, b in enumerate(blocks) for k in range(b.stop - b.start)]
    return np.array([*within, 0.5])


def _finding(entries: Sequence[Mapping[str, Any]]) -> str:
    """Which of the schedules evaluates fewest nodes again, and which most."""
    again = {short_label(e["strategy"], e.get("parameters") or {}): _tally(e).get("recomputation", 0) for e in entries}
    some = {label: count for label, count in again.items() if count}
    if not some:
        return "every node is evaluated once"
    least, most = min(some, key=some.__getitem__), max(some, key=some.__getitem__)
    if len(again) == 1:
        return f"{some[least]:,} evaluations again"
    if some[least] == some[most]:
        return f"{least} makes {some[least]:,} evaluations again"
    return f"from {some[least]:,} evaluations again ({least}) to {some[most]:,} ({most})"


def _largest(entry: Mapping[str, Any], blocks: Sequence[Block]) -> float:
    """The most bytes that a bar has to show."""
    if not blocks:
        return max((float(span[3]) for stored in entry["stored"] for span in stored["spans"]), default=0.0)
    return max((float(np.sum(layers, axis=0).max()) for layers in _held(entry, blocks).values()), default=0.0)


def _boxes(
    figure: Figure, count: int, top: float, *, shared: bool, below: float
) -> list[tuple[float, float, float, float]]:
    """The boxes of the panels, in fractions of the figure: left, bottom, width, height."""
    width, height = (float(v) for v in figure.get_size_inches())
    left, right, bottom, title, across = 0.85, 0.3, below, 0.52, 0.25 if shared else 0.6
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


def _fill(
    figure: Figure, axes: Axes, entry: Mapping[str, Any], blocks: Sequence[Block], largest: float, *, last: int
) -> None:
    """Draw one schedule: the bars, the loops, the sweeps and the name."""
    places = _places(blocks, entry["nodes"])
    columns = len(blocks) or entry["nodes"]
    room = 0.9 + 0.03 * columns if not blocks else 0.2
    axes.set_xlim(0.0 if blocks else -room, columns + (1 if blocks else 0) + room)
    ticks = [t for t in style.linear_scale(0.0, float(last), "", most_ticks=9).ticks if t == int(t)]
    axes.set_yticks(ticks, [f"{int(t):,}" for t in ticks])
    axes.set_ylim(last + 0.012 * last + 0.5, -0.012 * last - 0.5)
    axes.grid(visible=False)
    extent = axes.get_window_extent(style.renderer(figure))
    points = float(extent.width) / figure.dpi * 72
    down = float(extent.height) / figure.dpi * 72 / (last * 1.024 + 1)
    if blocks:
        _columns(axes, blocks, points)
        _areas(axes, entry, blocks, largest)
        across = points / entry["nodes"]
    else:
        ticks = [t for t in style.linear_scale(0.0, float(columns), "", most_ticks=7).ticks if t == int(t)]
        axes.set_xticks(ticks, [f"{int(t)}" if t else "input" for t in ticks])
        axes.set_xlabel("node" if columns > 1 else "")
        across = points / (columns + 2 * room)
        _bars(axes, entry, largest, width=min(max(0.42 * across, 1.0), 7.0))
    size = min(0.78 * across, 1.45 * down, LARGEST_MARK)
    _sweeps(axes, entry, places, size=size if size >= SMALLEST_MARK else 0.0)
    for loop in entry.get("loops") or ():
        _loop(axes, loop)
    _fitted(figure, axes, 17, short_label(entry["strategy"], entry.get("parameters") or {}), 10.5, fontweight="bold")
    _fitted(figure, axes, 4, _counts(entry), 8.5, color=style.MUTED)


def _columns(axes: Axes, blocks: Sequence[Block], points: float) -> None:
    """Shade every other column and name as many as have room."""
    for c in range(0, len(blocks), 2):
        axes.axvspan(c + 1, c + 2, color="#F6F7F8", linewidth=0, zorder=0.3)
    step = math.ceil(len(blocks) * 9.5 / points)
    shown = range(0, len(blocks), step)
    axes.set_xticks([c + 1.5 for c in shown], [_short(blocks[c].name) for c in shown], rotation=90, fontsize=7.5)
    axes.tick_params(axis="x", length=0, pad=2)


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:8]}…{name[-9:]}"


def _held(entry: Mapping[str, Any], blocks: Sequence[Block]) -> dict[int, list[NDArray[np.float64]]]:
    """The bytes of each block over the actions, in layers as `_LAYERS` has them; blocks without any are left out."""
    block_of = np.repeat(np.arange(len(blocks)), [b.stop - b.start for b in blocks])
    changes = np.zeros((len(blocks), len(_LAYERS), entry["actions"] + 1))
    for stored in entry["stored"]:
        bar = BARS.get((stored["value"], stored["tier"]))
        if bar is None:
            continue
        layer = _LAYERS.index(bar.name)
        for node, start, stop, size in stored["spans"]:
            if node >= 0:
                changes[block_of[node], layer, start] += style.drawable(size)
                changes[block_of[node], layer, stop] -= style.drawable(size)
    held = np.cumsum(changes, axis=2)[:, :, :-1]
    return {c: list(held[c]) for c in range(len(blocks)) if held[c].any()}


def _areas(axes: Axes, entry: Mapping[str, Any], blocks: Sequence[Block], largest: float) -> None:
    """Draw what each block has in memory as an area from the left edge of its column, as wide as its bytes."""
    actions = np.arange(entry["actions"] + 1)
    colours = {bar.name: bar.colour for bar in BARS.values()}
    for c, layers in _held(entry, blocks).items():
        left = np.full(entry["actions"], c + 1.0)
        for name, layer in zip(_LAYERS, layers, strict=True):
            if layer.any():
                right = left + 0.96 * layer / largest
                axes.fill_betweenx(
                    actions, np.append(left, left[-1]), np.append(right, right[-1]), step="post", linewidth=0,
                    color=colours[name], zorder=1.5, gid="block-bars",
                )  # fmt: skip
                left = right


def _bars(axes: Axes, entry: Mapping[str, Any], largest: float, *, width: float) -> None:
    """Draw when values are in memory, the longest at the back; the graph input all the time."""
    look: dict[str, Any] = {"capstyle": "butt"}
    edges = [[(0.0, 0.0), (0.0, float(entry["actions"]))]]
    axes.add_collection(
        LineCollection(edges, colors=INPUT_COLOUR, zorder=1.4, linewidths=width / 2, **look), autolim=False
    )
    for stored in entry["stored"]:
        bar = BARS.get((stored["value"], stored["tier"]))
        if bar is None:
            continue
        spans = stored["spans"]
        lines = [[(node + 1 + bar.aside, start), (node + 1 + bar.aside, stop)] for node, start, stop, _ in spans]
        widths = [width * max(style.drawable(size) / largest, NARROWEST_BAR) for *_, size in spans]
        collection = LineCollection(
            lines, colors=bar.colour, zorder=1.5, gid=f"{stored['value']}-bars", linewidths=widths or width, **look
        )
        axes.add_collection(collection, autolim=False)


def _sweeps(axes: Axes, entry: Mapping[str, Any], across: NDArray[np.float64], *, size: float) -> None:
    """Draw a line along each sweep, and a mark of `size` points for each action (none for 0)."""
    at = 0.5
    lines: dict[str, list[list[tuple[float, float]]]] = {}
    places: dict[str, list[tuple[float, float]]] = {}
    for kind, first, last in entry["sweeps"]:
        name, step = entry["kinds"][kind], 1 if last >= first else -1
        nodes = range(first, last + step, step)
        path = [(float(across[node]), at + k) for k, node in enumerate(nodes)]
        places.setdefault(name, []).extend(path)
        if len(path) == 1 and not size:  # a dash as wide as its column, so that it is seen where there are no marks
            (x, y), half = path[0], 0.5
            path = [(x - half, y), (x + half, y)]
        lines.setdefault(name, []).append(path)
        at += len(nodes)
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
    """Write words `above` the panel (in points), in two lines and smaller where they would be wider than it."""
    text = axes.annotate(
        words, (0, 1), xycoords="axes fraction", xytext=(0, above), textcoords="offset points", va="bottom",
        fontsize=size, annotation_clip=False, **look,
    )  # fmt: skip
    renderer = style.renderer(figure)
    width = axes.get_window_extent(renderer).width
    if width < 0.8 * text.get_window_extent(renderer).width and " " in words:
        lines = [textwrap.wrap(words, k) for k in range(len(words) // 2, len(words))]
        text.set_text("\n".join(next(two for two in lines if len(two) <= 2)))
        text.set_linespacing(1.0)
        size -= 1.5
    share = width / text.get_window_extent(renderer).width
    text.set_fontsize(size * min(max(0.98 * share, 0.6), 1.0))


def _tally(entry: Mapping[str, Any]) -> dict[str, int]:
    """How many actions of each kind there are, loops multiplied out."""
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
    return counts


def _counts(entry: Mapping[str, Any]) -> str:
    """`30 forwards · 69 recomputations · 30 VJPs`."""
    counts = _tally(entry)
    parts = [(look.name, counts[look.name]) for look in LOOKS.values() if look.name in counts]
    return " · ".join(f"{count:,} {_plural(name) if count != 1 else name}" for name, count in parts)


def _plural(name: str) -> str:
    return name.removesuffix("y") + "ies" if name.endswith("y") else name + "s"
