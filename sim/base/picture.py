"""Figures in memory, and their drawer: `sim` names it, so that rooms below the plots can show their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

_named: dict[str, Callable[..., Any]] = {}


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


def drawn_by(plot: Callable[..., Picture], html: Callable[[Any], str]) -> None:
    """Name the functions that draw values of every room, and that write them as HTML."""
    _named.update(plot=plot, html=html)


def drawing(of: object, figure: str | None = None) -> Picture:
    """The figure of a value, by the function that was named."""
    picture: Picture = _named["plot"](of, figure)
    return picture


def shown(of: object) -> str:
    """The HTML of a value, by the function that was named."""
    return str(_named["html"](of))
