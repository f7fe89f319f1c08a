"""What a simulation saw, and its export for chrome://tracing and Perfetto."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.schedules.actions import KINDS, TIERS
from sim.schedules.cost import Flops, dot
from sim.schedules.lifetimes import COMPUTE, STREAMS
from sim.schedules.schedule import Schedule
from sim.simulation.device import Device
from sim.simulation.serial import Floats, Memory, Run

MOST_EVENTS = 200_000
"""Events that an exported trace has at most; longer ones are merged."""


class StreamUse(NamedTuple):
    """What one stream did. `stall_seconds` is the time that an action it had been given waited to start."""

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
    """A schedule's run on a device. Counts are exact integers, loops multiplied out.

    `seconds` counts each turn of each loop. The arrays hold the *clock*, on which at most three turns
    of a loop are laid out (`repeats` tells where one stands for many): for each action of
    `schedule.flat` when it was `issued` (its stream free and the schedule there), `ready` (its data
    too), when it `starts` and `ends`. `memory` is device bytes, resident ones included, over the clock.
    """

    schedule: Schedule
    device: Device
    seconds: float
    streams: dict[str, StreamUse]
    working_bytes: int
    tier_peak_bytes: dict[str, int]
    flops: Flops
    actions: dict[str, int]
    copied_bytes: dict[str, int]
    stream_of: NDArray[np.int8]
    run: Run

    @property
    def stall_seconds(self) -> float:
        """How long compute waited for data or memory."""
        return self.streams["compute"].stall_seconds

    @property
    def serial_seconds(self) -> float:
        """What all actions take one after the other: the cost of a recurrence that knows no overlap."""
        return sum(use.busy_seconds for use in self.streams.values())

    @property
    def overlap_seconds(self) -> float:
        """What doing copies beside computations saved against `serial_seconds`."""
        return max(0.0, self.serial_seconds - self.seconds)

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

    @property
    def tier_memory(self) -> dict[str, Memory]:
        """Bytes of each tier over the clock."""
        return dict(zip(TIERS, self.run.memory, strict=True))

    @cached_property
    def repeats(self) -> tuple[Repeat, ...]:
        marks = self.run.marks
        return tuple(
            Repeat(start, end, s.times)
            for s, start, end in zip(self.run.segments, marks[:-1], marks[1:], strict=True)
            if s.times > 1
        )

    def to_chrome(self, *, most_events: int = MOST_EVENTS) -> dict[str, Any]:
        """The trace in the Trace Event Format, as data for `json.dump`; see `sim.simulation.chrome`."""
        from sim.simulation.chrome import chrome

        return chrome(self, most_events=most_events)

    def to_json(self) -> str:
        """The trace as a file that chrome://tracing and Perfetto open; the same bytes for the same run."""
        return json.dumps(self.to_chrome(), separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n"


def trace_of(schedule: Schedule, device: Device, stream_of: NDArray[np.int8], run: Run) -> Trace:
    """The trace of a finished run."""
    t, flat, n = schedule.table, schedule.flat, len(schedule.graph)
    weights = flat.weights if len(flat.weights) else np.ones(len(flat.rows), dtype=np.int64)
    runs, run_widths = np.zeros(len(t), dtype=np.int64), np.zeros(len(t), dtype=np.int64)
    np.add.at(runs, flat.rows, weights)
    np.add.at(run_widths, flat.rows, weights * flat.widths)
    of_kind = [t.opcode == o for o in range(len(KINDS))]
    flops = [dot(t.flops[chosen], run_widths[chosen]) for chosen in of_kind]
    primal = dot(t.flops[:n], runs[:n] > 0)
    counts = {kind: int(runs[chosen].sum()) for kind, chosen in zip(KINDS, of_kind, strict=True)}
    peaks = [int(memory.bytes.max()) for memory in run.memory]
    peaks[0] -= schedule.graph.resident_bytes
    marks = np.diff(run.marks)
    return Trace(
        schedule=schedule,
        device=device,
        seconds=sum(float(s.times * d) for s, d in zip(run.segments, marks, strict=True)),
        streams={
            name: _use(run, np.flatnonzero(stream_of == s), weights)
            for s, name in enumerate(STREAMS)
            if s == COMPUTE or (stream_of == s).any()
        },
        working_bytes=peaks[0],
        tier_peak_bytes=dict(zip(TIERS, peaks, strict=True)),
        flops=Flops(primal, flops[0] - primal, flops[2], flops[1], flops[3], flops[4]),
        actions={kind: counts[kind] for kind in ("forward", "jvp", "vjp", "jacobian", "multiply", "copy")},
        copied_bytes=_copied(schedule, stream_of, weights),
        stream_of=stream_of,
        run=run,
    )


def _use(run: Run, own: NDArray[np.int64], weights: NDArray[np.int64]) -> StreamUse:
    w = weights[own].astype(np.float64)
    busy = float((w * (run.ends[own] - run.starts[own])).sum())
    return StreamUse(int(weights[own].sum()), busy, float((w * (run.starts[own] - run.issued[own])).sum()))


def _copied(schedule: Schedule, stream_of: NDArray[np.int8], weights: NDArray[np.int64]) -> dict[str, int]:
    t, flat = schedule.table, schedule.flat
    copied: dict[str, int] = {}
    for s, name in enumerate(STREAMS):
        own = np.flatnonzero(stream_of == s)
        if s == COMPUTE or not len(own):
            continue
        value = t.value[t.ptr[flat.rows[own]]]
        times = weights[own] * np.where(t.scaled[value], flat.widths[own], 1)
        copied[name] = dot(t.value_bytes[value], times)
    return copied
