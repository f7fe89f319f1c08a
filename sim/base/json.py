"""JSON to plain data and to checked values; whatever is wrong is shown at its place in the text, as in scenarios."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from sim.base.document import LINE_BREAK, Document, DocumentError, Finding, KeyPath, Position, read_text
from sim.base.registry import Problem, problems_of

T = TypeVar("T")

LARGEST_FILE = 512_000_000
DEEPEST = 64
LARGEST_NUMBER = 10**100
"""More than anything that is counted or measured, and little enough to be drawn."""
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""The configuration of what is checked: no unknown keys, no conversions; inner types take it over."""


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST_NUMBER:
        raise ValueError("a number")
    return value


def _plain(value: Any, levels: int = 3) -> Any:
    if isinstance(value, list) and levels:
        return [_plain(item, levels - 1) for item in value]
    try:
        return value if value is None or isinstance(value, str | bool) else _number(value)
    except ValueError:
        raise ValueError("a number, text, true, false, null or a list of such") from None


Amount = Annotated[int, Field(ge=0, le=LARGEST_NUMBER)]
"""A whole number of at least 0."""
Measured = Annotated[float, Field(ge=0, le=LARGEST_NUMBER)]
"""A number of at least 0, such as of seconds."""
Number = Annotated[int | float, PlainValidator(_number)]
"""A number; whole ones stay exact."""
Plain = Annotated[Any, PlainValidator(_plain)]
"""The values of parameters: numbers, text, true, false, null and lists of such."""


class Words(TypedDict):
    """A column of a few words that repeat: `words`, each once, and for each entry the place of its word there."""

    words: list[str]
    of: list[Amount]


def _spellable(column: Words) -> Words:
    if any(k >= len(column["words"]) for k in column["of"]):
        raise ValueError("places of words that are there")
    return column


Column = Annotated[Words, AfterValidator(_spellable)]
"""The type of a column of words in a file."""


def words(column: Sequence[str]) -> Words:
    """A column of words, each written once.

    >>> words(["vjp", "copy", "vjp"])
    {'words': ['vjp', 'copy'], 'of': [0, 1, 0]}
    """
    place = {word: k for k, word in enumerate(dict.fromkeys(column))}
    return Words(words=list(place), of=[place[word] for word in column])


def spelled(column: Mapping[str, Sequence[Any]]) -> list[str]:
    """The column that `words` wrote."""
    return [column["words"][k] for k in column["of"]]


DRAWN_DIGITS = 6
"""Significant digits of times that figures draw: a screen has a few thousand dots."""


def rounded(value: float) -> float:
    """A time or an amount of work as figures draw it.

    >>> rounded(0.0123456789)
    0.0123457
    """
    return float(f"{value:.{DRAWN_DIGITS}g}")


def text(value: object) -> str:
    """Plain data as JSON, a line for each innermost list or object: a column of numbers is one line.

    >>> print(text({"name": "demo", "bytes": [1, 2]}))
    {
     "name": "demo",
     "bytes": [1,2]
    }
    """
    return "".join(_lines(value, 0))


def _lines(value: object, depth: int) -> Iterator[str]:
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    if not any(isinstance(v, Mapping | list | tuple) for v in inside):
        separators = (", ", ": ") if isinstance(value, Mapping) else (",", ":")
        yield json.dumps(value, ensure_ascii=False, allow_nan=False, separators=separators)
        return
    yield "{" if isinstance(value, Mapping) else "["
    parts = value.items() if isinstance(value, Mapping) else ((None, v) for v in inside)
    for k, (key, part) in enumerate(parts):
        yield ("," if k else "") + "\n" + " " * (depth + 1)
        if key is not None:
            yield f"{json.dumps(key, ensure_ascii=False)}: "
        yield from _lines(part, depth + 1)
    yield "\n" + " " * depth + ("}" if isinstance(value, Mapping) else "]")


_SPACE = re.compile(r"[ \t\n\r]*")
_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_scan = json.JSONDecoder().raw_decode


