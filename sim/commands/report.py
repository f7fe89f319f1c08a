"""`sim report`: the page of a results.json."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sim.base import files
from sim.commands.command import Quiet, app, note
from sim.commands.exit import Exit

PAGE = "report.html"


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="A results.json that `sim run` wrote.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; report.html beside the results unless given.")
    ] = None,
    quiet: Quiet = False,
) -> Exit:
    """Write the page of a results.json: one HTML file to explore, without a network or a server."""
    from sim import report as pages
    from sim.experiment.results import read

    results = read(file)
    path = file.with_name(PAGE) if output is None else output
    page = pages.html(results.to_dict(), command=f"sim report {shlex.quote(str(file))}")
    note(f"wrote {files.write(path, page)}", quiet=quiet)
    return Exit.FINE
