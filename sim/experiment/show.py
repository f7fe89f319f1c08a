"""A schedule as notebooks show it: its cost, and the data of its picture."""

from __future__ import annotations

import html
from typing import Any

from sim.base.errors import ParameterError
from sim.base.picture import drawing
from sim.base.units import format_bytes, format_flops
from sim.experiment.views.schedule import PICTURED_ACTIONS, PictureOfPoint, picture
from sim.schedules.replay import replay
from sim.schedules.schedule import Schedule


def schedule_html(schedule: Schedule) -> str:
    """The table of costs with the picture below it, or why there is none."""
    cost = replay(schedule)
    facts = {
        "peak": format_bytes(cost.peak_bytes),
        "of it working": format_bytes(cost.working_bytes),
        "work": format_flops(cost.flops.total),
        "evaluated again": format_flops(cost.flops.recompute),
        **{kind: f"{count:,}" for kind, count in cost.actions.items() if count},
    }
    rows = [f"<tr><th style='text-align:left'>{what}</th><td>{value}</td></tr>" for what, value in facts.items()]
    try:
        svg = drawing(schedule).svg
        below = svg[svg.find("<svg") :]
    except ParameterError as error:
        below = f"<p>{html.escape(str(error))}</p>"
    return f"<table>{''.join(rows)}</table>{below}"


def pictured(schedule: Schedule) -> dict[str, Any]:
    """The plain data of results that hold the picture of one schedule and nothing else.

    Raises
    ------
    ParameterError
        If the schedule is too long to be looked at.
    """
    graph, actions = schedule.graph, len(schedule.flat.rows)
    if not 0 < actions <= PICTURED_ACTIONS:
        raise ParameterError(f"got a schedule of {actions:,} actions, expected 1 to {PICTURED_ACTIONS:,} to draw one")
    entry = PictureOfPoint(label="", strategy="actions", parameters={}, **picture(schedule))
    about = {"nodes": len(graph), "forward_flops": int(graph.columns.forward_flops.sum())}
    return {
        "scenario": {"name": "a schedule", "graph": about},
        "points": [],
        "pictures": [entry],
        "model": {"names": [node.name for node in graph.nodes]},
    }
