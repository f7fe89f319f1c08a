"""The certificate of general graphs: below exhaustive search in every order, whatever duals it is made of."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from general_oracles import least_cost
from general_problems import random_problem, random_shape, shapes

import sim
from sim.graphs.graph import Graph
from sim.graphs.node import GraphInput, Node
from sim.schedules.replay import replay
from sim.strategies.checkpointing.segments import schedules
from sim.strategies.general import certificate as certificates
from sim.strategies.general.certificate import Bound, certificate, with_word
from sim.strategies.general.moments import Order, contracted, moments_of, rows_of
from sim.strategies.general.problem import Problem, graph_problem, plain_problem
from sim.strategies.general.relaxation import Terms, relaxation_of
from sim.strategies.general.rounding import rounding_cuts
from sim.strategies.reverse import reverse_full

pytest.importorskip("highspy", reason="the certificate solves linear programs with HiGHS")

SCENARIOS = Path(__file__).parents[1] / "scenarios"


def check(problem: Problem, rng: random.Random, *, order: Order = "free", forwards_first: bool = False) -> list[float]:
    """Asserts that the bound is below the optimum at some memories; the shares of it that it reaches."""
    top = int(problem.value_bytes.sum() + problem.saving_workspace.max() + problem.workspace.max())

    def optimum(memory: int) -> int | None:
        return least_cost(problem, memory, order=order, forwards_first=forwards_first)

    smallest = next(m for m in range(top + 1) if optimum(m) is not None)
    bound = certificate(problem, np.arange(smallest, top), order=order, forwards_first=forwards_first)
    assert bound.smallest_peak <= smallest
    shares = []
    for memory in {smallest, *(rng.randint(smallest, top) for _ in range(4))}:
        best = optimum(memory)
        assert best is not None
        assert problem.base_cost <= bound.at(np.array([memory]))[0] <= best
        if best > problem.base_cost:
            shares.append(bound.recomputed(memory) / (best - problem.base_cost))
    return shares


def drawn(count: int, nodes: int, seed: int) -> Iterator[tuple[Problem, random.Random]]:
    rng = random.Random(seed)
    for _ in range(count):
        plain = rng.random() < 0.3
        yield random_problem(rng, random_shape(rng, nodes + 3 * plain), plain=plain), rng


@pytest.mark.slow
def test_the_bound_is_below_every_plan_of_every_small_shape() -> None:
    """All DAGs of up to four nodes, exhaustively, any order of VJPs."""
    rng = random.Random(1)
    shares = [s for n in range(1, 5) for shape in shapes(n) for s in check(random_problem(rng, shape), rng)]
    assert len(shares) > 50
    assert np.mean(shares) > 0.3


@pytest.mark.parametrize("order", ["free", "listed"])
@pytest.mark.parametrize("forwards_first", [False, True])
def test_the_bound_is_below_every_plan_of_its_class(order: Order, forwards_first: bool) -> None:
    for problem, rng in drawn(25, 4, seed=2):
        check(problem, rng, order=order, forwards_first=forwards_first)


@pytest.mark.slow
def test_the_bound_is_below_every_plan_of_larger_graphs() -> None:
    """All DAGs of five nodes, and 300 random ones of six and seven."""
    rng = random.Random(3)
    for shape in shapes(5):
        check(random_problem(rng, shape), rng)
    for nodes in (6, 7):
        for problem, draw in drawn(150, nodes, seed=nodes):
            check(problem, draw)


def test_any_duals_prove_a_bound() -> None:
    """Not those of an optimum alone: random ones, with cuts among the rows, are no higher than the optimum."""
    from sim.strategies.general.program import Program

    positive = 0
    for problem, rng in drawn(40, 4, seed=4):
        rows = rows_of(problem, "free")
        moments = moments_of(rows, 16)
        relaxation = relaxation_of(contracted(rows, moments), moments)
        top = int(problem.value_bytes.sum())
        if not relaxation.cost.any():
            continue
        for memory in rng.sample(range(top // 4, top // 4 * 3 + 3), 3):
            best = least_cost(problem, memory)
            if best is None:
                continue
            program = Program(relaxation)
            program._set_budget(memory)
            program._rounds(5, 100, 1000)
            duals = np.array(program._solver.getSolution().row_dual)
            for noise in (0.0, 0.1, 1.0):
                shaken = duals + noise * np.random.default_rng(memory).normal(size=len(duals))
                proven = program._line(shaken).at(memory)
                assert proven <= best - problem.base_cost
                positive += proven > 0
    assert positive > 5


def test_a_line_is_what_its_duals_say_in_fractions() -> None:
    """y b + Σ min(0, c - y A) by fractions, of the duals as they were rounded."""
    from sim.strategies.general.program import Program

    relaxation = relaxation_of(*_relaxed(residual_block()))
    program = Program(relaxation)
    program._set_budget(40)
    program._rounds(5, 100, 1000)
    duals = np.array(program._solver.getSolution().row_dual)
    line = program._line(duals)
    expected = Fraction(0)
    reduced = [Fraction(int(c)) for c in relaxation.cost]
    first = 0
    for terms, unit, *_ in program.blocks:
        for i in range(len(terms)):
            y = Fraction(max(0.0, float(duals[first + i]))) * Fraction(program.cost_unit) / Fraction(unit)
            least = int(terms.least[i]) - (40 if terms is relaxation.memory else 0)
            expected += y * least
            for t in range(terms.ptr[i], terms.ptr[i + 1]):
                reduced[terms.column[t]] -= y * int(terms.factor[t])
        first += len(terms)
    expected += sum(min(Fraction(0), d) for d in reduced)
    assert float(expected) > 0
    assert abs(Fraction(line.intercept - 40 * line.slope, 2**line.bits) - expected) < Fraction(1, 10**6)


def test_rounding_cuts_hold_for_all_whole_points_of_a_budget_and_of_smaller_ones() -> None:
    """For random rows of up to eight sizes and random shares: every subset that fits satisfies every cut."""
    rng = np.random.default_rng(1)
    seen = 0
    for _ in range(300):
        n = int(rng.integers(2, 9))
        sizes = rng.integers(1, 12, size=n)
        memory = Terms(np.array([0, n]), np.arange(n), -sizes, np.array([3]))
        budget = 3 + int(rng.integers(1, sizes.sum() + 1))
        x = np.where(rng.random(n) < 0.4, rng.integers(0, 2, size=n), rng.random(n))
        cuts = rounding_cuts(memory, x, budget, tolerance=1e-3)
        seen += len(cuts)
        for point in itertools.product((0, 1), repeat=n):
            if np.dot(sizes, point) <= budget - 3:
                for a, b, least in zip(cuts.ptr[:-1], cuts.ptr[1:], cuts.least, strict=True):
                    assert np.dot(cuts.factor[a:b], np.array(point)[cuts.column[a:b]]) >= least
    assert seen > 50


@pytest.mark.parametrize(
    ("cuts", "fault"),
    [
        ("violated_cuts", "too high"),
        pytest.param("violated_cuts", "turned", marks=pytest.mark.slow),
        ("rounding_cuts", "too high"),
    ],
)
def test_a_wrong_cut_is_found(monkeypatch: pytest.MonkeyPatch, cuts: str, fault: str) -> None:
    """With the right side of each cut one higher, or its terms' signs turned, some bound is above the optimum."""
    from sim.strategies.general import program

    right = getattr(program, cuts)

    def wrong(*args: object, **kwargs: object) -> Terms:
        found = right(*args, **kwargs)
        if fault == "too high":
            return Terms(found.ptr, found.column, found.factor, found.least + 1)
        return Terms(found.ptr, found.column, -found.factor, -found.least)

    def check_all() -> None:
        for problem, rng in drawn(200, 4, seed=2):
            check(problem, rng)

    monkeypatch.setattr(program, cuts, wrong)
    with pytest.raises(AssertionError):
        check_all()


