"""The few points of a run that are worth a look, and their memory over the work done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sim.graph import Graph
from sim.pareto import Number, landmarks
from sim.points import StrategyPoint
from sim.results import Point
from sim.schedule import BREAKDOWN_KINDS, Schedule, profile

PROFILED_POINTS = 6


def profiles(graph: Graph, wanted: Sequence[StrategyPoint], points: Sequence[Point]) -> list[dict[str, Any]]:
    """Memory by kind over flops for a few of the points, `wanted[i]` being what `points[i]` was asked for.

    Sample k lies between `x[k]` and `x[k + 1]`. Where a loop stands for many turns alike, one of them
    is laid out, and `loops` says from where to where and how often.
    """
    return [
        {
            "label": points[i].label,
            "strategy": points[i].strategy,
            "parameters": points[i].parameters,
            **_over_work(wanted[i].schedule(graph)),
        }
        for i in _worth_a_look(points)
    ]


def coordinates(point: Point, by: str) -> tuple[Number, Number]:
    """Bytes and flops, exact; or the bytes that were in use in the simulation, and its seconds."""
    if by == "flops":
        return point.peak_bytes, point.flops["total"]
    return max(point.peak_bytes, point.simulated_peak_bytes or 0), point.seconds or 0.0


def stand_for_front(points: Sequence[Point], by: str, count: int) -> list[int]:
    """Indices of the points that stand for the front, the most important first."""
    return landmarks([coordinates(p, by) for p in points], [p.strategy for p in points], count=count)


def _worth_a_look(points: Sequence[Point]) -> list[int]:
    """Full store to compare with, what stands for the front, then the smallest peak of each other strategy."""
    smallest: dict[str, int] = {}
    for i in sorted(range(len(points)), key=lambda i: points[i].peak_bytes):
        smallest.setdefault(points[i].strategy, i)
    along = stand_for_front(points, "flops", PROFILED_POINTS)
    rest = [i for strategy, i in smallest.items() if strategy not in {points[k].strategy for k in along}]
    full = [i for i in [*along, *rest] if points[i].strategy == "reverse_full"]
    return list(dict.fromkeys([*full[:1], *along, *rest]))[:PROFILED_POINTS]


def _over_work(schedule: Schedule) -> dict[str, Any]:
    samples = profile(schedule)
    flat = schedule.flat
    count, actions = len(samples), len(flat.rows)
    done = np.concatenate([[0.0], np.cumsum(schedule.table.flops[flat.rows] * flat.widths.astype(np.float64))])
    entry = {"kinds": list(BREAKDOWN_KINDS), "bytes": samples.tolist()}
    if not done[-1]:
        return entry
    starts = -(-np.arange(count + 1) * actions // count)  # action k is in sample k·count // actions
    weights = flat.weights if len(flat.weights) else np.ones(actions, dtype=np.int64)
    edges = np.concatenate([[0], 1 + np.flatnonzero(np.diff(weights)), [actions]])
    loops = [
        {"start": float(done[start]), "end": float(done[end]), "times": int(weights[start])}
        for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        if weights[start] > 1
    ]
    return entry | {"x": done[starts].tolist(), "x_unit": "flops", "loops": loops}
