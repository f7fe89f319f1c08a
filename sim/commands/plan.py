"""`sim plan`: the cheapest plan that fits, what it keeps and recomputes, and the file that an executor runs."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Container, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import groupby
from pathlib import Path

from sim.base import files
from sim.base.errors import ParameterError
from sim.base.units import format_bytes, format_flops, format_seconds, parse_bytes
from sim.commands.output import emit, note
from sim.experiment.choose import Candidate, Choice, NothingFits, choose
from sim.graphs.graph import Graph
from sim.scenario.scenario import load, named_device
from sim.schedules.planfile import Plan, describe, to_json, write
from sim.simulation.device import Device

NOTHING_FITS = 3
WIDTH = 100
_MARGIN = 14


def plan(
    file: Path,
    *,
    budget: str | None,
    max_overhead: str | None,
    device: str | None,
    output: Path,
    format: str,
    quiet: bool,
) -> int:
    """0 once the plan is printed and written; 3 if nothing fits.

    Raises
    ------
    ParameterError
        For a budget, an overhead or a device that is none.
    """
    budget_bytes = None if budget is None else _bytes(budget)
    overhead = None if max_overhead is None else _share(max_overhead)
    given = None if device is None else named_device(device)
    files.check_writable(output.parent)
    scenario = load(file)
    machine = given or scenario.device
    if budget_bytes is None and (given is not None or overhead is None):
        budget_bytes = _own_budget(scenario.budget_bytes if given is None else None, machine)
    if budget_bytes is None and overhead is None:
        raise ParameterError(
            f"{file}: names neither a budget nor a device with a memory; "
            "give --budget 8GB, --max-overhead 20% or --device"
        )
    graph = scenario.build_graph()
    try:
        choice = choose(scenario, graph, budget_bytes=budget_bytes, max_overhead=overhead, device=machine)
    except NothingFits as error:
        note(f"error: {file}: {error}")
        return NOTHING_FITS
    made = _plan(choice, graph)
    path = write(made, output)
    emit(to_json(made) if format == "json" else text(choice, made, graph, name=scenario.name))
    note(f"wrote {path}", quiet=quiet)
    return 0


def _plan(choice: Choice, graph: Graph) -> Plan:
    wanted = choice.chosen.wanted
    return describe(
        wanted.schedule(graph),
        strategy=wanted.strategy,
        parameters=wanted.parameters,
        budget_bytes=choice.budget_bytes,
        seconds=choice.chosen.point.seconds,
    )


def _own_budget(budget_bytes: int | None, device: Device | None) -> int | None:
    limits = [limit for limit in (budget_bytes, device.memory_bytes if device else None) if limit is not None]
    return min(limits, default=None)


def _bytes(given: str) -> int:
    try:
        return parse_bytes(given)
    except ValueError as error:
        raise ParameterError(f"--budget: got '{given}', expected {error}", parameter="budget") from None


def _share(given: str) -> Fraction:
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*%\s*", given)
    if match is None:
        message = f"--max-overhead: got '{given}', expected a percentage such as 20%"
        raise ParameterError(message, parameter="max-overhead")
    return Fraction(match[1]) / 100


def text(choice: Choice, made: Plan, graph: Graph, *, name: str) -> str:
    """What a person reads: the price, what is kept and recomputed by name, and the neighbours."""
    chosen, point = choice.chosen, choice.chosen.point
    lines = [f"{name}: {chosen.wanted.label}, the best of {choice.considered} plans", ""]
    lines += _line("peak", f"{format_bytes(point.peak_bytes)} ({point.peak_bytes} bytes)" + _headroom(choice))
    lines += _line("price", _price(chosen, choice.full_store))
    lines += _line("full store", _full(choice.full_store))
    head = "kept"
    for tier, kinds in made["kept"].items():
        where = "" if tier == "device" else f" on the {tier}"
        for kind, names in kinds.items():
            lines += _line(head, f"{kind}s{where} of {ranges(names, graph)}")
            head = ""
    if head:
        lines += _line(head, "nothing")
    lines += _line("recomputed", _recomputed(made["recomputed"], graph))
    if point.copied_bytes:
        copied = ", ".join(f"{format_bytes(b)} {link.replace('_', ' ')}" for link, b in point.copied_bytes.items())
        lines += _line(
            "copied", copied + ("" if choice.device else "; without a device nobody knows how long it takes")
        )
    lines += _line("next cheaper", _neighbour(choice.cheaper, choice))
    lines += _line("next smaller", _neighbour(choice.smaller, choice))
    return "\n".join([*lines, ""])


def _headroom(choice: Choice) -> str:
    if choice.budget_bytes is None:
        return ""
    free = choice.budget_bytes - choice.chosen.peak_bytes
    return f" of {format_bytes(choice.budget_bytes)}, {format_bytes(free)} free"


def _price(one: Candidate, full: Candidate) -> str:
    flops = f"{format_flops(one.flops)}, {_times(one.flops, full.flops)} full store"
    seconds, most = one.point.seconds, full.point.seconds
    if seconds is None or most is None:
        return flops
    return f"{flops}; {format_seconds(seconds)}, {_times(seconds, most)} full store"


def _full(full: Candidate) -> str:
    seconds = full.point.seconds
    return f"{format_bytes(full.peak_bytes)}, {format_flops(full.flops)}" + (
        f", {format_seconds(seconds)}" if seconds is not None else ""
    )


def _times(value: float, base: float) -> str:
    return f"{value / base:.2f} ×" if base else "-"


def _neighbour(other: Candidate | None, choice: Choice) -> str:
    if other is None:
        return "none"
    over = other.peak_bytes - choice.budget_bytes if choice.budget_bytes is not None else 0
    beyond = f", {format_bytes(over)} over the budget" if over > 0 else ""
    return f"{other.wanted.label}: {format_bytes(other.peak_bytes)}{beyond}; {_price(other, choice.full_store)}"


def _recomputed(times: Mapping[str, int], graph: Graph) -> str:
    counts = sorted(set(times.values()))
    told = [
        ranges([name for name, times_of in times.items() if times_of == count], graph) + _often(count, len(counts))
        for count in counts
    ]
    return "; ".join(told) or "nothing"


def _often(count: int, kinds: int) -> str:
    return "" if count == 1 and kinds == 1 else " once" if count == 1 else f" {count} times"


def ranges(names: Sequence[str], graph: Graph) -> str:
    """Names with neighbours joined: `layer1.linear … layer3.relu (6)`.

    Neighbours are so in the graph, or among its nodes of one op where that makes fewer ranges
    (`layer1.relu … layer28.relu (28)`).
    """
    wanted = set(names)
    rows = [name for item in (graph.inputs, graph.nodes) for name in (x.name for x in item)]
    by_op: dict[str, list[str]] = {}
    for node in graph.nodes:
        by_op.setdefault(node.op, []).append(node.name)
    along = _runs(rows, wanted)
    alike = _runs([x.name for x in graph.inputs], wanted) + [r for of in by_op.values() for r in _runs(of, wanted)]
    place = {name: i for i, name in enumerate(rows)}
    chosen = along if len(along) <= len(alike) else sorted(alike, key=lambda run: place[run[0]])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} … {run[-1]} ({len(run)})" for run in chosen)


def _runs(names: Sequence[str], wanted: Container[str]) -> list[list[str]]:
    """The wanted names, in stretches that nothing else interrupts."""
    return [list(run) for inside, run in groupby(names, key=lambda name: name in wanted) if inside]


def _line(head: str, told: str) -> Iterator[str]:
    margin = " " * _MARGIN
    yield from textwrap.wrap(
        told, WIDTH, initial_indent=f"{head:<{_MARGIN}}", subsequent_indent=margin, break_on_hyphens=False
    )
