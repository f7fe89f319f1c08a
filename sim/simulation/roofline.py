"""The roofline: seconds of an action, the larger of its flops over the rate and its bytes over the bandwidth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sim.graphs.graph import Graph
from sim.schedules.actions import JvpOfJacobian, VjpOfJacobian
from sim.schedules.effects import COPY, FORWARD, JVP, VJP
from sim.schedules.lifetimes import streams_of
from sim.schedules.schedule import Schedule
from sim.schedules.table import base_table
from sim.simulation.device import Device
from sim.simulation.serial import Floats


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
