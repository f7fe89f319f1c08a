"""Results: what a run found, as values, as JSON that is the same byte for byte on every run, and as CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NotRequired, get_type_hints

from pydantic import BaseModel, create_model
from typing_extensions import TypedDict

from sim.base import files
from sim.base import json as jsontext
from sim.base.json import STRICT, Amount, JsonDocument, Plain
from sim.base.picture import Picture, drawing
from sim.experiment import columns, views
from sim.experiment.point import Point
from sim.experiment.spool import Spool
from sim.experiment.sweep import CheckedSwept

_LINES = 1_000
"""Points of a sweep that are written at a time."""


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
    interrupted. The points of a sweep may lie on disk (`Spool`).
    """

    scenario: About
    version: str
    points: Sequence[Point]
    complete: bool = True
    sweep: CheckedSwept | None = None
    views: Mapping[str, Any] = field(default_factory=views.nothing)

    def front(self, by: Literal["flops", "seconds"] = "flops") -> tuple[Point, ...]:
        """The points on the front of peak bytes and `by`, peak rising."""
        chosen = [p for p in self.points if p.pareto[by]]
        return tuple(sorted(chosen, key=lambda p: (p.peak_bytes, p.flops["total"])))

    def to_dict(self) -> dict[str, Any]:
        """The plain data of results.json, in which the views stand beside the points."""
        return self.frame() | {"points": [p.to_dict() for p in self.points], **self.views}

    def frame(self) -> dict[str, Any]:
        """The plain data of results.json without points: what there is to say and to draw of a sweep."""
        data = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "views"}
        if self.sweep is None:
            del data["sweep"]
        return data | {"points": [], **self.views}

    def to_json(self) -> str:
        """results.json: every count an exact integer, every float with all its digits."""
        return "".join(self.json_parts())

    def json_parts(self) -> Iterator[str]:
        """Yield the text of `to_json` in parts; each point of a sweep has a line of its own."""
        if self.sweep is None:
            yield jsontext.text(self.to_dict()) + "\n"
            return
        before = "{\n"
        for key, value in self.frame().items():
            yield f'{before} "{key}": '
            before = ",\n"
            yield from _list_of(self._lines()) if key == "points" else [_line(value)]
        yield "\n}\n"

    def _lines(self) -> Iterator[str]:
        return self.points.lines() if isinstance(self.points, Spool) else (_line(p.to_dict()) for p in self.points)

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Yield each point as a row of a table."""
        data = self.points.rows() if isinstance(self.points, Spool) else (p.to_dict() for p in self.points)
        return map(columns.flat, data)

    def _columns(self) -> columns.Columns:
        return self.points.columns if isinstance(self.points, Spool) else columns.Columns(self._rows())

    def to_csv(self) -> str:
        """One line a point; nested values as columns named by their path (`flops.total`)."""
        return "".join(self.csv_parts())

    def csv_parts(self) -> Iterator[str]:
        """Yield the text of `to_csv` in parts."""
        return columns.to_csv(self._rows(), self._columns())

    def to_dataframe(self) -> Any:
        """A pandas data frame, one row a point, with the columns of `to_csv`; whole numbers stay exact.

        Raises
        ------
        MissingExtra
            Without pandas, which the extra `frames` installs.
        """
        return columns.to_dataframe(self._rows(), self._columns())

    def to_parquet(self, path: Path) -> Path:
        """Write a Parquet file, one row a point, with the columns of `to_csv`; its path.

        Raises
        ------
        MissingExtra
            Without pyarrow, which the extra `frames` installs.
        OutputError
            If it cannot be written.
        """
        return columns.write_parquet(self._rows(), self._columns(), path)

    def plot(self, figure: str = "pareto") -> Picture:
        """A figure of these results, which notebooks show; raises as `sim.plot` does."""
        return drawing(self, figure)

    def _repr_html_(self) -> str:
        """The page of these results in a frame, which notebooks show."""
        from sim import report

        return report.frame(self.to_dict())

    def write(self, folder: Path) -> list[Path]:
        """results.json and results.csv in a folder, and of a sweep results.parquet if pyarrow is there; their paths.

        Raises
        ------
        OutputError
            If they cannot be written; what was there before is then left as it was.
        """
        paths = [
            files.write(folder / "results.json", self.json_parts()),
            files.write(folder / "results.csv", self.csv_parts()),
        ]
        if self.sweep is not None:
            with suppress(columns.MissingExtra):
                paths.append(self.to_parquet(folder / "results.parquet"))
        return paths


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
    shape["points"] = (tuple[Point, ...], ...)
    shape |= {key: (view.kind, view.nothing) for key, view in views.load().items()}
    return create_model("results.json", __config__=STRICT, **shape)


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _list_of(lines: Iterator[str]) -> Iterator[str]:
    """Yield the text of a list whose entries have lines of their own."""
    before = "[\n"
    while some := list(islice(lines, _LINES)):
        yield before + ",\n".join(f"  {line}" for line in some)
        before = ",\n"
    yield "[]" if before == "[\n" else "\n ]"