class JsonDocument(Document):
    """Plain data of JSON; the places in its text are looked for once something is wrong."""

    def error(self, problems: Iterable[Problem]) -> DocumentError:
        """The error that shows these problems in the order of the file, each once."""
        problems = list(problems)
        _locate(self, {p.path for p in problems})
        return super().error(problems)


def read(path: Path, *, name: str | None = None) -> JsonDocument:
    """The document in a file; `name` is what messages call it.

    Raises
    ------
    DocumentError
        If there is no such file, it is not UTF-8, or not JSON.
    """
    name = str(path) if name is None else name
    return parse(read_text(path, name, kind="a JSON file", largest=LARGEST_FILE), name=name)


def parse(text: str, *, name: str) -> JsonDocument:
    """The document in `text`.

    Raises
    ------
    DocumentError
        For broken JSON, nothing at all, numbers that are none, or more digits or levels than is reasonable.
    """

    def refuse(message: str, offset: int | None) -> DocumentError:
        at = None if offset is None else _positions(text)(offset)
        return DocumentError([Finding(name, at, "", message)], text)

    if not text.strip():
        raise refuse("the file is empty", None)
    try:
        return JsonDocument(name, text, json.loads(text, parse_constant=_refuse_constant))
    except json.JSONDecodeError as error:
        raise refuse(f"this is not JSON: {error.msg[:1].lower()}{error.msg[1:]}", error.pos) from None
    except _NotJson as error:
        raise refuse(f"got {error.word}, expected a number that JSON knows", _find(text, error.word)) from None
    except RecursionError:
        raise refuse(f"nested more than {DEEPEST} levels deep", _too_deep(text)) from None
    except ValueError:  # Python reads no more digits than this
        raise refuse("got a number of thousands of digits, expected fewer", _find(text, r"\d{4300}")) from None


def validated(kind: type[T], document: JsonDocument) -> T:
    """The value of a type (a dataclass, a TypedDict, a model) that a document holds.

    Raises
    ------
    DocumentError
        With everything that is wrong with it.
    """
    try:
        value: T = _adapter(kind).validate_json(document.text)  # type: ignore[arg-type]
    except ValidationError as error:
        raise document.error(problems_of(error, kind)) from None
    return value


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


class _NotJson(Exception):
    def __init__(self, word: str) -> None:
        self.word = word


def _refuse_constant(word: str) -> float:
    raise _NotJson(word)


def _find(text: str, pattern: str) -> int | None:
    """Find the first place of a pattern outside strings."""
    places = re.finditer(f"{_STRING}|(?P<place>{pattern})", text)
    return next((m.start() for m in places if m["place"] is not None), None)


def _too_deep(text: str) -> int | None:
    depth = 0
    for m in re.finditer(rf"{_STRING}|[\[\]{{}}]", text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(m[0], 0)
        if depth > DEEPEST:
            return m.start()
    return None


def _positions(text: str) -> Callable[[int], Position]:
    """Convert offsets in a text to positions."""
    starts = [0, *(m.end() for m in LINE_BREAK.finditer(text))]

    def position(offset: int) -> Position:
        line = bisect_right(starts, offset)
        return Position(line, offset - starts[line - 1] + 1)

    return position


def _locate(document: JsonDocument, paths: Iterable[KeyPath]) -> None:
    """Note where the values at these paths stand, and all that contains them."""
    text, position = document.text, _positions(document.text)
    inside = {path[:k] for path in paths for k in range(len(path))}

    def space(at: int) -> int:
        return _SPACE.match(text, at).end()  # type: ignore[union-attr]

    def value(at: int, path: KeyPath) -> int:
        """Note a value and what is asked for inside it; where it ends."""
        document.values[path] = position(at)
        if path not in inside or text[at] not in "[{":
            return int(_scan(text, at)[1])
        closing, part = ("]", 0) if text[at] == "[" else ("}", "")
        at = space(at + 1)
        while text[at] != closing:
            key: Any = part
            if closing == "}":
                start = at
                key, at = _scan(text, at)
                document.keys[*path, key] = position(start)
                at = space(space(at) + 1)
            at = space(value(at, (*path, key)))
            if text[at] == ",":
                at = space(at + 1)
            if isinstance(part, int):
                part += 1
        return at + 1

    value(space(0), ())
