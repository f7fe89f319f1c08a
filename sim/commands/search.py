"""`sim search`: the ways to spread a job over a number of devices, and the front of memory against time."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.base import files
from sim.commands.command import Changes, Quiet, ScenarioPath, Shown, TableOrJson, app, emit, note
from sim.commands.exit import Exit
from sim.commands.process import on_interruption

if TYPE_CHECKING:
    from sim.experiment.search import Configuration, Found

_MOST_REASONS = 3


@app.command()
def search(
    file: ScenarioPath,
    devices: Annotated[
        int | None, typer.Option("--devices", "-d", min=1, help="How many there are; as in the scenario unless given.")
    ] = None,
    changes: Changes = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the files; outputs/NAME/search unless given.")
    ] = None,
    format: Shown = TableOrJson.table,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Processes; all cores unless given.")] = None,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Write no figure.")] = False,
    quiet: Quiet = False,
) -> Exit:
    """Find the front of memory a device against time a step, over pipeline, data, tensor, ZeRO and recomputation."""
    from sim import plots
    from sim.base.workers import Workers, cores
    from sim.experiment import search as searches
    from sim.scenario.scenario import load

    scenario = load(file, changes=changes or ())
    searches.check(scenario)
    folder = Path("outputs") / scenario.name / "search" if output is None else output
    files.check_writable(folder)

    def finish(found: Found) -> str:
        files.write(folder / "search.json", found.to_json())
        emit(_text(found, format))
        return f"{len(found.configurations):,} configurations are finished and kept in {folder / 'search.json'}"

    shown = quiet or not sys.stderr.isatty()
    with nullcontext() if shown else typer.progressbar(length=1, label="searching", file=sys.stderr) as bar:

        def progress(found: Found, groups: int, done: int) -> None:
            on_interruption(lambda: finish(found))
            if bar is not None:
                bar.length = groups
                bar.update(done - bar.pos)

        workers = Workers(cores() if jobs is None else jobs, at_once=jobs is not None)
        found = searches.search(scenario, devices, workers=workers, progress=progress)
    paths = [files.write(folder / "search.json", found.to_json())]
    on_interruption("the search is finished and kept")
    emit(_text(found, format))
    if not no_plots:
        paths += plots.draw("search", found.to_dict(), folder)
    for line in _remarks(found, file):
        note(line, quiet=quiet)
    for path in paths:
        note(f"wrote {path}", quiet=quiet)
    return Exit.FINE if found.front else Exit.NOTHING_FITS


def _text(found: Found, format: TableOrJson) -> str:
    from sim.base.units import format_bytes, format_seconds

    if format is TableOrJson.json:
        return found.to_json()
    limit = "" if found.limit_bytes is None else f" of {format_bytes(found.limit_bytes)}"
    lines = [f"{found.scenario}: {found.devices} devices{limit}, {found.batch} samples a step", ""]
    rows = [("peak", "time", "pipeline", "data", "tensor", "ZeRO", "micro-batch", "count", "bubble", "recompute",
             "schedule")]  # fmt: skip
    for c in found.front:
        numbers = map(str, (c.pipeline, c.data, c.tensor, c.zero, c.micro_batch, c.micro_batches))
        costs = format_bytes(c.peak_bytes), format_seconds(c.seconds)
        rows.append((*costs, *numbers, f"{c.bubble:.4f}", c.recompute, c.schedule))  # type: ignore[arg-type]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if k >= len(row) - 2 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines if found.front else [lines[0], "", "nothing fits"]) + "\n"


def _remarks(found: Found, file: Path) -> list[str]:
    """What became of all configurations, and how the fastest is run."""
    from sim.base.units import format_bytes

    fits, too_large = found.count("simulated"), found.count("does not fit")
    lines = [
        f"{len(found.configurations):,} configurations: {fits + too_large:,} simulated, of which {fits:,} fit; pruned "
        f"by lower bounds: {found.count('bytes'):,} cannot fit, {found.count('seconds'):,} are beaten"
    ]
    if found.impossible:
        lines.append(f"{sum(found.impossible.values()):,} more are impossible, the most often because:")
        worst = sorted(found.impossible.items(), key=lambda item: -item[1])[:_MOST_REASONS]
        lines += [f"  {why} ({count:,})" for why, count in worst]
    if found.front:
        fastest = min(found.front, key=lambda c: c.seconds)
        lines.append(f"the fastest: {shlex.join(['sim', 'run', str(file), *settings_of(fastest)])}")
    elif found.configurations:
        least = min(c.peak_bytes for c in found.configurations)
        lines.append(f"nothing fits; the smallest is at least {format_bytes(least)} a device")
    return lines


def settings_of(c: Configuration) -> list[str]:
    """The options of `sim run` by which a scenario has this configuration alone."""
    name, *parameters = c.schedule.split()
    values = dict(pair.split("=") for pair in parameters)
    schedule = name if not values else f"{{{name}: {{{', '.join(f'{k}: {v}' for k, v in values.items())}}}}}"
    numbers = {
        "parallel.tensor": c.tensor, "parallel.sequence": str(c.sequence).lower(), "parallel.data": c.data,
        "parallel.zero": c.zero, "parallel.recompute": c.recompute, "parallel.batch": "",
        "parallel.pipeline.stages": c.pipeline, "parallel.pipeline.micro_batches": c.micro_batches,
        "parallel.pipeline.chunks": "", "parallel.pipeline.schedule": schedule, "graph.batch": c.micro_batch,
    }  # fmt: skip
    return [f"--set={key}={value}" for key, value in numbers.items()]
