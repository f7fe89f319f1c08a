"""The registries: every strategy works on at least some of the graphs that laws are tried on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from graphs import any_graphs
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from simulations import STRATEGIES, calls

import sim
from sim.base.errors import NotApplicable
from sim.graphs.graph import Graph
from sim.scenario.points import REFUSALS, StrategyPoint
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

    find(any_graphs(), works, settings=SOME)


@pytest.mark.parametrize("call", calls(), ids=lambda call: " ".join(map(str, [call[0], *call[1].values()])))
def test_a_strategy_works_on_some_graph(call: tuple[str, dict[str, Any]]) -> None:
    works_on_some_graph(call)


@given(graph=any_graphs(), call=st.sampled_from(calls()))
def test_a_strategy_refuses_a_graph_where_its_requirements_do(graph: Graph, call: tuple[str, dict[str, Any]]) -> None:
    point = StrategyPoint(*call)

    def refusal(of: Callable[[Graph], object]) -> str | None:
        try:
            of(graph)
        except REFUSALS as error:
            return str(error)
        return None

    assert refusal(point.check) == refusal(point.schedule)


@pytest.mark.parametrize(
    ("graph", "call"),
    [
        (sim.chain(length=10**6), ("reverse_checkpointed", {"schedule": "optimal"})),
        (sim.chain(length=10**6), ("reverse_checkpointed", {"schedule": "mixed", "slots": 1000})),
        (sim.chain(length=10**6), ("reverse_checkpointed", {"schedule": "mixed", "slots": 1})),
        (sim.chain(length=10**6), ("reverse_checkpointed", {"schedule": "binomial", "slots": 1})),
        (sim.chain(length=10**6), ("reverse_checkpointed", {"schedule": "disk", "slots": 3})),
        (sim.chain(length=10**6), ("reverse_checkpointed", {"schedule": "multilevel", "slots": 3, "host_slots": 9})),
        (sim.chain(length=20), ("vertex_elimination", {"order": "optimal"})),
        (sim.mlp(widths=[3, 2], batch=2, loss="mse"), ("jacobian_chain", {"order": "optimal_in_memory"})),
        (sim.chain(length=3), ("reverse_checkpointed", {"schedule": "optimal", "minimize": "seconds"})),
    ],
    ids=lambda x: str(x)[:40],
)
def test_what_is_refused_is_refused_before_any_planning(graph: Graph, call: tuple[str, dict[str, Any]]) -> None:
    point = StrategyPoint(*call)
    with pytest.raises(REFUSALS) as early:
        point.check(graph)
    with pytest.raises(REFUSALS) as late:
        point.schedule(graph)
    assert str(early.value) == str(late.value)


@pytest.mark.slow
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
