"""The look that all figures share: colours, axes with human units, headings, and files that repeat bit for bit.

Colours are those of Okabe & Ito (2008, Color universal design, https://jfly.uni-koeln.de/color/), which
stay apart under the common colour vision deficiencies; whatever a colour says, a marker, a position
or a word says too. Figures are made without pyplot and from matplotlib's own defaults, so neither a
global state nor a person's matplotlibrc changes them.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis as MatplotlibAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from sim.base import files
from sim.base.units import format_bytes, format_count, format_flops

INK, MUTED, FAINT, PAPER = "#1F2328", "#5D6670", "#E6E8EB", "#FFFFFF"
DOMINATED = "#9AA1A9"
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
STRATEGY_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "reverse_full": BLUE,
        "reverse_checkpointed": GREEN,
        "reverse_offload": PURPLE,
        "forward_recompute": VERMILLION,
        "forward_cached": ORANGE,
        "jacobian_chain": SKY,
        "in_order": BLUE,
        "rematerialize": GREEN,
        "reorder": PURPLE,
    }
)
SERIES_MARKERS: Mapping[str, str] = MappingProxyType(
    {
        "reverse_full": "o",
        "reverse_offload": "v",
        "forward_recompute": "^",
        "forward_cached": "D",
        "binomial": "s",
        "uniform": "X",
        "periodic": "p",
        "sqrt": "P",
        "optimal": "*",
        "jacobian_chain forward": "<",
        "jacobian_chain reverse": ">",
        "jacobian_chain optimal": "d",
        "jacobian_chain optimal_matrix_free": "h",
    }
)
KIND_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "resident": "#C9CDD2",
        "gradient": GREEN,
        "activation": BLUE,
        "residual": SKY,
        "tangent": ORANGE,
        "cotangent": VERMILLION,
        "jacobian": PURPLE,
        "workspace": YELLOW,
    }
)  # in the order in which they are stacked: what changes least lies lowest
MARKERS = ("8", "H", "o", "s", "^", "D", "v", "P", "X", "<", "p", ">", "h", "d", "*")
DPI = 150
MOST_LINES = 2
"""Lines of a heading's sentence."""
LARGEST_DRAWN, SMALLEST_DRAWN = 10**300, 1e-100

# A veil behind words keeps them readable over lines; an outline around each letter would double the SVG.
VEIL: Mapping[str, Any] = MappingProxyType({"facecolor": PAPER, "alpha": 0.85, "edgecolor": "none", "pad": 0.8})
# Paths instead of text elements: a viewer without DejaVu Sans would set wider text, and labels would overlap.
RC: Mapping[Any, Any] = MappingProxyType(
    {
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "svg.fonttype": "path",
        "svg.hashsalt": "sim",
        "text.color": INK,
        "text.parse_math": False,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": FAINT,
        "grid.linewidth": 0.8,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "path.simplify": True,
    }
)


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of so many inches, inside the settings in which it must be filled and saved."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
        FigureCanvasAgg(figure)
        yield figure


def renderer(figure: Figure) -> RendererAgg:
    """The renderer that measures texts and frames before the figure is drawn, in pixels."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    return canvas.get_renderer()  # type: ignore[no-untyped-call, no-any-return]


def save(figure: Figure, stem: Path) -> tuple[Path, ...]:
    """The files written, `<stem>.png` and `<stem>.svg`: whole or not at all, without a date or a version.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    rendered = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], dpi=DPI, metadata=metadata)
        rendered.append((stem.with_name(stem.name + suffix), buffer.getvalue()))
    return tuple(files.write(path, content) for path, content in rendered)


def drawable(value: float) -> float:
    """The float nearest to a count of any size; a drawing needs no more. What is as good as 0 is 0."""
    return float(min(value, LARGEST_DRAWN)) if value >= SMALLEST_DRAWN else 0.0


@dataclass(frozen=True)
class Scale:
    """One axis: its limits, whether it is logarithmic, and its ticks with their texts."""

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]
    texts: tuple[str, ...]

    def apply(self, axis: MatplotlibAxis) -> None:
        """Set up an x or y axis of matplotlib so."""
        set_scale, set_limits = (
            (axis.axes.set_xscale, axis.axes.set_xlim)
            if axis.axis_name == "x"  # type: ignore[attr-defined]
            else (axis.axes.set_yscale, axis.axes.set_ylim)
        )
        set_scale("log" if self.log else "linear")
        set_limits(self.low, self.high)
        axis.set_major_locator(FixedLocator(self.ticks))
        axis.set_major_formatter(FixedFormatter(self.texts))
        axis.set_minor_locator(NullLocator())


