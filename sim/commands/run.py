"""`sim run`: a scenario to a table, files and figures."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.base import files
from sim.base.companion import companion
from sim.commands.command import Exit, Quiet, ScenarioPath, app, colours, emit, note

if TYPE_CHECKING:
    from sim.experiment.results import Results

_MOST_NOTES = 5


class Format(StrEnum):
    """How the results are printed."""

    table = "table"
    json = "json"
    csv = "csv"


@app.command()
def run(
    file: ScenarioPath,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the files; outputs/NAME unless given.")
    ] = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="What to print.")] = Format.table,
    quiet: Quiet = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if nothing fits budget and device.")] = False,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Write no figures.")] = False,
) -> Exit:
    """Compute every point of a scenario: table, results.json, results.csv, figures and a trace."""
    from sim import plots
    from sim.plots.drawing.painter import painter

    with nullcontext(plots.draw_all) if no_plots else painter() as draw_all, _told_of_compilation(quiet):
        from sim.experiment import run as experiment
        from sim.scenario import scenario

        wanted = scenario.load(file)
        folder = Path("outputs") / wanted.name if output is None else output
        files.check_writable(folder)
        if wanted.repeated_points:
            note(f"{wanted.repeated_points} points are written twice and computed once", quiet=quiet)
        code = Exit.FINE
        try:
            with _progress(wanted.steps, quiet) as step:
                finished = experiment.compute(wanted, progress=step)
                results = experiment.results_of(finished)
        except experiment.Interrupted as interrupted:
            results, code = interrupted.results, Exit.INTERRUPTED
            if not results.points:
                note("interrupted: no point was finished")
                return code
        written = results.write(folder)
        _print(results, format)
        _warn_of_many_gradients(results, quiet=quiet)
        if code is Exit.FINE:
            chrome = experiment.traces(finished)
            if chrome is not None:
                written.append(files.write(folder / "trace.json", json.dumps(chrome, separators=(",", ":")) + "\n"))
            if not no_plots:
                written += draw_all(results.to_dict(), folder)
    # what is made of results: an earlier run's would contradict the new results beside it
    derived = ("trace.json", *(f"{figure}.{kind}" for figure in plots.FIGURES for kind in ("png", "svg")))
    files.remove_others(folder, written, among=derived)
    for path in written:
        note(f"wrote {path}", quiet=quiet)
    if code is Exit.INTERRUPTED:
        note(f"interrupted: {len(results.points)} of {len(wanted.points)} points are finished and kept")
        return code
    return _fits(results, strict=strict, quiet=quiet)


def _print(results: Results, format: Format) -> None:
    from sim.commands.tables.run import table

    if format is Format.json:
        emit(results.to_json())
    elif format is Format.csv:
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


def _fits(results: Results, *, strict: bool, quiet: bool) -> Exit:
    from sim.base.units import format_bytes

    missing = [p for p in results.points if not p.fits]
    for point in missing[:_MOST_NOTES]:
        note(f"does not fit: {point.label}: {point.why_not}", quiet=quiet)
    if len(missing) > _MOST_NOTES:
        note(f"does not fit: {len(missing) - _MOST_NOTES} more", quiet=quiet)
    if len(missing) < len(results.points):
        return Exit.FINE
    smallest = min(results.points, key=lambda p: p.peak_bytes)
    note(
        f"nothing fits; the smallest peak is {format_bytes(smallest.peak_bytes)} "
        f"({smallest.peak_bytes} bytes), of {smallest.label}",
        quiet=quiet and not strict,
    )
    return Exit.NOTHING_FITS if strict else Exit.FINE


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
    """Tell when numba starts to compile, once on a machine; another process then compiles kernels of strategies."""
    events: Any = importlib.import_module("numba.core.event")
    told: list[object] = []
    beside = ExitStack()

    class Listener(events.Listener):  # type: ignore[misc]
        def on_start(self, event: Any) -> None:
            if not told:
                told.append(event)
                note("compiling kernels, once per machine: this takes some seconds", quiet=quiet)
                beside.enter_context(companion("sim.strategies.compile_some"))

        def on_end(self, event: Any) -> None:
            pass

    listener = Listener()
    events.register("numba:compile", listener)
    try:
        with beside:
            yield
    finally:
        events.unregister("numba:compile", listener)
