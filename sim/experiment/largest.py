"""The largest value of a key, such as the batch, at which something fits a budget.

A plan of one graph is a plan of every other with the same nodes and edges, whatever their sizes. So the plan with
the smallest peak at one value says at once up to which value it fits, and only there the planner is asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from sim.base.document import DocumentError
from sim.base.errors import CountOverflow, GraphError, ParameterError, SimError
from sim.base.units import format_bytes
from sim.experiment.choose import Choice, NothingFits, choose, planned_front
from sim.graphs.graph import Graph
from sim.scenario.scenario import Scenario
from sim.schedules.replay import replay
from sim.schedules.schedule import Schedule
from sim.simulation.device import Device
from sim.strategies.front import Recipe
from sim.strategies.general.certificate import Level
from sim.strategies.general.front import schedule_of

MOST = 2**40
"""Beyond any batch."""
SHARES = (1, 2, 4, 8)
"""The table has the largest value, a half of it, a quarter and an eighth."""


@dataclass(frozen=True)
class Fit:
    """What is chosen at one value of the key."""

    value: int
    graph: Graph
    choice: Choice


def largest(
    scenario: Scenario,
    key: str,
    *,
    budget_bytes: int,
    device: Device | None = None,
    bound: Level = "fast",
    progress: Callable[[int], object] | None = None,
) -> list[Fit]:
    """What is chosen at the largest value of `key` at which a plan was found, and at parts of it; the largest first.

    `progress` is told of each value that is planned.

    Raises
    ------
    NothingFits
        If nothing does at 1.
    ParameterError
        If the key holds no whole number.
    DocumentError
        If the graph cannot be built with another value there.
    """
    search = _Search(scenario, key, budget_bytes, progress or (lambda value: None))
    value = search.largest()
    fits = []
    for part in dict.fromkeys(max(1, value // share) for share in SHARES):
        changed = search.scenario_at(part)
        graph = changed.build_graph()
        fits.append(Fit(part, graph, choose(changed, graph, budget_bytes=budget_bytes, device=device, bound=bound)))
    return fits


@dataclass
class _Search:
    """The search for the largest value, and who hears of it."""

    scenario: Scenario
    key: str
    budget_bytes: int
    progress: Callable[[int], object]

    def scenario_at(self, value: int) -> Scenario:
        return self.scenario.changed((f"{self.key}={value}",))

    def largest(self) -> int:
        """The largest value at which a plan was found, or a schedule of the scenario fits."""
        value = self._start()
        peak, recipe = self._smallest(value)
        while peak > self.budget_bytes:
            if value == 1:
                raise NothingFits(
                    f"nothing fits the budget of {format_bytes(self.budget_bytes)} even with {self.key}=1, "
                    f"where the smallest peak found is {format_bytes(peak)}"
                )
            value //= 2
            peak, recipe = self._smallest(value)
        while (value := self._reach(recipe, value)) < MOST:
            try:
                peak, recipe = self._smallest(value + 1)
            except SimError:  # too large to be counted or built
                break
            if peak > self.budget_bytes:
                break
            value += 1
        return value

    def _start(self) -> int:
        value = self.scenario.value(self.key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ParameterError(
                f"--max: {self.key} is {value!r:.40}, expected a key that holds a whole number of at least 1, "
                "such as graph.batch"
            )
        return value

    def _smallest(self, value: int) -> tuple[int, Recipe]:
        """The smallest peak of the planner and of the scenario's own schedules at a value, and which schedule it is."""
        self.progress(value)
        scenario = self.scenario_at(value)
        graph = scenario.build_graph()
        plan = planned_front(graph).schedule(graph, 0)
        recipes: list[Recipe] = [partial(_again, schedule=plan)]
        recipes += [point.schedule for point in scenario.points if point.entry.front is None]
        peaks = [(replay(recipe(graph)).peak_bytes, k) for k, recipe in enumerate(recipes)]
        peak, k = min(peaks)
        return peak, recipes[k]

    def _reach(self, recipe: Recipe, value: int) -> int:
        """The largest value at which a schedule still fits, by doubling and halving; `value` if it fits no other."""
        low, step = value, 1
        while low < MOST and self._fits(recipe, low + step):
            low, step = low + step, 2 * step
        high = low + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits(recipe, middle) else (low, middle)
        return low

    def _fits(self, recipe: Recipe, value: int) -> bool:
        try:
            return replay(recipe(self.scenario_at(value).build_graph())).peak_bytes <= self.budget_bytes
        except (CountOverflow, DocumentError):  # too large to be counted or built
            return False


def _again(graph: Graph, *, schedule: Schedule) -> Schedule:
    """A schedule of one graph for another with the same nodes and edges."""
    of = schedule.graph
    if len(graph) != len(of) or not np.array_equal(graph.columns.input_index, of.columns.input_index):
        raise GraphError("--max: the key changes which nodes there are; give one that changes their sizes")
    return schedule_of(graph, rows=schedule.rows, width=1 if graph.plain else graph.output_scalars)
