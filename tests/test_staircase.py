"""The exact front of chains: its promise, its optimality, and the published counts it contains."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from graphs import graphs
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_oracles import forwards, least_cost, persistent_cost, random_chain, replayed

from sim.base.errors import CountOverflow
from sim.graphs.graph import Graph
from sim.models.families.chain import chain
from sim.schedules.replay import replay
from sim.strategies.checkpointing.binomial import forward_count
from sim.strategies.optimal import front as planner
from sim.strategies.optimal import refine as guide
from sim.strategies.optimal.front import Staircase, full_store_bytes, largest_ratio, staircase
from sim.strategies.optimal.recurrence import equal_stages, numbered
from sim.strategies.optimal.refine import value_at
from sim.strategies.optimal.stages import Stages, stages_of
from sim.strategies.reverse import reverse_full


@settings(deadline=None, max_examples=150)
@given(graphs(chain=True, most=8), st.sampled_from([0, 1, 6]))
def test_every_breakpoint_promises_what_its_plan_takes(graph: Graph, reach: int) -> None:
    found = staircase(stages_of(graph, width=graph.output_scalars), reach=reach)
    for i in range(len(found)):
        cost = replayed(graph, found.plan(i))
        assert (cost.working_bytes, forwards(cost)) == (found.memory[i], found.cost[i])


@settings(deadline=None, max_examples=60)
@given(graphs(chain=True, most=8))
def test_the_front_ends_at_full_store(graph: Graph) -> None:
    stages = stages_of(graph, width=graph.output_scalars)
    found = staircase(stages)
    full = replay(reverse_full(graph, chunk=graph.output_scalars))
    assert found.cost[-1] == graph.forward_flops
    assert found.memory[-1] <= full.working_bytes == full_store_bytes(stages)


@settings(deadline=None, max_examples=40)
@given(graphs(chain=True, most=9))
def test_a_wider_class_is_never_above_a_narrower_one(graph: Graph) -> None:
    fronts = [staircase(stages_of(graph), reach=reach) for reach in (0, 1, 3, 8)]
    for narrow, wide in pairwise(fronts):
        assert wide.memory[0] <= narrow.memory[0]
        below = wide.cost[np.searchsorted(wide.memory, narrow.memory, side="right") - 1]
        assert (below <= narrow.cost).all()


def gaps(graph: Graph, found: Staircase) -> Iterator[float]:
    """How far each step of the front is above the exhaustive optimum just before the next, where it is lowest.

    Flops are those of forwards and of VJPs at the forwards' cost; infinite where only the search finds a schedule.
    """
    adjoint = graph.forward_flops
    best = least_cost(graph, int(found.memory[0]) - 1)
    yield float("inf") if best is not None else 1.0
    for i in range(len(found) - 1):
        best = least_cost(graph, int(found.memory[i + 1]) - 1)
        assert best is not None
        assert best <= found.cost[i]
        yield (int(found.cost[i]) + adjoint) / (best + adjoint)


@pytest.mark.parametrize(("reach", "equal_fronts", "worst"), [(0, 465, 1.25), (1, 490, 1.1), (3, 500, 1.0)])
def test_the_gap_to_exhaustive_search_is_as_stated(reach: int, equal_fronts: int, worst: float) -> None:
    """Whole fronts of 500 random chains of 2 … 5 layers; `equal_fronts` have no gap at any memory."""
    rng = random.Random(5)
    cases = [random_chain(rng, rng.randint(2, 5)) for _ in range(500)]
    found = [max(gaps(graph, staircase(stages_of(graph), reach=reach))) for graph in cases]
    equal = sum(gap == 1 for gap in found)
    finite = [gap for gap in found if gap < float("inf")]
    print(f"reach {reach}: equal {equal} of 500, at most {max(finite):.3f} above, {500 - len(finite)} infeasible")
    assert equal >= equal_fronts
    assert max(finite) <= worst
    assert len(finite) == 500


def test_where_the_published_program_takes_25_a_plan_takes_20() -> None:
    """Stage times f = 1, 5, 6, b = 1, 4, 2, sizes 3, 4, 4, 3, tapes with their outputs 6, 4, 7, memory 24."""
    forward, adjoint, sizes, tapes = [1, 5, 6], [1, 4, 2], [3, 4, 4, 3], [6, 4, 7]
    assert persistent_cost(forward=forward, adjoint=adjoint, sizes=sizes, tapes=tapes, memory=24) == 25
    graph = chain(
        length=3, forward_flops=forward, vjp_flops=adjoint, activation_bytes=sizes[1:], input_bytes=sizes[0],
        residual_bytes=[tape - out for tape, out in zip(tapes, sizes[1:], strict=True)], needs="both",
    )  # fmt: skip
    found = staircase(stages_of(graph))
    at = np.searchsorted(found.memory + sizes[0], 24, side="right") - 1
    assert found.cost[at] + sum(adjoint) == 20


@pytest.mark.parametrize("length", [2, 10, 30])
def test_with_room_for_one_tape_the_front_is_binomial(length: int) -> None:
    """Tapes of 1000 bytes, states of 1, VJPs that read their input: 1003 bytes for one taped step and its VJP.

    Each further byte is a checkpoint; the input, which is resident, is the first (Griewank & Walther 2000).
    """
    graph = chain(length=length, activation_bytes=1, residual_bytes=1000, needs="input")
    found = staircase(stages_of(graph))
    for slots in range(1, length):
        at = np.searchsorted(found.memory, 1002 + slots, side="right") - 1
        assert found.cost[at] == forward_count(length, slots)


@pytest.fixture
def guided(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Staircase]:
    """`staircase` by way of bounds on grids of some fineness, however short the chain."""

    def made(stages: Stages, *, fineness: int, enough: int = 100, **options: Any) -> Staircase:
        with monkeypatch.context() as patch:
            patch.setattr(planner, "_is_dense", lambda *_: False)
            patch.setattr(planner, "SHORTEST_GUIDED", 0)
            patch.setattr(planner, "SHARED", 0)
            patch.setattr(guide, "FINENESS", fineness)
            patch.setattr(guide, "ENOUGH", enough)
            return staircase(stages, **options)

    return made


@pytest.mark.parametrize("reach", [0, 1, 2])
@pytest.mark.parametrize("fineness", [2, 8, 40])
def test_bounds_on_a_grid_leave_the_front_as_it_is(guided: Callable[..., Staircase], reach: int, fineness: int) -> None:
    rng = random.Random(100 * fineness + reach)
    for _ in range(60):
        stages = stages_of(random_chain(rng, rng.randint(3, 16), largest=rng.choice([10, 1000, 10**9])))
        exact = staircase(stages, reach=reach)
        found = guided(stages, reach=reach, fineness=fineness, enough=rng.choice([10, 10**6]))
        assert found.exact
        np.testing.assert_array_equal(found.memory, exact.memory)
        np.testing.assert_array_equal(found.cost, exact.cost)


@pytest.mark.parametrize("seed", [161, 7090])
def test_finer_grids_keep_the_windows_of_coarser_ones(guided: Callable[..., Staircase], seed: int) -> None:
    """Rare: what remains of a state needs less memory than the state did, its parts were looked at with more."""
    rng = random.Random(seed)
    fineness, enough = rng.choice([2, 4, 8, 17, 40]), rng.choice([10, 1000])
    length, largest, reach = rng.randint(3, 14), rng.choice([100, 10**4, 10**9]), rng.choice([0, 0, 1])
    stages = stages_of(random_chain(rng, length, largest=largest))
    exact = staircase(stages, reach=reach)
    found = guided(stages, reach=reach, fineness=fineness, enough=enough)
    assert (found.memory.tolist(), found.cost.tolist()) == (exact.memory.tolist(), exact.cost.tolist())


@pytest.mark.parametrize("tolerance", [0.001, 0.01, 0.1, 1.0])
def test_a_tolerance_is_kept_and_the_lower_staircase_is_below(
    guided: Callable[..., Staircase], tolerance: float
) -> None:
    rng = random.Random(4)
    ratios = []
    for _ in range(40):
        graph = random_chain(rng, rng.randint(3, 20), largest=rng.choice([10, 1000, 10**9]))
        stages = stages_of(graph)
        exact = staircase(stages)
        near = guided(stages, fineness=rng.choice([2, 8, 21]), tolerance=tolerance)
        assert near.memory[0] == exact.memory[0]
        ratios.append(largest_ratio(near.memory, near.cost, exact.memory, exact.cost))
        assert ratios[-1] <= largest_ratio(near.memory, near.cost, *near.lower) <= 1 + tolerance
        at = np.union1d(exact.memory, near.lower[0])
        at = at[at >= exact.memory[0]]
        assert (value_at(near.lower, at) <= value_at((exact.memory, exact.cost), at)).all()
        for i in range(len(near)):
            cost = replayed(graph, near.plan(i))
            assert cost.working_bytes <= near.memory[i]
            assert forwards(cost) == near.cost[i]
    assert max(ratios) > 1 or tolerance < 0.1


@pytest.mark.parametrize("fineness", [3, 30])
def test_without_a_search_plans_fit_and_the_lower_staircase_is_below(
    guided: Callable[..., Staircase], fineness: int
) -> None:
    rng = random.Random(fineness)
    for _ in range(40):
        graph = random_chain(rng, rng.randint(3, 16), largest=10**9)
        exact = staircase(stages_of(graph))
        near = guided(stages_of(graph), fineness=fineness, search=False)
        assert near.memory[0] == exact.memory[0]
        assert (value_at(near.lower, exact.memory) <= exact.cost).all()
        for i in range(len(near)):
            cost = replayed(graph, near.plan(i))
            assert cost.working_bytes <= near.memory[i]
            assert forwards(cost) == near.cost[i]


def test_nothing_is_searched_where_no_part_of_the_whole_problem_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding can leave the whole problem within the slack, and none of its parts."""
    stages = stages_of(random_chain(random.Random(3), 12, largest=10**9))
    problem, unit = planner._problem(stages, 0)
    ids, distinct = numbered(equal_stages(np.arange(len(stages)), 0))
    bounded = guide.outside.outside

    def leave_the_whole_alone(*arguments: Any) -> int:
        left: int = bounded(*arguments)
        row, whole = arguments[7], (len(stages) - 1) * 4
        row[np.arange(len(row)) != whole] = -1
        return left

    monkeypatch.setattr(guide.outside, "outside", leave_the_whole_alone)
    monkeypatch.setattr(guide, "ENOUGH", 0)
    found = guide.guide(problem, full_store_bytes(stages) // unit, ids, 4 * distinct, 0.001)
    begins, ends, *_ = found.cells
    assert (begins >= ends).all()
    assert found.plans
    assert len(found.proven) == 1


def test_layers_that_cost_nothing_are_planned() -> None:
    graph = chain(length=30, forward_flops=0, vjp_flops=0, activation_bytes=list(range(10**6, 31 * 10**6, 10**6)))
    found = staircase(stages_of(graph))
    assert found.cost.tolist() == [0]


def test_plans_of_a_thousand_layers_need_no_recursion() -> None:
    graph = chain(length=1000, activation_bytes=1)
    found = staircase(stages_of(graph))
    for i in (0, len(found) // 2, len(found) - 1):
        cost = replayed(graph, found.plan(i))
        assert (cost.working_bytes, forwards(cost)) == (found.memory[i], found.cost[i])


def test_too_many_breakpoints_are_refused() -> None:
    graph = random_chain(random.Random(1), 20, largest=10**6)
    with pytest.raises(CountOverflow, match="tolerance"):
        staircase(stages_of(graph), most_breakpoints=1000)
