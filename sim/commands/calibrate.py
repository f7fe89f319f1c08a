"""`sim calibrate`: this machine as the `device:` of a scenario."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

from sim.base import files
from sim.commands.output import emit, note


def calibrate(output: Path | None, *, dtype: str, quiet: bool) -> int:
    """0, once the rates of this machine are printed as YAML, and written to `output` if it is given."""
    if output is not None:
        files.check_writable(output.parent)
    from sim.experiment.calibrate import calibrate as measured

    note("measuring matrix products, memory and launches: a few seconds on an idle machine", quiet=quiet)
    text = measured().to_yaml(cast("Literal['float32', 'float64']", dtype))
    emit(text)
    if output is not None:
        note(f"wrote {files.write(output, text)}; name it in a scenario by: device: {output.name}", quiet=quiet)
    return 0
