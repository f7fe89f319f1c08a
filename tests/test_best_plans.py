"""The exact front of chains: its promise, its optimality, and the published counts it contains."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import graphs
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_oracles import forwards, least_cost, persistent_cost, random_chain, replayed

from sim.base.errors import CountOverflow
from sim.graphs.graph import Graph
from sim.graphs.node import Needs
from sim.models.families.chain import chain
from sim.schedules.replay import replay
from sim.strategies import optimal
from sim.strategies.checkpointing.binomial import forward_count
from sim.strategies.optimal.inside import Grid, rows_of, set_points
from sim.strategies.optimal.planner import Plans, best_plans, full_store_bytes
from sim.strategies.optimal.policy import Policy
from sim.strategies.optimal.recurrence import (
    HELD,
    KIND,
    ONE,
    OWN_COST,
    PEAK,
    TRANSITION_FIELDS,
    TWO,
    decode,
    encode,
    most_transitions,
    place,
    problem_of,
    transitions_of,
    variants,
)  # fmt: skip
from sim.strategies.optimal.refine import Steps
from sim.strategies.optimal.stages import Stages, stages_of
from sim.strategies.reverse import reverse_full


@settings(deadline=None, max_examples=150)
@given(graphs(chain=True, most=8), st.sampled_from([0, 1, 6]))
def test_every_breakpoint_promises_what_its_plan_takes(graph: Graph, reach: int) -> None:
    found = best_plans(stages_of(graph, width=graph.output_scalars), reach=reach)
    for i in range(len(found)):
        cost = replayed(graph, found.plan(i))
        assert (cost.working_bytes, forwards(cost)) == (found.memory[i], found.cost[i])


@given(graphs(chain=True, most=8))
def test_the_front_ends_at_full_store(graph: Graph) -> None:
    stages = stages_of(graph, width=graph.output_scalars)
    found = best_plans(stages)
    full = replay(reverse_full(graph, chunk=graph.output_scalars))
    assert found.cost[-1] == graph.forward_flops
    assert found.memory[-1] <= full.working_bytes == full_store_bytes(stages)


@given(graphs(chain=True, most=9))
def test_a_wider_class_is_never_above_a_narrower_one(graph: Graph) -> None:
    fronts = [best_plans(stages_of(graph), reach=reach) for reach in (0, 1, 3, 8)]
    for narrow, wide in pairwise(fronts):
        assert wide.memory[0] <= narrow.memory[0]
        below = wide.cost[np.searchsorted(wide.memory, narrow.memory, side="right") - 1]
        assert (below <= narrow.cost).all()


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_no_breakpoint_is_below_exhaustive_search_and_the_widest_class_has_all_of_it(reach: int) -> None:
    """Whole fronts of 150 random chains of 2 … 5 layers, at each breakpoint and just before the next.

    With a reach of 3 a chain of five layers has every source that a checkpoint can be.
    """
    rng = random.Random(5)
    for _ in range(150):
        graph = random_chain(rng, rng.randint(2, 5))
        found = best_plans(stages_of(graph), reach=reach)
        for i, memory in enumerate(np.append(found.memory[1:], found.memory[-1] + 1).tolist()):
            best = least_cost(graph, memory - 1)
            assert best is not None
            assert best <= found.cost[i]
            assert reach < 3 or best == found.cost[i]
        assert reach < 3 or least_cost(graph, int(found.memory[0]) - 1) is None


def test_where_the_published_program_takes_25_a_plan_takes_20() -> None:
    """Stage times f = 1, 5, 6, b = 1, 4, 2, sizes 3, 4, 4, 3, tapes with their outputs 6, 4, 7, memory 24."""
    forward, adjoint, sizes, tapes = [1, 5, 6], [1, 4, 2], [3, 4, 4, 3], [6, 4, 7]
    assert persistent_cost(forward=forward, adjoint=adjoint, sizes=sizes, tapes=tapes, memory=24) == 25
    graph = chain(
        length=3, forward_flops=forward, vjp_flops=adjoint, activation_bytes=sizes[1:], input_bytes=sizes[0],
        residual_bytes=[tape - out for tape, out in zip(tapes, sizes[1:], strict=True)], needs="both",
    )  # fmt: skip
    found = best_plans(stages_of(graph))
    at = np.searchsorted(found.memory + sizes[0], 24, side="right") - 1
    assert found.cost[at] + sum(adjoint) == 20


@pytest.mark.parametrize("length", [2, 10, 30])
def test_with_room_for_one_tape_the_front_is_binomial(length: int) -> None:
    """Tapes of 1000 bytes, states of 1, VJPs that read their input: 1003 bytes for one taped step and its VJP.

    Each further byte is a checkpoint; the input, which is resident, is the first (Griewank & Walther 2000).
    """
    graph = chain(length=length, activation_bytes=1, residual_bytes=1000, needs="input")
    found = best_plans(stages_of(graph))
    for slots in range(1, length):
        at = np.searchsorted(found.memory, 1002 + slots, side="right") - 1
        assert found.cost[at] == forward_count(length, slots)


def refined(stages: Stages, *, points: int, few: int = 100, **options: Any) -> Plans:
    """The best plans by way of bounds on grids that begin with so many points a stage, however short the chain."""
    policy = Policy(dense_work=0, shortest_refined=0, most_alike=0, points_per_stage=points, few_points=few)
    return best_plans(stages, policy=policy, **options)


@pytest.mark.slow
@pytest.mark.parametrize("reach", [0, 1, 2])
@pytest.mark.parametrize("points", [2, 8, 40])
def test_bounds_on_a_grid_leave_the_front_as_it_is(reach: int, points: int) -> None:
    rng = random.Random(100 * points + reach)
    for _ in range(60):
        stages = stages_of(random_chain(rng, rng.randint(3, 16), largest=rng.choice([10, 1000, 10**9])))
        exact = best_plans(stages, reach=reach)
        found = refined(stages, reach=reach, points=points, few=rng.choice([10, 10**6]))
        assert found.exact
        np.testing.assert_array_equal(found.memory, exact.memory)
        np.testing.assert_array_equal(found.cost, exact.cost)


@pytest.mark.parametrize("seed", [161, 7090])
def test_finer_grids_keep_the_windows_of_coarser_ones(seed: int) -> None:
    """Rare: what remains of a state needs less memory than the state did, its parts were looked at with more."""
    rng = random.Random(seed)
    points, few = rng.choice([2, 4, 8, 17, 40]), rng.choice([10, 1000])
    length, largest, reach = rng.randint(3, 14), rng.choice([100, 10**4, 10**9]), rng.choice([0, 0, 1])
    stages = stages_of(random_chain(rng, length, largest=largest))
    exact = best_plans(stages, reach=reach)
    found = refined(stages, reach=reach, points=points, few=few)
    assert (found.memory.tolist(), found.cost.tolist()) == (exact.memory.tolist(), exact.cost.tolist())


@pytest.mark.parametrize("dense", [False, True])
def test_cells_and_every_memory_give_the_same_front(dense: bool) -> None:
    rng = random.Random(9)
    few_cells = Policy(dense_work=10**10 * dense, fewest_cells=2, most_cells=2)
    for _ in range(60):
        stages = stages_of(random_chain(rng, rng.randint(2, 14), largest=rng.choice([10, 100])))
        exact, found = best_plans(stages), best_plans(stages, policy=few_cells)
        assert (found.memory.tolist(), found.cost.tolist()) == (exact.memory.tolist(), exact.cost.tolist())


def above(upper: Steps, lower: Steps) -> float:
    """The largest ratio of one step function to another below it, over all memories at which there is one."""
    at = np.union1d(upper.memory, lower.memory)
    at = at[at >= upper.memory[0]]
    return float((upper.at(at) / lower.at(at)).max())


@pytest.mark.parametrize("tolerance", [0.001, 0.01, 0.1, 1.0])
def test_a_tolerance_is_kept_and_the_lower_steps_are_below(tolerance: float) -> None:
    rng = random.Random(4)
    ratios = []
    for _ in range(40):
        graph = random_chain(rng, rng.randint(3, 20), largest=rng.choice([10, 1000, 10**9]))
        stages = stages_of(graph)
        plans = best_plans(stages)
        exact = Steps(plans.memory, plans.cost)
        near = refined(stages, points=rng.choice([2, 8, 21]), tolerance=tolerance)
        assert near.memory[0] == exact.memory[0]
        ratios.append(above(Steps(near.memory, near.cost), exact))
        assert ratios[-1] - 1 <= near.gap + 1e-12
        assert near.gap <= tolerance + 1e-12
        at = np.union1d(exact.memory, near.lower.memory)
        at = at[at >= exact.memory[0]]
        assert (near.lower.at(at) <= exact.at(at)).all()
        for i in range(len(near)):
            cost = replayed(graph, near.plan(i))
            assert cost.working_bytes <= near.memory[i]
            assert forwards(cost) == near.cost[i]
    assert max(ratios) > 1 or tolerance < 0.1


@pytest.mark.parametrize("points", [3, 30])
def test_without_a_search_plans_fit_and_the_lower_steps_are_below(points: int) -> None:
    rng = random.Random(points)
    for _ in range(40):
        graph = random_chain(rng, rng.randint(3, 16), largest=10**9)
        exact = best_plans(stages_of(graph))
        near = refined(stages_of(graph), points=points, search=False)
        assert near.memory[0] == exact.memory[0]
        assert (near.lower.at(exact.memory) <= exact.cost).all()
        for i in range(len(near)):
            cost = replayed(graph, near.plan(i))
            assert cost.working_bytes <= near.memory[i]
            assert forwards(cost) == near.cost[i]


def test_a_problem_whose_parts_were_all_left_out_has_no_points() -> None:
    """Rounding can leave the whole problem within the slack, and none of its parts."""
    stages = stages_of(random_chain(random.Random(3), 12, largest=10**9))
    problem = problem_of(stages, 1, 0)
    row, windows = rows_of(problem)
    whole = place(len(stages), 0, 0, len(stages) - 1, 0)
    alone = np.full_like(row, -1)
    alone[whole] = row[whole]
    empty = np.zeros((len(windows), 3), dtype=np.int64), np.zeros(len(windows), dtype=np.int64)
    grid = Grid(np.zeros(len(stages) + 1, dtype=np.int64), 20, alone, windows, *empty)
    assert set_points(problem, grid) == 1  # that of no stages
    assert alone[whole] == -1


@given(st.integers(0, 40), st.booleans(), st.booleans(), st.booleans())
def test_the_number_of_a_variant_says_what_it_is(back: int, outlives: bool, held: bool, holds: bool) -> None:
    variant = (back, int(outlives and not back), int(held), int(holds and back > 0))
    assert decode(encode(*variant)) == variant
    assert encode(*variant) < variants(back)


def test_variants_are_numbered_without_gaps() -> None:
    assert sorted(encode(*decode(v)) for v in range(variants(9))) == list(range(variants(9)))


def test_layers_that_cost_nothing_are_planned() -> None:
    graph = chain(length=30, forward_flops=0, vjp_flops=0, activation_bytes=list(range(10**6, 31 * 10**6, 10**6)))
    found = best_plans(stages_of(graph))
    assert found.cost.tolist() == [0]


@pytest.mark.slow
def test_plans_of_a_thousand_layers_need_no_recursion() -> None:
    graph = chain(length=1000, activation_bytes=1)
    found = best_plans(stages_of(graph))
    for i in (0, len(found) // 2, len(found) - 1):
        cost = replayed(graph, found.plan(i))
        assert (cost.working_bytes, forwards(cost)) == (found.memory[i], found.cost[i])


def test_too_many_breakpoints_are_refused() -> None:
    graph = random_chain(random.Random(1), 20, largest=10**6)
    with pytest.raises(CountOverflow, match="tolerance"):
        best_plans(stages_of(graph), policy=Policy(most_breakpoints=1000))


README = Path(optimal.__file__).with_name("README.md")
KINDS = ("BASE", "KEEP", "DROP", "NOW", "SPLIT", "SPLIT_HELD")


def readme_chain(*, needs: Sequence[Needs] = ("both", "both", "both")) -> Graph:
    """The chain of three of the README, whose input takes 3 bytes."""
    return chain(
        length=3, forward_flops=[1, 5, 6], vjp_flops=[1, 4, 2], activation_bytes=[4, 4, 3], residual_bytes=[2, 0, 4],
        input_bytes=3, needs=list(needs),
    )  # fmt: skip


def spoken(s: int, t: int, variant: int) -> str:
    back, *flags = decode(variant)
    assert back <= 1
    words = [w for w, said in zip(("back", "outlives", "held", "holds"), (back, *flags), strict=True) if said]
    return " ".join([f"({s}, {t})", *words])


def listed(graph: Graph, state: tuple[int, int, int]) -> list[list[str]]:
    """The transitions of a state as rows of the README's table, without the column of actions."""
    problem = problem_of(stages_of(graph), 1, 1)
    out = np.zeros((most_transitions(len(graph), 1), TRANSITION_FIELDS), dtype=np.int64)
    rows = []
    for w in out[: transitions_of(problem, *state, out)].tolist():
        parts = [[spoken(*w[i : i + HELD]), str(w[i + HELD])] if w[i] >= 0 else ["", ""] for i in (ONE, TWO)]
        rows.append([spoken(*state), KINDS[w[KIND]], str(w[PEAK]), str(w[OWN_COST]), *parts[0], *parts[1]])
    return rows


