"""`sim explain`: the page of a strategy, a kind of graph, a key of scenarios, a device or an exit code."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.base.errors import ParameterError, suggest
from sim.commands.command import app, emit
from sim.commands.exit import Exit

if TYPE_CHECKING:
    from sim.base.registry import Entry
    from sim.scenario.reference import Key

WIDTH = 100
Pages = Mapping[str, Callable[[], str]]


@app.command()
def explain(
    name: Annotated[str, typer.Argument(help="A strategy, schedule, order, kind of graph, key, device or exit code.")],
) -> Exit:
    """Print the page of a strategy, schedule, kind of graph, key of scenarios, device or exit code."""
    pages = [(what, each, page) for what, of in _pages() for each, page in of.items()]
    chosen = [(what, each, page) for what, each, page in pages if name in (each, f"{what.partition(' ')[0]} {each}")]
    if not chosen:
        raise ParameterError(f"there is no page '{name}'{suggest(name, {each for _, each, _ in pages})}")
    emit("\n".join(f"{what} {each}\n\n{page()}" for what, each, page in chosen))
    return Exit.FINE


def _pages() -> Iterator[tuple[str, Pages]]:
    from sim import strategies
    from sim.scenario.reference import sections
    from sim.scenario.scenario import graph_kinds
    from sim.simulation.device import PRESETS

    registry = strategies.load()
    yield "strategy", _of_entries(registry)
    for strategy in registry.values():
        if strategy.variants is not None:
            yield strategy.variants[0], _of_entries(strategy.variants[1])
    yield "kind", _of_entries(graph_kinds())
    for section in sections():
        yield f"key ({section.title})", {key.path: partial(_about_key, key) for key in section.keys}
    yield "device", {key: partial(_wrapped, d.source) for key, d in PRESETS.items()}
    yield "exit code", {str(code.value): partial(_wrapped, code.meaning) for code in Exit}


def _of_entries(entries: Mapping[str, Entry[Any]]) -> Pages:
    return {name: partial(_page, entry) for name, entry in entries.items()}


def _page(entry: Entry[Any]) -> str:
    """The docstring of an entry, and each of its parameters with what it may be."""
    text = (inspect.getdoc(entry.function) or "").partition("\n\nRaises\n")[0] + "\n"
    if entry.variants is not None:
        key, registry = entry.variants
        return f"{text}\n{key}: {', '.join(sorted(registry))}; each has a page\n"
    properties: Mapping[str, Any] = entry.schema.get("properties", {})
    required = entry.schema.get("required", ())
    if properties:
        text += "\nParameters\n----------\n"
    for name, about in properties.items():
        default = "required" if name in required else f"{_shown(about.get('default'))} if not given"
        told = about.get("description", "").rstrip(".")
        text += _wrapped(f"{name}: {told}{'; ' if told else ''}{_kinds(about)}{default}", indent="    ")
    return text


def _about_key(key: Key) -> str:
    """The meaning of a key, what it may be, its unit, default and an example."""
    lines = {"takes": key.allowed, "unit": key.unit, "default": key.default, "example": key.example}
    return _wrapped(key.about) + "\n" + "".join(_wrapped(f"{k}: {v}") for k, v in lines.items() if v)


def _kinds(about: Mapping[str, Any]) -> str:
    """The words that a parameter may be, if it is one of some."""
    words = [str(word) for part in (about, *about.get("anyOf", ())) for word in part.get("enum", ())]
    return f"one of {', '.join(words)}; " if words else ""


def _shown(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _wrapped(text: str, *, indent: str = "") -> str:
    lines = textwrap.wrap(text, WIDTH, subsequent_indent=indent)
    return "\n".join(lines) + "\n"
