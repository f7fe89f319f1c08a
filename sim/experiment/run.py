"""A scenario to its results: every point scheduled, replayed, and simulated if a device is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from sim.base.errors import ParameterError
from sim.base.registry import Problem
from sim.base.store import opened
from sim.base.workers import Workers
from sim.experiment import views
from sim.experiment.cells import Outcomes, keepable
from sim.experiment.fronts import stand_ins, with_fronts
from sim.experiment.measurements import ALONE, Measurements
from sim.experiment.point import landmarks
from sim.experiment.results import About, AboutGraph, Results
from sim.experiment.sweep import collected
from sim.graphs.graph import Graph
from sim.parallel.chrome import to_chrome as pipelines_to_chrome
from sim.scenario.parallel import problem_of
from sim.scenario.points import REFUSALS
from sim.scenario.scenario import Cells, Scenario

TRACED_POINTS = 4
TRACED_ACTIONS = 100_000


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a run; `results` holds the points that are finished."""

    def __init__(self, results: Results) -> None:
        super().__init__("interrupted")
        self.results = results


Progress = Callable[[Measurements], object]
"""Called after each point, and each cell of the map."""


def run(
    scenario: Scenario, *, progress: Progress | None = None, workers: Workers = ALONE, fresh: bool = False
) -> Results:
    """The results of every point of a scenario, of its map, or of its sweep.

    The cells of a map or a sweep are for `workers`; what is known of them from earlier runs is not measured
    again, unless `fresh`.

    Raises
    ------
    DocumentError
        If the graph cannot be built, or strategies do not work on it: at their places in the file.
    Interrupted
        On Ctrl-C, with what is finished; a compiled kernel that runs is not broken off.
    """
    if scenario.sweep:
        return sweep(scenario, workers=workers, fresh=fresh)
    return results_of(compute(scenario, progress=progress, workers=workers, fresh=fresh))


def sweep(
    scenario: Scenario,
    *,
    workers: Workers = ALONE,
    fresh: bool = False,
    progress: Callable[[int, int, bool], object] = lambda done, total, kept: None,
) -> Results:
    """The results of the points of every cell of a sweep; `progress` is told how many are done, of how
    many, and whether they are kept for a run after this one.

    The points lie on disk (`sim.experiment.spool`), so that many take little memory.

    Raises
    ------
    DocumentError
        If the graph of a cell cannot be built, or ends its worker: at the axes.
    WorkerLost, ClusterLost
        See `Workers.results`.
    """
    Cells(scenario).check_graphs()
    graph = scenario.build_graph()
    with opened(shared=keepable(scenario)) as store:
        outcomes = Outcomes(scenario, store)
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            progress(done, scenario.steps, store.path is not None)

        outcomes.measure(workers, fresh=fresh, progress=count)
        points, swept = collected(scenario, outcomes)
    return Results(scenario=_about(scenario, graph), version=_version(), points=points, sweep=swept)


def compute(
    scenario: Scenario, *, progress: Progress | None = None, workers: Workers = ALONE, fresh: bool = False
) -> Measurements:
    """Measure every point of a scenario; raises as `run` does."""
    measurements = Measurements(scenario, tell=progress, workers=workers, fresh=fresh)
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
    return Results(
        scenario=_about(measurements.scenario, measurements.graph),
        version=_version(),
        points=with_fronts(measurements.points),
        complete=complete,
        views=of_views,
    )


def _version() -> str:
    return version("ad-tradeoff-sim")


def _about(scenario: Scenario, graph: Graph) -> About:
    """The scenario and its graph; of a sweep, as the file has them without its axes."""
    return About(
        name=scenario.name,
        description=scenario.description,
        sha256=scenario.document.sha256,
        graph=AboutGraph(
            name=graph.name,
            nodes=len(graph),
            parameters=graph.parameter_count,
            forward_flops=graph.forward_flops,
            wrt=None if graph.plain else graph.wrt,
            inputs=graph.input_scalars,
            outputs=graph.output_scalars,
        ),
        device=scenario.device.to_dict() if scenario.device else None,
        budget_bytes=scenario.budget_bytes,
    )
