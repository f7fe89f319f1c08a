"""The few points of a run that are worth a look, and their memory over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sim.base.pareto import Number, landmarks
from sim.experiment.results import Point
from sim.graphs.graph import Graph
from sim.scenario.points import StrategyPoint
from sim.schedules.cost import BREAKDOWN_KINDS
from sim.schedules.schedule import Schedule, profile
from sim.simulation.device import Device
from sim.simulation.simulate import simulate
from sim.simulation.trace import Trace

PROFILED_POINTS = 6
SAMPLES = 400
TIMED_ACTIONS = 200_000
SHORTEST_LOOP = 0.03
"""Loops that take less than this share of the time axis are not worth a mark."""


def profiles(
    graph: Graph, wanted: Sequence[StrategyPoint], points: Sequence[Point], device: Device | None
) -> list[dict[str, Any]]:
    """Memory by kind over time for a few of the points, `wanted[i]` being what `points[i]` was asked for.

    Time is the device's where every one of them was simulated, is short enough and copies nothing;
    else it is work. Memory is that of `replay`, which a copy that lags behind may exceed.
    """
    chosen = _worth_a_look(points)
    schedules = {i: wanted[i].schedule(graph) for i in chosen}
    timed = device is not None and all(
        points[i].seconds is not None and len(s.flat.rows) <= TIMED_ACTIONS and not any(points[i].copied_bytes.values())
        for i, s in schedules.items()
    )
    return [
        {
            "label": points[i].label,
            "strategy": points[i].strategy,
            "parameters": points[i].parameters,
            **memory_profile(schedule, simulate(schedule, device) if timed and device is not None else None),
        }
        for i, schedule in schedules.items()
    ]


def coordinates(point: Point, by: str) -> tuple[Number, Number]:
    """Bytes and flops, exact; or the bytes that were in use in the simulation, and its seconds."""
    if by == "flops":
        return point.peak_bytes, point.flops["total"]
    return max(point.peak_bytes, point.simulated_peak_bytes or 0), point.seconds or 0.0


def stand_for_front(points: Sequence[Point], by: str, count: int) -> list[int]:
    """Indices of the points that stand for the front, the most important first.

    By flops, points that copy do not compete: they pay in time.
    """
    competing = [i for i, p in enumerate(points) if by != "flops" or not any(p.copied_bytes.values())]
    pairs, series = [coordinates(points[i], by) for i in competing], [points[i].strategy for i in competing]
    return [competing[k] for k in landmarks(pairs, series, count=count)]


def _worth_a_look(points: Sequence[Point]) -> list[int]:
    """Full store to compare with, one point of the front and the smallest peak for each strategy, then more."""
    smallest: dict[str, int] = {}
    for i in sorted(range(len(points)), key=lambda i: points[i].peak_bytes):
        smallest.setdefault(points[i].strategy, i)
    along = stand_for_front(points, "flops", PROFILED_POINTS)
    rest = [i for strategy, i in smallest.items() if strategy not in {points[k].strategy for k in along}]
    full = [i for i in [*along, *rest] if points[i].strategy == "reverse_full"]
    first = {points[i].strategy: i for i in reversed(along)}
    leading = [i for i in along if first[points[i].strategy] == i]
    return list(dict.fromkeys([*full[:1], *leading, *rest, *along]))[:PROFILED_POINTS]


def memory_profile(schedule: Schedule, trace: Trace | None = None) -> dict[str, Any]:
    """Bytes by kind, `SAMPLES` rows or fewer, over seconds if there is a trace and over flops if not.

    Each row is the fullest action of its stretch of the schedule, so the peak is among them. At most
    three turns of a loop are laid out; `loops` marks the one that stands for all between, unless it
    is too short to see.
    """
    flat = schedule.flat
    rows = profile(schedule, samples=SAMPLES)
    edges = -(-np.arange(len(rows) + 1) * len(flat.rows) // len(rows))  # action k is in row k·count // actions
    if trace is None:
        work = schedule.table.flops[flat.rows] * flat.widths.astype(np.float64)
        clock = np.concatenate([[0.0], np.cumsum(work)])
    else:
        clock = np.concatenate([[0.0], np.maximum.accumulate(trace.ends)])
    entry = {"kinds": list(BREAKDOWN_KINDS), "bytes": rows.tolist()}
    if not clock[-1]:
        return entry
    change = np.diff(np.concatenate([[0], flat.weights > 1, [0]]))
    starts, stops = np.flatnonzero(change > 0), np.flatnonzero(change < 0)
    loops = [
        {"start": float(clock[a]), "end": float(clock[b]), "times": int(flat.weights[a])}
        for a, b in zip(starts, stops, strict=True)
        if clock[b] - clock[a] > SHORTEST_LOOP * clock[-1]
    ]
    return entry | {"x": clock[edges].tolist(), "x_unit": "flops" if trace is None else "seconds", "loops": loops}
