"""The table of `sim verify`: each prediction beside what was measured, and what counts as equal."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from sim.base.units import format_bytes, format_flops, format_seconds
from sim.experiment import verify as verification
from sim.experiment.verify import Verified, Verifier
from sim.scenario.scenario import Scenario
from sim.simulation.device import Device

if TYPE_CHECKING:
    from sim.experiment.verify_torch import TorchVerifier

AnyVerifier: TypeAlias = "Verifier | TorchVerifier"

WIDTH = 120


def as_json(scenario: Scenario, verifier: AnyVerifier, points: Sequence[Verified]) -> str:
    data: dict[str, Any] = {
        "scenario": {"name": scenario.name, "sha256": scenario.document.sha256},
        "graph": {"name": verifier.graph.name, "nodes": len(verifier.graph), "batch": verifier.graph.batch},
        "engine": verifier.engine,
        "dtype": verifier.dtype,
        "device": verifier.device.to_dict() if verifier.device else None,
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
    """The error, or `None` (JSON has no infinity) where it is not finite."""
    return error if error < float("inf") else None


def table(scenario: Scenario, verifier: AnyVerifier, points: Sequence[Verified]) -> str:
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
    for quantity, text_of in (("peak bytes", format_bytes), ("flops", format_flops)):
        c = p.check(quantity)
        assert c is not None
        same = c.predicted == c.measured
        cells += [
            text_of(int(c.predicted or 0)),
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
            "peak: bytes of all storages alive beside parameters and inputs, at most 1 % above the prediction;",
            "flops: of matrix products, exact; gradient: off plain autograd by at most "
            f"{gradient:g} of its largest entry",
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
