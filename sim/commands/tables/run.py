"""The table of `sim run`: what was computed, a line a point, and what planners say of their plans."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import typer

from sim.base.units import format_bytes, format_count, format_flops, format_seconds
from sim.experiment.point import Point
from sim.experiment.results import Results

MOST_ROWS = 100
"""Points of a sweep that are shown."""
LONGEST_REMARK = 100
"""Characters of a bracketing that are shown; results.json has all."""


@dataclass(frozen=True)
class Column:
    """A head and what it shows of a point; numbers stand to the right."""

    head: str
    cell: Callable[[Point], str]
    right: bool = True


def table(results: Results, *, colour: bool = False) -> str:
    """Aligned text; points of the front in bold, those that do not fit dimmed, if `colour`.

    `/F` is the flops as a multiple of one forward evaluation, `redone` that of recomputation alone.
    `peak then` is the memory in use in the simulation, shown if copies that lag make it more than
    `peak`; stalls are shown if there are any. Bracketings and serial costs follow.
    """
    points = list(islice(results.points, MOST_ROWS)) if results.sweep else results.points
    columns = _columns(results, points)
    rows = [[c.cell(p) for c in columns] for p in points]
    widths = [max(map(len, [c.head, *cells])) for c, *cells in zip(columns, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for column, cell, width in zip(columns, cells, widths, strict=True)
        ]
        return "  ".join(aligned).rstrip()

    lines = [line([c.head for c in columns])]
    for point, row in zip(points, rows, strict=True):
        text = line(row)
        if colour and not point.fits:
            text = typer.style(text, dim=True)
        elif colour and any(point.pareto.values()):
            text = typer.style(text, bold=True)
        lines.append(text)
    if len(results.points) > len(points):
        lines.append(f"… and {len(results.points) - len(points):,} more points, which results.csv has")
    remarks = [] if results.sweep else [text for point in points for text in _remarks(point)]
    return "\n".join([heading(results, points), "", *lines, "", *([*remarks, ""] if remarks else [])])


def _remarks(point: Point) -> list[str]:
    """The notes of the planner on its plan, and what overlapping copies with computation saved of its serial cost."""
    out = [f"{point.label}: {what} {_short(text)}" for what, text in point.notes.items()]
    if point.notes.get("serial cost") and point.serial_seconds is not None and point.seconds is not None:
        saved = format_seconds(max(0.0, point.serial_seconds - point.seconds))
        out[-1] += f"; overlap saves {saved} of {format_seconds(point.serial_seconds)}"
    return out


def _short(text: str) -> str:
    """The text, or the ends of a long one, in which many parentheses stand as a few."""
    if len(text) > LONGEST_REMARK:
        text = re.sub(r"\){4,}", ")…)", re.sub(r"\({4,}", "(…(", text))
    return text if len(text) <= LONGEST_REMARK else f"{text[: LONGEST_REMARK // 2]} … {text[-LONGEST_REMARK // 2 :]}"


def _columns(results: Results, points: Sequence[Point]) -> list[Column]:
    cells = [Column(key, _coordinate(key), right=False) for key in (points[0].cell if points else ())]
    if any(p.ranks for p in points):
        return [*cells, *_pipeline_columns(results, points)]

    def ratio(point: Point, flops: int) -> str:
        forward = point.flops["primal"] if results.sweep else results.scenario["graph"]["forward_flops"]
        if not forward:
            return "-"
        return f"{flops / forward:.2f}" if flops < 100 * forward else str(round(flops / forward))

    def seconds(value: float | None) -> str:
        return "-" if value is None else format_seconds(value)

    def size(value: int | None) -> str:
        return "-" if value is None else format_bytes(value)

    columns = [
        *cells,
        Column("strategy", lambda p: p.label, right=False),
        Column("peak", lambda p: format_bytes(p.peak_bytes)),
        Column("working", lambda p: format_bytes(p.working_bytes)),
        Column("flops", lambda p: format_flops(p.flops["total"])),
        Column("/F", lambda p: ratio(p, p.flops["total"])),
        Column("redone", lambda p: ratio(p, p.flops["recompute"])),
    ]
    if any(p.seconds is not None for p in points):
        columns.append(Column("time", lambda p: seconds(p.seconds)))
    if any(p.stall_seconds for p in points):
        columns.append(Column("stall", lambda p: seconds(p.stall_seconds)))
    if any((p.simulated_peak_bytes or 0) > p.peak_bytes for p in points):
        columns.append(Column("peak then", lambda p: size(p.simulated_peak_bytes)))
    columns.append(Column("front", _front, right=False))
    if results.scenario["device"] is not None or results.scenario["budget_bytes"] is not None:
        columns.append(Column("fits", lambda p: "yes" if p.fits else "no", right=False))
    return columns


def _range(values: Iterable[str]) -> str:
    """`8 … 1`, from the first rank to the last where they differ, or the one value of all."""
    texts = list(values)
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} … {texts[-1]}"


def _front(point: Point) -> str:
    on = [name for name, there in (("flops", point.pareto["flops"]), ("time", point.pareto["seconds"])) if there]
    return "both" if len(on) == 2 else "".join(on)


def _coordinate(key: str) -> Callable[[Point], str]:
    return lambda point: str(point.cell[key])


def _throughput_columns(points: Sequence[Point]) -> Iterator[Column]:
    """Yield what is done in a second, and the share of the device's peak that is used for the model."""

    def shown(key: str, form: Callable[[float], str]) -> Callable[[Point], str]:
        return lambda p: form(p.throughput[key]) if p.throughput and key in p.throughput else ""  # type: ignore[literal-required]

    keys = {key for p in points for key in p.throughput or ()}
    if "tokens_per_second" in keys:
        yield Column("tokens/s", shown("tokens_per_second", lambda value: format_count(round(value))))
    if "model_flops_utilization" in keys:
        yield Column("used", shown("model_flops_utilization", lambda value: f"{100 * value:.1f} %"))


