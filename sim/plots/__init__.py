"""Figures from results.json alone: one module a figure, each with a `draw(results, stem)`.

A new module of this package is a new figure; `drawing` has what they share. The modules import
matplotlib when they are imported, which takes half a second; this package does so only when something
is drawn.
"""

from __future__ import annotations

import importlib
import pkgutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.base.picture import Picture

FIGURES = tuple(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def picture(name: str, results: Mapping[str, Any]) -> Picture | None:
    """One figure of results, in memory; `None` where they hold no data for it."""
    with tempfile.TemporaryDirectory() as folder:
        made = draw(name, results, Path(folder))
        return Picture(svg=made[1].read_text(encoding="utf-8"), png=made[0].read_bytes()) if made else None


def draw_all(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """The files written into `folder`, PNG and SVG of every figure for which the results hold data.

    `results` is the parsed results.json.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    return [path for name in FIGURES for path in draw(name, results, folder)]


def draw(name: str, results: Mapping[str, Any], folder: Path) -> tuple[Path, ...]:
    """The files of one figure; raises as `draw_all` does."""
    files: tuple[Path, ...] = importlib.import_module(f"{__name__}.{name}").draw(results, folder / name)
    return files
