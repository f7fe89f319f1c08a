"""Logs of Dynamic Tensor Rematerialization: one JSON object a line for each call, allocation, alias and release.

The format is that of the prototype's logger and of its simulator, simrd (Kirisame et al., Dynamic Tensor
Rematerialization, ICLR 2021, arXiv:2006.09616). A call becomes a node with the bytes of all its results; a result
that aliases an argument keeps what that holds in memory. Constants are graph inputs. A call that mutates makes new
versions of what it mutates. What is not released at the end remains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim.base import json
from sim.base.document import Document, DocumentError, Position, read_text
from sim.base.registry import Problem
from sim.graphs.node import GraphInput
from sim.models.dag.listing import Listed, Listing

Entry = Mapping[str, Any]


def read_log(path: Path) -> tuple[Listing, Document]:
    """The plain graph of a log: the `cost` of a node is the time of its call, its `bytes` what it allocates.

    Raises
    ------
    DocumentError
        For a line that is no such object, or one that names a tensor that is not there.
    """
    text = read_text(path, str(path), kind="a log of DTR", largest=json.LARGEST_FILE)
    document = Document(str(path), text, None)
    entries: list[tuple[int, Entry]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            document.values["nodes", number] = Position(number, 1)
            entries.append((number, _entry(document, number, line)))
    starts = [k for k, (_, e) in enumerate(entries) if e.get("ANNOTATION") == "START"]
    entries = entries[starts[0] + 1 if starts else 0 :]
    memory, alias = ({str(e.get("NAME")): e for _, e in entries if e["INSTRUCTION"] == w} for w in ("MEMORY", "ALIAS"))
    log = _Log(memory, alias)
    for number, entry in entries:
        try:
            log.take(entry, ("nodes", number))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            message = f"this {entry['INSTRUCTION']} names {error}, which the log has not made so far"
            raise document.error([Problem(("nodes", number), message)]) from None
    made = {n.name for n in log.nodes}
    left = dict.fromkeys(item for names in log.held.values() for item in names if item in made)
    return Listing(log.nodes, inputs=log.inputs, outputs=list(left), name=path.stem), document


def _entry(document: Document, number: int, line: str) -> Entry:
    try:
        entry = json.parse(line, name=document.name).data
    except DocumentError:
        entry = None
    if not isinstance(entry, dict) or not isinstance(entry.get("INSTRUCTION"), str):
        raise document.error([Problem(("nodes", number), "expected a JSON object with an INSTRUCTION")])
    return entry


@dataclass
class _Log:
    """Nodes and inputs so far, and what each tensor that is not released holds in memory."""

    memory: dict[str, Entry]
    alias: dict[str, Entry]
    nodes: list[Listed] = field(default_factory=list)
    inputs: list[GraphInput] = field(default_factory=list)
    held: dict[str, tuple[str, ...]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)

    def take(self, entry: Entry, path: tuple[str, int]) -> None:
        """Follow one entry of the log."""
        match entry["INSTRUCTION"]:
            case "CONSTANT":
                name = entry["NAME"]
                self.inputs.append(GraphInput(name, (), bytes=self._bytes(name)))
                self.held[name] = (name,)
            case "COPY" | "COPY_FROM":
                self.held[entry["DST"]] = self.held[entry["SRC"]]
            case "RELEASE":
                self.held.pop(entry["NAME"], None)
            case "CALL":
                base_of = {result: int(self.alias[result]["ALIAS"]) for result in entry["RESULT"]}
                size = sum(self._bytes(result) for result, of in base_of.items() if of < 0)
                node = self._call(entry, size, path)
                for result, of in base_of.items():
                    base = () if of < 0 else self.held[entry["ARGS"][of]]
                    self.held[result] = (*base, node)
            case "MUTATE":
                changed = [entry["ARGS"][k] for k in entry["MUTATE"]]
                node = self._call(entry, sum(self._bytes(name) for name in changed), path)
                self.held |= dict.fromkeys(changed, (node,))
            case "MEMORY" | "ALIAS" | "ANNOTATE":
                pass
            case other:
                raise KeyError(other)

    def _call(self, entry: Entry, size: int, path: tuple[str, int]) -> str:
        op = entry["NAME"]
        self.calls[op] += 1
        name = f"{op}.{self.calls[op]}"
        reads = dict.fromkeys(item for argument in entry["ARGS"] for item in self.held[argument])
        self.nodes.append(Listed(name, {"op": op, "cost": int(entry["TIME"]), "bytes": size}, tuple(reads), path))
        return name

    def _bytes(self, name: str) -> int:
        return int(self.memory[name]["MEMORY"])
