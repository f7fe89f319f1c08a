"""The layer lists of convolutional networks: what a person writes, checked, and its nodes.

A list holds ops by name (`relu`), with parameters (`{conv: {channels: 64, kernel: 3}}`) or with their
first parameter alone (`{max_pool: 2}`); `flatten`, which makes no node; and lists inside lists:
`{add: [[…], […]]}` and `{concat: [[…], […]]}` give each branch the same input and join the results
(an empty branch is the input itself), `{block: […], name: stage1, times: 3}` names and repeats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sim.base.errors import suggest
from sim.graphs.size import check_size
from sim.ops import GraphBuilder, Tensor, apply, ops

_OPS = (
    "conv2d", "conv_transpose2d", "linear", "relu", "tanh", "sigmoid", "gelu", "silu", "softmax", "dropout",
    "batch_norm", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "global_avg_pool", "upsample",
)  # fmt: skip
OPS: Mapping[str, str] = {op.removesuffix("2d"): op for op in _OPS}
JOINS = ("add", "concat")
WORDS = (*OPS, *JOINS, "block", "flatten")


@dataclass(frozen=True, slots=True)
class OpLayer:
    """One op and its parameters; `flatten` is not a node but a view."""

    word: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Join:
    """Branches that read the same tensor, joined by `add` or `concat`."""

    word: str
    branches: tuple[tuple[Layer, ...], ...]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Layers one after another, `times` times; with a name, which then begins the names of its nodes."""

    layers: tuple[Layer, ...]
    name: str | None = None
    times: int = 1


Layer = OpLayer | Join | Block


def parse(value: Any) -> Layer:
    """The layer that a person wrote.

    Raises
    ------
    ValueError
        With what was expected instead.
    """
    if isinstance(value, OpLayer | Join | Block):
        return value
    if isinstance(value, str):
        return _op(value, {}, None)
    if not isinstance(value, dict):
        raise ValueError("the name of a layer, or a mapping such as {conv: {channels: 64, kernel: 3}}")
    rest = {k: v for k, v in value.items() if k not in ("name", "times")}
    name = value.get("name")
    if name is not None and not (isinstance(name, str) and name):
        raise ValueError(f"a text as 'name' (found {name!r})")
    if len(rest) != 1:
        raise ValueError(f"one layer in each entry of the list (found {', '.join(map(str, rest)) or 'none'})")
    ((word, body),) = rest.items()
    if "times" in value and word != "block":
        raise ValueError("'times' beside a 'block' alone")
    if word == "block":
        times = value.get("times", 1)
        if isinstance(times, bool) or not isinstance(times, int) or times < 1:
            raise ValueError(f"'times' of at least 1 (found {times!r})")
        return Block(_list(body, "block"), name, times)
    if word in JOINS:
        if not isinstance(body, list | tuple) or len(body) < 2:
            raise ValueError(f"{word}: a list of at least two branches, each a list of layers")
        return Join(word, tuple(_list(branch, word) for branch in body), name)
    return _op(word, body, name)


def _list(value: Any, where: str) -> tuple[Layer, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: a list of layers (found {value!r})")
    return tuple(parse(v) for v in value)


def _op(word: Any, body: Any, name: str | None) -> OpLayer:
    short = word.removesuffix("2d") if isinstance(word, str) else word
    if short == "flatten":
        return OpLayer("flatten", {}, name)
    if short not in OPS:
        raise ValueError(f"a known layer, not '{word}'{suggest(str(word), WORDS)}")
    entry = ops[OPS[short]]
    if body is None:
        body = {}
    if not isinstance(body, dict):
        first = next(iter(entry.model.model_fields), None)
        if first is None:
            raise ValueError(f"{word} without parameters (found {body!r})")
        body = {first: body}
    _, problems = entry.check(body)
    if problems:
        key = ".".join(map(str, problems[0].path))
        raise ValueError(f"a valid {word} ({key + ': ' if key else ''}{problems[0].message})")
    return OpLayer(short, body, name)


def build(builder: GraphBuilder, layers: Sequence[Layer], x: Tensor) -> Tensor:
    """Add the nodes of `layers` on `x`, named after their op and numbered within their block; their output."""
    check_size(_count(layers), key="layers")
    return _build(builder, layers, x, "", Counter())


def _count(layers: Iterable[Layer]) -> int:
    """Count the layers with all repetitions."""
    counts = (
        layer.times * _count(layer.layers) if isinstance(layer, Block)
        else 1 + sum(map(_count, layer.branches)) if isinstance(layer, Join)
        else 1
        for layer in layers
    )  # fmt: skip
    return sum(counts)


def _build(builder: GraphBuilder, layers: Iterable[Layer], x: Tensor, prefix: str, counter: Counter[str]) -> Tensor:
    for layer in layers:
        if isinstance(layer, Block):
            x = _block(builder, layer, x, prefix, counter)
            continue
        if isinstance(layer, OpLayer) and layer.word == "flatten":
            x = x.flattened()
            continue
        inputs: Sequence[Tensor] = [x]
        parameters: Mapping[str, Any] = {}
        if isinstance(layer, Join):
            op = layer.word
            inputs = [_build(builder, branch, x, prefix, counter) for branch in layer.branches]
        else:
            op, parameters = OPS[layer.word], layer.parameters
            if op == "adaptive_avg_pool2d" and x.shape[2:] == _sides(parameters["size"]):
                continue  # every window is one pixel: the input itself
        x = builder.add(apply(op, _name(layer.name, layer.word, prefix, counter), inputs, **parameters))
    return x


def _block(builder: GraphBuilder, block: Block, x: Tensor, prefix: str, counter: Counter[str]) -> Tensor:
    for turn in range(block.times):
        if block.name is None:
            x = _build(builder, block.layers, x, prefix, counter)
        else:
            number = f".{turn + 1}" if block.times > 1 else ""
            x = _build(builder, block.layers, x, f"{prefix}{block.name}{number}.", Counter())
    return x


def _name(own: str | None, word: str, prefix: str, counter: Counter[str]) -> str:
    if own is not None:
        return prefix + own
    counter[word] += 1
    return f"{prefix}{word}{counter[word]}"


def _sides(size: Any) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def schema() -> dict[str, Any]:
    """The JSON Schema of one layer."""
    properties: dict[str, Any] = {"name": {"description": "Begins the names of its nodes.", "type": "string"}}
    for word, op in OPS.items():
        properties[word] = {"description": ops[op].summary, "anyOf": [{}, ops[op].model.model_json_schema()]}
    branches = {"type": "array", "items": {"type": "array"}, "minItems": 2}
    properties["add"] = {"description": "Branches of layers, whose outputs are added; [] is the input."} | branches
    properties["concat"] = {"description": "Branches of layers, whose outputs are joined along channels."} | branches
    properties["block"] = {"description": "Layers one after another.", "type": "array"}
    properties["times"] = {"description": "How often a block is repeated.", "type": "integer", "minimum": 1}
    return {
        "anyOf": [
            {"enum": ["flatten", *(w for w, op in OPS.items() if not _required(op))]},
            {"type": "object", "properties": properties, "additionalProperties": False},
        ]
    }


def _required(op: str) -> list[str]:
    return [n for n, f in ops[op].model.model_fields.items() if f.is_required()]