def scale_of(
    values: Sequence[float], unit: str, *, margin: float = 0.08, most_ticks: int = 7, zero: bool = False
) -> Scale:
    """An axis that shows all the values: logarithmic where they are positive and span nearly a decade.

    `margin` is the share of the axis left free at each end. A linear one begins at 0 with `zero`, so that
    heights compare.
    """
    low, high = min(values), max(values)
    log = low > 0 and high >= 5 * low
    if log:
        room = (high / low) ** (margin / (1 - 2 * margin))
        return scale_within(low / room, high * room, unit, log=True, most_ticks=most_ticks)
    # Values that agree to a few percent are shown as near each other, not magnified into a trade-off.
    room = max((high - low) * margin / (1 - 2 * margin), (0.1 * max(abs(low), abs(high)) or 1.0) - (high - low) / 2)
    if zero and low >= 0:
        return linear_scale(0.0, high * (1 + margin) or 1.0, unit, most_ticks=most_ticks)
    low, high = max(low - room, 0.0) if low >= 0 else low - room, high + room
    return linear_scale(low, high, unit, most_ticks=most_ticks)


def scale_within(low: float, high: float, unit: str, *, log: bool, most_ticks: int = 7) -> Scale:
    """An axis with exactly these limits."""
    if not log:
        return linear_scale(low, high, unit, most_ticks=most_ticks)
    ticks = _log_ticks(low, high, most_ticks)
    return Scale(low, high, True, ticks, tuple(_tick_text(t, t, unit) for t in ticks))


def both_scales(axes: Axes, scale: Scale, base: float, unit: str, *, most_ticks: int) -> None:
    """Set up an x axis in multiples of a base below, where that is more than 0, and in its unit above."""
    if base <= 0:
        scale.apply(axes.xaxis)
        return
    across = scale_within(scale.low / base, scale.high / base, "×", log=scale.log, most_ticks=most_ticks)
    Scale(scale.low, scale.high, scale.log, tuple(t * base for t in across.ticks), across.texts).apply(axes.xaxis)
    above = axes.secondary_xaxis("top")
    above.xaxis.set_major_locator(FixedLocator(scale.ticks))
    above.xaxis.set_major_formatter(FixedFormatter(scale.texts))
    above.xaxis.set_minor_locator(NullLocator())
    above.tick_params(labelsize=8.5, labelcolor=MUTED, color=MUTED, length=3)
    above.spines["top"].set_color(FAINT)


def linear_scale(low: float, high: float, unit: str, *, most_ticks: int = 7) -> Scale:
    """A linear axis with exactly these limits."""
    places = MaxNLocator(nbins=most_ticks - 1, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    ticks = tuple(float(t) for t in places if low <= t <= high * (1 + 1e-12))
    return Scale(low, high, False, ticks, tuple(_tick_text(t, max(map(abs, ticks)), unit) for t in ticks))


def _log_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for mantissas in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3)):
        ticks = [float(f"{m}e{k}") for k in range(first, last + 1) for m in mantissas]
        inside = tuple(t for t in ticks if low <= t <= high)
        if len(inside) <= most:
            return inside
    step = next(s for s in (1, 2, 3, 6, 12, 24, 48, 96, 192) if (last - first) / s <= most)
    return tuple(t for k in range(first, last + 1) if k % step == 0 and low <= (t := float(f"1e{k}")) <= high)


