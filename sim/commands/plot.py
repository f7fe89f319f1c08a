"""`sim plot`: the figures of a results.json, drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.base import files
from sim.commands.command import Quiet, app, note
from sim.commands.exit import Exit


@app.command()
def plot(
    file: Annotated[Path, typer.Argument(help="A results.json that `sim run` wrote.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the figures; that of the results unless given.")
    ] = None,
    quiet: Quiet = False,
) -> Exit:
    """Draw the figures of a results.json again, without a run."""
    from sim import plots
    from sim.experiment.results import read

    results = read(file)
    folder = file.parent if output is None else output
    files.check_writable(folder)
    for path in plots.draw_all(results.to_dict(), folder):
        note(f"wrote {path}", quiet=quiet)
    return Exit.FINE
