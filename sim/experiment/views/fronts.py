"""Every breakpoint of the fronts that are planned, beneath the points that are measured."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, cast

from pydantic import Field
from typing_extensions import TypedDict

from sim.base.json import Amount
from sim.base.registry import keywords
from sim.experiment.measurements import Measurements
from sim.experiment.views import view
from sim.strategies.front import BoundClass, Front


class Curve(TypedDict):
    """A front, or a lower bound on the schedules of a class; breakpoints are (total bytes, flops)."""

    label: str
    kind: Literal["exact", "bound"]
    breakpoints: list[Annotated[list[Amount], Field(min_length=2, max_length=2)]]
    bound_class: NotRequired[BoundClass]


@view("curves", place=3)
def curves(run: Measurements) -> list[Curve]:
    """The fronts that the points of the scenario ask for, each with its lower bound."""
    by_label: dict[str, Curve] = {}
    for request in run.scenario.points:
        plan = request.entry.front
        if plan is not None:
            parameters = {k: v for k, v in request.parameters.items() if v is not None}
            front: Front = plan(run.graph, **keywords(plan, parameters))
            for curve in front.curves():
                by_label.setdefault(curve["label"], cast(Curve, curve))
    return list(by_label.values())