_PREFIXES = {-3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P", 6: "E", 7: "Z", 8: "Y", 9: "R"}


def _tick_text(value: float, largest: float, unit: str) -> str:
    """`2.5 GB`: the value with the prefix that suits `largest`, so that the ticks of one axis agree."""
    if value == 0:
        return f"0 {unit}".rstrip()
    if unit == "×":
        return f"× {value:,.6g}" if 1e-4 <= abs(value) < 1e7 else f"× {value:.0e}"
    if largest >= 1e30:
        return f"{value:.2g} {unit}".replace("e+", "e")
    lowest = -3 if unit == "s" else 0
    highest = 0 if unit == "s" else 9
    group = min(max(math.floor(math.log10(abs(largest)) / 3 + 1e-9), lowest), highest)
    return f"{value / 1000.0**group:.6g} {_PREFIXES[group]}{unit}".rstrip()


def heading(
    figure: Figure, results: Mapping[str, Any], *, what: str, title: str | None = None, graph: bool = True
) -> float:
    """Write the finding, the scenario's description and a line about its graph; the inches this took from the top.

    The name of the scenario stands where there is no finding.
    """
    scenario = results["scenario"]
    width, height = (float(v) for v in figure.get_size_inches())
    left, top = 0.35 / width, 0.14
    description = " ".join(str(scenario.get("description") or "").split())
    summary = " · ".join([what, *(graph_summary(scenario) if graph else ())])
    parts: tuple[tuple[str, float, Mapping[str, Any]], ...] = (
        (title or str(scenario["name"]), 13.5, {"fontweight": "bold"}),
        (description, 9.5, {"color": INK}),
        (summary, 9.0, {"color": MUTED}),
    )
    for words, size, look in parts:
        top += 0.03
        for line in _wrapped(figure, words, width - 0.7, size, look):
            top += size * 0.0188 + 0.015
            figure.text(left, 1 - top / height, line, fontsize=size, va="baseline", **look)
    return top + 0.2


def _wrapped(figure: Figure, words: str, width: float, size: float, look: Mapping[str, Any]) -> list[str]:
    """Words in up to `MOST_LINES` lines, none wider than so many inches."""
    probe = figure.text(0, 0, "", fontsize=size, **look)
    lines: list[str] = []
    for characters in range(max(len(words), 1), 8, -2):
        lines = textwrap.wrap(words, characters, max_lines=MOST_LINES, placeholder=" …")
        probe.set_text("\n".join(lines))
        if probe.get_window_extent(renderer(figure)).width <= width * figure.dpi:
            break
    probe.remove()
    return lines


def named(results: Mapping[str, Any], sentence: str) -> str:
    """A sentence about a scenario, which begins with its name."""
    return f"{results['scenario']['name']}: {sentence}"


def key(figure: Figure, handles: Sequence[Artist], top: float) -> None:
    """Draw the key of colours under a heading that took `top` inches, in as few rows as fit."""
    width, height = (float(v) for v in figure.get_size_inches())
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(
            handles=list(handles), ncols=columns, loc="upper left", fontsize=9, borderaxespad=0.0, borderpad=0.0,
            bbox_to_anchor=(0.35 / width, 1 - (top - 0.08) / height), handlelength=1.3, handleheight=0.9,
            handletextpad=0.5, columnspacing=1.4,
        )  # fmt: skip
        if legend.get_window_extent(renderer(figure)).x1 <= (width - 0.2) * figure.dpi or columns == 1:
            break
        legend.remove()


def graph_summary(scenario: Mapping[str, Any]) -> list[str]:
    """The graph in words: its size, the work of one evaluation, the device."""
    graph, device = scenario.get("graph") or {}, scenario.get("device")
    facts = []
    if "nodes" in graph:
        facts.append(f"{graph['nodes']:,} node{'s' if graph['nodes'] != 1 else ''}")
    if graph.get("parameters"):
        facts.append(f"{format_count(graph['parameters'])} parameters")
    if graph.get("forward_flops"):
        facts.append(f"one evaluation {format_flops(graph['forward_flops'])}")
    name = device.get("name") if isinstance(device, Mapping) else device
    if name:
        facts.append(str(name))
    return facts


def budget_of(results: Mapping[str, Any]) -> int | None:
    """The scenario's memory budget in bytes, if it has one."""
    budget = results["scenario"].get("budget_bytes")
    return int(budget) if budget is not None else None


BUDGET: Mapping[str, Any] = MappingProxyType({"color": INK, "linewidth": 1.0, "linestyle": (0, (5, 3))})
"""The line of a budget."""


def budget_line(axes: Axes, budget: int, *, does_not_fit: bool) -> None:
    """Draw the budget across the axes, and shade what lies above it if that is asked for."""
    at = drawable(budget)
    low, high = axes.get_ylim()
    if low < at < high:
        axes.axhline(at, **BUDGET, zorder=2.6)
    if does_not_fit and at < high:
        axes.axhspan(max(at, low), high, color=VERMILLION, alpha=0.07, linewidth=0, zorder=0.5)


def budget_text(budget: int) -> str:
    """`budget of 8 GB`."""
    return f"budget of {short_bytes(budget)}"


def short_bytes(count: int) -> str:
    """`8 GB`, where the table says `8.00 GB`."""
    number, unit = format_bytes(count).split(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"
