"""A scenario to its results: every point scheduled, replayed, and simulated if a device is given."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from sim.base.errors import ParameterError
from sim.base.pareto import front
from sim.base.registry import Problem
from sim.experiment import views
from sim.experiment.fronts import stand_ins
from sim.experiment.measurements import Measurements
from sim.experiment.point import OnFront, Point, coordinates, landmarks
from sim.experiment.results import About, AboutGraph, Results
from sim.parallel.chrome import to_chrome as pipelines_to_chrome
from sim.scenario.parallel import problem_of
from sim.scenario.points import REFUSALS
from sim.scenario.scenario import Scenario

TRACED_POINTS = 4
TRACED_ACTIONS = 100_000


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a run; `results` holds the points that are finished."""

    def __init__(self, results: Results) -> None:
        super().__init__("interrupted")
        self.results = results


Progress = Callable[[Measurements], object]
"""Called after each point, and each cell of the map."""


def run(scenario: Scenario, *, progress: Progress | None = None) -> Results:
    """The results of every point of a scenario and of its map.

    Raises
    ------
    DocumentError
        If the graph cannot be built, or strategies do not work on it: at their places in the file.
    Interrupted
        On Ctrl-C, with what is finished; a compiled kernel that runs is not broken off.
    """
    return results_of(compute(scenario, progress=progress))


def compute(scenario: Scenario, *, progress: Progress | None = None) -> Measurements:
    """Measure every point of a scenario; raises as `run` does."""
    measurements = Measurements(scenario, tell=progress)
    problems: list[Problem] = []
    with _keeping(measurements):
        for request in scenario.points:
            try:
                points = stand_ins(request, measurements.graph, scenario.device)
                measurements.steps += len(points) - 1
                for one in points:
                    schedule = one.schedule(measurements.graph)
                    if not problems:
                        measurements.add(one, schedule)
            except REFUSALS as error:
                problems.append(request.problem(error))
        for pipeline in scenario.pipelines:
            try:
                measurements.add_pipeline(pipeline)
            except ParameterError as error:
                problems.append(problem_of(error, pipeline))
    if problems:
        raise scenario.document.error(problems)
    return measurements


def results_of(measurements: Measurements) -> Results:
    """The results of a finished run, with every view; raises as `run` does."""
    with _keeping(measurements):
        parallel = bool(measurements.pipelines)
        made = {k: view.function(measurements) for k, view in views.load().items() if view.parallel == parallel}
        return _results(measurements, views.nothing() | made, complete=True)


@contextmanager
def _keeping(measurements: Measurements) -> Iterator[None]:
    """Ctrl-C becomes `Interrupted`, with the points that are finished."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(results_so_far(measurements)) from None


def results_so_far(measurements: Measurements) -> Results:
    """The results of the points that are finished, without views."""
    return _results(measurements, views.nothing(), complete=False)


def traces(measurements: Measurements) -> dict[str, Any] | None:
    """A trace for Perfetto with one process for each of a few points of the front; `None` without times.

    Schedules and pipelines too long to look at are left out.
    """
    if measurements.pipelines:
        pipelines = pipelines_to_chrome([p.label for p in measurements.points], measurements.pipelines)
        return pipelines if pipelines["traceEvents"] else None
    points = measurements.points
    timed = [i for i, p in enumerate(points) if p.seconds is not None]
    events: list[dict[str, Any]] = []
    process = 0
    for k in landmarks([points[i] for i in timed], "seconds", len(timed)):
        trace = measurements.trace(timed[k])
        if process == TRACED_POINTS:
            break
        if trace is None or len(trace.schedule.flat.rows) > TRACED_ACTIONS:
            continue
        process += 1
        chrome = trace.to_chrome()
        name = {"ph": "M", "name": "process_name", "pid": process, "args": {"name": points[timed[k]].label}}
        events += [event | {"pid": process} for event in chrome["traceEvents"] if event["name"] != "process_name"]
        events.append(name)
    return {"traceEvents": events, "displayTimeUnit": "ms"} if events else None


def _results(measurements: Measurements, of_views: Mapping[str, Any], *, complete: bool) -> Results:
    scenario, graph = measurements.scenario, measurements.graph
    about = AboutGraph(
        name=graph.name,
        nodes=len(graph),
        parameters=graph.parameter_count,
        forward_flops=graph.forward_flops,
        wrt=None if graph.plain else graph.wrt,
        inputs=graph.input_scalars,
        outputs=graph.output_scalars,
    )
    return Results(
        scenario=About(
            name=scenario.name,
            description=scenario.description,
            sha256=scenario.document.sha256,
            graph=about,
            device=dataclasses.asdict(scenario.device) if scenario.device else None,
            budget_bytes=scenario.budget_bytes,
        ),
        version=version("ad-tradeoff-sim"),
        points=_with_fronts(measurements.points),
        complete=complete,
        views=of_views,
    )


def _with_fronts(points: Sequence[Point]) -> tuple[Point, ...]:
    if any(p.ranks for p in points):
        costs = [(p.peak_bytes or max(r["in_flight"] for r in p.ranks), p.seconds or 0.0) for p in points]
        best = set(front(costs))
        return tuple(
            dataclasses.replace(p, pareto=OnFront(flops=False, seconds=i in best)) for i, p in enumerate(points)
        )
    timed = [i for i, p in enumerate(points) if p.seconds is not None]
    by_flops = _front_over_work(points)
    by_seconds = {timed[k] for k in front([coordinates(points[i], "seconds") for i in timed])}
    return tuple(
        dataclasses.replace(p, pareto=OnFront(flops=i in by_flops, seconds=i in by_seconds))
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
