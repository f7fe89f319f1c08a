"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from sim.base.errors import SimError

_unfinished: set[Path] = set()
"""Temporary files of writes that are under way."""


class OutputError(SimError):
    """A file or folder that cannot be written; the message says which and why.

    `out_of_space` tells a full disk from a place that was never possible.
    """

    def __init__(self, message: str, *, out_of_space: bool = False) -> None:
        super().__init__(message)
        self.out_of_space = out_of_space


def write(path: Path, content: str | bytes | Iterable[str]) -> Path:
    """The path, once `content` is in it, which may come in parts; raises as `replacing` does."""
    parts = [content] if isinstance(content, str | bytes) else content
    with replacing(path) as file:
        for part in parts:
            file.write(part.encode() if isinstance(part, str) else part)
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that gets this path when the block ends; one that was there stays untouched if that fails.

    Raises
    ------
    OutputError
        If the folder or the file cannot be written (no space, no permission, something in the way).
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    _unfinished.add(temporary)
    try:
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from None
    finally:
        _discard(temporary)


def discard_unfinished() -> None:
    """Take away what writes have left that this process, about to end, will not finish."""
    for temporary in tuple(_unfinished):
        _discard(temporary)


def _discard(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
    _unfinished.discard(temporary)


def remove(folder: Path, names: Iterable[str]) -> None:
    """Take away those of the named files that are in a folder."""
    for name in names:
        with contextlib.suppress(OSError):
            (folder / name).unlink(missing_ok=True)


def make_folder(path: Path) -> Path:
    """The path, once it is a folder.

    Raises
    ------
    OutputError
        If it cannot be made, or something else has its name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise OutputError(f"{path}: this is a file, expected a folder for the output") from None
    except OSError as error:
        raise _cannot_write(path, error) from None
    return path


def check_writable(folder: Path) -> None:
    """Check that files can be made in a folder, which may not be there yet.

    Raises
    ------
    OutputError
        If something else has its name or that of a folder above it, or it is not ours to write.
    """
    try:
        place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    except OSError as error:
        raise _cannot_write(folder, error) from None
    if not place.is_dir():
        raise OutputError(f"{place}: this is a file, expected a folder for the output")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: cannot be written: permission denied")


def _cannot_write(path: Path, error: OSError) -> OutputError:
    reason = (error.strerror or str(error)).lower()
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    return OutputError(f"{path}: cannot be written: {reason}", out_of_space=full)
