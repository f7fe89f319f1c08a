"""Configurations of a job over a number of devices: memory a device against time a step, and the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sim.base.pareto import landmarks
from sim.base.units import format_bytes, format_seconds
from sim.plots.drawing import labels, marking, style

COLOURS = (style.BLUE, style.ORANGE, style.GREEN, style.VERMILLION, style.PURPLE, style.SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
MOST_LABELS = 8
FARTHEST = 2.5
"""Seconds beyond which nothing is drawn, in those of the slowest of the front."""
HEIGHT = 6.4


def draw(results: Mapping[str, Any], stem: Path) -> tuple[Path, ...]:
    """`<stem>.png` and `<stem>.svg` from the parsed search.json; nothing without `configurations` on its front.

    Grey are all that were simulated and fit or do not; those of the front are coloured by how many ranks divide
    layers. Names on the front say pipeline × data × tensor ranks, ZeRO, micro-batch and recomputation.
    """
    columns = results.get("configurations")
    if not columns or not any(columns["front"]):
        return ()
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    simulated = [row for row in rows if row["outcome"] in ("simulated", "does not fit")]
    best = sorted((row for row in rows if row["front"]), key=lambda row: row["seconds"])
    limit = results["limit_bytes"]
    about = {"scenario": {"name": results["scenario"], "description": results["description"]}}
    with style.canvas(10.0, HEIGHT) as figure:
        what = (
            f"{results['devices']} devices, {results['batch']} samples a step; names are pipeline × data × tensor ranks"
        )
        top = style.heading(figure, about, title=style.named(about, _finding(best)), what=what, graph=False)
        tensors = sorted({row["tensor"] for row in best})
        bottom = _legend(figure, tensors, limit is not None) + 0.64
        axes = figure.add_axes((0.095, bottom / HEIGHT, 0.865, 1 - (top + 0.1 + bottom) / HEIGHT))
        near = [row for row in simulated if row["seconds"] <= FARTHEST * best[-1]["seconds"]]
        style.scale_of([row["seconds"] for row in near], "s").apply(axes.xaxis)
        style.scale_of([row["peak_bytes"] for row in near] + ([limit] if limit else []), "B").apply(axes.yaxis)
        axes.set_xlabel("simulated time of one step")
        axes.set_ylabel("peak memory of the fullest device")
        if limit is not None:
            style.budget_line(axes, limit, does_not_fit=False)
        axes.plot([row["seconds"] for row in near], [row["peak_bytes"] for row in near], ".", color=style.DOMINATED,
                  markersize=3, alpha=0.5, zorder=1, gid="simulated")  # fmt: skip
        pairs = [(row["seconds"], row["peak_bytes"]) for row in best]
        axes.plot(*zip(*marking.staircase(pairs), strict=True), color=style.INK, linewidth=1.0, zorder=2)
        for row in best:
            k = tensors.index(row["tensor"])
            axes.plot(row["seconds"], row["peak_bytes"], MARKERS[k % len(MARKERS)], color=COLOURS[k % len(COLOURS)],
                      markeredgecolor=style.PAPER, markersize=7, zorder=3, gid="front")  # fmt: skip
        _names(figure, axes, best)
        return style.save(figure, stem)


def _finding(best: Sequence[Mapping[str, Any]]) -> str:
    """The two ends of the front in words; `best` has the fastest first."""
    fast, small = (
        f"{format_seconds(row['seconds'])} in {format_bytes(row['peak_bytes'])}" for row in (best[0], best[-1])
    )
    return f"a step takes {fast} a device" + (f", or {small}" if len(best) > 1 else "")


def _legend(figure: Figure, tensors: Sequence[int], limited: bool) -> float:
    """Draw the legend along the lower edge; the inches above that edge at which the axes may begin."""
    handles = [
        Line2D([], [], color=COLOURS[k % len(COLOURS)], marker=MARKERS[k % len(MARKERS)], linestyle="", markersize=7,
               label="layers whole" if count == 1 else f"layers on {count} ranks")
        for k, count in enumerate(tensors)
    ]  # fmt: skip
    handles.append(Line2D([], [], color=style.INK, linewidth=1.0, label="front"))
    handles.append(Line2D([], [], color=style.DOMINATED, marker=".", linestyle="", label="others that were simulated"))
    if limited:
        handles.append(
            Line2D([], [], color=style.INK, linewidth=1.0, linestyle=(0, (5, 3)), label="memory of a device")
        )
    return marking.legend(figure, handles)


def _names(figure: Figure, axes: Axes, best: Sequence[Mapping[str, Any]]) -> None:
    """Write what a few configurations of the front are beside them, with lines to those that lie apart."""
    costs = [(row["peak_bytes"], row["seconds"]) for row in best]
    chosen = landmarks(costs, [row["tensor"] for row in best], count=MOST_LABELS)
    marks = marking.inches(figure, axes, [(row["seconds"], row["peak_bytes"]) for row in best])
    texts, sizes = marking.written(figure, [_name(best[k]) for k in chosen], [style.INK] * len(chosen))
    corners = labels.place(
        [marks[k] for k in chosen], sizes, inside=marking.inside(figure, axes), points=marks,
        segments=[(*a, *b) for a, b in pairwise(marks)], towards=(1.0, 1.0),
    )  # fmt: skip
    for k, text, size, corner in zip(chosen, texts, sizes, corners, strict=True):
        if corner is None:
            text.remove()
            continue
        text.set_position(corner)
        x0, y0, x1, y1 = labels.leader(marks[k], (*corner, corner[0] + size[0], corner[1] + size[1]))
        figure.add_artist(
            Line2D([x0, x1], [y0, y1], transform=figure.dpi_scale_trans, color=style.MUTED, **marking.LEADER)
        )


def _name(row: Mapping[str, Any]) -> str:
    spread = f"{row['pipeline']} × {row['data']} × {row['tensor']}"
    how = [f"ZeRO-{row['zero']}"] if row["zero"] else []
    how += [f"{row['micro_batch']} a micro-batch", *([row["recompute"]] if row["recompute"] != "none" else [])]
    return f"{spread}, {row['schedule']}\n{', '.join(how)}"
