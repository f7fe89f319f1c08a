"""A scenario to its results: every point scheduled, replayed, and simulated if a device is given."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from sim.base.errors import Deadlock, OutOfMemory
from sim.base.pareto import front
from sim.base.registry import Problem
from sim.base.units import format_bytes
from sim.experiment.fronts import curves, stand_ins
from sim.experiment.results import Point, Results
from sim.experiment.views.regimes import regimes
from sim.experiment.views.schedule import pictures
from sim.experiment.views.timeline import coordinates, profiles, stand_for_front
from sim.graphs.graph import Graph
from sim.scenario.points import REFUSALS, StrategyPoint
from sim.scenario.scenario import Scenario
from sim.schedules.cost import Cost
from sim.schedules.schedule import Schedule, replay
from sim.simulation.device import Device
from sim.simulation.simulate import simulate

TRACED_POINTS = 4
TRACED_ACTIONS = 100_000


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a run; `results` holds the points that are finished."""

    def __init__(self, results: Results) -> None:
        super().__init__("interrupted")
        self.results = results


def run(scenario: Scenario, *, progress: Callable[[int, int], object] | None = None) -> Results:
    """The results of every point of a scenario and of its map; `progress` is told how many of how many are done.

    Raises
    ------
    DocumentError
        If the graph cannot be built, or strategies do not work on it: at their places in the file.
    Interrupted
        On Ctrl-C, with what is finished.
    """
    graph = scenario.build_graph()
    ran: list[StrategyPoint] = []
    points: list[Point] = []
    problems: list[Problem] = []

    def cell_done(cells: int) -> None:
        if progress is not None:
            progress(len(points) + cells, scenario.steps)

    try:
        for done, wanted in enumerate(scenario.points):
            try:
                for one in stand_ins(wanted, graph, scenario.device):
                    schedule = one.schedule(graph)
                    if not problems:
                        points.append(measure(one, schedule, scenario.device, scenario.budget_bytes))
                        ran.append(one)
            except REFUSALS as error:
                problems.append(wanted.problem(error))
            if progress is not None:
                progress(done + 1, scenario.steps)
        if problems:
            raise scenario.document.error(problems)
        device = _within(scenario.device, scenario.budget_bytes) if scenario.device else None
        looks = profiles(graph, ran, points, device)
        drawn = pictures(graph, ran, points)
        known = curves(scenario.points, graph)
        mapped = regimes(scenario, measure, progress=cell_done) if scenario.regimes else None
    except KeyboardInterrupt:
        raise Interrupted(_results(scenario, graph, points, complete=False)) from None
    return _results(
        scenario, graph, points, complete=True, profiles=looks, pictures=drawn, regimes=mapped, curves=known
    )


def measure(
    wanted: StrategyPoint, schedule: Schedule, device: Device | None = None, budget_bytes: int | None = None
) -> Point:
    """What a schedule takes: exact bytes and flops by replay, seconds by simulation.

    The simulated device has no more memory than the budget, so that copies wait rather than exceed it.
    """
    cost = replay(schedule)
    trace, why_not = None, None
    if budget_bytes is not None and cost.peak_bytes > budget_bytes:
        over = format_bytes(cost.peak_bytes - budget_bytes)
        why_not = f"the peak of {format_bytes(cost.peak_bytes)} is {over} over the budget"
    elif device is not None:
        try:
            trace = simulate(schedule, _within(device, budget_bytes))
        except (OutOfMemory, Deadlock) as error:
            why_not = str(error)
    return Point(
        strategy=wanted.strategy,
        parameters=dict(wanted.parameters),
        label=wanted.label,
        peak_at={"action": cost.peak_at.action, "kind": cost.peak_at.kind, "node": cost.peak_at.node},
        flops=_flops(cost),
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


def traces(scenario: Scenario, results: Results) -> dict[str, Any] | None:
    """A trace for Perfetto with one process for each of a few points of the front; `None` without times.

    Schedules too long to look at are left out.
    """
    if scenario.device is None:
        return None
    graph = scenario.build_graph()
    device = _within(scenario.device, scenario.budget_bytes)
    finished = [p for p in results.points if p.seconds is not None]
    events: list[dict[str, Any]] = []
    process = 0
    for i in stand_for_front(finished, "seconds", len(finished)):
        point = StrategyPoint(finished[i].strategy, finished[i].parameters)
        schedule = point.schedule(graph)
        if len(schedule.flat.rows) > TRACED_ACTIONS or process == TRACED_POINTS:
            continue
        process += 1
        chrome = simulate(schedule, device).to_chrome()
        named = {"ph": "M", "name": "process_name", "pid": process, "args": {"name": point.label}}
        events += [event | {"pid": process} for event in chrome["traceEvents"] if event["name"] != "process_name"]
        events.append(named)
    return {"traceEvents": events, "displayTimeUnit": "ms"} if events else None


def _within(device: Device, budget_bytes: int | None) -> Device:
    limits = [limit for limit in (device.memory_bytes, budget_bytes) if limit is not None]
    return dataclasses.replace(device, memory_bytes=min(limits)) if limits else device


def _flops(cost: Cost) -> dict[str, int]:
    return dataclasses.asdict(cost.flops) | {"total": cost.flops.total}


def _results(
    scenario: Scenario,
    graph: Graph,
    points: Sequence[Point],
    *,
    complete: bool,
    profiles: Sequence[Mapping[str, Any]] = (),
    pictures: Sequence[Mapping[str, Any]] = (),
    regimes: Mapping[str, Any] | None = None,
    curves: Sequence[Mapping[str, Any]] = (),
) -> Results:
    return Results(
        scenario={
            "name": scenario.name,
            "description": scenario.description,
            "sha256": scenario.document.sha256,
            "graph": {
                "name": graph.name,
                "nodes": len(graph),
                "parameters": graph.parameter_count,
                "forward_flops": graph.forward_flops,
                "wrt": graph.wrt,
                "inputs": graph.input_scalars,
                "outputs": graph.output_scalars,
            },
            "device": dataclasses.asdict(scenario.device) if scenario.device else None,
            "budget_bytes": scenario.budget_bytes,
        },
        version=version("ad-tradeoff-sim"),
        points=_with_fronts(points),
        complete=complete,
        profiles=tuple(profiles),
        pictures=tuple(pictures),
        regimes=regimes,
        curves=tuple(curves),
    )


def _with_fronts(points: Sequence[Point]) -> tuple[Point, ...]:
    timed = [i for i, p in enumerate(points) if p.seconds is not None]
    by_flops = _front_over_work(points)
    by_seconds = {timed[k] for k in front([coordinates(points[i], "seconds") for i in timed])}
    return tuple(
        dataclasses.replace(p, pareto={"flops": i in by_flops, "seconds": i in by_seconds})
        for i, p in enumerate(points)
    )


def _front_over_work(points: Sequence[Point]) -> set[int]:
    """The points that none beats in memory, flops and copied bytes; copying saves memory without any work."""
    costs = [(*coordinates(p, "flops"), sum(p.copied_bytes.values())) for p in points]
    plain = [i for i, cost in enumerate(costs) if not cost[2]]
    best = {plain[k] for k in front([costs[i][:2] for i in plain])}
    for i, cost in enumerate(costs):
        beaten = (other != cost and all(map(operator.le, other, cost)) for other in costs)
        if cost[2] and not any(beaten):
            best.add(i)
    return best
