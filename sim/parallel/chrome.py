"""Runs of pipelines as a trace that chrome://tracing and Perfetto open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sim.parallel.simulate import PipelineTrace

MOST_EVENTS = 200_000
"""Events of a trace; pipelines with which it would have more are left out."""


def to_chrome(labels: Sequence[str], traces: Sequence[PipelineTrace]) -> dict[str, Any]:
    """The trace in the Trace Event Format: a process a pipeline, a thread a rank and a thread a link."""
    events: list[dict[str, Any]] = []
    for process, (label, trace) in enumerate(zip(labels, traces, strict=True), start=1):
        if len(events) + len(trace.schedule) + len(trace.schedule.sends.of) > MOST_EVENTS:
            continue
        events += _events(process, label, trace)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _events(process: int, label: str, trace: PipelineTrace) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "pid": process, "name": "process_name", "args": {"name": label}}
    links = sorted({(s.source, s.target) for s in trace.sends})
    names = [f"rank {rank}" for rank in range(len(trace.ranks))] + [f"link {a} → {b}" for a, b in links]
    for thread, name in enumerate(names, start=1):
        yield {"ph": "M", "pid": process, "tid": thread, "name": "thread_name", "args": {"name": name}}
    spans = [(rank, p, start, end) for rank, passes in enumerate(trace.ranks) for p, start, end in passes]
    spans += [(len(trace.ranks) + links.index((s.source, s.target)), s.of, s.start, s.end) for s in trace.sends]
    for thread, p, start, end in spans:
        kind = str(p.part) if thread < len(trace.ranks) else "send"
        yield {
            "ph": "X", "pid": process, "tid": thread + 1, "cat": kind, "name": str(p), "ts": start * 1e6,
            "dur": (end - start) * 1e6,
        }  # fmt: skip
