"""`sim validate`: everything that is wrong with scenarios, and nothing computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sim.base.document import DocumentError
from sim.commands.output import emit, note

INVALID = 2


def validate(paths: Sequence[Path], *, quiet: bool) -> int:
    """0 if all files are valid scenarios, else 2; a line for each valid one, the problems of the others."""
    from sim.scenario import scenario

    code = 0
    for path in paths:
        try:
            wanted = scenario.load(path)
            graph = wanted.check()
        except DocumentError as error:
            note(str(error))
            code = INVALID
            continue
        if not quiet:
            count = len(wanted.points)
            size = "a model that is not built here" if graph is None else f"{len(graph)} nodes"
            emit(f"{path}: valid: {wanted.name}, {size}, {count} point{'s' if count != 1 else ''}\n")
    return code
