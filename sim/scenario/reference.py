"""The reference of scenarios: every key with what it means, what it may be, its unit, default and an example.

It is read off the JSON Schema that checks them (`sim.scenario.schema`), with examples from the scenarios
that come with the program where they have the key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from sim.base import yaml as yamltext
from sim.base.units import BYTE_RATE, FLOP_RATE, SIZE, TIME, schema_of
from sim.scenario import shipped
from sim.scenario.schema import Schema, scenario_schema

_UNITS = {
    schema_of(kind)["anyOf"][1]["pattern"]: (unit, example)
    for kind, unit, example in (
        (SIZE, "bytes", "8 GB"),
        (FLOP_RATE, "flops a second", "60 TFLOP/s"),
        (BYTE_RATE, "bytes a second", "55 GB/s"),
        (TIME, "seconds", "5 us"),
    )
}
_SUFFIXES = {"_flops": "flops", "_bytes": "bytes", "_seconds": "seconds"}
_EXAMPLES = {
    "activation_bytes": "4096", "add": "[[{linear: 64}, relu], []]", "arguments": "{depth: 12}",
    "axis": "-1", "base": "10000", "block": "[{conv: {channels: 64, kernel: 3}}, relu]", "bytes": "out_cost",
    "capacity": "1.25", "causal": "true", "channels": "64", "concat": "[[{conv: {channels: 64, kernel: 3}}], []]",
    "conv": "{channels: 64, kernel: 3, padding: 1}", "conv_transpose": "{channels: 64, kernel: 2, stride: 2}",
    "cost": "duration",
    "cuts": "[block3.add, block7.add]", "dilation": "2", "dims": "{sequence: 128}",
    "dtype": "float32", "edges": "edges.csv", "entries": "50257", "factory": "model:make", "features": "512",
    "file": "graph.json", "forward_bytes": "8192", "forward_flops": "2000000", "graph.layers":
    "[{conv: {channels: 64, kernel: 3}}, relu]", "groups": "32", "heads": "12", "image": "[3, 224, 224]",
    "inputs": "[x]", "jacobian": "{structure: diagonal, flops: 512}", "jax graph.inputs": "{x: {shape: [32, 64]}}",
    "jvp_flops": "2000000", "kernel": "3", "kv_heads": "4", "layers graph.inputs": "{x: {shape: [64, 10]}}",
    "layers graph.layers": "[{name: a, op: linear, inputs: [x], features: 32}]", "linear": "{features: 10}",
    "max_pool": "{kernel: 2}", "avg_pool": "{kernel: 2}", "adaptive_avg_pool": "{size: 7}", "dropout": "{rate: 0.1}",
    "name": "stage1", "needs": "input", "nodes": "[{name: a, cost: 4, bytes: 400}]", "outputs": "[logits]",
    "output_shape": "[64, 10]", "padding": "1", "param_size": "262656", "param_vjp_flops": "2000000",
    "preset": "infiniband-ndr", "rate": "0.1", "reads": "[always, never]", "residual_bytes": "4096", "scale": "2",
    "seconds": "{forward: 0.001, jvp: 0.001, vjp: 0.002}", "shape": "[32, 64]", "size": "7", "stride": "2",
    "tied_to": "embedding", "top_k": "2", "torch graph.inputs": "{x: {shape: [8, 3, 224, 224]}}",
    "transpose_b": "true", "upsample": "{scale: 2}", "vjp_broadcasts": "true", "vjp_flops": "2000000",
    "workspace": "memory", "workspace_bytes": "4096", "sweep": "{graph.batch: [16, 32]}",
    "strategies": "[reverse_full]",
    "graph": "{kind: mlp, widths: [784, 512, 10]}", "bias": "false",
}  # fmt: skip
"""Examples of keys that no shipped scenario has, by name, by path, or by kind of graph and path."""
KEYS_FOLLOW = "its keys follow"


@dataclass(frozen=True)
class Key:
    """One key of a scenario; `path` is where it stands, with [] for the entries of a list."""

    path: str
    about: str
    allowed: str
    unit: str
    default: str
    example: str


@dataclass(frozen=True)
class Section:
    """The keys that stand together: those of the file, of a kind of graph, of a strategy."""

    title: str
    about: str
    keys: tuple[Key, ...]


@cache
def sections() -> tuple[Section, ...]:
    """All keys, by section, in the order of the file."""
    return tuple(_sections(scenario_schema()))


def _sections(schema: Schema) -> Iterator[Section]:
    own = {key: part for key, part in schema["properties"].items() if not key.startswith("_")}
    reader = _Reader(schema["$defs"])
    inside = ("graph", "strategies", "device", "parallel", "regimes", "sweep")
    top = [reader.key(key, key, part, required=key in schema.get("required", ())) for key, part in own.items()]
    yield Section("The file", "Keys at the top of a scenario.", tuple(top))
    for case in own["graph"]["allOf"]:
        kind = case["if"]["properties"]["kind"]["const"]
        then = case["then"]
        reader.kind = kind
        yield Section(f"graph: kind: {kind}", then["description"], tuple(reader.keys("graph", then)))
    for key in inside[2:]:
        if key in own:
            yield Section(f"{key}:", own[key]["description"], tuple(reader.inner(key, own[key])))
    for name, part in own["strategies"]["items"]["anyOf"][1]["properties"].items():
        cases = part.get("allOf")
        if cases is None:
            yield Section(f"strategies: {name}", part["description"], tuple(reader.inner(name, part)))
            continue
        for case in cases[:-1]:
            [(chooser, value)] = case["if"]["properties"].items()
            title = f"strategies: {name}: {chooser}: {value['const']}"
            yield Section(title, case["then"]["description"], tuple(reader.keys(name, case["then"])))


class _Reader:
    """A walk through a schema that follows references, each once on a way down."""

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self.definitions = definitions
        self.examples = _examples()
        self.kind = ""

    def keys(self, path: str, part: Schema, seen: tuple[str, ...] = ()) -> Iterator[Key]:
        """The keys of an object, each followed by those inside it."""
        for name, inner in part.get("properties", {}).items():
            if set(inner) == {"const"}:
                continue
            place = f"{path}.{name}"
            yield self.key(place, name, inner, required=name in part.get("required", ()))
            yield from self.inner(place, inner, seen)

    def inner(self, path: str, part: Schema, seen: tuple[str, ...] = ()) -> Iterator[Key]:
        """The keys inside a value: of an object, of its alternatives, of the entries of a list."""
        found: dict[str, Key] = {}
        walked: list[Schema] = []
        for place, alternative, way in self._objects(path, part, seen):
            if alternative not in walked:  # what stands alone or in a list has its keys once
                walked.append(alternative)
                found = {key.path: key for key in self.keys(place, alternative, way)} | found
        yield from found.values()

    def _objects(self, path: str, part: Any, seen: tuple[str, ...]) -> Iterator[tuple[str, Schema, tuple[str, ...]]]:
        if not isinstance(part, dict):
            return
        name = part.get("$ref", "").rpartition("/")[2]
        if name and name != "range" and name not in seen:
            yield from self._objects(path, self.definitions[name], (*seen, name))
        if "properties" in part:
            yield path, part, seen
        for alternative in part.get("anyOf", ()):
            yield from self._objects(path, alternative, seen)
        yield from self._objects(f"{path}[]", part.get("items"), seen)
        yield from self._objects(f"{path}.NAME", part.get("additionalProperties"), seen)

    def key(self, path: str, name: str, part: Schema, *, required: bool) -> Key:
        """One key, with an example that is somebody's, the default, or of its kind."""
        unit, like = next((_UNITS[p] for p in self._patterns(part) if p in _UNITS), ("", ""))
        unit = unit or next((u for suffix, u in _SUFFIXES.items() if name.endswith(suffix)), "")
        default = "required" if required else _shown(part.get("default"))
        known = self.examples.get(path, self.examples.get(f"{self.kind} {path}"))
        own = part["examples"][0] if "examples" in part else known
        example = own if own is not None else like or part.get("default")
        if example is None:
            named = (f"{self.kind} {path}", path, path.rpartition(".")[2])
            example = next((_EXAMPLES[n] for n in named if n in _EXAMPLES), None)
        if example is None:
            example = self._like(part)
        if example is None:
            example = "{}" if next(self.inner(path, part), None) is None else KEYS_FOLLOW
        return Key(path, part.get("description", ""), self._allowed(part), unit, default, _shown(example))

    def _patterns(self, part: Schema) -> Iterator[str]:
        """The patterns of the texts that a key, or each entry of its list, may be."""
        for one in self._alternatives(part):
            yield from (inner["pattern"] for inner in (one, *self._entries(one)) if "pattern" in inner)

    def _entries(self, part: Schema) -> Iterator[Schema]:
        for inside in (part.get("items"), part.get("additionalProperties")):
            if isinstance(inside, dict):
                yield from self._alternatives(inside)

    def _alternatives(self, part: Schema) -> Iterator[Schema]:
        if "$ref" in part:
            yield from self._alternatives(self.definitions[part["$ref"].rpartition("/")[2]])
        elif "anyOf" in part:
            for alternative in part["anyOf"]:
                yield from self._alternatives(alternative)
        else:
            yield part

    def _allowed(self, part: Schema) -> str:
        """The words, types and limits that a key may have."""
        ranged = any(a == {"$ref": "#/$defs/range"} for a in part.get("anyOf", ()))
        words: dict[str, None] = {}
        for one in self._alternatives(part):
            if "enum" in one or "const" in one:
                words |= dict.fromkeys(f"`{_shown(w)}`" for w in one.get("enum", [one.get("const")]))
            elif one is self.definitions["range"]:
                continue
            elif one.get("type") == "integer":
                words[_limited("whole number", one)] = None
            elif one.get("type") == "number":
                words[_limited("number", one)] = None
            else:
                kinds = {"string": "text", "boolean": "true or false", "array": "list", "object": "mapping"}
                words |= dict.fromkeys(kinds[k] for k in _types(one) if k in kinds)
        if any(pattern in _UNITS for pattern in self._patterns(part)):
            words = {("text with a unit" if word == "text" else word): None for word in words}
        return ", ".join(words) + ("; a list or a range sweeps" if ranged else "")

    def _like(self, part: Schema) -> Any:
        """A value of the kind that a key takes."""
        for one in self._alternatives(part):
            if "enum" in one:
                return one["enum"][0]
            match one.get("type"):
                case "integer":
                    return max(2, one.get("minimum", 0))
                case "number":
                    return 0.5
                case "boolean":
                    return True
        return None


