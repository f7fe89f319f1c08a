"""Results to draw, and what a figure shows: its words, its marks, what covers what."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from sim.plots.drawing import style

Results = dict[str, Any]
STRATEGIES = ("reverse_full", "reverse_checkpointed", "reverse_offload", "forward_recompute", "forward_cached", "other")


def point(strategy: str, peak: int, flops: int, seconds: float | None = None, **parameters: Any) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "parameters": parameters,
        "label": f"{strategy} {parameters}",
        "peak_bytes": peak,
        "working_bytes": peak,
        "resident_bytes": 0,
        "peak_at": {"action": 17, "kind": "vjp", "node": "block3.attention.softmax"},
        "flops": {"total": flops},
        "seconds": seconds,
    }


def results(points: list[dict[str, Any]], **more: Any) -> Results:
    scenario = {
        "name": "a_scenario",
        "description": "One sentence that says what a reader will see on this chart, and why it is worth a look.",
        "graph": {"nodes": 48, "parameters": 25_600_000, "forward_flops": 10**12},
        "device": {"name": "h100-sxm"},
        "budget_bytes": more.pop("budget_bytes", None),
    }
    return {"scenario": scenario, "points": points, **more}


def scattered(count: int, seed: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    along = np.sort(random.random(count))
    peaks, works = 10 ** (9.5 - 3 * along), 10 ** (9 + 4 * along)
    noise = 10 ** random.normal(0, 0.12, (2, count))
    return [
        point(STRATEGIES[i % 6], int(p * n), int(w * m), chunk=i)
        for i, (p, w, n, m) in enumerate(zip(peaks, works, *noise, strict=True))
    ]


def even_front(count: int) -> list[dict[str, Any]]:
    return [
        point("reverse_checkpointed", 10**9 // 2**i, 10**12 * 2**i, schedule="binomial", slots=i) for i in range(count)
    ]


def tent(place: int, samples: int = 400, high: int = 200, **more: Any) -> dict[str, Any]:
    """The plan of a point: a tent of activations, highest in the middle sample, a flop for each sample."""
    middle = samples // 2
    activation = [int(high * (1 - abs(k - middle) / middle)) for k in range(samples)]
    return {
        "point": place,
        "actions": samples,
        "at_kind": {"words": ["forward"], "of": [0] * samples},
        "at_node": [0] * samples,
        "bytes": {"activation": activation},
        "work": [*range(samples + 1)],
        "loops": [],
        **more,
    }


def tents(*highs: int, samples: int = 400, resident: int = 100, **more: Any) -> Results:
    """Results of points with tents of such heights over resident bytes."""
    points = [
        point(STRATEGIES[k % 6], resident + high, 1, turn=k) | {"resident_bytes": resident}
        for k, high in enumerate(highs)
    ]
    return results(points, plans=[tent(k, samples, high) for k, high in enumerate(highs)], **more)


Look = Callable[[Figure], Any]


def looking_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Draws a figure and hands it, just before it would be saved, to a function; what that returned."""

    def looking(draw: Callable[..., Any], data: Results, at: Look, **options: Any) -> list[Any]:
        seen: list[Any] = []

        def save(figure: Figure, stem: Path) -> tuple[Path, ...]:
            figure.canvas.draw()
            seen.append(at(figure))
            return ()

        monkeypatch.setattr(style, "save", save)
        draw(data, Path("unused"), **options)
        return seen

    return looking


def words(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text on the figure with the box that it covers, in pixels."""
    renderer = style.renderer(figure)
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    shown = [
        t
        for t in texts
        if t.axes is None or t not in t.axes.get_xticklabels() + t.axes.get_yticklabels() or _is_shown(t)
    ]
    return [(t.get_text(), Bbox(t.get_window_extent(renderer).extents.reshape(2, 2))) for t in shown]


def _is_shown(tick_label: Text) -> bool:
    axes = tick_label.axes
    assert axes is not None
    x_axis = tick_label in axes.get_xticklabels()
    low, high = axes.get_xlim() if x_axis else axes.get_ylim()
    return low <= tick_label.get_position()[0 if x_axis else 1] <= high


def overlapping(texts: list[tuple[str, Bbox]]) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other by more than a pixel."""
    return [
        (a, b)
        for (a, p), (b, q) in itertools.combinations(texts, 2)
        if min(p.x1, q.x1) - max(p.x0, q.x0) > 1 and min(p.y1, q.y1) - max(p.y0, q.y0) > 1
    ]


def drawn(figure: Figure) -> dict[str, tuple[float, float]]:
    """The marks of a chart by what they say they are (`FLOP-front-3`), and where they lie in the data."""
    lines = [line for axes in figure.axes for line in axes.lines if "-" in str(line.get_gid())]
    return {str(line.get_gid()): tuple(line.get_xydata()[0]) for line in lines}
