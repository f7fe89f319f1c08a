"""The simpy process of a schedule without copies, and what every run returns.

Bytes are kept in an integer ledger; simpy has the time and the waiting.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import simpy
from numpy.typing import NDArray

from sim.base.errors import OutOfMemory
from sim.base.units import format_bytes
from sim.graphs.node import Ints
from sim.schedules.lifetimes import allocations
from sim.schedules.replay import Walk, replay, walk
from sim.schedules.schedule import Flat, Schedule
from sim.schedules.values import DEVICE, TIERS, VALUE_KINDS

Floats = NDArray[np.float64]
Events = Generator[simpy.Event, Any, None]

_BLOCK = 1 << 16  # actions whose numbers are Python objects at one time
NO_LIMIT = 2**100
_NAMED = 3  # values that an out-of-memory error names


class Segment(NamedTuple):
    """Flat actions start … stop-1, all done `times` times; it begins when everything before has ended."""

    start: int
    stop: int
    times: int


class Memory(NamedTuple):
    """Bytes of a tier over time: `bytes[i]` from `times[i]` on."""

    times: Floats
    bytes: Ints


class Run(NamedTuple):
    """The clock of a run: when each flat action could have started, did start, and ended.

    `issued` is when its stream was free and the schedule had come to it; `ready` when its data were
    there too, so that the rest of the wait is for memory. `marks` are the times at which segments
    begin, and the end. `memory` has one entry a tier.
    """

    issued: Floats
    ready: Floats
    starts: Floats
    ends: Floats
    segments: list[Segment]
    marks: list[float]
    memory: list[Memory]


def segments_of(flat: Flat) -> list[Segment]:
    """The stretches of flat actions that are done equally often."""
    many = len(flat.rows)
    if not len(flat.weights):
        return [Segment(0, many, 1)]
    cuts = [0, *(np.flatnonzero(np.diff(flat.weights)) + 1).tolist(), many]
    return [Segment(a, b, int(flat.weights[a])) for a, b in pairwise(cuts)]


def run_single(schedule: Schedule, walked: Walk, durations: Floats, capacity: int | None) -> Run:
    """The run of a schedule without copies: one timeout an action and little else, as it bounds the speed.

    `walked` has the bytes of its actions.

    Raises
    ------
    OutOfMemory
        If the capacity is below the peak.
    """
    taken, freed = allocations(walked)
    resident = schedule.graph.resident_bytes
    limit = NO_LIMIT if capacity is None else capacity
    env = simpy.Environment()
    peak = -1

    def compute() -> Events:
        nonlocal peak
        timeout, level = env.timeout, resident
        for begin in range(0, len(durations), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            lists = (durations[block].tolist(), taken[block].tolist(), freed[block].tolist())
            for seconds, take, free in zip(*lists, strict=True):
                level += take
                if level > peak:
                    peak = level
                    if level > limit:
                        return
                yield timeout(seconds)
                level -= free

    env.process(compute())
    env.run()
    during, after = resident + walked.record.during, resident + walked.record.after
    if peak > limit:
        k = int(np.argmax(during > limit))
        raise out_of_memory(schedule, k, 0, need=int(taken[k]), level=int(during[k] - taken[k]), capacity=limit)
    ends = np.cumsum(durations)
    assert peak == during.max(), "the ledger that was followed is that of the arrays"
    assert ends[-1] == env.now, "the clock adds the same numbers in the same order"
    starts = np.concatenate([[0.0], ends[:-1]])
    segments = segments_of(schedule.flat)
    marks = [0.0, *(float(ends[s.stop - 1]) for s in segments)]
    device = Memory(np.append(starts, ends[-1]), np.append(during, after[-1]))
    nothing = Memory(np.zeros(1), np.zeros(1, dtype=np.int64))
    return Run(starts, starts, starts, ends, segments, marks, [device, nothing, nothing])


def out_of_memory(schedule: Schedule, k: int, tier: int, *, need: int, level: int, capacity: int) -> OutOfMemory:
    """The error of flat action k, which needs `need` bytes of a tier that holds `level`."""
    cost, action = replay(schedule), schedule.flat.origin(k)
    name = TIERS[tier]
    enough = cost.peak_bytes if tier == DEVICE else cost.tier_peak_bytes[name]
    copied = "" if any(cost.copied_bytes.values()) else ", and no less"
    message = (
        f"out of {name} memory: action {action}, {schedule.action(action)}, needs {need} bytes ({format_bytes(need)}), "
        f"but {format_bytes(level)} of {format_bytes(capacity)} are taken by {_live(schedule, k, tier)}; "
        f"a capacity of {enough} bytes ({format_bytes(enough)}) would do{copied}"
    )
    return OutOfMemory(
        message, action=action, tier=name, needed_bytes=need, capacity_bytes=capacity, enough_bytes=enough
    )


def _live(schedule: Schedule, k: int, tier: int) -> str:
    """The bytes in a tier when flat action k is about to start in schedule order: by kind, and the largest values."""
    t, widths = schedule.table, walk(schedule, stop=k).left
    c = t.columns
    size = np.where(c.value_tier == tier, c.value_bytes * np.where(t.scaled, widths, widths > 0), 0)
    by_kind: dict[str, int] = {kind: int(size[c.value_kind == i].sum()) for i, kind in enumerate(VALUE_KINDS)}
    if tier == DEVICE:
        by_kind["resident"] = schedule.graph.resident_bytes
    kinds = [f"{kind} {format_bytes(b)}" for kind, b in sorted(by_kind.items(), key=lambda x: -x[1]) if b]
    largest = [v for v in np.argsort(-size, kind="stable")[:_NAMED].tolist() if size[v]]
    values = [f"{t.describe_value(v)} {format_bytes(int(size[v]))}" for v in largest]
    return (", ".join(kinds) or "nothing") + (f" (largest: {', '.join(values)})" if values else "")