def test_the_page_lists_the_transitions_that_the_planner_takes() -> None:
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in README.read_text().splitlines()]
    told = [row[:2] + row[3:] for row in cells if len(row) == 9 and row[0].startswith("(")]
    states = [
        (0, 2, 0), (2, 2, encode(0, 1, 0, 0)), (2, 2, encode(1, 0, 0, 1)), (0, 1, encode(0, 0, 1, 0)),
        (1, 1, encode(0, 1, 1, 0)),
    ]  # fmt: skip
    assert told == [row for state in states for row in listed(readme_chain(), state)]
    now = listed(readme_chain(needs=("both", "output", "both")), (0, 1, encode(0, 0, 1, 0)))
    assert ["(0, 1) held", "NOW", "12", "0", "(0, 0)", "0", "", ""] in now


def test_the_page_tells_the_front_that_the_planner_finds() -> None:
    graph = readme_chain()
    plans = best_plans(stages_of(graph))
    assert list(zip(plans.memory.tolist(), plans.cost.tolist(), strict=True)) == [(18, 13), (24, 12)]
    assert plans.plan(0).tolist() == [0, 1, 2, 3 + 2, 0, 3 + 1, 3 + 0]
    told = [line.split("|")[1:-1] for line in README.read_text().splitlines() if re.match(r"\| [FV]\d \|", line)]
    assert [row[0].strip() for row in told] == ["F0", "F1", "F2", "V2", "F0", "V1", "V0"]
    sizes = {"a0": 4, "a1": 4, "a2": 3, "r0": 2, "r2": 4}
    for _, values, total in told:
        held, _, cotangents = values.partition("cotangent")
        held = held if "," not in cotangents else f"{held} {cotangents.partition(',')[2]}"
        names = re.findall(r"[ar]\d", held) + re.findall(r"a\d", cotangents.partition(",")[0])
        assert sum(sizes[name] for name in names) == int(total)
    assert max(int(row[2]) for row in told) == replayed(graph, plans.plan(0)).working_bytes