def test_branch_and_bound_is_between_the_certificate_and_the_optimum() -> None:
    for problem, rng in drawn(40, 4, seed=6):
        top = int(problem.value_bytes.sum())
        memory = rng.randint(top // 3, top)
        best = least_cost(problem, memory)
        if best is None:
            continue
        bound = with_word(problem, certificate(problem, np.array([memory])), memory, seconds=10)
        assert bound.at(np.array([memory]))[0] <= bound.word_at(memory) <= best


def residual_block() -> Problem:
    """n0 → n1 → n2 = n0 + n1 → n3, all of 10 bytes and 5 flops, tapes of 10 bytes for n0 and n1 and of 0 for n3."""
    tapes = [10, 10, None, 0]
    inputs = [("x",), ("n0",), ("n0", "n1"), ("n2",)]
    nodes = [
        Node(
            name=f"n{i}", inputs=of, output_shape=(1, 1), activation_bytes=10, forward_flops=5, residual_bytes=tape,
            needs="input" if i == 3 else "none", vjp_flops=0,
        )
        for i, (of, tape) in enumerate(zip(inputs, tapes, strict=True))
    ]  # fmt: skip
    return graph_problem(Graph.from_nodes(nodes, [GraphInput("x", (1, 1))], wrt="input"))


def _relaxed(problem: Problem):  # type: ignore[no-untyped-def]
    rows = rows_of(problem, "free")
    moments = moments_of(rows, 16)
    return contracted(rows, moments), moments


def test_the_bound_counts_what_has_to_go_from_a_residual_block() -> None:
    """VJP n3 runs with the tapes, n2 and two cotangents: 50 bytes. One tape goes at 49, and its node runs again.

    Shares of tapes would prove a tenth of its 5 flops; a rounding cut proves them all.
    """
    bound = certificate(residual_block(), np.arange(30, 51))
    assert bound.at(np.array([50, 49, 45, 40])).tolist() == [20, 25, 25, 25]
    assert bound.smallest_peak <= 40
    assert least_cost(residual_block(), 49) == 25


def test_another_order_of_vjps_may_come_below_the_bound_of_the_listed_one() -> None:
    """A star of three nodes read by a fourth: any order is as good as the listed one, unless their sizes differ."""
    below = 0
    for problem, _ in drawn(60, 4, seed=8):
        top = int(problem.value_bytes.sum())
        listed = certificate(problem, np.arange(top), order="listed")
        free = certificate(problem, np.arange(top))
        assert free.smallest_peak <= listed.smallest_peak
        assert (listed.order, free.order) == ("listed", "free")
        for memory in range(listed.smallest_peak, top):
            best = least_cost(problem, memory)
            below += best is not None and best < listed.at(np.array([memory]))[0]
    assert below


def test_the_smallest_peak_of_a_plain_graph_counts_what_must_exist_together() -> None:
    """Node 2 reads 0 and 1 of 4 bytes each and writes 1: 9 bytes; a path through 5 bytes of workspace needs no more."""
    problem = plain_problem([[], [0], [0, 1]], cost=[1, 1, 1], value_bytes=[4, 4, 1], workspace=[5, 0, 0])
    assert certificate(problem, np.arange(20)).smallest_peak == 9
    kept = plain_problem([[], [0], [1]], cost=[1, 1, 1], value_bytes=[4, 4, 1], remains=[0, 1, 2])
    assert certificate(kept, np.arange(20)).smallest_peak == 9


def test_without_the_solver_the_bound_is_one_run_of_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "find_spec", lambda name: None)
    bound = certificate(residual_block(), np.arange(30, 51))
    assert isinstance(bound, Bound)
    assert set(bound.at(np.arange(30, 51)).tolist()) == {20}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "transformer", "resnet50"])
def test_the_bound_of_networks_rises_above_one_evaluation_and_stays_below_plans(name: str) -> None:
    graph = sim.load(SCENARIOS / f"{name}.yaml").build_graph()
    problem = graph_problem(graph, width=1)
    plans = [replay(schedules["uniform"].function(graph, segments=k, chunk=1)) for k in (1, 2, 4, 8)]
    plans.append(replay(reverse_full(graph, chunk=1)))
    working = np.array([plan.working_bytes for plan in plans])
    bound = certificate(problem, np.linspace(working.min() // 2, working.max(), 50).astype(np.int64))
    costs = bound.at(working)
    assert bound.smallest_peak <= working.min()
    assert costs.max() > problem.base_cost
    assert (costs <= np.array([plan.flops.total for plan in plans])).all()


def test_strategies_load_without_the_solver() -> None:
    code = "import sys; sys.modules['highspy'] = None; from sim.strategies import load; load(); print('loaded')"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "loaded\n"
