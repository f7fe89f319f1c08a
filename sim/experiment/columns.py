"""Points as rows of a table: CSV, a pandas data frame, Parquet; nested values are columns named by their path."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from sim.base import files
from sim.base.errors import SimError
from sim.experiment.point import Point

PART = 1_000
"""Rows that are converted at a time."""
GROUP = 20_000
"""Rows of a row group of Parquet."""
LARGEST_INT = 2**63 - 1

Row = Mapping[str, Any]


class MissingExtra(SimError):
    """A table that a package would make which is not installed."""


def flat(point: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a point: `{"flops": {"total": 3}}` is `flops.total`.

    >>> flat({"label": "a", "flops": {"total": 3}, "cell": {"graph.batch": 2}})
    {'label': 'a', 'flops.total': 3, 'cell.graph.batch': 2}
    """
    row: dict[str, Any] = {}
    for key, value in point.items():
        if type(value) is dict:
            for inner, v in value.items():
                row[f"{key}.{inner}"] = v
        else:
            row[key] = value
    return row


class Columns:
    """The columns of rows, in the order of `Point`, those inside one field in the order first met; and their types.

    A type is `int`, `float`, `bool`, `str` or `Exact`; lists are text.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._shapes: dict[tuple[tuple[str, ...], tuple[type, ...]], None] = {}
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Take note of the columns of a row."""
        values = row.values()
        types = tuple(map(type, values))
        if any(t is int and not -LARGEST_INT <= v <= LARGEST_INT for t, v in zip(types, values, strict=True)):
            types = tuple(Exact if t is int else t for t in types)
        self._shapes[tuple(row), types] = None

    @property
    def types(self) -> dict[str, type]:
        """The type of each column."""
        order = {f.name: i for i, f in enumerate(fields(Point))}
        found: dict[str, set[type]] = {}
        for keys, types in self._shapes:
            for key, kind in zip(keys, types, strict=True):
                found.setdefault(key, set()).add(kind)
        return {key: _common(found[key]) for key in sorted(found, key=lambda key: order[key.partition(".")[0]])}


class Exact:
    """The type of whole numbers some of which have more than 64 bits."""


def _common(types: set[type]) -> type:
    found = types - {type(None)}
    if len(found) == 1 and found <= {int, float, bool, str, Exact}:
        return found.pop()
    return Exact if found == {int, Exact} else float if found == {int, float} else str


def to_csv(rows: Iterable[Row], columns: Columns) -> Iterator[str]:
    """Yield the text of a CSV file in parts."""
    rows, names = iter(rows), [*columns.types]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    while True:
        yield text.getvalue()
        text.seek(0)
        text.truncate()
        some = list(islice(rows, PART))
        if not some:
            return
        writer.writerows([_cell(row.get(name)) for name in names] for row in some)


def _cell(value: Any) -> Any:
    kind = type(value)
    if kind is bool:
        return "true" if value else "false"
    return json.dumps(value) if kind is list or kind is tuple else value


def to_dataframe(rows: Iterable[Row], columns: Columns) -> Any:
    """The rows as a pandas data frame; whole numbers stay exact where a row has none.

    Raises
    ------
    MissingExtra
        Without pandas.
    """
    pandas = _extra("pandas")
    types = columns.types
    values: dict[str, list[Any]] = {key: [] for key in types}
    for row in rows:
        for key, column in values.items():
            column.append(row.get(key))
    kinds = {int: "Int64", float: "float64", bool: "boolean", str: "string", Exact: "object"}
    return pandas.DataFrame({
        key: pandas.array([_plain(v, kind) for v in values[key]], dtype=kinds[kind])
        for key, kind in types.items()
    })  # fmt: skip


def write_parquet(rows: Iterable[Row], columns: Columns, path: Path) -> Path:
    """Write the rows as a Parquet file, a group of rows at a time; the path.

    Raises
    ------
    MissingExtra
        Without pyarrow.
    OutputError
        If it cannot be written.
    """
    arrow, parquet = _extra("pyarrow"), _extra("pyarrow.parquet")
    kinds = {
        int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_(), str: arrow.string(),
        Exact: arrow.decimal256(76, 0),
    }  # fmt: skip
    types = columns.types
    schema = arrow.schema([(key, kinds[kind]) for key, kind in types.items()])
    rows = iter(rows)
    with files.replacing(path) as file, parquet.ParquetWriter(file, schema) as writer:
        batches = []
        while some := list(islice(rows, PART)):
            arrays = [
                arrow.array([_plain(row.get(key), kind) for row in some], type=kinds[kind])
                for key, kind in types.items()
            ]
            batches.append(arrow.record_batch(arrays, schema=schema))
            if len(batches) * PART == GROUP:
                writer.write_table(arrow.Table.from_batches(batches, schema))
                batches = []
        writer.write_table(arrow.Table.from_batches(batches, schema))
    return path


def _plain(value: Any, kind: type) -> Any:
    """A value as one of the type of its column."""
    if value is None or type(value) is kind:
        return value
    return float(value) if kind is float else value if kind is Exact else value if kind is int else json.dumps(value)


def _extra(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingExtra(
            f"this needs the package '{package.partition('.')[0]}', which is not installed; "
            "install it by: pip install 'ad-tradeoff-sim[frames]'"
        ) from None
