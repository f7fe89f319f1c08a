"""The laws that replay and simulation share, on random graphs, strategies and links."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from graphs import any_graphs, graphs
from hypothesis import given
from hypothesis import strategies as st
from simulations import STRATEGIES, calls, linked, made

from sim.graphs.graph import Graph
from sim.models.families.chain import chain
from sim.schedules.ledger import FREE, SKIP
from sim.schedules.lifetimes import STREAMS
from sim.schedules.replay import replay
from sim.schedules.schedule import Schedule
from sim.schedules.values import READ, SAVE, WRITE
from sim.simulation.roofline import action_seconds
from sim.simulation.simulate import simulate
from sim.simulation.trace import Trace

LINKS = st.sampled_from([0.5, 1.0, 3.0, 10.0, math.inf])


@given(graph=any_graphs(), call=st.sampled_from(calls()))
def test_simulate_counts_what_replay_counts(graph: Graph, call: tuple[str, dict[str, Any]]) -> None:
    schedule = made(graph, call)
    trace, cost = simulate(schedule, linked(3.0, overhead_s=0.25)), replay(schedule)
    assert trace.cost == cost
    assert trace.resident_bytes == cost.resident_bytes
    if not cost.actions["copy"]:
        assert trace.peak_bytes == cost.peak_bytes
        assert trace.tier_peak_bytes == cost.tier_peak_bytes
        assert trace.stall_seconds == 0
        assert trace.seconds == pytest.approx(trace.streams["compute"].busy_seconds)


def copying() -> list[tuple[str, dict[str, Any]]]:
    """The strategies that copy between tiers, found by trying them."""
    graph = chain(length=9, activation_bytes=8)
    found = [c for c in calls(plain=False) if replay(STRATEGIES.call(c[0], graph, **c[1])).actions["copy"]]
    return [*found, ("reverse_offload", {"prefetch": 2}), ("reverse_offload", {"prefetch": 4})]


COPYING = st.tuples(graphs(most=9), st.sampled_from(copying()), LINKS)
Case = tuple[Graph, tuple[str, dict[str, Any]], float]


@given(case=COPYING)
def test_streams_keep_order_data_and_memory(case: Case) -> None:
    graph, call, rate = case
    schedule = made(graph, call)
    trace = simulate(schedule, linked(rate, copy_latency_s=0.125))
    check_trace(trace)


@given(case=COPYING, spare=st.integers(0, 20))
def test_the_peak_of_replay_is_always_enough(case: Case, spare: int) -> None:
    graph, call, rate = case
    schedule = made(graph, call)
    cost = replay(schedule)
    capacity = cost.peak_bytes + spare
    host, disk = (cost.tier_peak_bytes[tier] + spare for tier in ("host", "disk"))
    limits = {"memory_bytes": capacity, "host_memory_bytes": host, "disk_memory_bytes": disk}
    trace = simulate(schedule, linked(rate, **limits))
    assert trace.peak_bytes <= capacity
    assert trace.tier_peak_bytes["host"] <= host
    assert trace.tier_peak_bytes["disk"] <= disk
    busy = [s.busy_seconds for s in trace.streams.values()]
    assert max(busy) <= trace.seconds * (1 + 1e-12)
    assert trace.seconds <= sum(busy) * (1 + 1e-12)
    check_trace(trace)


@given(case=COPYING)
def test_with_links_that_take_no_time_the_order_is_that_of_the_schedule(case: Case) -> None:
    graph, call, _ = case
    schedule = made(graph, call)
    trace, cost = simulate(schedule, linked(math.inf)), replay(schedule)
    assert np.all(np.diff(trace.starts) >= 0)
    assert trace.peak_bytes == cost.peak_bytes
    assert trace.tier_peak_bytes == cost.tier_peak_bytes
    assert trace.stall_seconds == 0
    assert trace.seconds == pytest.approx(trace.streams["compute"].busy_seconds)


@given(case=COPYING)
def test_two_runs_are_the_same_byte_for_byte(case: Case) -> None:
    graph, call, rate = case
    schedule = made(graph, call)
    first, second = (simulate(schedule, linked(rate, copy_latency_s=0.1)) for _ in range(2))
    assert first.to_json() == second.to_json()
    assert first.seconds == second.seconds


def check_trace(trace: Trace) -> None:
    """Streams do one thing at a time in order, data are there, memory is the sum of the lives at every moment."""
    schedule = trace.schedule
    t, rows, widths = schedule.table.columns, schedule.flat.rows, schedule.flat.widths
    starts, ends = trace.starts, trace.ends
    assert np.allclose(ends - starts, action_seconds(schedule, trace.device))
    for s in range(len(STREAMS)):
        own = np.flatnonzero(trace.stream_of == s)
        assert np.all(starts[own[1:]] >= ends[own[:-1]])
    spans: list[tuple[float, float, int, int]] = []  # from, to, tier, bytes
    life: dict[int, list[float]] = {}  # value: when it was made, when written, last access so far
    e, computed = 0, 0.0
    for k, row in enumerate(rows.tolist()):
        touched = range(int(t.ptr[row]), int(t.ptr[row + 1]))
        if trace.stream_of[k]:
            assert starts[k] >= computed, "a copy is issued after the computation before it"
        else:
            computed = ends[k]
            spans.append((starts[k], ends[k], 0, int(t.workspace[row])))
        for i, x in enumerate(touched):
            v, access = int(t.value[x]), int(t.access[x])
            if access == SAVE and schedule.flags[e + i] == SKIP:
                continue
            if access >= WRITE or v not in life:
                assert access > READ
                life[v] = [starts[k], ends[k], ends[k]]
            elif access <= 1:
                assert starts[k] >= life[v][1], "what is read has been written"
            else:
                life[v][1] = ends[k]
            life[v][2] = max(life[v][2], ends[k])
        for i, x in enumerate(touched):
            v = int(t.value[x])
            if schedule.flags[e + i] == FREE and v in life:
                begin, _, end = life.pop(v)
                spans.append((begin, end, int(t.value_tier[v]), size_of(schedule, v, int(widths[k]))))
        e += len(touched)
    finish = float(ends.max())
    spans += [(b, finish + 1, int(t.value_tier[v]), size_of(schedule, v, 1)) for v, (b, _, _) in life.items()]
    moments = sorted({0.0, *starts.tolist(), *ends.tolist()})
    for tier, (times, levels) in enumerate(trace.run.memory):
        for a, b in pairwise(moments):
            middle = (a + b) / 2
            there = sum(size for begin, end, where, size in spans if where == tier and begin <= middle < end)
            there += trace.resident_bytes if tier == 0 else 0
            assert levels[np.searchsorted(times, middle, side="right") - 1] == there


def size_of(schedule: Schedule, v: int, width: int) -> int:
    return int(schedule.table.columns.value_bytes[v]) * (width if schedule.table.scaled[v] else 1)
