"""The lower bound of graphs that are no chains: below exhaustive search, below every schedule, above one evaluation."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from graphs import graphs
from hypothesis import given, settings
from planner_oracles import forwards, least_cost, random_blocks, random_chain

import sim
from sim.graphs.graph import Graph
from sim.graphs.node import GraphInput, Node
from sim.schedules.replay import Cost, replay
from sim.strategies.checkpointing.segments import schedules
from sim.strategies.general.bound import LARGEST_BLOCK, block_lower_bound
from sim.strategies.optimal.bound import PRICES, lower_bound
from sim.strategies.optimal.planner import full_store_bytes
from sim.strategies.optimal.stages import stages_of
from sim.strategies.optimal.strategy import optimal_front
from sim.strategies.reverse import reverse_full

SCENARIOS = Path(__file__).parents[1] / "scenarios"


def residual_block() -> Graph:
    tapes = [10, 10, None, 0]
    inputs = [("x",), ("n0",), ("n0", "n1"), ("n2",)]
    nodes = [
        Node(
            name=f"n{i}", inputs=of, output_shape=(1, 1), activation_bytes=10, forward_flops=5, residual_bytes=tape,
            needs="input" if i == 3 else "none",
        )
        for i, (of, tape) in enumerate(zip(inputs, tapes, strict=True))
    ]  # fmt: skip
    return Graph.from_nodes(nodes, [GraphInput("x", (1, 1))], wrt="input")


def bound_at(graph: Graph, memory: int) -> int:
    return int(block_lower_bound(graph, stages_of(graph), np.array([memory]))[0])


def test_the_bound_is_never_above_exhaustive_search() -> None:
    """200 random graphs of 3 … 5 nodes, from the smallest memory that a schedule fits into to full store."""
    rng = random.Random(5)
    ratios = []
    blocks = 0
    for _ in range(200):
        graph = random_blocks(rng, rng.randint(3, 5))
        blocks += len(graph.articulation_points) > 2 and not graph.is_chain
        stages = stages_of(graph)
        memory = np.arange(1, replay(reverse_full(graph)).working_bytes + 1, 2)
        for m, bound in zip(memory.tolist(), block_lower_bound(graph, stages, memory).tolist(), strict=True):
            best = least_cost(graph, m)
            if best is not None:
                assert graph.forward_flops <= bound <= best
                if best > graph.forward_flops:
                    ratios.append(best / bound)
    print(f"{blocks} of several blocks; optimum over bound: {np.mean(ratios):.3f}, at most {max(ratios):.3f}")
    assert blocks > 100


def test_the_bound_counts_what_has_to_go_from_a_residual_block() -> None:
    """n0 → n1 → n2 = n0 + n1 → n3, all of 10 bytes and 5 flops, tapes of 10 bytes for n0 and n1 and of 0 for n3.

    VJP n3 runs with the tapes, n2 and two cotangents: 50 bytes of full store, of which its own working
    set is 30. With 49 bytes one tape goes, and its node runs again. n1 can only after n0, unless n0's
    activation stays, which takes as much as a tape; so it is n0 that runs again, for 5 flops.
    """
    graph = residual_block()
    assert replay(reverse_full(graph)).working_bytes == 50
    assert bound_at(graph, 50) == least_cost(graph, 50) == 20
    assert 20 < bound_at(graph, 49) <= 25
    assert least_cost(graph, 49) == 25


def test_the_bound_of_blocks_of_one_node_is_that_of_a_chain() -> None:
    """With the same prices; where the last VJP needs no forward the chain's bound gives up, and this does not."""
    rng = random.Random(3)
    for _ in range(100):
        graph = random_chain(rng, rng.randint(3, 12))
        stages = stages_of(graph)
        memory = np.arange(15, full_store_bytes(stages) + 1)
        by_layers, by_blocks = lower_bound(stages, memory), block_lower_bound(graph, stages, memory, prices=PRICES)
        if graph.nodes[-1].needs == "none":
            assert (by_blocks >= by_layers - 1).all()
        else:
            assert (abs(by_blocks - by_layers) <= 1).all()


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(graphs(most=9, chain=False))
def test_no_schedule_is_below_the_bound_at_its_own_memory(graph: Graph) -> None:
    stages = stages_of(graph)
    for cost in schedules_on_the_device(graph):
        bound = int(block_lower_bound(graph, stages, np.array([cost.working_bytes]))[0])
        assert graph.forward_flops <= bound <= forwards(cost)
    free = optimal_front(graph)  # some of its plans may be below that bound, but not below the one that it shows
    assert all(bound <= cost for bound, cost in zip(free.lower_bound, free.cost, strict=True))


def schedules_on_the_device(graph: Graph) -> list[Cost]:
    """Replays of full store in chunks, of every fixed schedule, and of the front, all with VJPs in listed order."""
    sizes = range(1, len(graph.step_starts))
    made = [reverse_full(graph, chunk=k) for k in (1, 2, graph.output_scalars) if k <= graph.output_scalars]
    made += [
        schedules[name].function(graph, **{key: k}, chunk=chunk)
        for name, key in (("uniform", "segments"), ("periodic", "every"), ("binomial", "slots"))
        for k in sizes
        for chunk in (1, None)
    ]
    found = optimal_front(graph, order="listed")
    made += [found.schedule(graph, i) for i in range(len(found))]
    return [replay(schedule) for schedule in made]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "transformer", "unet"])
def test_the_bound_of_networks_rises_above_one_evaluation_and_stays_below_the_front(name: str) -> None:
    graph = sim.load(SCENARIOS / f"{name}.yaml").build_graph()
    found = optimal_front(graph)
    once = found.cost[-1]
    assert found.lower_bound[0] > once
    assert found.lower_bound[-1] == once
    assert all(np.diff(found.lower_bound) <= 0)
    assert all(bound <= cost for bound, cost in zip(found.lower_bound, found.cost, strict=True))


def test_a_block_too_large_to_look_into_counts_as_nothing() -> None:
    """A skip over many equal nodes with tapes of 10 bytes, at half of full store: only n0 is outside of the block."""
    for length in (200, LARGEST_BLOCK + 1):
        last = f"n{length - 1}"
        ends = [("x",), *((f"n{i}",) for i in range(length - 1)), ("n0", last), ("sum",)]
        nodes = [
            Node(
                name=name, inputs=of, output_shape=(1, 1), activation_bytes=10, forward_flops=5, needs="none",
                residual_bytes=10,
            )
            for name, of in zip([*(f"n{i}" for i in range(length)), "sum", "end"], ends, strict=True)
        ]  # fmt: skip
        graph = Graph.from_nodes(nodes, [GraphInput("x", (1, 1))], wrt="input")
        again = bound_at(graph, replay(reverse_full(graph)).working_bytes // 2) - graph.forward_flops
        assert (again > 5) == (length <= LARGEST_BLOCK)
