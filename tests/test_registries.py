"""The registries: every strategy works on at least some of the graphs that laws are tried on."""

from __future__ import annotations

from typing import Any

import pytest
from graphs import graphs
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.errors import NoSuchExample
from simulations import STRATEGIES, calls

from sim.base.errors import NotApplicable
from sim.graphs.graph import Graph
from sim.schedules.replay import replay
from sim.schedules.schedule import Builder, Schedule

SOME = settings(max_examples=300, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


def works_on_some_graph(call: tuple[str, dict[str, Any]]) -> None:
    """Raise NoSuchExample if no drawn graph has a schedule of this strategy."""

    def works(graph: Graph) -> bool:
        try:
            return replay(STRATEGIES.call(call[0], graph, **call[1])).flops.total >= 0
        except NotApplicable:
            return False

    find(graphs(), works, settings=SOME)


@pytest.mark.parametrize("call", calls(), ids=lambda call: " ".join(map(str, [call[0], *call[1].values()])))
def test_a_strategy_works_on_some_graph(call: tuple[str, dict[str, Any]]) -> None:
    works_on_some_graph(call)


def test_a_strategy_that_refuses_everything_is_found() -> None:
    @STRATEGIES.register("refuses_everything")
    def refuses_everything(graph: Graph) -> Schedule:
        if len(graph):
            raise NotApplicable("no graph is good enough")
        return Builder(graph).build()

    try:
        with pytest.raises(NoSuchExample):
            works_on_some_graph(("refuses_everything", {}))
    finally:
        STRATEGIES.forget("refuses_everything")
