"""The few points of a run that are worth a look, and their memory over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal, NotRequired

import numpy as np
from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from sim.base.json import Amount, Measured, Plain
from sim.experiment.measurements import Measurements
from sim.experiment.point import Point, landmarks
from sim.experiment.views import view
from sim.scenario.points import StrategyPoint, baseline
from sim.schedules.replay import BREAKDOWN_KINDS, profile
from sim.schedules.schedule import Schedule
from sim.simulation.trace import Trace

PROFILED_POINTS = 6
SAMPLES = 400
TIMED_ACTIONS = 200_000
SHORTEST_LOOP = 0.03
"""Loops that take less than this share of the time axis are not worth a mark."""


class Loop(TypedDict):
    """A part of the axis that stands for several equal turns."""

    start: Measured
    end: Measured
    times: Amount


class Memory(TypedDict):
    """Bytes of a schedule: a row a sample, a column a kind; `x` are the edges of the samples."""

    kinds: list[str]
    bytes: Annotated[list[list[Amount]], Field(min_length=1)]
    x: NotRequired[list[Measured]]
    x_unit: NotRequired[Literal["flops", "seconds"]]
    loops: NotRequired[list[Loop]]


class Profile(Memory):
    """The memory of a point over time."""

    label: str
    strategy: str
    parameters: Mapping[str, Plain]


def _fitting(entry: Profile) -> Profile:
    rows = entry["bytes"]
    if any(len(row) != len(entry["kinds"]) for row in rows):
        raise ValueError("rows of bytes with one column for each of the kinds")
    x = entry.get("x")
    if (x is None) != ("x_unit" not in entry):
        raise ValueError("x and x_unit together")
    if x is not None and (len(x) != len(rows) + 1 or any(b < a for a, b in pairwise(x))):
        raise ValueError("rising edges x, one more than there are rows of bytes")
    if any(not 0 <= loop["start"] <= loop["end"] <= (x or [0.0])[-1] for loop in entry.get("loops", ())):
        raise ValueError("loops that lie on the axis")
    return entry


@view("profiles", place=0)
def profiles(run: Measurements) -> list[Annotated[Profile, AfterValidator(_fitting)]]:
    """Memory by kind over time for a few of the points.

    Time is the device's where every one of them was simulated, is short enough and copies nothing;
    else it is work. Memory is that of `replay`, which a copy that lags behind may exceed.
    """
    chosen = _worth_a_look(run.points, baseline(run.graph))
    schedules = {i: run.schedule(i) for i in chosen}
    timed = all(
        run.points[i].seconds is not None
        and len(s.flat.rows) <= TIMED_ACTIONS
        and not any(run.points[i].copied_bytes.values())
        for i, s in schedules.items()
    )
    return [
        Profile(
            label=run.points[i].label,
            strategy=run.points[i].strategy,
            parameters=run.points[i].parameters,
            **memory_profile(schedule, run.trace(i) if timed else None),
        )
        for i, schedule in schedules.items()
    ]


def _worth_a_look(points: Sequence[Point], compared: StrategyPoint) -> list[int]:
    """The baseline, one point of the front and the smallest peak for each strategy, then more."""
    smallest: dict[str, int] = {}
    for i in sorted(range(len(points)), key=lambda i: points[i].peak_bytes):
        smallest.setdefault(points[i].strategy, i)
    along = landmarks(points, "flops", PROFILED_POINTS)
    rest = [i for strategy, i in smallest.items() if strategy not in {points[k].strategy for k in along}]
    full = [i for i in [*along, *rest] if points[i].strategy == compared.strategy]
    first = {points[i].strategy: i for i in reversed(along)}
    leading = [i for i in along if first[points[i].strategy] == i]
    return list(dict.fromkeys([*full[:1], *leading, *rest, *along]))[:PROFILED_POINTS]


def memory_profile(schedule: Schedule, trace: Trace | None = None) -> Memory:
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
    entry = Memory(kinds=list(BREAKDOWN_KINDS), bytes=rows.tolist())
    if not clock[-1]:
        return entry
    change = np.diff(np.concatenate([[0], flat.weights > 1, [0]]))
    starts, stops = np.flatnonzero(change > 0), np.flatnonzero(change < 0)
    loops = [
        Loop(start=float(clock[a]), end=float(clock[b]), times=int(flat.weights[a]))
        for a, b in zip(starts, stops, strict=True)
        if clock[b] - clock[a] > SHORTEST_LOOP * clock[-1]
    ]
    x_unit: Literal["flops", "seconds"] = "flops" if trace is None else "seconds"
    return Memory(**entry, x=clock[edges].tolist(), x_unit=x_unit, loops=loops)
