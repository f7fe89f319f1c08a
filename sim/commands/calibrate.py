"""`sim calibrate`: this machine as the `device:` of a scenario."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sim.base import files
from sim.commands.command import Quiet, app, emit, note
from sim.commands.exit import Exit


class Precision(StrEnum):
    """The dtype in which matrices are multiplied."""

    float32 = "float32"
    float64 = "float64"


@app.command()
def calibrate(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A YAML file to write, too.")] = None,
    dtype: Annotated[Precision, typer.Option("--dtype", help="What the compute rate is measured in.")] = (
        Precision.float32
    ),
    quiet: Quiet = False,
) -> Exit:
    """Measure this machine, as the `device:` of a scenario."""
    if output is not None:
        files.check_writable(output.parent)
    from sim.experiment.calibrate import calibrate as measured

    note("measuring matrix products, memory and launches: a few seconds on an idle machine", quiet=quiet)
    text = measured().to_yaml(dtype.value)
    emit(text)
    if output is not None:
        note(f"wrote {files.write(output, text)}; name it in a scenario by: device: {output.name}", quiet=quiet)
    return Exit.FINE
