"""The planning problem says what replay says: bytes, costs, and which sequences are valid."""

from __future__ import annotations

import numpy as np
import pytest
from general_oracles import profile
from graphs import graphs
from hypothesis import given
from hypothesis import strategies as st

from sim.graphs.graph import Graph
from sim.schedules.replay import replay
from sim.schedules.schedule import Builder
from sim.strategies.general.problem import graph_problem, plain_problem
from sim.strategies.reverse import reverse_full


@given(graphs())
def test_the_order_of_a_graph_is_full_store(graph: Graph) -> None:
    problem = graph_problem(graph)
    cost = replay(reverse_full(graph, chunk=graph.output_scalars))
    assert max(profile(problem, problem.order)) == cost.working_bytes
    assert problem.cost_of(problem.order) == problem.base_cost == cost.flops.total


@given(graphs(), st.integers(0, 2**32))
def test_any_sequence_takes_what_replay_says(graph: Graph, seed: int) -> None:
    """Forwards inserted anywhere after a first sweep, VJPs in a random valid order."""
    problem, rng = graph_problem(graph), np.random.default_rng(seed)
    n = len(graph)
    before, left = problem.predecessors(), set(problem.order[n:].tolist())
    rows = list(range(n))
    while left:
        row = int(rng.choice([r for r in sorted(left) if not left & set(before[r])]))
        rows += [*rng.integers(0, n, size=rng.integers(0, 3)).tolist(), row]
        left.remove(row)
    sequence = np.array(rows, dtype=np.int32)
    builder = Builder(graph)
    builder.rows(sequence, width=problem.width)
    cost = replay(builder.build())
    assert max(profile(problem, sequence)) == cost.working_bytes
    assert problem.cost_of(sequence) == cost.flops.total


def test_an_output_that_nobody_reads_counts_while_its_node_runs() -> None:
    """Memory by hand: node 1 reads 4 bytes and writes 2; node 2 reads both and writes 1 with 3 of workspace."""
    problem = plain_problem([[], [0], [0, 1]], cost=[1, 1, 1], value_bytes=[4, 2, 1], workspace=[0, 0, 3])
    assert profile(problem, problem.order) == [4, 6, 10]
    apart = plain_problem([[], [], [1]], cost=[1, 1, 1], value_bytes=[4, 2, 1])
    assert profile(apart, apart.order) == [4, 2, 3]
    kept = plain_problem([[], [], [1]], cost=[1, 1, 1], value_bytes=[4, 2, 1], remains=[0])
    assert profile(kept, kept.order) == [4, 6, 7]


def test_a_sequence_that_reads_too_early_is_found() -> None:
    problem = plain_problem([[], [0]], cost=[1, 1], value_bytes=[1, 1])
    with pytest.raises(AssertionError, match="never written"):
        profile(problem, np.array([1, 0], dtype=np.int32))
