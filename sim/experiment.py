"""A scenario to its results: every point scheduled, replayed, and simulated if a device is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from sim.device import Device
from sim.errors import Deadlock, OutOfMemory
from sim.graph import Graph
from sim.pareto import Number, front, landmarks
from sim.points import REFUSALS, StrategyPoint
from sim.registry import Problem
from sim.results import Point, Results
from sim.scenario import Scenario
from sim.schedule import BREAKDOWN_KINDS, Cost, Schedule, profile, replay
from sim.simulate import simulate
from sim.units import format_bytes

PROFILED_POINTS = 6
TRACED_POINTS = 4
TRACED_ACTIONS = 100_000


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a run; `results` holds the points that are finished."""

    def __init__(self, results: Results) -> None:
        super().__init__("interrupted")
        self.results = results


def run(scenario: Scenario, *, progress: Callable[[int, int], object] | None = None) -> Results:
    """The results of every point of a scenario; `progress` is told how many of how many are done.

    Raises
    ------
    DocumentError
        If the graph cannot be built, or strategies do not work on it: at their places in the file.
    Interrupted
        On Ctrl-C, with what is finished.
    """
    graph = scenario.build_graph()
    points: list[Point] = []
    problems: list[Problem] = []
    try:
        for done, wanted in enumerate(scenario.points):
            try:
                schedule = wanted.schedule(graph)
                if not problems:
                    points.append(measure(wanted, schedule, device=scenario.device, budget_bytes=scenario.budget_bytes))
            except REFUSALS as error:
                problems.append(wanted.problem(error))
            if progress is not None:
                progress(done + 1, len(scenario.points))
        if problems:
            raise scenario.document.error(problems)
        profiles = _profiles(scenario, graph, points)
    except KeyboardInterrupt:
        raise Interrupted(_results(scenario, graph, points, complete=False)) from None
    return _results(scenario, graph, points, complete=True, profiles=profiles)


def measure(
    wanted: StrategyPoint, schedule: Schedule, *, device: Device | None = None, budget_bytes: int | None = None
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
    )


def traces(scenario: Scenario, results: Results) -> dict[str, Any] | None:
    """A trace for Perfetto with one process for each of a few points of the front; `None` without times.

    Schedules too long to look at are left out.
    """
    if scenario.device is None:
        return None
    graph = scenario.build_graph()
    device = _within(scenario.device, scenario.budget_bytes)
    timed = [i for i, p in enumerate(results.points) if p.seconds is not None]
    events: list[dict[str, Any]] = []
    process = 0
    for i in _chosen([results.points[i] for i in timed], "seconds", len(timed)):
        point = scenario.points[timed[i]]
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
    profiles: Sequence[dict[str, Any]] = (),
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
            },
            "device": dataclasses.asdict(scenario.device) if scenario.device else None,
            "budget_bytes": scenario.budget_bytes,
        },
        version=version("ad-tradeoff-sim"),
        points=_with_fronts(points),
        complete=complete,
        profiles=tuple(profiles),
    )


def _with_fronts(points: Sequence[Point]) -> tuple[Point, ...]:
    timed = [i for i, p in enumerate(points) if p.seconds is not None]
    by_flops = set(front([_coordinates(p, "flops") for p in points]))
    by_seconds = {timed[k] for k in front([_coordinates(points[i], "seconds") for i in timed])}
    return tuple(
        dataclasses.replace(p, pareto={"flops": i in by_flops, "seconds": i in by_seconds})
        for i, p in enumerate(points)
    )


def _coordinates(point: Point, by: str) -> tuple[Number, Number]:
    """Bytes and flops, exact; or the bytes that were in use in the simulation, and its seconds."""
    if by == "flops":
        return point.peak_bytes, point.flops["total"]
    return max(point.peak_bytes, point.simulated_peak_bytes or 0), point.seconds or 0.0


def _chosen(points: Sequence[Point], by: str, count: int) -> list[int]:
    """Indices of the points that stand for the front."""
    return landmarks([_coordinates(p, by) for p in points], [p.strategy for p in points], count=count)


def _profiles(scenario: Scenario, graph: Graph, points: Sequence[Point]) -> list[dict[str, Any]]:
    """Memory by kind over the actions, for a few points worth a look."""
    return [
        {
            "label": points[i].label,
            "strategy": points[i].strategy,
            "parameters": points[i].parameters,
            "kinds": list(BREAKDOWN_KINDS),
            "bytes": profile(scenario.points[i].schedule(graph)).tolist(),
        }
        for i in _worth_a_look(points)
    ]


def _worth_a_look(points: Sequence[Point]) -> list[int]:
    """Full store to compare with, what stands for the front, then the smallest peak of each other strategy."""
    smallest: dict[str, int] = {}
    for i in sorted(range(len(points)), key=lambda i: points[i].peak_bytes):
        smallest.setdefault(points[i].strategy, i)
    along = _chosen(points, "flops", PROFILED_POINTS)
    rest = [i for strategy, i in smallest.items() if strategy not in {points[k].strategy for k in along}]
    full = [i for i in rest if points[i].strategy == "reverse_full"]
    return list(dict.fromkeys([*full, *along, *rest]))[:PROFILED_POINTS]