def _pipeline_columns(results: Results, points: Sequence[Point]) -> list[Column]:
    """The columns of pipelines; bytes only where there is a graph."""
    columns = [
        Column("schedule", lambda p: p.label, right=False),
        Column("ranks", lambda p: str(sum(r["count"] for r in p.ranks))),
        Column("micro-batches", lambda p: str(p.parameters["micro_batches"])),
        Column("time", lambda p: format_seconds(p.seconds or 0.0)),
        Column("bubble", lambda p: f"{p.bubble:.4f}"),
        *_throughput_columns(points),
        Column("in flight", lambda p: _range(f"{r['in_flight']:.3g}" for r in p.ranks)),
    ]
    if any(p.peak_bytes for p in points):
        columns.append(Column("peak", lambda p: format_bytes(p.peak_bytes)))
        columns.append(Column("peaks by rank", lambda p: _range(format_bytes(r["peak_bytes"]) for r in p.ranks)))
    columns.append(Column("sending", lambda p: format_seconds(max(r["communication_seconds"] for r in p.ranks))))
    columns.append(Column("front", _front, right=False))
    if results.scenario["device"] is not None or results.scenario["budget_bytes"] is not None:
        columns.append(Column("fits", lambda p: "yes" if p.fits else "no", right=False))
    return columns


def heading(results: Results, points: Sequence[Point]) -> str:
    """The subject of a run: the scenario, its graph, its device and its budget; of a sweep, how much it has."""
    scenario, graph = results.scenario, results.scenario["graph"]
    if results.sweep is not None:
        size = f"{len(results.points):,} points in {results.sweep['cells']:,} cells"
        return f"{scenario['name']}: {size}, {results.sweep['fitting']:,} fit"
    if any(p.ranks for p in points):
        parts = [f"{scenario['name']}: pipelines"]
        if not points[0].peak_bytes:
            return f"{parts[0]}, times given for each stage"
        parts.append(f"{graph['nodes']} nodes")
    else:
        parts = [f"{scenario['name']}: {graph['nodes']} nodes"]
    if graph["parameters"]:
        parts.append(f"{format_count(graph['parameters'])} parameters")
    parts.append(f"forward {format_flops(graph['forward_flops'])}")
    if points and not points[0].ranks:
        parts.append(f"resident {format_bytes(points[0].resident_bytes)}")
    if scenario["device"]:
        parts.append(_name(scenario["device"]))
    if scenario["budget_bytes"] is not None:
        parts.append(f"budget {format_bytes(scenario['budget_bytes'])}")
    return ", ".join(parts)


def _name(device: Mapping[str, object] | str) -> str:
    return device if isinstance(device, str) else str(device["name"])
