"""The answer of `sim plan`: the price of a plan, what it keeps and recomputes by name, and its neighbours."""

from __future__ import annotations

import textwrap
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import groupby

from sim.base.units import format_bytes, format_flops, format_seconds
from sim.experiment.choose import Candidate, Choice, Proof
from sim.experiment.largest import Fit
from sim.graphs.graph import Graph
from sim.scenario.points import FULL_STORE
from sim.schedules.plan import Plan

WIDTH = 100
_MARGIN = 14


def text(choice: Choice, plan: Plan, graph: Graph, *, name: str) -> str:
    """The text for a person: the price, what is kept and recomputed by name, and the neighbours."""
    chosen, point = choice.chosen, choice.chosen.point
    lines = [f"{name}: {chosen.request.label}, the best of {choice.considered} plans", ""]
    lines += _line("peak", f"{format_bytes(point.peak_bytes)} ({point.peak_bytes} bytes)" + _headroom(choice))
    lines += _line("price", _price(chosen, choice.full_store))
    if choice.proof is not None:
        lines += _line("proven", _proven(choice.proof, chosen, graph))
    lines += _line("in order" if graph.plain else "full store", _full(choice.full_store))
    head = "kept"
    for tier, kinds in plan["kept"].items():
        where = "" if tier == "device" else f" on the {tier}"
        for kind, names in kinds.items():
            lines += _line(head, f"{kind}s{where} of {ranges(names, graph)}")
            head = ""
    if head:
        lines += _line(head, "nothing")
    lines += _line("recomputed", _recomputed(plan["recomputed"], graph))
    if point.copied_bytes:
        copied = ", ".join(f"{format_bytes(b)} {link.replace('_', ' ')}" for link, b in point.copied_bytes.items())
        lines += _line(
            "copied", copied + ("" if choice.device else "; without a device nobody knows how long it takes")
        )
    lines += _line("next cheaper", _neighbour(choice.cheaper, choice))
    lines += _line("next smaller", _neighbour(choice.smaller, choice))
    return "\n".join([*lines, ""])


def largest_table(fits: Sequence[Fit], key: str) -> str:
    """A line for the largest value at which a plan was found, and for parts of it: peak, work and time of each unit."""
    timed = any(fit.choice.chosen.point.seconds is not None for fit in fits)
    heads = (key, "plan", "peak", "flops a unit", *(("time a unit",) if timed else ()))
    rows = [heads]
    for fit in fits:
        one = fit.choice.chosen
        seconds = one.point.seconds
        cells = [
            f"{fit.value:,}",
            one.request.label,
            format_bytes(one.peak_bytes),
            format_flops(one.flops // fit.value),
        ]
        if timed:
            cells.append("-" if seconds is None else format_seconds(seconds / fit.value))
        rows.append(tuple(cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    found = f"{key}={fits[0].value:,} is the largest at which a plan was found; none was at {fits[0].value + 1:,}"
    return "\n".join([*lines, "", found, "", ""])


def _headroom(choice: Choice) -> str:
    if choice.budget_bytes is None:
        return ""
    free = choice.budget_bytes - choice.chosen.peak_bytes
    return f" of {format_bytes(choice.budget_bytes)}, {format_bytes(free)} free"


def _price(one: Candidate, full: Candidate) -> str:
    name = "full store" if full.request == FULL_STORE else full.request.label
    flops = f"{format_flops(one.flops)}, {_times(one.flops, full.flops)} {name}"
    seconds, most = one.point.seconds, full.point.seconds
    if seconds is None or most is None:
        return flops
    return f"{flops}; {format_seconds(seconds)}, {_times(seconds, most)} {name}"


def _proven(proof: Proof, one: Candidate, graph: Graph) -> str:
    order = "in any order of VJPs" if proof.holds_for == "any order" else "with VJPs in the listed order"
    what, order = ("plan", "in any order") if graph.plain else ("reverse sweep", order)
    text = f"no {what} within {format_bytes(proof.bytes)} takes less than {_least(proof.flops, one)} {order}"
    return text if proof.word is None else f"{text}; the solver's word: {_least(proof.word, one)}"


def _least(flops: int, one: Candidate) -> str:
    return f"{format_flops(flops)} ({1 - flops / one.flops if one.flops else 0:.2%} below)"


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
    return f"{other.request.label}: {format_bytes(other.peak_bytes)}{beyond}; {_price(other, choice.full_store)}"


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
    members = set(names)
    by_op: dict[str, list[str]] = {}
    for node in graph.nodes:
        by_op.setdefault(node.op, []).append(node.name)
    along = _runs(graph.names, members)
    alike = _runs([x.name for x in graph.inputs], members) + [r for of in by_op.values() for r in _runs(of, members)]
    place = {name: i for i, name in enumerate(graph.names)}
    chosen = along if len(along) <= len(alike) else sorted(alike, key=lambda run: place[run[0]])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]} … {run[-1]} ({len(run)})" for run in chosen)


def _runs(names: Sequence[str], members: Container[str]) -> list[list[str]]:
    """The names that are members, in stretches that nothing else interrupts."""
    return [list(run) for inside, run in groupby(names, key=lambda name: name in members) if inside]


def _line(head: str, words: str) -> Iterator[str]:
    margin = " " * _MARGIN
    yield from textwrap.wrap(
        words, WIDTH, initial_indent=f"{head:<{_MARGIN}}", subsequent_indent=margin, break_on_hyphens=False
    )
