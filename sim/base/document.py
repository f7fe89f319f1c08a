"""The plain data of a file with the position of every key and value, and its problems shown where they are."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.base.errors import SimError
from sim.base.registry import Problem

LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_MOST_SHOWN = 50
_WIDEST_SHOWN = 120

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a text, both numbers from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Document:
    """The plain data of a file, and where each key and value of it stands; paths as in `Problem`."""

    name: str
    text: str
    data: Any
    keys: dict[KeyPath, Position] = field(default_factory=dict)
    values: dict[KeyPath, Position] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    """The values of `data` that are other than in the text: `graph.batch=16`."""

    @property
    def sha256(self) -> str:
        """The digest of the file, as `sha256sum` prints it; with changes, of the file and a line for each."""
        return hashlib.sha256("\n".join((self.text, *self.changes)).encode()).hexdigest()

    def position(self, problem: Problem) -> Position:
        """The place to point at: the key or value at the problem's path, or the closest thing that contains it."""
        path = problem.path
        if problem.on_key and path in self.keys:
            return self.keys[path]
        while path:
            if path in self.values:
                return self.values[path]
            path = path[:-1]
        return self.values.get((), Position(1, 1))

    def error(self, problems: Iterable[Problem]) -> DocumentError:
        """The error that shows these problems in the order of the file, each once."""
        return document_error(self.name, self.text, [(self.position(p), p.path, p.message) for p in problems])


def read_text(path: Path, name: str, *, kind: str, largest: int) -> str:
    """The text of a file of at most `largest` bytes; `name` is what messages call it, `kind` what they expect.

    Raises
    ------
    DocumentError
        If there is no such file, it may not be read, it is too large, or it is not UTF-8.
    """
    try:
        # a pipe that nobody writes to is empty rather than waited for
        with open(path, "rb", opener=lambda p, flags: os.open(p, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            os.set_blocking(file.fileno(), True)
            content = file.read(largest + 1)
    except OSError as error:
        why = {
            errno.ENOENT: "there is no such file",
            errno.EISDIR: f"this is a folder, expected {kind}",
            errno.EACCES: "this file may not be read",
            errno.ENXIO: f"this is a socket, expected {kind}",
        }.get(error.errno or 0, (error.strerror or str(error)).lower())
        raise DocumentError([Finding(name, None, "", why)]) from None
    except ValueError:
        raise DocumentError([Finding(repr(name), None, "", "this is no file name")]) from None
    if not content and path.is_fifo():
        raise DocumentError([Finding(name, None, "", f"this is a pipe that nobody writes to, expected {kind}")])
    return decoded(content, name, largest=largest)


def decoded(content: bytes, name: str, *, largest: int) -> str:
    """The text of at most `largest` bytes; `name` is what messages call them.

    Raises
    ------
    DocumentError
        If there are more, or they are not UTF-8.
    """
    if len(content) > largest:
        raise DocumentError([Finding(name, None, "", f"the file has over {largest} bytes, expected at most that")])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        message = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise DocumentError([Finding(name, Position(line, column), "", message)]) from None


def document_error(name: str, text: str, problems: Iterable[tuple[Position, KeyPath, str]]) -> DocumentError:
    """The error that shows what was found, in the order of the file, each once."""
    ordered = sorted(dict.fromkeys(problems), key=lambda f: f[0])
    return DocumentError([Finding(name, at, shown_path(path), message) for at, path, message in ordered], text)


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem with its place: what editors and CI systems parse as `file:line:column: message`."""

    file: str
    at: Position | None
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.at.line}:{self.at.column}" if self.at else self.file
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


class DocumentError(SimError):
    """Everything that is wrong with a file, in the order of its lines, with the lines themselves.

    `document` is what could be read all the same, so that its contents can be checked too.
    """

    def __init__(self, findings: list[Finding], text: str = "") -> None:
        self.findings = findings
        self.text = text
        self.document: Document | None = None
        lines = LINE_BREAK.split(text)
        shown = [_shown(f, lines) for f in findings[:_MOST_SHOWN]]
        if len(findings) > _MOST_SHOWN:
            shown.append(f"… and {len(findings) - _MOST_SHOWN} more problems")
        super().__init__("\n".join(shown))

    def within(self, document: Document) -> DocumentError:
        """This error, with the rest of the document."""
        self.document = document
        return self

    def joined(self, other: DocumentError) -> DocumentError:
        """Both errors' findings as one error, in the order of the file."""
        findings = sorted({*self.findings, *other.findings}, key=lambda f: f.at or Position(0, 0))
        return DocumentError(findings, self.text)


def shown_path(path: KeyPath) -> str:
    """`strategies[2].slots`: the name of the strategy itself is left out, for it stands in the line shown."""
    if len(path) > 2 and path[0] == "strategies":
        path = (*path[:2], *path[3:])
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _shown(finding: Finding, lines: list[str]) -> str:
    at = finding.at
    if at is None or not 0 < at.line <= len(lines):
        return str(finding)
    start = max(0, at.column - 1 - _WIDEST_SHOWN // 2) if len(lines[at.line - 1]) > _WIDEST_SHOWN else 0
    line = lines[at.line - 1][start : start + _WIDEST_SHOWN]
    before = "".join("\t" if c == "\t" else " " for c in line[: at.column - 1 - start])
    number = f"{at.line:>5}"
    return f"{finding}\n{number} | {line}\n{' ' * len(number)} | {before}^"
