"""The map of who wins where: two keys of a scenario varied, the winner by colour, by how much by depth and number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from sim.base.units import format_count
from sim.plots.drawing import style
from sim.plots.drawing.spots import short_label
from sim.report.finding import LEAST_MEASURES, finding

Colour = tuple[float, float, float]
DEEPEST = 100.0
"""The factor at which a colour is at its deepest."""
PALEST, FULL = 0.22, 0.92
NOTHING = "#F1F2F4"
SPARE = (style.GREEN, style.PURPLE, style.YELLOW, style.ORANGE, style.VERMILLION, "#8C564B", style.BLUE, style.SKY)
UNTINTED = (style.BLACK, style.SKY)
"""Colours whose tints are taken for others: greys, and tints of blue."""
LARGEST_TEXT, SMALLEST_TEXT = 8.5, 5.0
BESIDE_INCHES = 2.75


@dataclass(frozen=True)
class Map:
    """The winner of each cell (row, column) and by what factor.

    The winner is -1 where nobody wins; the factor is NaN where all are equal, infinite where nobody else
    applies or fits.
    """

    by: str
    names: tuple[str, ...]
    colours: Mapping[int, str]
    x: Mapping[str, Any]
    y: Mapping[str, Any]
    winner: NDArray[np.int64]
    factor: NDArray[np.float64]

    @property
    def winners(self) -> list[int]:
        """Those who win a cell, in the order in which the scenario names them."""
        return sorted(self.colours)


def draw(results: Mapping[str, Any], stem: Path) -> tuple[Path, ...]:
    """`<stem>.png` and `<stem>.svg` of the `regimes` in the parsed results.json; nothing without them.

    A cell has the colour of its winner, the deeper the more the next best takes, which the number in it
    says; `=` where all are equal. Regions are separated by lines and named where there is room.
    """
    section = results.get("regimes")
    if not section:
        return ()
    chart = read_map(section)
    rows, columns = chart.winner.shape
    with style.canvas(10.4, 7.4) as figure:
        where = f"{LEAST_MEASURES[chart.by]} in each of {rows * columns:,} cells"
        top = style.heading(figure, results, title=finding(results).sentence, what=where)
        axes = figure.add_axes(_box(figure, rows, columns, top))
        axes.set_xlim(0, columns)
        axes.set_ylim(0, rows)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        _cells(axes, chart)
        _borders(axes, chart)
        _ticks(figure, axes, chart)
        taken = _names(figure, axes, chart)
        _numbers(figure, axes, chart, taken)
        _legend(figure, axes, chart)
        return style.save(figure, stem)


def read_map(section: Mapping[str, Any]) -> Map:
    """The `regimes` of the parsed results.json, each winner with a colour of its own."""
    strategies = section["strategies"]
    winner = np.array([[-1 if w is None else w for w in row] for row in section["winner"]], dtype=np.int64)
    factor = np.array([[math.nan if f is None else f for f in row] for row in section["factor"]], dtype=np.float64)
    applies = np.array([[[v is not None for v in row] for row in matrix] for matrix in section["values"]])
    factor[applies.sum(axis=0) == 1] = math.inf
    return Map(
        by=section["by"],
        names=tuple(short_label(s["strategy"], s.get("parameters") or {}) for s in strategies),
        colours=_colours({k: s["strategy"] for k, s in enumerate(strategies) if (winner == k).any()}),
        x=section["x"],
        y=section["y"],
        winner=winner,
        factor=factor,
    )


def _colours(winners: Mapping[int, str]) -> dict[int, str]:
    """A colour for each: its strategy's in other figures if that is free and can be tinted."""
    colours: dict[int, str] = {}
    for k, strategy in winners.items():
        own = style.STRATEGY_COLOURS.get(strategy, style.BLACK)
        if own not in (*UNTINTED, *colours.values()):
            colours[k] = own
    free = [c for c in SPARE if c not in colours.values()] or list(SPARE)
    others = [k for k in winners if k not in colours]
    return colours | {k: free[i % len(free)] for i, k in enumerate(others)}


def _box(figure: Figure, rows: int, columns: int, top: float) -> tuple[float, float, float, float]:
    """The box of the map, in fractions of the figure, its cells as square as the room allows."""
    width, height = (float(v) for v in figure.get_size_inches())
    left, bottom, above = 0.95, 0.62, 0.1
    wide, tall = width - left - BESIDE_INCHES, height - top - above - bottom
    side = min(wide / columns, tall / rows)
    wide, tall = min(wide, 1.35 * side * columns), min(tall, 1.35 * side * rows)
    return (left / width, (height - top - above - tall) / height, wide / width, tall / height)


