"""The event simulation: timelines worked out on paper, memory that can be full, traces."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from graphs import any_graphs
from hypothesis import assume, given
from hypothesis import strategies as st
from simulations import ONE, STRATEGIES, calls, copied, linked, made

from sim.base.errors import InvalidSchedule, OutOfMemory
from sim.graphs.graph import Graph
from sim.graphs.node import GraphInput, Node, Seconds
from sim.models.families.chain import chain
from sim.schedules.actions import Copy
from sim.schedules.lifetimes import ENDS, STREAMS
from sim.schedules.replay import replay
from sim.schedules.schedule import Builder
from sim.schedules.values import Value
from sim.simulation.device import device
from sim.simulation.roofline import action_seconds
from sim.simulation.simulate import simulate
from sim.simulation.trace import Trace


def offloaded(rate: float) -> Trace:
    """Four layers of 10 bytes and one second a forward or VJP; the first activation goes to the host and back."""
    graph = chain(length=4, activation_bytes=10, forward_flops=1)
    return simulate(STRATEGIES.call("reverse_offload", graph, prefetch=1), linked(rate))


# Timelines on paper


def test_an_action_takes_the_larger_of_work_and_traffic_and_its_launch() -> None:
    nodes = [
        Node(name="a", inputs=("x",), output_shape=(1,), forward_flops=12, vjp_flops=20, forward_bytes=8),
        Node(name="b", inputs=("a",), output_shape=(1,), forward_flops=4, vjp_flops=6, forward_bytes=30),
    ]
    graph = Graph.from_nodes(nodes, [GraphInput("x", (1,))])
    slow = replace(ONE, flops_per_s=4.0, bandwidth_bytes_per_s=2.0, overhead_s=0.5)
    seconds = action_seconds(STRATEGIES.call("reverse_full", graph), slow)
    # b's VJP reads a and its own seed, and adds to a's cotangent: 4 + 4 + 2 · 4 bytes; a's reads its cotangent
    assert seconds.tolist() == [8 / 2 + 0.5, 30 / 2 + 0.5, 16 / 2 + 0.5, 20 / 4 + 0.5]
    assert max(12 / 4, 8 / 2) == 4


def test_measured_seconds_override_the_roofline() -> None:
    nodes = [
        Node(
            name="a", inputs=("x",), output_shape=(1, 3), forward_flops=12, seconds=Seconds(forward=2, jvp=3, vjp=5)
        ),
        Node(name="b", inputs=("a",), output_shape=(1, 3), forward_flops=7),
    ]  # fmt: skip
    graph = Graph.from_nodes(nodes, [GraphInput("x", (1, 2))], batch=1)
    reverse = STRATEGIES.call("reverse_full", graph, chunk=3)
    assert action_seconds(reverse, ONE).tolist() == [2, 7, 3 * 7, 3 * 5]
    forward = STRATEGIES.call("forward_cached", graph, chunk=2)
    assert action_seconds(forward, ONE).tolist() == [2, 7, 2 * 3, 2 * 7]


def test_a_fast_link_hides_the_copies() -> None:
    trace = offloaded(10.0)  # a copy takes one second
    # forwards 0-4, VJPs 4-8; the copy out at 1-2, back at 5-6 while the second VJP runs, read from 6 on
    assert trace.starts.tolist() == [0, 1, 1, 2, 3, 4, 5, 5, 6, 7]
    assert (trace.seconds, trace.stall_seconds) == (8.0, 0.0)
    assert trace.cost.copied_bytes == {"device_to_host": 10, "host_to_device": 10}


def test_a_slow_link_stalls_the_vjp_that_reads_the_copy() -> None:
    trace = offloaded(1.0)  # a copy takes ten seconds
    # out at 1-11; back, issued at 5, at 11-21; the third VJP could start at 6 and starts at 21
    assert trace.starts.tolist() == [0, 1, 1, 2, 3, 4, 11, 5, 21, 22]
    assert (trace.seconds, trace.stall_seconds) == (23.0, 15.0)
    assert trace.streams["host_to_device"] == (1, 10.0, 6.0)
    stalls = [e for e in trace.to_chrome()["traceEvents"] if e.get("cat") == "stall"]
    named = [(e["name"], e["tid"], e["ts"], e["dur"]) for e in stalls]
    assert ("wait for data", 1, 6e6, 15e6) in named
    assert not [e for e in offloaded(10.0).to_chrome()["traceEvents"] if e.get("cat") == "stall"]


def test_the_device_keeps_a_copied_value_until_the_copy_has_ended() -> None:
    trace = offloaded(1.0)
    times, levels = trace.memory
    at = {t: int(levels[np.flatnonzero(times == t)[-1]]) for t in set(times.tolist())}
    # input and result are resident, 20 bytes. At 10.5 s activations 2 and 1 have been read, the copy of
    # activation 0 still runs, and the cotangent of layer 1, made by the second VJP, waits: 20 + 10 + 10
    assert max(t for t in at if t <= 10.5) == 6.0
    assert at[6.0] == 40
    # at 11 the device's copy goes and room is taken for it to come back
    assert at[11.0] == 40
    assert trace.tier_peak_bytes["host"] == 10


def test_at_one_instant_ends_come_before_starts() -> None:
    times, levels = offloaded(10.0).memory
    # at 2 the second forward and the copy out end: activation 0 is gone before activation 2 is made
    assert levels[times == 2.0].tolist() == [20 + 10, 20 + 10 + 10]


def test_a_copy_starts_only_after_the_computation_before_it() -> None:
    graph = chain(length=3, activation_bytes=10, forward_flops=1)
    builder = Builder(graph)
    builder.forward(range(3))
    builder.add(copied(builder.graph, 0, 0, 1))
    builder.vjp([2])
    builder.add(copied(builder.graph, 0, 1, 0))
    builder.vjp([1, 0])
    trace = simulate(builder.build(), linked(20.0))
    # out after the third forward, though its value is there at 1; back after the first VJP
    assert trace.starts.tolist() == [0, 1, 2, 3, 3, 4, 4.5, 5.5]


def test_copies_travel_to_the_disk_by_the_host() -> None:
    graph = chain(length=3, activation_bytes=10, forward_flops=1)
    builder = Builder(graph)
    copy = partial(copied, graph)
    builder.forward(range(2))
    builder.add(copy(0, 0, 1), copy(0, 1, 2))
    builder.forward([2])
    builder.add(copy(0, 2, 1), copy(0, 1, 0))
    builder.vjp([2, 1, 0])
    trace = simulate(builder.build(), ONE)
    # 10 bytes: one second to or from the host, two to or from the disk
    assert trace.starts.tolist() == [0, 1, 2, 3, 2, 5, 7, 3, 8, 9]
    assert trace.cost.copied_bytes == dict.fromkeys(STREAMS[1:], 10)
    assert trace.tier_peak_bytes["host"] == 10
    assert trace.tier_peak_bytes["disk"] == 10
    assert trace.stall_seconds == 4.0


def test_a_copy_without_a_link_is_refused() -> None:
    graph = chain(length=2, activation_bytes=10)
    builder = Builder(graph)
    builder.forward(range(2))
    builder.add(copied(graph, 0, 0, 2), copied(graph, 0, 2, 0))
    builder.vjp([1, 0])
    with pytest.raises(InvalidSchedule, match=r"action 2, copy\(activation\(.*\) to disk\): no link joins") as caught:
        simulate(builder.build(), ONE)
    assert caught.value.action == 2


def test_an_invalid_schedule_is_refused() -> None:
    builder = Builder(chain(length=2))
    builder.forward([1])
    with pytest.raises(InvalidSchedule, match="is not in memory"):
        simulate(builder.build(), ONE)


@pytest.mark.parametrize("outputs", [1, 2, 3, 4, 784, 10**12])
def test_every_turn_of_a_loop_counts(outputs: int) -> None:
    graph = chain(sizes=[3, 2, outputs], forward_flops=1, vjp_flops=[2, 4])
    trace = simulate(STRATEGIES.call("reverse_full", graph, chunk=1), ONE)
    assert trace.seconds == 2 + outputs * 6
    assert trace.cost.actions["vjp"] == 2 * outputs
    assert trace.streams["compute"].busy_seconds == trace.seconds
    assert sum(r.times for r in trace.repeats) == max(outputs - 2, 0) * (outputs > 3)


def test_loops_with_copies_count_every_turn_and_keep_them_apart() -> None:
    graph = chain(sizes=[3, 2, 10], activation_bytes=10, forward_flops=1, vjp_flops=1)
    builder = Builder(graph)
    with builder.loop(10):
        builder.forward(range(2))
        builder.add(copied(builder.graph, 0, 0, 1))
        builder.add(copied(builder.graph, 0, 1, 0))
        builder.vjp([1, 0])
    trace = simulate(builder.build(), ONE)
    # a turn: forwards 0-2, out 2-3, back 3-4, VJPs 4-6
    assert trace.seconds == 60.0
    assert trace.stall_seconds == 20.0
    assert trace.cost.copied_bytes == {"device_to_host": 100, "host_to_device": 100}
    assert [(r.start, r.end, r.times) for r in trace.repeats] == [(6.0, 12.0, 8)]


def test_a_turn_of_a_long_loop_begins_when_all_streams_are_idle() -> None:
    graph = chain(sizes=[3, 2, 10], activation_bytes=10, forward_flops=1, vjp_flops=1, needs="none")
    builder = Builder(graph)
    with builder.loop(10):
        builder.forward([0])
        builder.add(copied(builder.graph, 0, 0, 1))
        builder.forward([1])
        builder.vjp([1, 0])
    # a turn: computations 0-4, the copy, which nobody waits for, 1-6
    assert simulate(builder.build(), linked(2.0)).seconds == 60.0


def test_an_action_of_no_duration_ends_before_anything_issued_later_starts() -> None:
    nodes = [Node(name=v, inputs=("x",), output_shape=(1,), forward_flops=1, activation_bytes=100) for v in "ab"]
    nodes.append(Node(name="c", inputs=("a", "b"), output_shape=(1,), forward_flops=1, activation_bytes=1))
    builder = Builder(Graph.from_nodes(nodes, [GraphInput("x", (1,), bytes=7)], wrt="input"))
    builder.forward([0])
    builder.add(copied(builder.graph, 0, 0, 1))
    builder.forward([1])
    builder.add(copied(builder.graph, 0, 1, 0))
    builder.forward([2])
    trace = simulate(builder.build(), linked(math.inf))
    working = trace.memory.bytes - trace.resident_bytes
    assert working.tolist() == [0, 100, 0, 100, 200, 201, 0]


# Memory that can be full


@given(graph=any_graphs(), call=st.sampled_from(calls()))
def test_without_copies_the_peak_fits_and_one_byte_less_does_not(
    graph: Graph, call: tuple[str, dict[str, Any]]
) -> None:
    schedule = made(graph, call)
    cost = replay(schedule)
    assume(not cost.actions["copy"])
    peak = cost.peak_bytes
    assert simulate(schedule, replace(ONE, memory_bytes=peak)).peak_bytes == peak
    with pytest.raises(OutOfMemory) as caught:
        simulate(schedule, replace(ONE, memory_bytes=peak - 1))
    assert caught.value.enough_bytes == peak
    assert caught.value.capacity_bytes == peak - 1
    assert "would do, and no less" in str(caught.value)


def test_out_of_memory_names_the_action_what_it_needs_and_what_is_there() -> None:
    graph = chain(length=3, activation_bytes=[10, 2000, 30], input_bytes=5, residual_bytes=1)
    # input and result are resident; the peak is in the third VJP: 10 + 2010 + 3, and cotangents of 30 and 2000
    schedule = STRATEGIES.call("reverse_full", graph)
    with pytest.raises(OutOfMemory) as caught:
        simulate(schedule, replace(ONE, memory_bytes=2047))
    assert (caught.value.action, caught.value.tier, caught.value.needed_bytes) == (2, "device", 31)
    name = [n.name for n in graph.nodes]
    assert str(caught.value) == (
        f"out of device memory: action 2, forward({name[2]}), needs 31 bytes (31 B), but 2.02 kB of 2.05 kB are taken "
        f"by activation 2.01 kB, resident 10 B, residual 2 B (largest: activation({name[1]}) 2.00 kB, "
        f"activation({name[0]}) 10 B, residual({name[0]}) 1 B); a capacity of 4053 bytes (4.05 kB) "
        f"would do, and no less"
    )


def test_a_full_host_is_out_of_memory_too() -> None:
    graph = chain(length=6, activation_bytes=10, forward_flops=1)
    schedule = STRATEGIES.call("reverse_offload", graph, prefetch=1)
    enough = replay(schedule).tier_peak_bytes["host"]
    assert simulate(schedule, replace(ONE, host_memory_bytes=enough)).tier_peak_bytes["host"] <= enough
    with pytest.raises(OutOfMemory, match=r"out of host memory: action 1, copy\(activation\(.*\) to host\)") as caught:
        simulate(schedule, replace(ONE, host_memory_bytes=9))
    assert (caught.value.tier, caught.value.enough_bytes) == ("host", enough)


def test_memory_is_kept_for_what_was_issued_before() -> None:
    sizes = {"a": 150, "b": 100, "c": 100}
    nodes = [
        Node(name=v, inputs=("x",), output_shape=(1,), forward_flops=100, activation_bytes=sizes[v]) for v in sizes
    ]
    nodes += [Node(name=f"of_{v}", inputs=(v,), output_shape=(1,), activation_bytes=0) for v in sizes]
    graph = Graph.from_nodes(nodes, [GraphInput("x", (1,), bytes=0)])
    a, b, c = (next(i for i, n in enumerate(graph.nodes) if n.name == v) for v in sizes)
    of = {v: next(i for i, n in enumerate(graph.nodes) if n.name == f"of_{v}") for v in sizes}
    builder = Builder(graph)
    copy, device, host, disk = partial(copied, graph), 0, 1, 2
    builder.forward([a])
    builder.add(copy(a, device, host), copy(a, host, disk))
    builder.forward([b, c])
    builder.add(copy(b, device, host), copy(c, device, host), copy(c, host, disk))
    builder.add(copy(a, disk, host), copy(a, host, device))
    builder.forward([of["a"]])
    builder.add(copy(c, disk, host), copy(c, host, device))
    builder.forward([of["c"]])
    builder.add(copy(b, host, device))
    builder.forward([of["b"]])
    schedule = builder.build()
    resident = graph.resident_bytes
    # the device holds at most b and c, the host b and a. While b goes out, a could come from the disk into
    # the host's last 150 bytes; then c could not leave, and a never reach the device, where c is
    tight = linked(10.0, memory_bytes=resident + 200, host_memory_bytes=250)
    assert replay(schedule).tier_peak_bytes == {"device": 200, "host": 250, "disk": 250}
    assert simulate(schedule, tight).peak_bytes == resident + 200
    # with room for all three on the host, a does come early
    roomy = simulate(schedule, replace(tight, host_memory_bytes=350))
    assert roomy.seconds < simulate(schedule, tight).seconds


@pytest.mark.parametrize("copied", [False, True])
def test_resident_bytes_alone_can_be_too_much(copied: bool) -> None:
    graph = chain(length=1, input_bytes=50, activation_bytes=0)  # the input and its gradient are resident
    builder = Builder(graph)
    builder.forward([0])  # takes nothing
    if copied:
        builder.add(Copy.of(Value("activation", graph.inputs[0].name), "host"))
    schedule = builder.build()
    assert replay(schedule).peak_bytes == simulate(schedule, replace(ONE, memory_bytes=100)).peak_bytes == 100
    with pytest.raises(OutOfMemory, match=r"are taken by resident 100 B; a capacity of 100 bytes") as caught:
        simulate(schedule, replace(ONE, memory_bytes=99))
    assert (caught.value.action, caught.value.enough_bytes, caught.value.tier) == (0, 100, "device")


# The trace for Perfetto


def test_a_trace_has_one_event_an_action_and_counts_memory() -> None:
    trace = offloaded(1.0)
    data = json.loads(trace.to_json())
    events = data["traceEvents"]
    threads = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert threads == {1: "compute", 2: "device_to_host", 3: "host_to_device"}
    actions = [e for e in events if e["ph"] == "X" and e["cat"] != "stall"]
    assert len(actions) == len(trace.schedule)
    assert {e["tid"] for e in actions if e["cat"] == "copy"} == {2, 3}
    assert sorted(e["args"]["action"] for e in actions) == list(range(len(trace.schedule)))
    counted = [e["args"]["bytes"] for e in events if e["ph"] == "C" and e["name"] == "device memory"]
    assert max(counted) == trace.peak_bytes
    assert all(e["ts"] >= 0 and e["dur"] >= 0 for e in events if e["ph"] == "X")


def test_the_middle_turn_of_a_loop_says_how_often_it_is_done() -> None:
    graph = chain(sizes=[3, 2, 10], forward_flops=1, vjp_flops=1)
    events = simulate(STRATEGIES.call("reverse_full", graph, chunk=1), ONE).to_chrome()["traceEvents"]
    (span,) = [e for e in events if e.get("cat") == "loop"]
    assert (span["name"], span["ts"], span["dur"]) == ("×8", 4e6, 2e6)
    middle = [e for e in events if e["ph"] == "X" and e["cat"] == "vjp" and e["args"].get("times") == 8]
    assert len(middle) == 2
    assert all(e["name"].endswith(" ×8") for e in middle)


@pytest.mark.parametrize("most", [20, 100, 1000])
def test_a_long_trace_is_thinned_and_keeps_the_peak(most: int) -> None:
    graph = chain(length=500, activation_bytes=10, forward_flops=1)
    trace = simulate(STRATEGIES.call("reverse_offload", graph, prefetch=2), linked(3.0))
    data = trace.to_chrome(most_events=most)
    events = [e for e in data["traceEvents"] if e["ph"] != "M"]
    assert len(events) <= most
    assert data["otherData"]["actions_per_event"] > 1
    assert max(e["args"]["bytes"] for e in events if e["name"] == "device memory") == trace.peak_bytes
    ends = max(e["ts"] + e["dur"] for e in events if e["ph"] == "X")
    assert ends == pytest.approx(trace.seconds * 1e6)


def test_the_links_of_streams_are_those_of_their_names() -> None:
    tiers = ("device", "host", "disk")
    assert [f"{tiers[a]}_to_{tiers[b]}" for a, b in ENDS[1:]] == list(STREAMS[1:])


def test_a_device_of_a_scenario_simulates() -> None:
    graph = chain(length=3, activation_bytes=8)
    assert simulate(STRATEGIES.call("reverse_full", graph), device("h100-sxm")).seconds > 0
