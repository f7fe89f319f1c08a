"""A sweep along one of its axes: memory, and time or work, of each strategy; a panel for each value of another axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sim.plots.drawing import style

MOST_STRATEGIES = 8
COLOURS = (
    style.BLUE, style.VERMILLION, style.GREEN, style.PURPLE, style.ORANGE, style.SKY, style.BLACK, "#8C564B",
)  # fmt: skip
MARKERS = "osD^vPX*"
WIDE_INCHES, TALL_INCHES = 3.3, 2.5
LEFT, BESIDE, BETWEEN, BELOW = 0.95, 2.3, 0.25, 0.62


def draw(results: Mapping[str, Any], stem: Path) -> tuple[Path, ...]:
    """`<stem>.png` and `<stem>.svg` of the `sweep` in the parsed results.json; nothing for an axis of one value.

    Points that do not fit are hollow. Panels of a row share their axes; the other axes of the sweep stay at
    their middle values, which the heading names.
    """
    swept = results.get("sweep")
    if not swept or not swept["chart"]["lines"]:
        return ()
    chart, axes = swept["chart"], swept["axes"]
    x = axes[chart["x"]]
    if len(x["values"]) < 2:
        return ()
    names = list(dict.fromkeys(line["label"] for line in chart["lines"]))
    shown = names[:MOST_STRATEGIES]
    lines = [line for line in chart["lines"] if line["label"] in shown]
    rows = _rows(lines)
    panels, limit = chart["panels"], _limit(results)
    width = LEFT + len(panels) * (WIDE_INCHES + BETWEEN) + BESIDE
    with style.canvas(width, 1.3 + len(rows) * (TALL_INCHES + BETWEEN) + BELOW) as figure:
        what = f"{swept['cells']:,} cells"
        if len(shown) < len(names):
            what += f", {len(shown)} of {len(names)} strategies shown"
        if chart["panel"] is not None and len(panels) < len(axes[chart["panel"]]["values"]):
            what += (
                f", {len(panels)} of {len(axes[chart['panel']]['values'])} values of {_key(axes[chart['panel']])} shown"
            )
        if limit is not None:
            what += f" · dashed: {style.short_bytes(limit)}"
        what += "".join(f" · {key} = {value}" for key, value in chart["fixed"].items())
        top = style.heading(figure, results, title=_finding(results), what=what, graph=False) + 0.25
        for r, row in enumerate(rows):
            for p in range(len(panels)):
                box = _Box(figure, p, len(rows) - 1 - r)
                panel = figure.add_axes(box.place)
                own = [line for line in lines if line["panel"] == p]
                _panel(panel, own, lines, row, x, shown)
                if row == "peak_bytes" and limit is not None:
                    style.budget_line(panel, limit, does_not_fit=True)
                if p:
                    panel.tick_params(labelleft=False)
                else:
                    panel.set_ylabel(TITLES[row])
                if r < len(rows) - 1:
                    panel.tick_params(labelbottom=False)
                else:
                    panel.set_xlabel(_key(x))
                if r == 0 and chart["panel"] is not None:
                    panel.set_title(_value(axes[chart["panel"]], panels[p]), fontsize=9.5, loc="left")
        _legend(figure, shown, top, hollow=not all(all(line["fits"]) for line in lines))
        return style.save(figure, stem)


TITLES = {"peak_bytes": "peak memory", "seconds": "time of a step", "work": "work, one evaluation = 1"}


def _finding(results: Mapping[str, Any]) -> str:
    """The strategies that fit farthest and least far along the axis, in the last panel; or else its range."""
    swept = results["sweep"]
    chart, axes = swept["chart"], swept["axes"]
    x, last = axes[chart["x"]], len(chart["panels"]) - 1
    reach = {
        line["label"]: max((i for i, fits in zip(line["x"], line["fits"], strict=True) if fits), default=-1)
        for line in chart["lines"]
        if line["panel"] == last
    }
    if len(set(reach.values())) < 2:
        return style.named(results, f"{_key(x)} from {_value(x, 0, short=True)} to {_value(x, -1, short=True)}")
    where = "" if chart["panel"] is None else f"at {_value(axes[chart['panel']], chart['panels'][last])}, "
    far, near = max(reach, key=lambda name: reach[name]), min(reach, key=lambda name: reach[name])
    short = f"up to {_value(x, reach[near], short=True)}" if reach[near] >= 0 else "nowhere"
    return style.named(
        results, f"{where}{far} fits up to {_key(x)} = {_value(x, reach[far], short=True)}, {near} {short}"
    )


def _limit(results: Mapping[str, Any]) -> int | None:
    """The budget, or the memory of the device, unless the sweep varies it."""
    varied = {key.partition(".")[0] for axis in results["sweep"]["axes"] for key in axis["keys"]}
    if varied & {"budget", "device"}:
        return None
    budget = style.budget_of(results)
    return budget if budget is not None else (results["scenario"]["device"] or {}).get("memory_bytes")


def _rows(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The quantities that are shown, from above: bytes where there are any, and seconds rather than work."""
    rows = ["peak_bytes"] if any(any(line["peak_bytes"]) for line in lines) else []
    timed = any(s is not None for line in lines for s in line["seconds"])
    return [*rows, "seconds" if timed else "work"]


