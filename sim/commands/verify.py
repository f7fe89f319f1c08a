"""`sim verify`: a scenario's schedules run on real arrays, and each prediction beside what was measured."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sim.base.errors import GraphError, NotApplicable, ParameterError
from sim.base.registry import Problem
from sim.base.units import format_bytes, format_flops, format_seconds
from sim.commands.output import emit, note
from sim.experiment import verify as verification
from sim.experiment.verify import Check, Verified, Verifier
from sim.graphs.graph import Graph
from sim.scenario.points import REFUSALS
from sim.scenario.scenario import Scenario, graph_kinds, load, named_device
from sim.simulation.device import Device

if TYPE_CHECKING:
    from sim.experiment.verify_torch import TorchVerifier

AnyVerifier: TypeAlias = "Verifier | TorchVerifier"

OFF = 1
WIDTH = 120
ABSTRACT = ("chain",)
"""Kinds of graph whose nodes stand for no operation."""


def verify(file: Path, *, device: str | None, batch: int | None, max_seconds: float, format: str, quiet: bool) -> int:
    """0 if every prediction is within its tolerance, 1 if one is off.

    Raises
    ------
    DocumentError
        If the scenario is invalid, or its graph is none that can be executed.
    NotApplicable
        If nothing of it can be run within the limits.
    """
    if not max_seconds > 0:
        raise ParameterError(f"--max-seconds: got {max_seconds:g}, expected more than 0", parameter="max-seconds")
    scenario = load(file)
    machine = named_device(device) if device is not None else None
    if batch is not None:
        scenario = _with_batch(scenario, batch)
    _check_executable(scenario)
    try:
        verifier = _verifier(scenario, machine, max_seconds)
    except (NotApplicable, GraphError) as error:
        raise scenario.error(("graph",), str(error)) from None
    if verifier.impossible:
        advice = _advice(verifier.graph, scenario)
        raise NotApplicable(f"{file}: too large to be run here: {verifier.impossible}{advice}")
    points, problems = [], []
    for wanted in scenario.points:
        try:
            points.append(verifier.verify(wanted))
        except REFUSALS as error:
            problems.append(wanted.problem(error))
    if problems:
        raise scenario.document.error(problems)
    _tell(points, quiet=quiet)
    emit(_json(scenario, verifier, points) if format == "json" else _table(scenario, verifier, points))
    return 0 if all(p.ok for p in points) else OFF


def _verifier(scenario: Scenario, machine: Device | None, max_seconds: float) -> AnyVerifier:
    memory_bytes = verification.free_memory()
    if scenario.graph_kind == "torch":
        from sim.experiment.verify_torch import TorchVerifier

        return TorchVerifier(scenario.graph_parameters, device=machine, limit_s=max_seconds, memory_bytes=memory_bytes)
    return Verifier(scenario.build_graph(), device=machine, limit_s=max_seconds, memory_bytes=memory_bytes)


def _with_batch(scenario: Scenario, batch: int) -> Scenario:
    entry = graph_kinds()[scenario.graph_kind]
    if "batch" not in entry.model.model_fields:
        raise ParameterError(f"--batch: graphs of kind {scenario.graph_kind} have no batch", parameter="batch")
    given = {**scenario.document.data["graph"], "batch": batch}
    del given["kind"]
    wrong: list[Problem] = entry.check(given)[1]
    if any(p.path[:1] == ("batch",) for p in wrong):
        raise ParameterError(f"--batch: {wrong[0].message}", parameter="batch")
    return dataclasses.replace(scenario, graph_parameters={**scenario.graph_parameters, "batch": batch})


def _check_executable(scenario: Scenario) -> None:
    if scenario.graph_kind in ABSTRACT:
        raise scenario.error(
            ("graph", "kind"),
            "a chain is abstract: its nodes compute nothing, so there is nothing to measure; "
            "verify a graph of layers (mlp, cnn, transformer, layers by op)",
        )
    if scenario.graph_kind == "torch" and scenario.wrt == "input":
        raise scenario.error(("wrt",), "a PyTorch module is run for the gradient of its parameters alone")


def _advice(graph: Graph, scenario: Scenario) -> str:
    if graph.wrt == "parameters" and graph.output_scalars > 1:
        return f"; a gradient is made for each of {graph.output_scalars} outputs, with a loss for one alone"
    if "batch" in graph_kinds()[scenario.graph_kind].model.model_fields and graph.batch > 1:
        return f"; --batch 1 in place of {graph.batch}, or a larger --max-seconds, may do"
    return "; a larger --max-seconds may do"


def _tell(points: Sequence[Verified], *, quiet: bool) -> None:
    for p in points:
        if p.skipped:
            note(f"not run: {p.label}: {p.skipped}", quiet=quiet)
        for c in p.checks:
            if not c.ok:
                note(f"off: {p.label}: {c.quantity}: {_how_far(c)}")


def _how_far(c: Check) -> str:
    if c.predicted is None:
        return f"{c.error:.2g}, expected at most {c.tolerance:g}"
    expected = "expected the same" if not c.tolerance else f"expected at most {c.tolerance * 100:g} % between them"
    return f"{c.predicted} predicted, {c.measured} measured; {expected}"


def _json(scenario: Scenario, verifier: AnyVerifier, points: Sequence[Verified]) -> str:
    data: dict[str, Any] = {
        "scenario": {"name": scenario.name, "sha256": scenario.document.sha256},
        "graph": {"name": verifier.graph.name, "nodes": len(verifier.graph), "batch": verifier.graph.batch},
        "engine": verifier.engine,
        "dtype": verifier.dtype,
        "device": dataclasses.asdict(verifier.device) if verifier.device else None,
        "without_slopes": verifier.without_slopes,
        "points": [
            {
                "label": p.label,
                "ok": p.ok,
                "skipped": p.skipped,
                "checks": [dataclasses.asdict(c) | {"error": _finite(c.error), "ok": c.ok} for c in p.checks],
            }
            for p in points
        ],
    }
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(error: float) -> float | None:
    """JSON has no infinity: an error that is not finite is null."""
    return error if error < float("inf") else None


def _table(scenario: Scenario, verifier: AnyVerifier, points: Sequence[Verified]) -> str:
    device: Device | None = verifier.device
    heads = ["strategy", "peak", "measured", "flops", "counted", "gradient", "slopes"]
    heads += ["time", "measured"] if device else []
    rows = [_row(p, timed=device is not None) for p in points]
    graph, dtype = verifier.graph, verifier.dtype
    first = f"{scenario.name}: {len(graph)} nodes, batch {graph.batch}, {dtype}, run on {verifier.engine}"
    return "\n".join([first, "", *_aligned([[*heads, "holds"], *rows]), "", *_legend(verifier), ""])


def _row(p: Verified, *, timed: bool) -> list[str]:
    if p.skipped:
        return [p.label, *["-"] * (8 if timed else 6), "not run"]
    cells = [p.label]
    for quantity, shown in (("peak bytes", format_bytes), ("flops", format_flops)):
        c = p.check(quantity)
        assert c is not None
        same = c.predicted == c.measured
        cells += [
            shown(int(c.predicted or 0)),
            "the same" if same else f"{int(c.measured or 0) - int(c.predicted or 0):+}",
        ]
    for quantity in ("gradient", "slopes"):
        c = p.check(quantity)
        cells.append("-" if c is None else f"{c.error:.1e}")
    if timed:
        c = p.check("seconds")
        assert c is not None
        cells += [
            format_seconds(c.predicted or 0.0),
            f"{format_seconds(c.measured or 0.0)}{'' if c.tolerance else ' *'}",
        ]
    return [*cells, "yes" if p.ok else "NO"]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]


def _legend(verifier: AnyVerifier) -> list[str]:
    numpy, device = verifier.engine == Verifier.engine, verifier.device
    gradient = verification.tolerance_of(verification.GRADIENT_TOLERANCE, verifier.dtype)
    if numpy:
        lines = [
            "peak: bytes held at every action, exact; flops: counted from the shapes of the arrays, exact",
            f"gradient: off full store by at most {gradient:g} of its largest entry",
        ]
    else:
        lines = [
            "peak: bytes of all storages alive beside parameters and inputs, within 1 %; flops: of matrix products,",
            f"exact; gradient: off plain autograd by at most {gradient:g} of its largest entry",
        ]
    if verifier.without_slopes is None:
        lines.append(
            f"slopes: off central differences in float64, along {verification.DIRECTIONS} directions, by at most "
            f"{verifier.slope_tolerance:.2g} of their size"
        )
        if verifier.slope_tolerance > verification.tolerance_of(verification.DIFFERENCE_TOLERANCE, verifier.dtype):
            lines[-1] += ","
            exact = "full store" if numpy else "plain autograd"
            lines.append(f"twice what rounding to {verifier.dtype} moves those of {exact} by")
    else:
        lines += textwrap.wrap(f"slopes: not compared with central differences: {verifier.without_slopes}", WIDTH)
    if device:
        lines.append(
            f"time: on {device.name}, within {verification.SECONDS_TOLERANCE:.0%}; * not judged, because products take "
            f"less than {verification.COMPUTE_BOUND:.0%} of it"
        )
    return lines
