"""Plans of plain graphs against exhaustive search: within the budget, near the optimum, none refused that can be."""

from __future__ import annotations

import random
from itertools import permutations

import numpy as np
import pytest
from general_oracles import least_cost, profile
from general_problems import random_graph, random_shape
from simulations import STRATEGIES

from sim.base.errors import ParameterError
from sim.graphs.graph import Graph
from sim.graphs.node import GraphInput, Node
from sim.schedules.replay import replay
from sim.strategies.general.problem import problem_of
from sim.strategies.plain import plain_front


def plain_graph(rng: random.Random, nodes: int) -> Graph:
    made = [
        Node(
            name=f"n{i}",
            inputs=(*(f"n{u}" for u in of), *(["x"] if rng.random() < 0.2 else [])),
            output_shape=(),
            forward_flops=rng.randint(0, 9),
            activation_bytes=rng.choice([0, rng.randint(1, 9), rng.randint(1, 9)]),
            workspace_bytes=rng.choice([0, 0, 3]),
        )
        for i, of in enumerate(random_shape(rng, nodes))
    ]
    outputs = [node.name for node in made if rng.random() < 0.2]
    return Graph.from_nodes(made, [GraphInput("x", (), bytes=2)], plain=True, outputs=outputs)


def graphs(count: int, seed: int) -> list[Graph]:
    rng = random.Random(seed)
    return [plain_graph(rng, rng.randint(3, 6)) for _ in range(count)]


def memories(graph: Graph) -> range:
    """Every peak from less than one node needs to that of the order given."""
    return range(int(problem_of(graph).alone.max()) - 1, replay(STRATEGIES.call("in_order", graph)).working_bytes + 1)


@pytest.mark.slow
def test_every_budget_is_met_as_cheaply_as_by_exhaustive_search() -> None:
    points = missed = 0
    for graph in graphs(25, seed=1):
        problem = problem_of(graph)
        for memory in memories(graph):
            budget = memory + graph.resident_bytes
            optimum = least_cost(problem, memory)
            if optimum is None:
                with pytest.raises(ParameterError, match="fits"):
                    STRATEGIES.call("rematerialize", graph, budget=budget)
                continue
            cost = replay(STRATEGIES.call("rematerialize", graph, budget=budget))
            assert cost.peak_bytes <= budget
            assert cost.flops.total >= optimum
            points, missed = points + 1, missed + (cost.flops.total > optimum)
    assert points > 40
    assert missed <= 0.02 * points


@pytest.mark.parametrize("order", ["free", pytest.param("listed", marks=pytest.mark.slow)])
def test_no_bound_is_above_the_optimum_of_its_class(order: str) -> None:
    for graph in graphs(20, seed=2):
        problem, front = problem_of(graph), plain_front(graph, order=order)  # type: ignore[arg-type]
        assert front.bound_class == ("any order" if order == "free" else "listed order")
        assert front.smallest_proven is not None
        for i, proven in enumerate(front.lower_bound):
            memory = front.peak_bytes[i] - graph.resident_bytes
            optimum = least_cost(problem, memory, order=order)
            assert optimum is not None
            assert proven <= optimum
        assert least_cost(problem, front.smallest_proven - graph.resident_bytes - 1, order=order) is None


def test_reordering_finds_the_smallest_peak_of_all_orders() -> None:
    rng = random.Random(3)
    found = []
    for plain in (True, False) * 20:
        graph = plain_graph(rng, 5) if plain else random_graph(rng, random_shape(rng, 3))
        problem = problem_of(graph)
        rows = problem.order.tolist()
        before = {row: set(problem.predecessors()[row]) for row in rows}
        orders = (o for o in permutations(rows) if all(before[r] <= set(o[:k]) for k, r in enumerate(o)))
        least = min(max(profile(problem, np.array(o))) for o in orders)
        schedule = STRATEGIES.call("reorder", graph)
        cost = replay(schedule)
        assert sorted(schedule.rows.tolist()) == sorted(rows)
        assert cost.flops.recompute == 0
        assert cost.working_bytes >= least
        found.append(cost.working_bytes == least)
    assert sum(found) >= 0.98 * len(found)


def test_a_share_is_of_the_peak_of_the_order_given() -> None:
    for graph in graphs(8, seed=4):
        whole = replay(STRATEGIES.call("in_order", graph)).peak_bytes
        for share in ("100%", "87.5%"):
            budget = int(whole * float(share[:-1]) / 100)
            calls = []
            for written in (share, budget):
                try:
                    calls.append(replay(STRATEGIES.call("rematerialize", graph, budget=written)))
                except ParameterError as error:
                    calls.append(str(error).partition(":")[2])
            assert calls[0] == calls[1]
    for wrong in ("0%", "101%", "-5%", "x%", -1):
        with pytest.raises(ParameterError, match="or a share of the peak of the order given such as 80%"):
            STRATEGIES.call("rematerialize", graph, budget=wrong)


def test_a_refusal_says_what_is_proven_and_who_needs_it() -> None:
    sizes = {"a": 1, "b": 2, "c": 30}
    nodes = [Node(name=n, inputs=(), output_shape=(), forward_flops=1, activation_bytes=b) for n, b in sizes.items()]
    graph = Graph.from_nodes(nodes, [], plain=True)
    with pytest.raises(
        ParameterError, match=r"none exists below 30 B \(30 bytes\), which 'c' takes by itself beside what is resident"
    ):
        STRATEGIES.call("rematerialize", graph, budget=29)


def test_plans_are_the_same_for_a_seed_and_cheaper_with_memory() -> None:
    def training_step() -> Graph:
        """A chain forwards, and one backwards that reads it."""
        reads = [(f"n{i - 1}",) for i in range(1, 12)] + [(f"n{i - 1}", f"n{23 - i}") for i in range(12, 24)]
        nodes = [
            Node(name=f"n{i}", inputs=of, output_shape=(), forward_flops=1 + i % 3, activation_bytes=2 + i % 5)
            for i, of in enumerate([(), *reads])
        ]
        return Graph.from_nodes(nodes, [], plain=True)

    fronts = [plain_front(training_step(), rounds=40, seed=7) for _ in "ab"]
    assert (fronts[0].peak_bytes, fronts[0].cost) == (fronts[1].peak_bytes, fronts[1].cost)
    assert list(fronts[0].cost) == sorted(set(fronts[0].cost), reverse=True)
    assert len(fronts[0]) > 5
