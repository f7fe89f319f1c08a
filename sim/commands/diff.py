"""`sim diff`: two results.json, point by point."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.commands.command import app, emit
from sim.commands.exit import Exit

if TYPE_CHECKING:
    from sim.experiment.point import Point


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="A results.json, or the folder that it is in.")],
    after: Annotated[Path, typer.Argument(help="Another one.")],
) -> Exit:
    """Compare two results: the points whose bytes, flops or seconds differ, and those that only one has."""
    from sim.experiment.results import read

    old, new = ({p.name: p for p in read(_file(path)).points} for path in (before, after))
    lines = [f"{label}: only in {before}" for label in old if label not in new]
    lines += [f"{label}: only in {after}" for label in new if label not in old]
    both = [label for label in old if label in new]
    differences = {label: _differences(old[label], new[label]) for label in both}
    lines += [f"{label}: {'; '.join(told)}" for label, told in differences.items() if told]
    same = sum(not told for told in differences.values())
    emit("\n".join([*lines, f"{same} of {len(both)} points in both are the same", ""]))
    return Exit.FINE


def _file(path: Path) -> Path:
    return path / "results.json" if path.is_dir() else path


def _differences(old: Point, new: Point) -> list[str]:
    """The differences between two points of one label, each with its ratio."""
    from sim.base.units import format_bytes, format_flops, format_seconds

    told = []
    pairs: tuple[tuple[str, Any, Any, Callable[[Any], str]], ...] = (
        ("peak", old.peak_bytes, new.peak_bytes, format_bytes),
        ("flops", old.flops["total"], new.flops["total"], format_flops),
        ("time", old.seconds, new.seconds, format_seconds),
    )
    for what, a, b, shown in pairs:
        if a == b:
            continue
        texts = ["none" if x is None else shown(x) for x in (a, b)]
        exact = f" ({a} and {b})" if texts[0] == texts[1] else ""
        ratio = f" ({b / a:.3g} ×)" if a and b is not None and not exact else ""
        told.append(f"{what} {texts[0]} → {texts[1]}{exact}{ratio}")
    if old.fits != new.fits:
        told.append("no longer fits" if old.fits else "fits now")
    if not told and old != new:
        told.append("the same peak, flops and time by another schedule")
    return told