def _tint(colour: str, factor: float) -> Colour:
    """The colour on paper, as deep as the factor is large on a logarithmic scale."""
    share = 0.0 if math.isnan(factor) else min(math.log(factor) / math.log(DEEPEST), 1.0)
    depth = PALEST + (FULL - PALEST) * share
    red, green, blue = (1 - depth + depth * c for c in to_rgb(colour))
    return red, green, blue


def _fill(chart: Map, row: int, column: int) -> Colour:
    k = int(chart.winner[row, column])
    return to_rgb(NOTHING) if k < 0 else _tint(chart.colours[k], float(chart.factor[row, column]))


def _ink_on(fill: Colour) -> str:
    """Dark or light words, whichever stands out more (relative luminance as in WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in fill]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return style.INK if luminance > 0.21 else style.PAPER


def _cells(axes: Axes, chart: Map) -> None:
    places = [(j, i) for j in range(chart.winner.shape[0]) for i in range(chart.winner.shape[1])]
    squares = [[(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)] for j, i in places]
    fills = [_fill(chart, j, i) for j, i in places]
    axes.add_collection(
        PolyCollection(squares, facecolors=fills, edgecolors=style.PAPER, linewidths=0.5, zorder=1, gid="cells"),
        autolim=False,
    )


def _borders(axes: Axes, chart: Map) -> None:
    """Draw a line wherever the winner changes, and around the map."""
    w = chart.winner
    rows, columns = w.shape
    lines = [[(i + 1, j), (i + 1, j + 1)] for j, i in np.argwhere(w[:, 1:] != w[:, :-1]).tolist()]
    lines += [[(i, j + 1), (i + 1, j + 1)] for j, i in np.argwhere(w[1:] != w[:-1]).tolist()]
    look: dict[str, Any] = {"colors": style.INK, "capstyle": "projecting", "zorder": 3}
    axes.add_collection(LineCollection(lines, linewidths=1.8, gid="borders", **look), autolim=False)
    axes.add_patch(
        Rectangle((0, 0), columns, rows, fill=False, edgecolor=style.INK, linewidth=0.8, zorder=3, clip_on=False)
    )


def _value(key: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and (key == "budget" or key.endswith("bytes")):
        return style.short_bytes(value)
    if isinstance(value, int):
        return str(value) if value < 10_000 else format_count(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _ticks(figure: Figure, axes: Axes, chart: Map) -> None:
    """Write the values at the middle of their cells, every so many of them where all would not fit."""
    width, height = (float(v) / figure.dpi * 72 for v in axes.get_window_extent(style.renderer(figure)).size)
    for axis, about, set_ticks, set_label, room in (
        (axes.xaxis, chart.x, axes.set_xticks, axes.set_xlabel, width / chart.winner.shape[1]),
        (axes.yaxis, chart.y, axes.set_yticks, axes.set_ylabel, height / chart.winner.shape[0]),
    ):
        texts = [_value(about["key"], v) for v in about["values"]]
        needed = 5.8 * max(map(len, texts)) + 6 if axis is axes.xaxis else 13.0
        step = max(1, math.ceil(needed / room))
        set_ticks([k + 0.5 for k in range(0, len(texts), step)], texts[::step])
        title = about["label"] if about["label"] == about["key"] else f"{about['label']}  ({about['key']})"
        set_label(title, labelpad=6)


def _names(figure: Figure, axes: Axes, chart: Map) -> set[tuple[int, int]]:
    """Write each winner's name on the block of its cells nearest to their middle; the cells that are covered."""
    renderer = style.renderer(figure)
    extent = axes.get_window_extent(renderer)
    rows, columns = chart.winner.shape
    taken: set[tuple[int, int]] = set()
    for k in chart.winners:
        text = axes.text(
            0, 0, chart.names[k], ha="center", va="center", fontsize=9.5, fontweight="bold", color=style.INK, zorder=5,
            bbox={"facecolor": style.PAPER, "alpha": 0.92, "edgecolor": "none", "boxstyle": "round,pad=0.3"},
        )  # fmt: skip
        own = chart.winner == k
        size = text.get_window_extent(renderer)
        long = math.ceil((float(size.width) + 16) / (float(extent.width) / columns))
        high = math.ceil((float(size.height) + 12) / (float(extent.height) / rows))
        middle = np.argwhere(own).mean(axis=0)
        blocks = [
            (math.hypot(j + (high - 1) / 2 - middle[0], i + (long - 1) / 2 - middle[1]), j, i)
            for j in range(rows - high + 1)
            for i in range(columns - long + 1)
            if own[j : j + high, i : i + long].all()
        ]
        if not blocks:
            text.remove()
            continue
        _, j, i = min(blocks)
        text.set_position((i + long / 2, j + high / 2))
        taken |= {(j + b, i + a) for b in range(high) for a in range(long)}
    return taken


