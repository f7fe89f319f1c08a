"""Figures in memory, and their drawer: `sim` names it, so that rooms below the plots can show their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

_drawers: list[Callable[..., Picture]] = []


class Picture(NamedTuple):
    """A figure in memory, which notebooks show."""

    svg: str
    png: bytes

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> Path:
        """Write the figure as SVG or PNG, by the name of the file.

        Raises
        ------
        OutputError
            If the name ends otherwise, or the file cannot be written.
        """
        from sim.base import files

        path = Path(path)
        if path.suffix not in (".svg", ".png"):
            raise files.OutputError(f"{path}: got a file of kind {path.suffix!r}, expected .svg or .png")
        return files.write(path, self.svg if path.suffix == ".svg" else self.png)


def drawn_by(plot: Callable[..., Picture]) -> None:
    """Name the function that draws values of every room."""
    _drawers[:] = [plot]


def drawing(of: object, figure: str | None = None) -> Picture:
    """The figure of a value, by the function that was named."""
    return _drawers[0](of, figure)
