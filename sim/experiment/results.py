"""Results: what a run found, as values, as JSON that is the same byte for byte on every run, and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, NotRequired, get_type_hints

from pydantic import BaseModel, create_model
from typing_extensions import TypedDict

from sim.base import files
from sim.base import json as jsontext
from sim.base.json import STRICT, Amount, JsonDocument, Plain
from sim.experiment import views
from sim.experiment.point import Point


class AboutGraph(TypedDict):
    """The graph that was asked about: its size, its work, what is differentiated."""

    name: NotRequired[str]
    nodes: Amount
    parameters: Amount
    forward_flops: Amount
    wrt: NotRequired[str | None]
    inputs: NotRequired[Amount]
    outputs: NotRequired[Amount]


class About(TypedDict):
    """The scenario: what the points were computed from."""

    name: str
    description: NotRequired[str]
    sha256: str
    graph: AboutGraph
    device: Mapping[str, Plain] | None
    budget_bytes: Amount | None


@dataclass(frozen=True, kw_only=True)
class Results:
    """All points of a run, with what they were computed from.

    `views` has the data of figures by its key (`sim.experiment.views`); `complete` is false if the run was
    interrupted.
    """

    scenario: About
    version: str
    points: tuple[Point, ...]
    complete: bool = True
    views: Mapping[str, Any] = field(default_factory=views.nothing)

    def front(self, by: Literal["flops", "seconds"] = "flops") -> tuple[Point, ...]:
        """The points on the front of peak bytes and `by`, peak rising."""
        chosen = [p for p in self.points if p.pareto[by]]
        return tuple(sorted(chosen, key=lambda p: (p.peak_bytes, p.flops["total"])))

    def to_dict(self) -> dict[str, Any]:
        """The plain data of results.json, in which the views stand beside the points."""
        data = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "views"}
        return data | {"points": [p.to_dict() for p in self.points], **self.views}

    def to_json(self) -> str:
        """results.json: every count an exact integer, every float with all its digits."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """One line a point; nested values as columns named by their path (`flops.total`)."""
        rows = [_flat(p.to_dict()) for p in self.points]
        columns = _column_order(rows)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _cell(v) for k, v in row.items()} for row in rows)
        return text.getvalue()

    def _repr_html_(self) -> str:
        """The page of these results in a frame, which notebooks show."""
        from sim import report

        return report.frame(self.to_dict())

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


def from_json(text: str, *, name: str = "results.json") -> Results:
    """The results that `Results.to_json` wrote; `name` is what messages call the text.

    Raises
    ------
    DocumentError
        If the text is something else.
    """
    return _results(jsontext.parse(text, name=name))


def read(path: Path) -> Results:
    """The results in a file.

    Raises
    ------
    DocumentError
        If it cannot be read, or holds something else.
    """
    return _results(jsontext.read(path))


def _results(document: JsonDocument) -> Results:
    data = dict(jsontext.validated(_file(), document))
    own = {f.name: data.pop(f.name) for f in fields(Results) if f.name != "views"}
    return Results(**own, views=data)


@cache
def _file() -> type[BaseModel]:
    """The model of results.json: the fields of `Results`, and the registered views in place of `views`."""
    hints = get_type_hints(Results, include_extras=True)
    own = [f for f in fields(Results) if f.name != "views"]
    shape: dict[str, Any] = {f.name: (hints[f.name], ... if f.default is MISSING else f.default) for f in own}
    shape |= {key: (view.kind, view.nothing) for key, view in views.load().items()}
    return create_model("results.json", __config__=STRICT, **shape)


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