def _numbers(figure: Figure, axes: Axes, chart: Map, taken: set[tuple[int, int]]) -> None:
    """Write the factor in each cell that is free, if the cells are large enough."""
    rows, columns = chart.winner.shape
    extent = axes.get_window_extent(style.renderer(figure))
    wide, tall = float(extent.width) / columns, float(extent.height) / rows
    size = min(LARGEST_TEXT, wide / figure.dpi * 72 / 2.9, tall / figure.dpi * 72 * 0.62)
    if size < SMALLEST_TEXT:
        return
    for j, i in np.argwhere(chart.winner >= 0).tolist():
        if (j, i) not in taken:
            axes.text(
                i + 0.5, j + 0.5, _factor(float(chart.factor[j, i])), ha="center", va="center_baseline", fontsize=size,
                color=_ink_on(_fill(chart, j, i)), zorder=4,
            )  # fmt: skip


def _factor(factor: float) -> str:
    """`1.6`, `16`, `1600`, `16k`; `=` where all are equal, nothing where there is no other."""
    if not math.isfinite(factor):
        return "=" if math.isnan(factor) else ""
    if factor < 9.95:
        text = f"{factor:.1f}" if factor >= 1.05 else f"{factor:.2f}"
        return "1.0" if text == "1.00" else text
    return f"{factor:.0f}" if factor < 9999.5 else f"{factor / 1000:.0f}k" if factor < 1e6 else f"{factor:.0e}"


def _legend(figure: Figure, axes: Axes, chart: Map) -> None:
    """Draw who is who beside the map, how many cells each wins, and what the depth of a colour says."""
    width, height = (float(v) for v in figure.get_size_inches())
    extent = axes.get_window_extent(style.renderer(figure))
    left, y = float(extent.x1) / figure.dpi + 0.3, float(extent.y1) / figure.dpi

    def write(words: str, x: float, y: float, **look: Any) -> None:
        figure.text(x / width, y / height, words, va="center", **look)

    def patch(x: float, y: float, wide: float, colour: str | Colour) -> None:
        figure.add_artist(
            Rectangle(
                (x / width, (y - 0.09) / height), wide / width, 0.18 / height, facecolor=colour, edgecolor=style.MUTED,
                linewidth=0.4, transform=figure.transFigure,
            )
        )  # fmt: skip

    write(LEAST_MEASURES[chart.by], left, y - 0.1, fontsize=10, fontweight="bold")
    y -= 0.42
    entries: list[tuple[str, str | Colour, int]] = [
        (chart.names[k], _tint(chart.colours[k], DEEPEST / 3), int((chart.winner == k).sum())) for k in chart.winners
    ]
    if (chart.winner < 0).any():
        entries.append(("nothing applies or fits", NOTHING, int((chart.winner < 0).sum())))
    for name, colour, cells in entries:
        patch(left, y, 0.26, colour)
        for line in _wrapped(name):
            write(line, left + 0.36, y, fontsize=9)
            y -= 0.17
        write(f"{cells:,} cell{'s' if cells != 1 else ''}", left + 0.36, y, fontsize=8.5, color=style.MUTED)
        y -= 0.3
    y -= 0.12
    lines = ["the next best takes, in units", "of the winner (=: all are equal)"]
    for line in [*lines, "(no number: there is no other)"] if np.isinf(chart.factor).any() else lines:
        write(line, left, y, fontsize=9)
        y -= 0.17
    y -= 0.1
    steps: Sequence[tuple[str, float]] = (("=", math.nan), ("2", 2), ("5", 5), ("10", 10), ("30", 30), ("≥100", 100))
    for k, (words, factor) in enumerate(steps):
        patch(left + 0.36 * k, y, 0.36, _tint(style.BLACK, factor))
        write(words, left + 0.36 * (k + 0.5), y - 0.2, fontsize=8.5, ha="center")


def _wrapped(name: str) -> list[str]:
    """A long name in two lines, broken after its first word."""
    first, _, rest = name.partition(" ")
    return [first, rest] if rest and len(name) > 26 else [name]
