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

import numpy as np

from sim.base.errors import InvalidSchedule
from sim.schedules.lifetimes import COMPUTE, streams_of
from sim.schedules.replay import cost_of, walk
from sim.schedules.schedule import Schedule
from sim.simulation.device import Device
from sim.simulation.roofline import action_seconds
from sim.simulation.serial import run_single
from sim.simulation.streams import run_streams
from sim.simulation.trace import Trace, trace_of


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
