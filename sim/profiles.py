"""Memory by kind of value over time, thinned for a figure: an entry of the results' `profiles`."""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.schedule import BREAKDOWN_KINDS, Schedule, profile
from sim.trace import Trace

SAMPLES = 400
SHORTEST_LOOP = 0.03
"""Loops that take less than this share of the time axis are not worth a mark."""


def memory_profile(schedule: Schedule, trace: Trace | None = None) -> dict[str, Any]:
    """Bytes by kind, `SAMPLES` rows or fewer, over seconds if there is a trace and over flops if not.

    Each row is the fullest action of its stretch of the schedule, so the peak is among them. At most
    three turns of a loop are laid out; `loops` marks the one that stands for all between.
    """
    flat = schedule.flat
    rows = profile(schedule, samples=SAMPLES)
    edges = -(-np.arange(len(rows) + 1) * len(flat.rows) // len(rows))
    if trace is None:
        work = schedule.table.flops[flat.rows].astype(np.float64) * flat.widths
        clock = np.concatenate([[0.0], np.cumsum(work)])
    else:
        clock = np.concatenate([[0.0], np.maximum.accumulate(trace.ends)])
    change = np.diff(np.concatenate([[0], flat.weights > 1, [0]]))
    starts, stops = np.flatnonzero(change > 0), np.flatnonzero(change < 0)
    loops = [
        {"start": float(clock[a]), "end": float(clock[b]), "times": int(flat.weights[a])}
        for a, b in zip(starts, stops, strict=True)
        if clock[b] - clock[a] > SHORTEST_LOOP * clock[-1]
    ]
    return {
        "kinds": list(BREAKDOWN_KINDS),
        "bytes": rows.tolist(),
        "x": clock[edges].tolist(),
        "x_unit": "flops" if trace is None else "seconds",
        "loops": loops,
    }
