"""The store of finished results: texts by their keys, in one SQLite file that processes share.

A transaction is there whole or not at all, also where a process is killed in the middle of it. Nothing in
the file is ever run: values are text, not pickles.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

LARGEST = 2_000_000_000
"""Bytes of the file above which the older half of its entries is forgotten when it is opened."""
_PATIENCE_S = 60.0
_AT_ONCE = 500
"""Keys that are looked for together; SQLite takes a few hundred more."""


class Store:
    """Texts by keys of bytes; `path` is the file, `None` for one of this process alone that goes with it."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._temporary = None if path else tempfile.TemporaryDirectory(prefix="sim-", ignore_cleanup_errors=True)
        file = path or Path(self._temporary.name if self._temporary else "") / "results.sqlite"
        try:
            self._connection = _opened(file)
        except sqlite3.DatabaseError:  # not a database, or a damaged one: results can be computed again
            file.unlink(missing_ok=True)
            self._connection = _opened(file)

    def close(self) -> None:
        """Let go of the file; a temporary one is gone then."""
        self._connection.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """The texts of those of the keys that have one."""
        return dict(self._rows("key, text", keys))

    def known(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of the keys that have a text."""
        return {key for (key,) in self._rows("key", keys)}

    def _rows(self, columns: str, keys: Sequence[bytes]) -> Iterator[Any]:
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            yield from self._connection.execute(f"SELECT {columns} FROM results WHERE key IN ({marks})", some)

    def put(self, entries: Iterable[tuple[bytes, str]]) -> None:
        """Keep texts, in one transaction; a key that has one gets the new one."""
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO results (key, text) VALUES (?, ?)", entries)


def _opened(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=_PATIENCE_S, check_same_thread=False)
    try:
        connection.execute("CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, text TEXT NOT NULL)")
        if file.stat().st_size > LARGEST:
            with connection:
                connection.execute(
                    "DELETE FROM results WHERE rowid <= (SELECT (min(rowid) + max(rowid)) / 2 FROM results)"
                )
            connection.execute("VACUUM")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def opened(*, shared: bool) -> Iterator[Store]:
    """Yield the store of this user, or where it cannot be had or is not to be `shared`, one of this process."""
    store: Store | None = None
    if shared:
        with contextlib.suppress(OSError, sqlite3.Error):
            folder().mkdir(parents=True, exist_ok=True)
            store = Store(folder() / "results.sqlite")
    store = store or Store(None)
    try:
        yield store
    finally:
        store.close()


def folder() -> Path:
    """The folder of what can be computed again: `SIM_CACHE_DIR`, or where the system has such.

    The base directories are those of the XDG specification on Linux, `~/Library/Caches` on macOS.
    """
    given = os.environ.get("SIM_CACHE_DIR")
    if given:
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sim"
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sim"


@cache
def program() -> str:
    """The digest of the program's sources: results of another version are others."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