def _types(part: Schema) -> list[str]:
    kinds = part.get("type", [])
    return [kinds] if isinstance(kinds, str) else kinds


def _limited(what: str, part: Schema) -> str:
    low, high = part.get("minimum"), part.get("maximum")
    if low is not None and high is not None and high < 10**6:
        return f"{what} from {_shown(low)} to {_shown(high)}"
    return f"{what} of at least {_shown(low)}" if low is not None else what


def _shown(value: Any) -> str:
    """A value as YAML has it on one line; nothing for none."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


@cache
def _examples() -> Mapping[str, Any]:
    """The values of keys in the scenarios that come with the program, by path; the shortest of several."""
    found: dict[str, Any] = {}

    def add(path: str, value: Any) -> None:
        shorter = path not in found or len(_shown(value)) < len(_shown(found[path]))
        if not isinstance(value, list | dict) or (len(_shown(value)) < 60 and value):
            found[path] = value if shorter else found[path]
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{path}.{key}" if path else key, inner)
        for inner in value if isinstance(value, list) else ():
            add(f"{path}[]", inner)

    for name in shipped.names():
        data = dict(yamltext.read(shipped.folder() / f"{name}.yaml").data)
        graph = data.get("graph", {})
        for key, value in graph.items():
            add(f"{graph['kind']} graph.{key}", value)
        for strategy in data.get("strategies", ()):
            add("", strategy if isinstance(strategy, dict) else {})
        add("", {key: value for key, value in data.items() if key not in ("graph", "strategies")})
    return found
