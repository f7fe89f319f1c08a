"""The products and sweeps of each order of Jacobians, which a bracketing writes as one line."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from sim.base.json import Amount
from sim.experiment.measurements import Measurements
from sim.experiment.views import view
from sim.schedules.actions import Multiply

MOST_STEPS = 200

Place = Annotated[int, Field(ge=-1, le=10**12)]


class Products(TypedDict):
    """The actions of `points[point]` that are no evaluations: what they make, of node `node`, and their flops.

    A product is of the Jacobian of `node` by `middle` and that of `middle` by `source`; the two are -1 for
    a graph input, and for all other kinds.
    """

    point: Amount
    bracketing: str
    kind: list[str]
    node: list[Place]
    middle: list[Place]
    source: list[Place]
    flops: list[Amount]


def _fitting(entry: Products) -> Products:
    if len({len(entry[key]) for key in ("kind", "node", "middle", "source", "flops")}) > 1:
        raise ValueError("columns that are as long as each other")
    return entry


@view("products", place=6)
def products(run: Measurements) -> list[Annotated[Products, AfterValidator(_fitting)]]:
    """The steps of each point that has a bracketing, if they are few enough to be drawn."""
    found: list[Products] = []
    for i, point in enumerate(run.points):
        if "bracketing" not in point.notes:
            continue
        schedule = run.schedule(i)
        if len(schedule) > MOST_STEPS or schedule.loops:
            continue
        place = {node.name: k for k, node in enumerate(run.graph.nodes)}
        entry = Products(
            point=i, bracketing=point.notes["bracketing"], kind=[], node=[], middle=[], source=[], flops=[]
        )
        for k, action in enumerate(schedule):
            if action.kind != "forward":
                product = isinstance(action, Multiply)
                entry["kind"].append(action.kind)
                entry["node"].append(place.get(action.node, -1))
                entry["middle"].append(place.get(action.middle, -1) if product else -1)  # type: ignore[attr-defined]
                entry["source"].append(place.get(action.source, -1) if product else -1)  # type: ignore[attr-defined]
                entry["flops"].append(int(schedule.table.flops[schedule.rows[k]]) * action.width)
        found.append(entry)
    return found
