"""A trace in the Trace Event Format of Chrome, which chrome://tracing and Perfetto open.

Each stream is a thread: a complete event (`X`) an action, with a `stall` event where it waited; each
tier is a counter (`C`) of bytes. Times are microseconds. A long trace is thinned: consecutive actions
of a stream become one event, counters keep the largest value of each stretch, and only the longest
stalls stay; `otherData` says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.schedules.actions import KINDS, TIERS
from sim.schedules.lifetimes import STREAMS

if TYPE_CHECKING:
    from sim.simulation.trace import Trace

Event = dict[str, Any]

_PROCESS = 1
_LOOPS = len(STREAMS) + 1  # the thread that shows which part stands for many turns
_SHORTEST_STALL_S = 1e-12


def chrome(trace: Trace, *, most_events: int) -> dict[str, Any]:
    """The trace as data for `json.dump`, with at most `most_events` events besides a few of metadata."""
    many = len(trace.starts)
    used = [s for s, name in enumerate(STREAMS) if name in trace.streams]
    share = max(most_events // 4, len(used))
    merged = -(-many // max(most_events // 2 - len(used), 1))  # rounded up: what is left over is one event a stream
    stalls = _longest_stalls(trace, share)
    events = [{"ph": "M", "pid": _PROCESS, "name": "process_name", "args": {"name": trace.device.name}}]
    events += [_thread(s, STREAMS[s]) for s in used]
    if trace.repeats:
        events.append(_thread(_LOOPS - 1, "loops"))
        events += [
            _span(_LOOPS - 1, f"×{r.times}", r.start, r.end, cat="loop", args={"times": r.times}) for r in trace.repeats
        ]
    for s in used:
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
                names[row, width] = str(schedule.table.describe(row, width))
            name = names[row, width]
        args = {"action": flat.origin(k)} | ({"times": times} if times > 1 else {})
        label = f"{name} ×{times}" if times > 1 else name
        yield _span(stream, label, float(starts[k]), float(ends[last]), cat=kind, args=args)


def _longest_stalls(trace: Trace, most: int) -> list[Event]:
    """The waits of actions that their stream had come to, split into waiting for data and for memory."""
    run = trace.run
    waits = [("wait for data", run.issued, run.ready), ("wait for memory", run.ready, run.starts)]
    found = []
    for name, start, end in waits:
        for k in np.flatnonzero(end - start > _SHORTEST_STALL_S).tolist():
            found.append((float(start[k] - end[k]), k, name, float(start[k]), float(end[k])))
    found = sorted(sorted(found)[:most], key=lambda x: x[1])
    origin = trace.schedule.flat.origin
    return [
        _span(int(trace.stream_of[k]), name, start, end, cat="stall", args={"action": origin(k)})
        for _, k, name, start, end in found
    ]


def _counters(trace: Trace, most: int) -> Iterator[Event]:
    """Bytes of each tier that is used, over the clock."""
    used = [(tier, memory) for tier, memory in zip(TIERS, trace.run.memory, strict=True) if memory.bytes.any()]
    for tier, (times, levels) in used:
        stretch = -(-len(times) // max(most // len(used), 1))
        at = np.arange(0, len(times), stretch)
        highest = np.maximum.reduceat(levels, at)
        for time, level in zip(times[at].tolist(), highest.tolist(), strict=True):
            yield {
                "ph": "C", "pid": _PROCESS, "name": f"{tier} memory", "ts": time * 1e6, "args": {"bytes": level},
            }  # fmt: skip
