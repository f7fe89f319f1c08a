"""Traces of simulations, and their export for chrome://tracing and Perfetto."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.schedules.effects import KINDS
from sim.schedules.lifetimes import COMPUTE, STREAMS
from sim.schedules.replay import Cost
from sim.schedules.schedule import Schedule
from sim.schedules.values import TIERS
from sim.simulation.device import Device
from sim.simulation.serial import Floats, Memory, Run

Event = dict[str, Any]

MOST_EVENTS = 200_000
"""Events that an exported trace has at most; longer ones are merged."""
_PROCESS = 1
_LOOPS = len(STREAMS) + 1  # the thread that shows which part stands for many turns
_SHORTEST_STALL_S = 1e-12


class StreamUse(NamedTuple):
    """The work of one stream. `stall_seconds` is the time that an action it had been given waited to start."""

    actions: int
    busy_seconds: float
    stall_seconds: float


class Repeat(NamedTuple):
    """A stretch of the trace's clock that stands for `times` turns of a loop."""

    start: float
    end: float
    times: int


@dataclass(frozen=True, eq=False)
class Trace:
    """A schedule's run on a device: the `cost` of its replay, and time.

    `working_bytes` and `tier_peak_bytes` are what was in use at one time, more than in the cost where
    copies lag behind. `seconds` counts each turn of each loop. The arrays hold the *clock*, on which at
    most three turns of a loop are laid out (`repeats` tells where one stands for many): for each action of
    `schedule.flat` when it was `issued` (its stream free and the schedule there), `ready` (its data
    too), when it `starts` and `ends`. `memory` is device bytes, resident ones included, over the clock.
    """

    schedule: Schedule
    device: Device
    cost: Cost
    seconds: float
    streams: dict[str, StreamUse]
    working_bytes: int
    tier_peak_bytes: dict[str, int]
    stream_of: NDArray[np.int8]
    run: Run

    @property
    def stall_seconds(self) -> float:
        """Seconds that compute waited for data or memory."""
        return self.streams["compute"].stall_seconds

    @property
    def serial_seconds(self) -> float:
        """The seconds of all actions one after the other: the cost of a recurrence that knows no overlap."""
        return sum(use.busy_seconds for use in self.streams.values())

    @property
    def resident_bytes(self) -> int:
        return self.schedule.graph.resident_bytes

    @property
    def peak_bytes(self) -> int:
        """The most device bytes at one time, resident ones included."""
        return self.working_bytes + self.resident_bytes

    @property
    def starts(self) -> Floats:
        return self.run.starts

    @property
    def ends(self) -> Floats:
        return self.run.ends

    @property
    def memory(self) -> Memory:
        return self.run.memory[0]

    @cached_property
    def repeats(self) -> tuple[Repeat, ...]:
        marks = self.run.marks
        return tuple(
            Repeat(start, end, s.times)
            for s, start, end in zip(self.run.segments, marks[:-1], marks[1:], strict=True)
            if s.times > 1
        )

    def to_chrome(self, *, most_events: int = MOST_EVENTS) -> dict[str, Any]:
        """The trace in the Trace Event Format of Chrome, as data for `json.dump`; see `_chrome`."""
        return _chrome(self, most_events=most_events)

    def to_json(self) -> str:
        """The trace as a file that chrome://tracing and Perfetto open; the same bytes for the same run."""
        return json.dumps(self.to_chrome(), separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n"


def trace_of(schedule: Schedule, device: Device, cost: Cost, stream_of: NDArray[np.int8], run: Run) -> Trace:
    """The trace of a finished run of a schedule that takes `cost`."""
    flat = schedule.flat
    weights = flat.weights if len(flat.weights) else np.ones(len(flat.rows), dtype=np.int64)
    peaks = [int(memory.bytes.max()) for memory in run.memory]
    peaks[0] -= schedule.graph.resident_bytes
    marks = np.diff(run.marks)
    return Trace(
        schedule=schedule,
        device=device,
        cost=cost,
        seconds=sum(float(s.times * d) for s, d in zip(run.segments, marks, strict=True)),
        streams={
            name: _use(run, np.flatnonzero(stream_of == s), weights)
            for s, name in enumerate(STREAMS)
            if s == COMPUTE or (stream_of == s).any()
        },
        working_bytes=peaks[0],
        tier_peak_bytes=dict(zip(TIERS, peaks, strict=True)),
        stream_of=stream_of,
        run=run,
    )


def _use(run: Run, own: NDArray[np.int64], weights: NDArray[np.int64]) -> StreamUse:
    w = weights[own].astype(np.float64)
    busy = float((w * (run.ends[own] - run.starts[own])).sum())
    return StreamUse(int(weights[own].sum()), busy, float((w * (run.starts[own] - run.issued[own])).sum()))


def _chrome(trace: Trace, *, most_events: int) -> dict[str, Any]:
    """The trace in the Trace Event Format, with at most `most_events` events besides a few of metadata.

    Each stream is a thread: a complete event (`X`) an action, with a `stall` event where it waited; each
    tier is a counter (`C`) of bytes. Times are microseconds. A long trace is thinned: consecutive
    actions of a stream become one event, counters keep the largest value of each stretch, and only the
    longest stalls stay; `otherData` says so.
    """
    many = len(trace.starts)
    streams = [s for s, name in enumerate(STREAMS) if name in trace.streams]
    share = max(most_events // 4, len(streams))
    merged = -(-many // max(most_events // 2 - len(streams), 1))  # rounded up: what is left over is one event a stream
    stalls = _longest_stalls(trace, share)
    events = [{"ph": "M", "pid": _PROCESS, "name": "process_name", "args": {"name": trace.device.name}}]
    events += [_thread(s, STREAMS[s]) for s in streams]
    if trace.repeats:
        events.append(_thread(_LOOPS - 1, "loops"))
        events += [
            _span(_LOOPS - 1, f"×{r.times}", r.start, r.end, cat="loop", args={"times": r.times}) for r in trace.repeats
        ]
    for s in streams:
        events += _actions(trace, s, merged)
    events += stalls
    events += _counters(trace, share)
    notes = {
        "seconds": trace.seconds,
        "clock": "each loop is laid out at most three times; an action or span with `times` stands for that many",
        "actions_per_event": merged,
    }
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": notes}


def _thread(stream: int, name: str) -> Event:
    return {"ph": "M", "pid": _PROCESS, "tid": stream + 1, "name": "thread_name", "args": {"name": name}}


def _span(stream: int, name: str, start: float, end: float, **more: Any) -> Event:
    return {
        "ph": "X", "pid": _PROCESS, "tid": stream + 1, "name": name, "ts": start * 1e6, "dur": (end - start) * 1e6,
        **more,
    }  # fmt: skip


def _actions(trace: Trace, stream: int, merged: int) -> Iterator[Event]:
    """One event for every `merged` actions of a stream."""
    schedule, flat = trace.schedule, trace.schedule.flat
    own = np.flatnonzero(trace.stream_of == stream)
    starts, ends = trace.starts, trace.ends
    names: dict[tuple[int, int], str] = {}
    for i in range(0, len(own), merged):
        group = own[i : i + merged]
        k, last = int(group[0]), int(group[-1])
        row, width = int(flat.rows[k]), int(flat.widths[k])
        kind = KINDS[int(schedule.table.opcode[row])]
        times = int(flat.weights[k]) if len(flat.weights) else 1
        if len(group) > 1:
            name = f"{len(group)} actions from {kind} {flat.origin(k)}"
        else:
            if (row, width) not in names:
                names[row, width] = str(schedule.table.action(row, width))
            name = names[row, width]
        args = {"action": flat.origin(k)} | ({"times": times} if times > 1 else {})
        label = f"{name} ×{times}" if times > 1 else name
        yield _span(stream, label, float(starts[k]), float(ends[last]), cat=kind, args=args)


def _longest_stalls(trace: Trace, most: int) -> list[Event]:
    """The waits of actions that their stream had come to, split into waiting for data and for memory."""
    run = trace.run
    waits = [("wait for data", run.issued, run.ready), ("wait for memory", run.ready, run.starts)]
    stalls = []
    for name, start, end in waits:
        for k in np.flatnonzero(end - start > _SHORTEST_STALL_S).tolist():
            stalls.append((float(start[k] - end[k]), k, name, float(start[k]), float(end[k])))
    stalls = sorted(sorted(stalls)[:most], key=lambda x: x[1])
    origin = trace.schedule.flat.origin
    return [
        _span(int(trace.stream_of[k]), name, start, end, cat="stall", args={"action": origin(k)})
        for _, k, name, start, end in stalls
    ]


def _counters(trace: Trace, most: int) -> Iterator[Event]:
    """Bytes of each tier that is used, over the clock."""
    tiers = [(tier, memory) for tier, memory in zip(TIERS, trace.run.memory, strict=True) if memory.bytes.any()]
    for tier, (times, levels) in tiers:
        stretch = -(-len(times) // max(most // len(tiers), 1))
        at = np.arange(0, len(times), stretch)
        highest = np.maximum.reduceat(levels, at)
        for time, level in zip(times[at].tolist(), highest.tolist(), strict=True):
            yield {
                "ph": "C", "pid": _PROCESS, "name": f"{tier} memory", "ts": time * 1e6, "args": {"bytes": level},
            }  # fmt: skip
