"""Figures from results.json alone: one module a figure, each with a `draw(results, stem)`.

The modules import matplotlib when they are imported, which takes half a second; this package does
so only when something is drawn.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIGURES = ("pareto", "fronts", "timeline", "schedule", "regimes")


def draw_all(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """The files written into `folder`, PNG and SVG of every figure for which the results hold data.

    `results` is the parsed results.json.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    return [
        path for name in FIGURES for path in importlib.import_module(f"{__name__}.{name}").draw(results, folder / name)
    ]
