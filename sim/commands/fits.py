"""`sim fits`: whether a job on many devices fits, what decides, and what would help."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sim.commands.command import Changes, ScenarioPath, Shown, TableOrJson, app, emit
from sim.commands.exit import Exit

if TYPE_CHECKING:
    from sim.experiment.fits import Verdict


@app.command()
def fits(file: ScenarioPath, changes: Changes = None, format: Shown = TableOrJson.table) -> Exit:
    """Say whether a job on many devices fits; exit with 3 if it does not."""
    from sim.experiment.fits import verdict

    found = verdict(file, changes=changes or ())
    emit(_text(found) if format is TableOrJson.table else json.dumps(found.to_dict(), indent=1) + "\n")
    return Exit.FINE if found.fits else Exit.NOTHING_FITS


def _text(found: Verdict) -> str:
    from sim.base.units import format_bytes, format_seconds

    point, at = found.point, found.point.peak_at
    answer = "yes" if found.fits else "no"
    beside = "no limit is given"
    if found.limit_bytes is not None:
        left = found.limit_bytes - point.peak_bytes
        beside = f"{format_bytes(abs(left))} {'left' if left >= 0 else 'too much'} of {format_bytes(found.limit_bytes)}"
    shares = sorted(found.rank["breakdown"].items(), key=lambda item: -item[1])
    lines = [
        f"{answer}: {format_bytes(point.peak_bytes)} a device, {beside}",
        f"{point.label}, {format_seconds(point.seconds or 0.0)} a step; decided by {at['kind']} of {at['node']}:",
        "  " + ", ".join(f"{kind} {format_bytes(size)}" for kind, size in shares if size),
    ]
    for change in found.changes:
        verdict = "fits" if change.fits else "does not fit"
        took = format_seconds(change.seconds or 0.0)
        lines.append(f"{change.what}: {format_bytes(change.peak_bytes)}, {took} a step, {verdict}"
                     f" ({' '.join(f'--set {s}' for s in change.settings)})")  # fmt: skip
    return "\n".join(lines) + "\n"
