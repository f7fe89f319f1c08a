"""Parts of the charts of points: markers, staircases of fronts, and the names beside points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from sim.plots.drawing import labels, style
from sim.plots.drawing.spots import Curve, Spot

MOST_LINES = 4
FRONT_SIZE, DOMINATED_SIZE = 7.5, 5.0
LABEL_SIZE = 8.5
SAME_PLACE_INCHES, LEADER_FROM_INCHES = 0.04, 0.16
LEADER: Mapping[str, Any] = {"linewidth": 0.8, "linestyle": (0, (1, 1.6)), "gid": "leader"}
"""A dotted line, as no line of data is."""
FRONT_PATIENCE, DOMINATED_PATIENCE = 3.0, 0.55


def markers_of(spots: Sequence[Spot]) -> dict[str, tuple[str, str]]:
    """Marker and colour of each series: the colour by strategy, the marker its own; the well-known keep theirs."""
    order = list(style.STRATEGY_COLOURS)
    strategies = sorted({s.strategy for s in spots})
    spare = iter(("#8C564B", "#7F7F7F", style.YELLOW) * len(strategies))
    colours = {s: style.STRATEGY_COLOURS.get(s) or next(spare) for s in strategies}
    series = sorted(
        {(order.index(s.strategy) if s.strategy in order else len(order), s.strategy, s.series) for s in spots}
    )
    taken = {style.SERIES_MARKERS[name] for _, _, name in series if name in style.SERIES_MARKERS}
    free = iter([m for m in style.MARKERS if m not in taken] + list(style.MARKERS) * len(series))
    return {name: (style.SERIES_MARKERS.get(name) or next(free), colours[strategy]) for _, strategy, name in series}


def legend(figure: Figure, handles: Sequence[Artist]) -> float:
    """Draw a legend along the lower edge, in as many columns as fit; the inches that it reaches up from there."""
    width, height = (float(v) for v in figure.get_size_inches())
    renderer = style.renderer(figure)
    for columns in range(min(6, len(handles)), 0, -1):
        box = figure.legend(
            handles=list(handles), loc="lower left", bbox_to_anchor=(0.85 / width, 0.06 / height), ncols=columns,
            fontsize=9, handletextpad=0.4, columnspacing=1.6, borderaxespad=0.0, borderpad=0.2,
        )  # fmt: skip
        extent = box.get_window_extent(renderer)
        if extent.x1 <= (width - 0.2) * figure.dpi or columns == 1:
            break
        box.remove()
    return float(extent.y1) / figure.dpi


def size_of(marker: str, size: float) -> float:
    """The size at which a marker looks as large as the others; stars and thin diamonds cover less."""
    return size * {"*": 1.6, "d": 1.2}.get(marker, 1.0)


def line_of(curve: Curve) -> dict[str, Any]:
    if curve.is_bound:
        return {"color": style.MUTED, "linewidth": 1.1, "linestyle": (0, (2, 2))}
    return {"color": style.INK, "linewidth": 0.9, "linestyle": "-", "alpha": 0.75}


def staircase(corners: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The edge of what is reachable: from each corner to the right, then down to the next."""
    steps = [corners[0]]
    for (_, y), (x, below) in pairwise(corners):
        steps += [(x, y), (x, below)]
    return steps


def inches(figure: Figure, axes: Axes, data: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The places of points of the data on the figure."""
    return [(float(x), float(y)) for x, y in axes.transData.transform(np.asarray(data)) / figure.dpi]


def write_names(
    figure: Figure,
    axes: Axes,
    spots: Sequence[Spot],
    marks: Sequence[tuple[float, float]],
    chosen: Sequence[int],
    best: Set[int],
    markers: Mapping[str, tuple[str, str]],
    segments: Sequence[tuple[float, float, float, float]],
    taken: Sequence[tuple[float, float, float, float]],
    *,
    towards: tuple[float, float] = (-1.0, -1.0),
) -> None:
    """Write the names of the chosen points where they cover nothing, with a line to each that lies apart.

    Points in one place share one text, a line for each.
    """
    groups: list[list[int]] = []
    for i in chosen:
        near = [
            g
            for g in groups
            if (g[0] in best) == (i in best) and np.hypot(*np.subtract(marks[g[0]], marks[i])) < SAME_PLACE_INCHES
        ]
        if near:
            near[0].append(i)
        else:
            groups.append([i])
    colours = [style.INK if group[0] in best else style.MUTED for group in groups]
    texts, sizes = written(figure, [_lines(spots, group) for group in groups], colours)
    left, bottom, right, top = inside(figure, axes)
    anchors = [marks[group[0]] for group in groups]
    corners = labels.place(
        anchors,
        sizes,
        inside=(left, bottom, right + 0.3, top),
        points=marks,
        segments=segments,
        taken=taken,
        towards=towards,
        patience=[FRONT_PATIENCE if group[0] in best else DOMINATED_PATIENCE for group in groups],
    )
    for text, size, anchor, corner in zip(texts, sizes, anchors, corners, strict=True):
        if corner is None:
            text.remove()
            continue
        text.set_position(corner)
        box = (*corner, corner[0] + size[0], corner[1] + size[1])
        x0, y0, x1, y1 = labels.leader(anchor, box)
        length = _length((x0, y0, x1, y1))
        others = [m for m in marks if np.hypot(*np.subtract(m, anchor)) > SAME_PLACE_INCHES]
        nearest = min((_length(labels.leader(m, box)) for m in others), default=np.inf)
        if length > min(LEADER_FROM_INCHES, nearest * 0.8):
            line = Line2D(
                [x0, x1], [y0, y1], transform=figure.dpi_scale_trans, color=style.MUTED, zorder=3.5, **LEADER
            )  # fmt: skip
            figure.add_artist(line)


def written(
    figure: Figure, names: Sequence[str], colours: Sequence[str]
) -> tuple[list[Text], list[tuple[float, float]]]:
    """Texts that have no place yet, in inches from the lower left corner of the paper, and their sizes."""
    texts = [
        figure.text(
            0, 0, name, transform=figure.dpi_scale_trans, fontsize=LABEL_SIZE, va="bottom", zorder=7,
            bbox=dict(style.VEIL), linespacing=1.15, color=colour,
        )
        for name, colour in zip(names, colours, strict=True)
    ]  # fmt: skip
    extents = [text.get_window_extent(style.renderer(figure)) for text in texts]
    return texts, [(float(e.width) / figure.dpi, float(e.height) / figure.dpi) for e in extents]


def inside(figure: Figure, axes: Axes) -> tuple[float, float, float, float]:
    """The left, lower, right and upper edges of axes in inches."""
    left, bottom, right, top = (float(v) / figure.dpi for v in axes.get_window_extent(style.renderer(figure)).extents)
    return left, bottom, right, top


def _lines(spots: Sequence[Spot], group: Sequence[int]) -> str:
    names = [spots[i].label for i in sorted(group)]
    if len(names) > MOST_LINES:
        names[MOST_LINES - 1 :] = [f"and {len(names) - MOST_LINES + 1} more"]
    return "\n".join(names)


def _length(segment: tuple[float, float, float, float]) -> float:
    return float(np.hypot(segment[2] - segment[0], segment[3] - segment[1]))
