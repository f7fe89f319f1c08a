"""Mixed checkpointing: each unit of storage holds a checkpoint or a residual, whichever saves more."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sim.base.registry import Count
from sim.graphs.graph import Graph
from sim.schedules.schedule import Schedule
from sim.strategies.checkpointing.mixed_plan import mixed_plan
from sim.strategies.checkpointing.segments import Cotangents, from_plan, schedules


@schedules.register("mixed")
def mixed(
    graph: Graph,
    *,
    slots: Annotated[Count, Field(description="units of storage, each for a checkpoint or the residual of a step")],
    chunk: Cotangents = None,
) -> Schedule:
    """Fewest evaluations of equal steps where a unit holds either a checkpoint or a residual (Maddison 2024).

    Prefer it over `binomial` where a step's residual takes about as much as its activation; it is
    planned by a dynamic program over steps² · slots.
    """
    return from_plan(graph, mixed_plan(len(graph.step_starts) - 1, slots), chunk)
