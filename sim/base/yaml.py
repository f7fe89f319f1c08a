"""YAML to plain data that remembers where each key and value stood.

The YAML read here is the JSON-like core that people expect: `1e9` is a number, `12:30`, `yes`, `on`
and `010` are text, a key given twice is an error, and anchors, aliases and merge keys work.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from sim.base.document import Document, DocumentError, Finding, KeyPath, Position, document_error, read_text

LARGEST_FILE = 16_000_000
MOST_VALUES = 1_000_000
DEEPEST = 64

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]")


class _Loader(getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # type: ignore[misc]
    """A loader that composes nodes with libyaml where it is there; resolves plain scalars as the module says."""


_Loader.add_implicit_resolver(_TAG + "bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_TAG + "int", re.compile(f"^{_INT.pattern}$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _TAG + "float", re.compile(f"^(?!{_LEADING_ZERO.pattern}){_FLOAT.pattern}$"), list("-+.0123456789")
)
_Loader.add_implicit_resolver(_TAG + "null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(_TAG + "merge", re.compile(r"^<<$"), ["<"])


def read(path: Path, *, name: str | None = None) -> Document:
    """The document in a file; `name` is what messages call it.

    Raises
    ------
    DocumentError
        If there is no such file, it is not UTF-8, not YAML, or not exactly one document.
    """
    name = str(path) if name is None else name
    return parse(read_text(path, name, kind="a YAML file", largest=LARGEST_FILE), name=name)


def dumped(data: Any) -> str:
    """Plain data as YAML."""
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return text


def parse(text: str, *, name: str) -> Document:
    """The document in `text`.

    Raises
    ------
    DocumentError
        For broken YAML, nothing at all, several documents, repeated keys, or more than is reasonable.
    """

    def refuse(message: str, mark: Any = None) -> DocumentError:
        at = None if mark is None else Position(mark.line + 1, mark.column + 1)
        return DocumentError([Finding(name, at, "", message)], text)

    try:
        _check_depth(text, refuse)
        node = _compose(text, refuse)
    except yaml.MarkedYAMLError as error:
        said = " ".join(filter(None, (error.context, error.problem)))
        if "nesting depth" in said:  # libyaml's own limit, met by what it reads ahead
            raise refuse(f"nested more than {DEEPEST} levels deep", error.problem_mark or error.context_mark) from None
        raise refuse(f"this is not YAML: {said}", error.problem_mark or error.context_mark) from None
    except yaml.YAMLError as error:
        raise refuse("this is not YAML: " + str(error).partition("\n")[0]) from None
    if node is None:
        raise refuse("the file is empty")
    construct = _Construct()
    data = construct.value(node, ())
    document = Document(name, text, data, construct.keys, construct.values)
    if construct.problems:
        raise document_error(name, text, construct.problems).within(document)
    return document


def _check_depth(text: str, refuse: Any) -> None:
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise refuse(f"nested more than {DEEPEST} levels deep", event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _compose(text: str, refuse: Any) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        node: yaml.Node | None = loader.get_node() if loader.check_node() else None
        if node is not None and loader.check_node():
            raise refuse("a second document begins here, expected one", loader.get_node().start_mark)
        return node
    finally:
        loader.dispose()


class _Construct:
    """Plain data from a node tree; notes positions and problems on the way."""

    def __init__(self) -> None:
        self.keys: dict[KeyPath, Position] = {}
        self.values: dict[KeyPath, Position] = {}
        self.problems: list[tuple[Position, KeyPath, str]] = []
        self._open: set[int] = set()
        self._count = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.values[path] = _position(node)
        if self._too_many(node):
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            self._refuse(node, path, "an alias stands inside what it names")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                self._check_tag(node, "seq", path)
                return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
            self._check_tag(node, "map", path)
            assert isinstance(node, yaml.MappingNode)
            return self._mapping(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if key.tag == _TAG + "merge":
                self._merge(value, merged, path)
            elif not isinstance(key, yaml.ScalarNode) or key.tag != _TAG + "str":
                shown = f"'{key.value}'" if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                self._refuse(key, path, f"got {shown} as a key, expected text")
            elif key.value in own:
                first = _position(own[key.value][0])
                self._refuse(key, path, f"key '{key.value}' is given twice, first at {first.line}:{first.column}")
            else:
                own[key.value] = (key, value)
        result = {}
        for name, (key, value) in (merged | own).items():
            self.keys[*path, name] = _position(key)
            result[name] = self.value(value, (*path, name))
        return result

    def _merge(self, node: yaml.Node, into: dict[str, tuple[yaml.Node, yaml.Node]], path: KeyPath) -> None:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            if self._too_many(source):
                return
            if not isinstance(source, yaml.MappingNode) or id(source) in self._open:
                self._refuse(source, path, "expected a mapping (or a list of them) to merge")
                continue
            self._open.add(id(source))
            for key, value in source.value:
                if key.tag == _TAG + "merge":
                    self._merge(value, into, path)
                elif isinstance(key, yaml.ScalarNode) and key.tag == _TAG + "str":
                    into.setdefault(key.value, (key, value))
            self._open.discard(id(source))

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        kind, written = node.tag.removeprefix(_TAG), node.value
        if kind == "str" or kind == "merge":
            return written
        if kind == "null" and written in ("~", "null", "Null", "NULL", ""):
            return None
        if kind == "bool" and written.lower() in ("true", "false"):
            return written.lower() == "true"
        if kind in ("int", "float") and _FLOAT.fullmatch(written) and len(written) <= 400:
            number = _number(written)
            return number if math.isfinite(number) else written
        self._refuse(node, path, f"got {written[:40]!r} tagged as {node.tag.replace(_TAG, '!!')}, expected plain YAML")
        return None

    def _check_tag(self, node: yaml.Node, kind: str, path: KeyPath) -> None:
        if node.tag != _TAG + kind:
            self._refuse(node, path, f"unknown tag {node.tag.replace(_TAG, '!!')}, expected plain YAML")

    def _too_many(self, node: yaml.Node) -> bool:
        self._count += 1
        if self._count == MOST_VALUES + 1:
            self._refuse(node, (), f"more than {MOST_VALUES} values once aliases are expanded")
        return self._count > MOST_VALUES

    def _refuse(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        self.problems.append((_position(node), path, message))


def _number(written: str) -> int | float:
    """`1e9` and `312e12` as exact integers, what has a point but no exponent as a float."""
    digits = written.replace("_", "")
    if "e" not in digits.lower():
        return float(digits) if "." in digits else int(digits)
    exponent = int(digits.lower().partition("e")[2])
    if abs(exponent) > 300:
        return float(digits)
    value = Fraction(digits)
    return int(value) if value.denominator == 1 else float(digits)


def _position(node: yaml.Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)
