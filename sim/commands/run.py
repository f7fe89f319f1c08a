"""`sim run`: a scenario to a table, files and figures."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from sim.base import files
from sim.base.units import format_bytes
from sim.commands.output import colours, emit, note
from sim.commands.table import table
from sim.experiment.results import Results
from sim.plots import FIGURES

NOTHING_FITS, INTERRUPTED = 3, 130
_MOST_NOTES = 5
_DERIVED = ("trace.json", *(f"{figure}.{kind}" for figure in FIGURES for kind in ("png", "svg")))
"""What is made of results: an earlier run's would contradict the new results beside it."""


def run(file: Path, *, output: Path | None, format: str, quiet: bool, strict: bool, plots: bool) -> int:
    """The exit code of `sim run`, after the table is printed and the files are written."""
    with _told_of_compilation(quiet):
        from sim.experiment import run as experiment
        from sim.scenario import scenario

        wanted = scenario.load(file)
        folder = Path("outputs") / wanted.name if output is None else output
        files.check_writable(folder)
        if wanted.repeated_points:
            note(f"{wanted.repeated_points} points are written twice and computed once", quiet=quiet)
        code = 0
        try:
            with _progress(wanted.steps, quiet) as step:
                results = experiment.run(wanted, progress=step)
        except experiment.Interrupted as interrupted:
            results, code = interrupted.results, INTERRUPTED
            if not results.points:
                note("interrupted: no point was finished")
                return code
        written = results.write(folder)
        _print(results, format)
        _warn_of_many_gradients(results, quiet=quiet)
        if code == 0:
            chrome = experiment.traces(wanted, results)
            if chrome is not None:
                written.append(files.write(folder / "trace.json", json.dumps(chrome, separators=(",", ":")) + "\n"))
            if plots:
                written += _draw(results, folder)
    files.remove_others(folder, written, among=_DERIVED)
    for path in written:
        note(f"wrote {path}", quiet=quiet)
    if code == INTERRUPTED:
        note(f"interrupted: {len(results.points)} of {len(wanted.points)} points are finished and kept")
        return code
    return _fits(results, strict=strict, quiet=quiet)


def _print(results: Results, format: str) -> None:
    if format == "json":
        emit(results.to_json())
    elif format == "csv":
        emit(results.to_csv())
    else:
        emit(table(results, colour=colours()))


def _warn_of_many_gradients(results: Results, *, quiet: bool) -> None:
    graph = results.scenario["graph"]
    if graph["wrt"] == "parameters" and graph["outputs"] > 1:
        note(
            f"each parameter has {graph['outputs']:,} gradients, one for each output of a sample; "
            "a `loss:` in the graph makes it the one of training",
            quiet=quiet,
        )


def _draw(results: Results, folder: Path) -> list[Path]:
    from sim import plots

    return plots.draw_all(json.loads(results.to_json()), folder)


def _fits(results: Results, *, strict: bool, quiet: bool) -> int:
    missing = [p for p in results.points if not p.fits]
    for point in missing[:_MOST_NOTES]:
        note(f"does not fit: {point.label}: {point.why_not}", quiet=quiet)
    if len(missing) > _MOST_NOTES:
        note(f"does not fit: {len(missing) - _MOST_NOTES} more", quiet=quiet)
    if len(missing) < len(results.points):
        return 0
    smallest = min(results.points, key=lambda p: p.peak_bytes)
    note(
        f"nothing fits; the smallest peak is {format_bytes(smallest.peak_bytes)} "
        f"({smallest.peak_bytes} bytes), of {smallest.label}",
        quiet=quiet and not strict,
    )
    return NOTHING_FITS if strict else 0


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[int, int], object] | None]:
    """What to call after each point; a bar only on a terminal and for more than a few points."""
    if quiet or total < 3 or not sys.stderr.isatty():
        yield None
        return
    with typer.progressbar(length=total, label="computing", file=sys.stderr) as bar:
        yield lambda done, _: bar.update(done - bar.pos)


@contextmanager
def _told_of_compilation(quiet: bool) -> Iterator[None]:
    """A note when numba starts to compile, which takes some seconds and happens once on a machine."""
    events: Any = importlib.import_module("numba.core.event")
    told: list[object] = []

    class Listener(events.Listener):  # type: ignore[misc]
        def on_start(self, event: Any) -> None:
            if not told:
                told.append(event)
                note("compiling kernels, once per machine: this takes some seconds", quiet=quiet)

        def on_end(self, event: Any) -> None:
            pass

    listener = Listener()
    events.register("numba:compile", listener)
    try:
        yield
    finally:
        events.unregister("numba:compile", listener)
