"""Points and results without a run."""

from __future__ import annotations

from sim.base.pareto import Point as Pair
from sim.experiment.point import Flops, Point
from sim.experiment.results import Results


def flops(total: int) -> Flops:
    """All of them primal."""
    return Flops(primal=total, recompute=0, tangent=0, adjoint=0, jacobian=0, product=0, total=total)


def point(**changes: object) -> Point:
    values: dict[str, object] = {
        "strategy": "reverse_checkpointed",
        "parameters": {"schedule": "binomial", "slots": 3},
        "label": "binomial slots=3",
        "peak_bytes": 12,
        "working_bytes": 8,
        "resident_bytes": 4,
        "peak_at": {"action": 7, "kind": "vjp", "node": "layer3"},
        "peak_breakdown": {"activation": 8, "resident": 4},
        "flops": flops(3),
        "actions": {"forward": 3},
    }
    return Point(**(values | changes))  # type: ignore[arg-type]


def some(*points: Point) -> Results:
    return Results(
        scenario={
            "name": "demo",
            "sha256": "0" * 64,
            "graph": {"nodes": 3, "parameters": 0, "forward_flops": 3},
            "device": None,
            "budget_bytes": None,
        },
        version="0.1.0",
        points=points,
    )


def dominates(a: Pair, b: Pair) -> bool:
    """Whether `a` is at least as good as `b` in both coordinates and better in one."""
    return a[0] <= b[0] and a[1] <= b[1] and a != b
