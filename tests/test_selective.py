"""Selective checkpointing keeps what is dear, and makes the rest again at most once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import graphs
from hypothesis import given
from hypothesis import strategies as st

import sim
from sim.graphs.graph import Graph
from sim.schedules.replay import replay
from sim.strategies.optimal.strategy import optimal_front
from sim.strategies.reverse import reverse_full
from sim.strategies.selective import selective, worth_keeping

SCENARIOS = Path(__file__).parent.parent / "scenarios"


@given(graph=graphs())
def test_where_all_is_kept_it_is_full_store(graph: Graph) -> None:
    every = replay(selective(graph, np.ones(len(graph), dtype=np.bool_)))
    full = replay(reverse_full(graph, chunk=graph.output_scalars))
    assert (every.peak_bytes, every.flops) == (full.peak_bytes, full.flops)


@given(graph=graphs(), data=st.data())
def test_a_node_is_evaluated_twice_at_most_and_once_if_kept(graph: Graph, data: st.DataObject) -> None:
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(graph), max_size=len(graph))))
    schedule = selective(graph, kept)
    cost = replay(schedule)
    times = np.bincount(schedule.rows[schedule.rows < len(graph)], minlength=len(graph))
    assert (times[kept] == 1).all()
    assert (times <= 2).all()
    assert cost.flops.recompute == int(graph.columns.forward_flops[times == 2].sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "unet", "transformer"])
def test_the_planned_front_is_at_or_below_it(name: str) -> None:
    graph = sim.load(SCENARIOS / f"{name}.yaml").build_graph()
    front = optimal_front(graph)
    ratios = []
    for kept in worth_keeping(graph, graph.columns.forward_flops):
        cost = replay(selective(graph, kept))
        ratios.append(front.cost[front.within(cost.peak_bytes)] / cost.flops.total)
    assert len(ratios) > 3
    assert max(ratios) <= 1
