"""Plans of graphs of equal blocks: the short problem is that of the graph with fewer, and joined plans are valid."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from general_oracles import assert_valid, profile, touches

from sim.graphs.graph import Graph
from sim.graphs.node import GraphInput, Node
from sim.strategies.general.blocks import KEPT, joined, shortened
from sim.strategies.general.planner import plan
from sim.strategies.general.problem import Problem, graph_problem

LENGTH = 5


def stack(seed: int, blocks: int, *, dearer: int | None = None, gather: bool = False) -> Graph:
    """Three nodes, equal blocks of which each node reads up to two before it, and two more nodes.

    The third node of block `dearer` takes more flops than those of the others; with `gather` the last node reads one of
    every block.
    """
    rng = random.Random(seed)
    kinds = []
    for _ in range(LENGTH):
        back = rng.sample([1, 2, 3], 2) if rng.random() < 0.6 else [1]
        node = Node(
            name="", inputs=(), output_shape=(1, 1), needs=rng.choice(["input", "output", "both"]),
            forward_flops=rng.randint(1, 9), vjp_flops=rng.randint(1, 3),
            param_size=rng.choice([0, 1]), activation_bytes=rng.randint(1, 9),
            residual_bytes=rng.choice([None, rng.randint(1, 9)]), workspace_bytes=rng.choice([0, 3]),
        )  # fmt: skip
        kinds.append((node, back))
    first = Node(name="first", inputs=("x",), output_shape=(1, 1), forward_flops=1, param_size=1, activation_bytes=3)
    nodes = [first, replace(first, name="second", inputs=("first",)), replace(first, name="third", inputs=("second",))]
    for block in range(blocks):
        for i, (node, back) in enumerate(kinds):
            inputs = tuple(nodes[-b].name for b in sorted({1, *back}))
            more = 50 if block == dearer and i == 2 else 0
            nodes.append(replace(node, name=f"{block}.{i}", inputs=inputs, forward_flops=node.forward_flops + more))
    nodes.append(replace(first, name="next", inputs=(nodes[-1].name,)))
    ends = [f"{block}.1" for block in range(blocks)] if gather else []
    nodes.append(replace(first, name="last", inputs=(nodes[-1].name, *ends), param_size=0))
    return Graph.from_nodes(nodes, [GraphInput("x", (1, 1))], wrt="parameters")


def meaning(problem: Problem) -> list[object]:
    """A problem but for the numbers of its values, which are by when they are touched first."""
    number: dict[int, int] = {}
    rows = []
    for r in range(len(problem)):
        touched = [
            (number.setdefault(v, len(number)), access, int(problem.value_bytes[v]), bool(problem.remains[v]))
            for v, access in touches(problem, r)
        ]
        columns = (problem.cost, problem.workspace, problem.saving_workspace, problem.must, problem.once)
        rows.append((touched, [int(column[r]) for column in columns]))
    return [rows, problem.order.tolist()]


@pytest.mark.parametrize("seed", range(12))
def test_the_short_problem_is_that_of_the_graph_with_fewer_blocks(seed: int) -> None:
    count = 9 + 3 * seed
    short = shortened(graph_problem(stack(seed, count)))
    assert short is not None
    assert short.blocks.length % LENGTH == 0
    assert short.left_out >= LENGTH * (count - 8) // 2
    fewer = graph_problem(stack(seed, count - short.left_out // LENGTH))
    assert meaning(short.problem) == meaning(fewer)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("order", ["free", "listed"])
def test_joined_plans_are_valid(seed: int, order: str) -> None:
    whole = graph_problem(stack(seed, 12))
    short = shortened(whole)
    assert short is not None
    seen = set()
    for one in plan(short.problem, order=order, rounds=8)[::9]:
        for rows in list(joined(short, one.rows, mixes=16))[::11]:
            assert rows.tobytes() not in seen
            seen.add(rows.tobytes())
            assert_valid(whole, rows)
            if order == "listed":
                once = rows[whole.once[rows]]
                assert once.tolist() == whole.order[whole.once[whole.order]].tolist()
    assert seen


def test_plans_as_short_as_can_be_are_those_of_full_store() -> None:
    whole = graph_problem(stack(1, 12))
    short = shortened(whole)
    assert short is not None
    (rows,) = joined(short, short.problem.order, mixes=16)
    assert rows.tolist() == whole.order.tolist()


def test_a_block_that_differs_is_in_none() -> None:
    whole = graph_problem(stack(2, 40, dearer=12))
    short = shortened(whole)
    assert short is not None
    odd = int(np.argmax(whole.cost[: len(whole) // 2]))
    assert not short.blocks.start <= odd < short.blocks.end
    assert max(short.problem.cost) == max(whole.cost)


def test_blocks_that_one_node_gathers_are_not_left_out() -> None:
    assert shortened(graph_problem(stack(3, 12))) is not None
    assert shortened(graph_problem(stack(3, 12, gather=True))) is None
    assert shortened(graph_problem(stack(3, KEPT))) is None


def test_plain_graphs_are_not_shortened() -> None:
    """Also not where some of their rows may not run again, as the calls of a joint graph that draw random numbers."""
    whole = graph_problem(stack(3, 12))
    assert shortened(replace(whole, once=np.zeros(len(whole), dtype=np.bool_))) is None
    assert shortened(replace(whole, once=np.arange(len(whole)) > len(whole) // 2)) is None


def test_equal_blocks_get_different_plans() -> None:
    whole = graph_problem(stack(4, 12))
    full = max(profile(whole, whole.order))
    n, different = len(whole) // 2, 0
    for one in plan(whole, [int(share * full) for share in (0.9, 0.8, 0.7)], rounds=2):
        runs = np.bincount(one.rows, minlength=2 * n)[3 : 3 + 12 * LENGTH].reshape(12, LENGTH)
        different += len(np.unique(runs, axis=0)) > 1
    assert different
