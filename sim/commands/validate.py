"""`sim validate`: everything that is wrong with scenarios, and nothing computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.commands.command import Changes, app, emit, note
from sim.commands.exit import Exit
from sim.commands.process import on_interruption


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Scenarios to check.")],
    changes: Changes = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors alone.")] = False,
) -> Exit:
    """Check scenarios, their graphs and their strategies, without computing anything."""
    from sim.base.document import DocumentError
    from sim.scenario.scenario import load

    code = Exit.FINE
    for number, path in enumerate(files):
        on_interruption(f"{number} of {len(files)} files are checked")
        try:
            scenario = load(path, changes=changes or ())
            graph = scenario.check()
        except DocumentError as error:
            note(str(error))
            code = Exit.USAGE
            continue
        if not quiet:
            count = len(scenario.points) + len(scenario.pipelines)
            size = "a model that is not built here" if graph is None else f"{len(graph)} nodes"
            size = "pipelines" if scenario.pipelines else size
            emit(f"{path}: valid: {scenario.name}, {size}, {count} point{'s' if count != 1 else ''}\n")
    return code
