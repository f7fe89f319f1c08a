"""The cost of a schedule: exact bytes and flops by replay, seconds by simulation."""

from __future__ import annotations

import dataclasses
from typing import cast

from sim.base.errors import Deadlock, OutOfMemory
from sim.base.units import format_bytes
from sim.experiment.point import Flops, PeakAt, Point
from sim.scenario.points import StrategyPoint
from sim.schedules.replay import replay
from sim.schedules.schedule import Schedule
from sim.simulation.device import Device
from sim.simulation.simulate import simulate
from sim.simulation.trace import Trace


def measure(
    request: StrategyPoint, schedule: Schedule, device: Device | None = None, budget_bytes: int | None = None
) -> tuple[Point, Trace | None]:
    """The point of a schedule, and the trace of its simulation if it fits and there is a device."""
    cost = replay(schedule)
    trace, why_not = None, None
    if budget_bytes is not None and cost.peak_bytes > budget_bytes:
        over = format_bytes(cost.peak_bytes - budget_bytes)
        why_not = f"the peak of {format_bytes(cost.peak_bytes)} is {over} over the budget"
    elif device is not None:
        try:
            trace = simulate(schedule, within(device, budget_bytes))
        except (OutOfMemory, Deadlock) as error:
            why_not = str(error)
    point = Point(
        strategy=request.strategy,
        parameters=dict(request.parameters),
        label=request.label,
        peak_at=cast(PeakAt, cost.peak_at._asdict()),
        flops=cast(Flops, dataclasses.asdict(cost.flops) | {"total": cost.flops.total}),
        seconds=trace.seconds if trace else None,
        stall_seconds=trace.stall_seconds if trace else None,
        simulated_peak_bytes=trace.peak_bytes if trace else None,
        fits=why_not is None,
        why_not=why_not,
        peak_bytes=cost.peak_bytes,
        working_bytes=cost.working_bytes,
        resident_bytes=cost.resident_bytes,
        peak_breakdown=dict(cost.peak_breakdown),
        actions=dict(cost.actions),
        copied_bytes=dict(cost.copied_bytes),
        serial_seconds=trace.serial_seconds if trace and cost.copied_bytes else None,
        notes=dict(schedule.notes),
    )
    return point, trace


def within(device: Device, budget_bytes: int | None) -> Device:
    """The device with no more memory than a budget, so that copies wait rather than exceed it."""
    limits = [limit for limit in (device.memory_bytes, budget_bytes) if limit is not None]
    return dataclasses.replace(device, memory_bytes=min(limits)) if limits else device
