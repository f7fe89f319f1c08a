"""Results: what a run found, as values, as JSON that is the same byte for byte on every run, and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sim.base import files
from sim.base.errors import SimError


@dataclass(frozen=True, kw_only=True)
class Point:
    """One strategy with its parameters: exact bytes, flops and counts; seconds if a device was given.

    `fits` is false if the peak exceeds the budget or the device cannot hold it, and `why_not` says by
    how much; there are no seconds then. `simulated_peak_bytes` is more than `peak_bytes` where copies
    lag behind the computation, and `serial_seconds` what copies and computations would take one after
    the other. `notes` is what the planner says of its plan (a bracketing, the cost of its recurrence).
    `pareto["flops"]` says that no other point is at least as good in peak bytes, flops and copied bytes
    and better in one, `pareto["seconds"]` the same of simulated peak bytes and seconds.
    """

    strategy: str
    parameters: Mapping[str, Any]
    label: str
    peak_bytes: int
    working_bytes: int
    resident_bytes: int
    peak_at: Mapping[str, Any]
    peak_breakdown: Mapping[str, int]
    flops: Mapping[str, int]
    actions: Mapping[str, int]
    seconds: float | None = None
    stall_seconds: float | None = None
    simulated_peak_bytes: int | None = None
    copied_bytes: Mapping[str, int] = field(default_factory=dict)
    serial_seconds: float | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    fits: bool = True
    why_not: str | None = None
    pareto: Mapping[str, bool] = field(default_factory=lambda: {"flops": False, "seconds": False})


@dataclass(frozen=True, kw_only=True)
class Results:
    """All points of a run, with what they were computed from.

    `scenario` holds name, description, sha256 of the file, graph, device and budget_bytes;
    `profiles` the memory over the actions of a few points, for the timeline; `pictures` the actions of
    a few short schedules; `regimes` who wins where two keys of the scenario are varied, if it asks for
    that; `curves` every breakpoint of the fronts that were planned; `complete` is false if the run was interrupted.
    """

    scenario: Mapping[str, Any]
    version: str
    points: tuple[Point, ...]
    complete: bool = True
    profiles: tuple[Mapping[str, Any], ...] = ()
    pictures: tuple[Mapping[str, Any], ...] = ()
    regimes: Mapping[str, Any] | None = None
    curves: tuple[Mapping[str, Any], ...] = ()

    def front(self, by: str = "flops") -> tuple[Point, ...]:
        """The points on the front of peak bytes and `by` (`flops` or `seconds`), peak rising."""
        chosen = [p for p in self.points if p.pareto[by]]
        return tuple(sorted(chosen, key=lambda p: (p.peak_bytes, p.flops["total"])))

    def to_dict(self) -> dict[str, Any]:
        """What results.json holds, as plain data."""
        sequences = {"profiles": list(self.profiles), "pictures": list(self.pictures), "curves": list(self.curves)}
        return asdict(self) | {"points": [asdict(p) for p in self.points]} | sequences

    def to_json(self) -> str:
        """results.json: every count an exact integer, every float with all its digits."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """One line a point; nested values as columns named by their path (`flops.total`)."""
        rows = [_flat(asdict(p)) for p in self.points]
        columns = _column_order(rows)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _cell(v) for k, v in row.items()} for row in rows)
        return text.getvalue()

    def write(self, folder: Path) -> list[Path]:
        """results.json and results.csv in a folder; their paths.

        Raises
        ------
        OutputError
            If they cannot be written; what was there before is then left as it was.
        """
        return [
            files.write(folder / "results.json", self.to_json()),
            files.write(folder / "results.csv", self.to_csv()),
        ]


def from_json(text: str) -> Results:
    """The results that `Results.to_json` wrote.

    Raises
    ------
    SimError
        If the text is something else.
    """
    try:
        data = json.loads(text)
        known = {f.name for f in fields(Point)}
        points = tuple(Point(**{k: v for k, v in p.items() if k in known}) for p in data["points"])
        return Results(
            scenario=data["scenario"],
            version=data["version"],
            points=points,
            complete=data.get("complete", True),
            profiles=tuple(data.get("profiles", ())),
            pictures=tuple(data.get("pictures", ())),
            regimes=data.get("regimes"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SimError(f"these are no results of `sim run`: {type(error).__name__}: {error}") from None


def read(path: Path) -> Results:
    """The results in a file.

    Raises
    ------
    SimError
        If it cannot be read, or holds something else.
    """
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SimError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise SimError(f"{path}: these are no results of `sim run`: not UTF-8") from None


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) else {f"{prefix}{key}": inner}
    return flat


def _column_order(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns of all rows, in the order of `Point`; those inside one field in the order first met."""
    groups: dict[str, dict[str, None]] = {f.name: {} for f in fields(Point)}
    for row in rows:
        for key in row:
            groups[key.partition(".")[0]][key] = None
    return [key for group in groups.values() for key in group]


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, list | tuple) else value
