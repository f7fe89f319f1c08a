"""The part of an experiment that is done: its points, and the schedules and traces that they come from."""

from __future__ import annotations

from collections.abc import Callable

from sim.base.workers import Workers
from sim.experiment.held import Held, over_time
from sim.experiment.measure import measure, within
from sim.experiment.measure_pipeline import run_pipeline
from sim.experiment.point import Point
from sim.graphs.graph import Graph
from sim.parallel.simulate import PipelineTrace
from sim.scenario.parallel import PipelinePoint
from sim.scenario.points import StrategyPoint
from sim.scenario.scenario import Scenario
from sim.schedules.schedule import Schedule
from sim.simulation.simulate import simulate
from sim.simulation.trace import Trace

ALONE = Workers()
MOST_PASSES = 6_000
"""Passes of a pipeline beyond which they could not be told apart."""
KEPT_ACTIONS = 2_000_000
"""Actions of all schedules that are kept together, with their traces: some 200 MB."""


class Measurements:
    """The graph of a scenario, the points that are measured, and how far the experiment is.

    `requests[i]` is what `points[i]` was asked for; points of pipelines have their runs in `pipelines`, and
    what their ranks hold in `held` if they are short enough to be drawn. Schedules and traces are kept for the
    views while there is room for them (`KEPT_ACTIONS`), and made again where there was none. `tell` is called
    after each step: a point, or a cell of the map, which is for `workers`; unless `fresh`, what is known of
    cells is not measured again.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        tell: Callable[[Measurements], object] | None,
        workers: Workers = ALONE,
        fresh: bool = False,
    ) -> None:
        self.scenario = scenario
        self.workers, self.fresh = workers, fresh
        self.graph: Graph = scenario.build_graph()
        self.device = within(scenario.device, scenario.budget_bytes) if scenario.device else None
        self.requests: list[StrategyPoint] = []
        self.points: list[Point] = []
        self.pipelines: list[PipelineTrace] = []
        self.held: list[list[Held]] = []
        self.steps = scenario.steps
        self.steps_done = 0
        self._tell = tell
        self._kept: dict[int, tuple[Schedule, Trace | None]] = {}
        self._room = KEPT_ACTIONS

    def add(self, request: StrategyPoint, schedule: Schedule) -> None:
        """Measure a schedule as one more point."""
        point, trace = measure(request, schedule, self.scenario.device, self.scenario.budget_bytes)
        actions = len(schedule.flat.rows)
        if actions <= self._room:
            self._room -= actions
            self._kept[len(self.points)] = (schedule, trace)
        self.points.append(point)
        self.requests.append(request)
        self.step()

    def add_pipeline(self, request: PipelinePoint) -> None:
        """Simulate a pipeline as one more point."""
        graph = self.graph if self.scenario.has_graph else None
        scenario = self.scenario
        point, trace, job = run_pipeline(
            request, graph, scenario.device, scenario.budget_bytes, sequence=scenario.graph_parameters.get("sequence")
        )
        self.points.append(point)
        self.pipelines.append(trace)
        self.held.append(over_time(trace, job) if len(trace.schedule) <= MOST_PASSES else [])
        self.step()

    def step(self) -> None:
        """Note that one more step is done."""
        self.steps_done += 1
        if self._tell is not None:
            self._tell(self)

    def schedule(self, i: int) -> Schedule:
        """The schedule of a point."""
        return self._kept[i][0] if i in self._kept else self.requests[i].schedule(self.graph)

    def trace(self, i: int) -> Trace | None:
        """The trace of a point, if it was simulated."""
        if self.device is None or self.points[i].seconds is None:
            return None
        return self._kept[i][1] if i in self._kept else simulate(self.schedule(i), self.device)
