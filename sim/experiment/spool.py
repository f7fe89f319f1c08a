"""Points on disk: as many as a sweep has, in little memory."""

from __future__ import annotations

import json
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from pydantic_core import from_json

from sim.experiment.columns import Columns, flat
from sim.experiment.point import Point


class Spool(Sequence[Point]):
    """A sequence of points in a temporary file that goes with it, each a line of JSON; and their columns."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by the finalizer)
        weakref.finalize(self, self._file.close)
        self._starts = array("Q", [0])
        self.columns = Columns()

    def append(self, point: Mapping[str, Any]) -> None:
        """Add the plain data of a point."""
        line = json.dumps(point, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        self._file.seek(self._starts[-1])
        self._file.write(line)
        self._starts.append(self._starts[-1] + len(line))
        self.columns.add(flat(point))

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Point: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Point, ...]: ...
    def __getitem__(self, index: int | slice) -> Point | tuple[Point, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        i = range(len(self))[index]
        return point_of(from_json(self._read(i, i + 1)))

    def __iter__(self) -> Iterator[Point]:
        return map(point_of, self.rows())

    def lines(self) -> Iterator[str]:
        """Yield each point as JSON."""
        for start in range(0, len(self), 1_000):
            yield from self._read(start, min(start + 1_000, len(self))).decode().splitlines()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the plain data of each point."""
        return map(from_json, self.lines())

    def _read(self, start: int, stop: int) -> bytes:
        self._file.seek(self._starts[start])
        return self._file.read(self._starts[stop] - self._starts[start])


def point_of(data: Mapping[str, Any]) -> Point:
    """The point of plain data that this program has made."""
    return Point(**{**data, "ranks": tuple(data.get("ranks", ()))})
