"""The event simulation: a schedule on a device, with a clock, streams, and memories that can be full.

Each stream (`STREAMS`: compute, and the links between tiers) is a simpy process that takes its actions
in schedule order. An action starts when

- its stream is free, and everything issued before the last change of a loop's turns has ended;
- what it reads has been written (and what it adds to is not being read elsewhere);
- for a copy: the computation before it in the schedule has ended. A copy is issued there, which is
  what a prefetch distance means. Computations wait for copies only through data and memory;
- what it allocates, with its workspace, fits beside what is there, and leaves room for all that was
  issued before it into the same tier and has not started. So the earliest action that has not
  started can always get its memory, nothing deadlocks that could run in schedule order, and a
  capacity of `Cost.peak_bytes` (and `Cost.tier_peak_bytes`) is always enough.

A value's memory is returned when the last of its accesses, on whatever stream, has ended. At one
instant all ends come before any start, starts come in issue order, and an action of no duration ends
before anything issued after it starts: runs are reproducible, and with links that take no time the
order is that of the schedule. Turns of a loop are simulated at most three times (`Schedule.flat`);
the middle one stands for all between and its time counts that often, exact because every turn is
alike and begins with all streams idle.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sim.base.errors import InvalidSchedule
from sim.graphs.graph import Graph
from sim.schedules.actions import JvpOfJacobian, VjpOfJacobian
from sim.schedules.effects import COPY, FORWARD, JVP, VJP
from sim.schedules.lifetimes import COMPUTE, streams_of
from sim.schedules.replay import cost_of, walk
from sim.schedules.schedule import Schedule
from sim.schedules.table import base_table
from sim.simulation.device import Device
from sim.simulation.serial import run_single
from sim.simulation.streams import run_streams
from sim.simulation.trace import Trace, trace_of

Floats = NDArray[np.float64]


def simulate(schedule: Schedule, device: Device) -> Trace:
    """The trace of a schedule on a device: seconds, stalls, and memory over time.

    Peak bytes, flops, counts and copied bytes are exact integers, loops multiplied out. Without copies
    they are those of `replay`.

    Raises
    ------
    InvalidSchedule
        If `replay` refuses the schedule, or it copies between tiers that no link joins.
    OutOfMemory
        If an action can never get the memory it needs.
    """
    if not len(schedule):
        raise InvalidSchedule("the schedule is empty", action=0)
    t, flat = schedule.table, schedule.flat
    by_row = streams_of(t)
    streams = by_row[flat.rows]
    copies = bool(streams.any())
    walked = walk(schedule, bytes_of_actions=True, lives=copies)
    if streams.min() < COMPUTE:
        k = flat.origin(int(np.argmin(streams)))
        message = f"action {k}, {schedule.action(k)}: no link joins these tiers; copy by way of the host"
        raise InvalidSchedule(message, action=k)
    durations = action_seconds(schedule, device)
    if copies:
        capacities = (device.memory_bytes, device.host_memory_bytes, device.disk_memory_bytes)
        run = run_streams(schedule, walked, durations, streams, capacities)
    else:
        run = run_single(schedule, walked, durations, device.memory_bytes)
    return trace_of(schedule, device, cost_of(schedule, walked), streams, run)


def timed(graph: Graph, device: Device) -> Graph:
    """The graph with the seconds that its nodes take on a device, where no measured ones are known.

    They are those of one tangent or cotangent (see `action_seconds`), for planners that minimise seconds.
    """
    if graph.columns.seconds is not None:
        return graph
    table = base_table(graph)
    fixed, per_width = table.moved_bytes
    moved = (fixed + per_width) / device.bandwidth_bytes_per_s
    seconds = (np.maximum(table.flops / device.flops_per_s, moved) + device.overhead_s).reshape(3, -1)
    columns = replace(graph.columns, seconds=np.stack([seconds[FORWARD], seconds[JVP], seconds[VJP]], axis=1))
    return replace(graph, columns=columns)


def action_seconds(schedule: Schedule, device: Device) -> Floats:
    """Seconds of each flat action.

    A computation takes the larger of flops / rate and moved bytes / bandwidth, plus the launch; times
    measured for its node (for one tangent or cotangent, launch included) override that. A copy takes
    its bytes / link, plus the latency.
    """
    t, flat = schedule.table, schedule.flat
    fixed, per_width = t.moved_bytes
    rows, widths = flat.rows, flat.widths.astype(np.float64)
    compute = (t.flops / device.flops_per_s)[rows] * widths
    memory = (fixed / device.bandwidth_bytes_per_s)[rows] + (per_width / device.bandwidth_bytes_per_s)[rows] * widths
    seconds: Floats = np.maximum(compute, memory) + device.overhead_s
    measured = _measured(schedule)
    if measured is not None:
        timed_rows = ~np.isnan(measured)[rows]
        seconds[timed_rows] = measured[rows[timed_rows]] * np.where(
            t.opcode[rows[timed_rows]] == FORWARD, 1.0, widths[timed_rows]
        )
    if t.added:
        is_copy = np.flatnonzero((t.opcode == COPY)[rows])
        links = np.array(
            [
                math.inf,
                device.to_host_bytes_per_s,
                device.from_host_bytes_per_s,
                device.to_disk_bytes_per_s,
                device.from_disk_bytes_per_s,
            ]
        )[streams_of(t)[rows[is_copy]]]
        value = t.columns.value[t.columns.ptr[rows[is_copy]]]
        size = t.columns.value_bytes[value] * np.where(t.scaled[value], widths[is_copy], 1.0)
        seconds[is_copy] = size / links + device.copy_latency_s
    return seconds


def _measured(schedule: Schedule) -> Floats | None:
    """Measured seconds of each row per unit of width, NaN where there are none."""
    t, of_node = schedule.table, schedule.graph.columns.seconds
    if of_node is None:
        return None
    column = {FORWARD: 0, JVP: 1, VJP: 2}
    own = np.concatenate([of_node[:, column[opcode]] for opcode in range(3)])[: len(t)]
    opcodes, nodes, first = t.opcode.tolist(), t.node.tolist(), len(own)
    added = [
        of_node[nodes[row], column[opcodes[row]]] if isinstance(action, JvpOfJacobian | VjpOfJacobian) else math.nan
        for row, action in enumerate(t.added, start=first)
    ]
    return np.concatenate([own, np.array(added, dtype=np.float64)])