class _Box:
    """The place of a panel: its column from the left, its row from below."""

    def __init__(self, figure: Figure, column: int, row: int) -> None:
        width, height = (float(v) for v in figure.get_size_inches())
        left, bottom = LEFT + column * (WIDE_INCHES + BETWEEN), BELOW + row * (TALL_INCHES + BETWEEN)
        self.place = (left / width, bottom / height, WIDE_INCHES / width, TALL_INCHES / height)


def _panel(
    panel: Axes,
    own: Sequence[Mapping[str, Any]],
    all_lines: Sequence[Mapping[str, Any]],
    row: str,
    x: Mapping[str, Any],
    shown: Sequence[str],
) -> None:
    """Draw the lines of one panel on scales that all panels of its row share."""
    places = _places(x)
    values = [v for line in all_lines for v in line[row] if v]
    if values:
        style.scale_of(values, {"peak_bytes": "B", "seconds": "s", "work": ""}[row]).apply(panel.yaxis)
    for line in own:
        k = shown.index(line["label"])
        pairs = [(places[i], v, fits) for i, v, fits in zip(line["x"], line[row], line["fits"], strict=True) if v]
        panel.plot(
            [i for i, _, _ in pairs], [v for _, v, _ in pairs], color=COLOURS[k], linewidth=1.4, alpha=0.9, zorder=2
        )
        for i, v, fits in pairs:
            panel.plot(
                [i], [v], marker=MARKERS[k], markersize=5, linestyle="", color=COLOURS[k], zorder=3,
                markerfacecolor=COLOURS[k] if fits else style.PAPER,
            )  # fmt: skip
    step = max(1, -(-len(places) // 7))
    panel.set_xticks(places[::step], [_value(x, i, short=True) for i in range(0, len(places), step)])
    margin = 0.05 * max(places[-1] - places[0], 1e-9)
    panel.set_xlim(places[0] - margin, places[-1] + margin)
    panel.minorticks_off()


def _places(axis: Mapping[str, Any]) -> list[float]:
    """The places of the values: each as far from the next as the others, for they are mostly doubled."""
    return [float(i) for i in range(len(axis["values"]))]


def _key(axis: Mapping[str, Any]) -> str:
    return str(axis["keys"][0]) if len(axis["keys"]) == 1 else ", ".join(axis["keys"])


def _value(axis: Mapping[str, Any], i: int, *, short: bool = False) -> str:
    texts = [_text(key, v) for key, v in zip(axis["keys"], axis["values"][i], strict=True)]
    if short:
        return texts[0] if len(texts[0]) <= 12 else texts[0][:11] + "…"
    return ", ".join(f"{key} = {text}" for key, text in zip(axis["keys"], texts, strict=True))


def _text(key: str, value: Any) -> str:
    return style.short_bytes(value) if key == "budget" and isinstance(value, int) else str(value)


def _legend(figure: Figure, shown: Sequence[str], top: float, *, hollow: bool) -> None:
    width, height = (float(v) for v in figure.get_size_inches())
    handles = [
        Line2D([], [], color=COLOURS[k], marker=MARKERS[k], markersize=5, linewidth=1.4, label=label)
        for k, label in enumerate(shown)
    ]
    if hollow:
        handles.append(
            Line2D([], [], color=style.MUTED, marker="o", markerfacecolor=style.PAPER, linestyle="", markersize=5,
                   label="hollow: does not fit")
        )  # fmt: skip
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=((width - BESIDE + 0.05) / width, 1 - top / height),
        fontsize=9, borderaxespad=0.0, frameon=False, labelspacing=0.7,
    )  # fmt: skip
