"""`sim run`: a scenario to a table, files and figures."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.base import files, searches
from sim.base.companion import companion
from sim.commands.command import Changes, PipeClosed, Quiet, ScenarioPath, app, colours, emit, note
from sim.commands.exit import Exit
from sim.commands.process import NOTHING, on_interruption
from sim.commands.report import PAGE

if TYPE_CHECKING:
    from sim.experiment.measurements import Measurements
    from sim.experiment.results import Results

PARQUET = "results.parquet"
_PICTURES = ("png", "svg")
_MOST_NOTES = 5


class Format(StrEnum):
    """The format in which results are printed."""

    table = "table"
    json = "json"
    csv = "csv"


@app.command()
def run(
    file: ScenarioPath,
    changes: Changes = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the files; outputs/NAME unless given.")
    ] = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="What to print.")] = Format.table,
    quiet: Quiet = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if nothing fits budget and device.")] = False,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Write no figures.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write report.html too, a page to explore the results.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Processes for the cells of a sweep or map; all cores.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", metavar="ADDRESS", help="A Dask cluster that does it instead.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute again what is known of cells.")] = False,
) -> Exit:
    """Compute every point of a scenario: table, results.json, results.csv, figures and a trace."""
    from sim import plots
    from sim import report as pages
    from sim.plots.drawing.painter import painter

    with nullcontext(plots.draw_all) if no_plots else painter() as draw_all, _told_of_compilation(quiet):
        from sim.base.workers import Workers, cores
        from sim.commands.tables.run import table
        from sim.experiment import run as experiment
        from sim.scenario.scenario import load

        scenario = load(file, changes=changes or ())
        if scenario.sweep and report:
            raise scenario.error(("sweep",), "a page shows one graph; --set with a value for each key makes it of one")
        workers = Workers(cores() if jobs is None else jobs, scheduler, at_once=jobs is not None)
        folder = Path("outputs") / scenario.name if output is None else output
        files.check_writable(folder)
        if scenario.repeated_points:
            note(f"{scenario.repeated_points} points are written twice and computed once", quiet=quiet)

        def write(results: Results) -> list[Path]:
            paths = results.write(folder)
            derived = ("trace.json", PAGE, PARQUET, *(f"{figure}.{k}" for figure in plots.FIGURES for k in _PICTURES))
            # an earlier run's would contradict these results
            files.remove(folder, [name for name in derived if folder / name not in paths])
            return paths

        def show_results(results: Results) -> None:
            parts = {Format.json: results.json_parts, Format.csv: results.csv_parts}
            for part in [table(results, colour=colours())] if format is Format.table else parts[format]():
                emit(part)

        def message(results: Results, total: int, paths: Iterable[Path]) -> str:
            _tell_of(paths, quiet=quiet)
            return f"{len(results.points)} of {total} points are finished and kept"

        def finish(results: Results, total: int) -> str:
            paths = write(results)
            with suppress(PipeClosed, files.OutputError):
                show_results(results)
            return message(results, total, paths)

        measurements: Measurements | None = None
        with _progress(scenario.steps, quiet) as show:

            def done(so_far: Measurements) -> None:
                points = so_far.steps - scenario.steps + len(scenario.points)  # without the cells of the map
                on_interruption(lambda: finish(experiment.results_so_far(so_far), points))
                show(so_far.steps_done, so_far.steps)

            def told_of_sweep(done: int, total: int, kept: bool) -> None:
                again = "are finished and kept; the same command goes on from there"
                on_interruption(f"{done} of {total} points {again}" if kept else NOTHING)
                show(done, total)

            if scenario.sweep:
                results = experiment.sweep(scenario, workers=workers, fresh=fresh, progress=told_of_sweep)
            else:
                measurements = experiment.compute(scenario, progress=done, workers=workers, fresh=fresh)
                results = experiment.results_of(measurements)
        on_interruption(lambda: message(results, len(results.points), write(results)))
        paths = write(results)
        on_interruption(lambda: message(results, len(results.points), paths))
        show_results(results)
        if searches.ended():
            return Exit.INTERRUPTED
        data = results.frame() if scenario.sweep else results.to_dict()
        if not scenario.sweep:
            for sentence in filter(None, (pages.finding(data).sentence, pages.one_breakpoint(data))):
                note(sentence, quiet=quiet)
        _warn_of_many_gradients(results, quiet=quiet)
        chrome = experiment.traces(measurements) if measurements is not None else None
        if chrome is not None:
            paths.append(files.write(folder / "trace.json", json.dumps(chrome, separators=(",", ":")) + "\n"))
        if report:
            command = shlex.join(
                ["sim", "run", str(file), *(f"--set={change}" for change in changes or ()), "--report"]
            )
            paths.append(files.write(folder / PAGE, pages.html(results.to_dict(), command=command)))
        if not no_plots:
            paths += draw_all(data, folder)
    _tell_of(paths, quiet=quiet)
    return _fits(results, strict=strict, quiet=quiet)


def _tell_of(paths: Iterable[Path], *, quiet: bool) -> None:
    for path in paths:
        note(f"wrote {path}", quiet=quiet)


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

    if results.sweep is not None:
        for refusal in results.sweep["refused"]:
            cells = f"{refusal['cells']} of {results.sweep['cells']} cells"
            first = ", ".join(f"{key} = {value}" for key, value in refusal["first"].items())
            note(f"left out: {refusal['label']}, in {cells}; the first is {first}: {refusal['why']}", quiet=quiet)
        if results.sweep["fitting"] or not len(results.points):
            return Exit.FINE
    else:
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
        f"({smallest.peak_bytes} bytes), of {smallest.name}",
        quiet=quiet and not strict,
    )
    return Exit.NOTHING_FITS if strict else Exit.FINE


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[int, int], object]]:
    """A progress callback: a bar, on a terminal and for more than a few points."""
    if quiet or total < 3 or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    with typer.progressbar(length=total, label="computing", file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield show


@contextmanager
def _told_of_compilation(quiet: bool) -> Iterator[None]:
    """Tell when numba starts to compile, once on a machine; another process then compiles kernels of strategies."""
    events: Any = importlib.import_module("numba.core.event")
    compilations: list[object] = []
    beside = ExitStack()

    class Listener(events.Listener):  # type: ignore[misc]
        def on_start(self, event: Any) -> None:
            if not compilations:
                compilations.append(event)
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
