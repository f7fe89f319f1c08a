"""The strategy `optimal`: budgets, fronts, their promise, and a lower bound that holds."""

from __future__ import annotations

import dataclasses
import gc
import random
import weakref
from bisect import bisect_right
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from graphs import graphs
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_oracles import least_cost, random_blocks, random_chain

from sim.base.errors import CountOverflow, ParameterError
from sim.graphs.graph import Graph
from sim.graphs.node import GraphInput, Needs, Node
from sim.models.families.chain import chain
from sim.models.families.cnn import cnn
from sim.models.families.mlp import mlp
from sim.models.families.transformer import transformer
from sim.schedules.replay import replay
from sim.schedules.schedule import Builder
from sim.strategies.checkpointing.segments import schedules
from sim.strategies.front import Front, spread
from sim.strategies.general.bound import block_lower_bound
from sim.strategies.general.front import bound_class, general_front
from sim.strategies.jacobians.in_memory import chaining_front
from sim.strategies.optimal.bound import lower_bound
from sim.strategies.optimal.planner import best_plans
from sim.strategies.optimal.stages import stages_of
from sim.strategies.optimal.strategy import adjoint_cost, optimal_front
from sim.strategies.reverse import reverse_full


def fixed_points(graph: Graph, *, sizes: int = 12) -> list[tuple[int, int]]:
    """(peak bytes, flops) of the fixed schedules, with some of their parameters."""
    steps = len(graph.step_starts) - 1
    some = sorted(set(np.linspace(1, steps, min(steps, sizes)).astype(int).tolist()))
    calls = [("sqrt", {})]
    calls += [
        (name, {key: k})
        for name, key in (("uniform", "segments"), ("periodic", "every"), ("binomial", "slots"))
        for k in some
    ]
    costs = [replay(schedules[name].function(graph, **parameters)) for name, parameters in calls]
    return [(c.peak_bytes, c.flops.total) for c in costs]


def stage_points(graph: Graph) -> list[tuple[int, int]]:
    """(peak bytes, flops) of the graph's plans as a chain of its nodes, replayed without runs that nobody needs."""
    plans = best_plans(stages_of(graph, width=graph.output_scalars))
    out = []
    for k in range(len(plans)):
        builder = Builder(graph)
        builder.rows(plans.plan(k), width=graph.output_scalars)
        cost = replay(builder.build(prune=True))
        out.append((cost.peak_bytes, cost.flops.total))
    return out


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(graphs(most=6), st.sampled_from([1, 2, 4]))
def test_the_front_is_at_or_below_full_store_in_chunks(graph: Graph, chunk: int) -> None:
    cost = replay(reverse_full(graph, chunk=min(chunk, graph.output_scalars)))
    assert is_at_or_below(graph, [(cost.peak_bytes, cost.flops.total)])
    found = optimal_front(graph)
    assert all(bound <= cost for bound, cost in zip(found.lower_bound, found.cost, strict=True))


def is_at_or_below(graph: Graph, points: list[tuple[int, int]]) -> bool:
    found = optimal_front(graph)
    at = [int(np.searchsorted(found.peak_bytes, peak, side="right")) - 1 for peak, _ in points]
    return all(i >= 0 and found.cost[i] <= flops for i, (_, flops) in zip(at, points, strict=True))


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(graphs(most=8))
def test_every_point_of_the_front_is_its_replay(graph: Graph) -> None:
    found = optimal_front(graph)
    for i in range(len(found)):
        cost = replay(found.schedule(graph, i))
        assert (cost.peak_bytes, cost.flops.total) == (found.peak_bytes[i], found.cost[i])
        assert cost.actions["vjp"] % int(graph.active[len(graph.inputs) :].sum()) == 0
    assert all(np.diff(found.peak_bytes) > 0)
    assert all(a > b for a, b in zip(found.cost, found.cost[1:], strict=False))


def test_three_cotangents_in_chunks_of_two_cost_no_more_than_three() -> None:
    """All at once and in chunks, every cotangent passes each VJP once: 3 times the one flop of the last."""
    sizes = [1, 6, 1, 1]
    nodes = [
        Node(
            name=f"n{i}", inputs=("x",) if i == 0 else (f"n{i - 1}",), output_shape=(2, 3 if i == 3 else 1),
            param_size=int(i == 0), param_vjp_flops=int(i == 3), needs="input" if i == 3 else "none",
            activation_bytes=size,
        )
        for i, size in enumerate(sizes)
    ]  # fmt: skip
    graph = Graph.from_nodes(nodes, [GraphInput(name="x", shape=(2, 1))], batch=2, wrt="parameters")
    assert graph.output_scalars == 3
    assert set(optimal_front(graph).cost) == {3}


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(graphs(most=9))
def test_the_front_is_at_or_below_every_fixed_schedule(graph: Graph) -> None:
    assert is_at_or_below(graph, fixed_points(graph) + stage_points(graph))


MLP = mlp(widths=[784, 512, 512, 512, 256, 10], batch=2048, activation="relu", loss="cross_entropy")
UNET = cnn(preset="unet", batch=1, image=[3, 64, 64], loss="cross_entropy")
RESNET = cnn(preset="resnet18", batch=8, loss="cross_entropy")
TRANSFORMER = transformer(layers=3, hidden=64, heads=4, sequence=128, vocab=100, batch=2, loss="cross_entropy")
SLOW = [pytest.param(graph, marks=pytest.mark.slow) for graph in (UNET, RESNET, TRANSFORMER)]


@pytest.mark.parametrize("graph", [MLP, *SLOW], ids=["mlp", "unet", "resnet18", "transformer"])
def test_the_front_of_networks_is_at_or_below_every_fixed_schedule(graph: Graph) -> None:
    assert is_at_or_below(graph, fixed_points(graph) + stage_points(graph))


def test_the_lower_bound_is_never_above_exhaustive_search() -> None:
    """300 random chains of 2 … 5 layers, at every breakpoint and just before the next."""
    rng = random.Random(11)
    for _ in range(300):
        graph = random_chain(rng, rng.randint(2, 5))
        stages = stages_of(graph)
        plans = best_plans(stages, reach=3)
        memory = np.concatenate([plans.memory, plans.memory[1:] - 1])
        for m, bound in zip(memory.tolist(), lower_bound(stages, memory).tolist(), strict=True):
            best = least_cost(graph, m)
            assert best is not None
            assert graph.forward_flops <= bound <= best


def test_the_lower_bound_counts_a_byte_too_few() -> None:
    """Four layers of 10 bytes and one flop: full store takes 50 bytes; with 49, one of four flops is done again.

    The relaxation buys a tenth of it with the missing byte, and costs are whole.
    """
    front = optimal_front(chain(length=4, activation_bytes=10, forward_flops=1))
    assert front.lower_bound[-2:] == (9, 8)


def test_a_budget_gives_the_cheapest_schedule_that_fits() -> None:
    """Four layers of 10 bytes, resident input of 10: all kept, x1 x2 x3 and two cotangents are 50 bytes."""
    graph = chain(length=4, activation_bytes=10, forward_flops=1)
    full = replay(schedules.call("optimal", graph, budget="1 kB"))
    assert full.flops.total == 8
    assert full.peak_bytes == 50 + graph.resident_bytes
    less = replay(schedules.call("optimal", graph, budget=full.peak_bytes - 1))
    assert less.peak_bytes < full.peak_bytes
    assert less.flops.total == 9


def test_a_budget_that_nothing_fits_names_the_smallest_peak() -> None:
    graph = chain(length=4, activation_bytes=10)
    smallest = optimal_front(graph).peak_bytes[0]
    with pytest.raises(
        ParameterError, match=f"no schedule of nested checkpoints .*smallest peak found is .*{smallest} bytes"
    ) as error:
        schedules.call("optimal", graph, budget=smallest - 1)
    assert error.value.parameter == ("budget",)
    assert replay(schedules.call("optimal", graph, budget=smallest)).peak_bytes == smallest


def test_points_are_spread_over_the_front_with_both_ends() -> None:
    graph = random_chain(random.Random(3), 12, largest=1000)
    found = optimal_front(graph)
    chosen = found.spread(5)
    assert len(chosen) == 5
    assert (chosen[0], chosen[-1]) == (0, len(found) - 1)
    for number, index in enumerate(chosen, start=1):
        cost = replay(schedules.call("optimal", graph, points=5, point=number))
        assert (cost.peak_bytes, cost.flops.total) == (found.peak_bytes[index], found.cost[index])
    with pytest.raises(ParameterError, match="only 5 points"):
        schedules.call("optimal", graph, points=5, point=6)


@given(st.lists(st.integers(0, 2**80), min_size=1, max_size=50, unique=True), st.integers(1, 60))
def test_a_spread_has_as_many_points_as_asked_and_both_ends(costs: list[int], count: int) -> None:
    chosen = spread(sorted(costs, reverse=True), count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, len(costs))
    assert set(chosen) <= set(range(len(costs)))
    assert len(costs) - 1 in chosen
    assert count == 1 or 0 in chosen


@pytest.mark.parametrize("blocks", [False, True], ids=["chain", "blocks"])
@pytest.mark.parametrize("plan", [optimal_front, chaining_front])
def test_a_front_is_kept_with_its_graph_and_freed_at_once_with_it(plan: Callable[[Graph], Front], blocks: bool) -> None:
    """Without a garbage collection: nothing that a front refers to refers to it or to the graph."""
    rng = random.Random(1)
    graph = random_blocks(rng, 8) if blocks else random_chain(rng, 8, largest=10**9)
    front = plan(graph)
    replay(front.schedule(graph, 0))
    gone = [weakref.ref(graph), weakref.ref(front)]
    gc.disable()
    try:
        del front
        assert plan(graph) is gone[1]()
        del graph
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


def listed(order: str) -> Graph:
    """a, and b → c, into out; bytes and flops of each, the tape of b, and what VJPs read."""
    reads = {"a": ("x",), "b": ("x",), "c": ("b",), "out": ("a", "c")}
    size, flops = {"a": 4, "b": 2, "c": 3, "out": 1}, {"a": 1, "b": 1, "c": 1, "out": 2}
    needs: dict[str, Needs] = {"a": "both", "b": "both", "c": "input", "out": "none"}
    nodes = [
        Node(
            name=n, inputs=reads[n], output_shape=(1, 1), activation_bytes=size[n], forward_flops=flops[n],
            needs=needs[n], residual_bytes=5 if n == "b" else None,
        )
        for n in order.split()
    ]  # fmt: skip
    return Graph.from_nodes(nodes, [GraphInput("x", (1, 1))], wrt="input")


def test_another_order_of_vjps_may_be_below_the_bound_of_the_listed_order() -> None:
    graph, other = listed("a b c out"), listed("b c a out")
    bound = int(block_lower_bound(graph, stages_of(graph), np.array([11]))[0])
    best = least_cost(other, 11)
    assert best is not None
    assert best < bound
    front = optimal_front(graph)
    assert bound_class(graph) == bound_class(other) == "listed order"
    assert front.bound_class == "any order"
    at = max(0, bisect_right(front.peak_bytes, graph.resident_bytes + 11) - 1)
    assert front.lower_bound[at] - adjoint_cost(graph, 1, None) <= best


def test_the_order_of_vjps_is_free_or_as_listed() -> None:
    graph = listed("a b c out")
    free, held = optimal_front(graph), optimal_front(graph, order="listed")
    at = max(0, bisect_right(free.peak_bytes, graph.resident_bytes + 11) - 1)
    exhaustive = least_cost(listed("b c a out"), 11)
    assert exhaustive is not None
    assert free.cost[at] - adjoint_cost(graph, 1, None) <= exhaustive
    assert all(c <= held.cost[held.within(p)] for p, c in zip(free.peak_bytes, free.cost, strict=True)
               if p >= held.peak_bytes[0])  # fmt: skip
    vjps = [row for k in range(len(held)) for row in held.schedule(graph, k).rows.tolist() if row >= len(graph)]
    once = len(graph)
    assert all(vjps[i : i + once] == sorted(vjps[i : i + once], reverse=True) for i in range(0, len(vjps), once))


def test_no_plan_is_drawn_below_the_bound_of_a_narrower_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the solver the bound is that of the listed order; a plan in another order may be below it."""
    monkeypatch.setattr("sim.strategies.general.front.available", lambda: False)
    graph = listed("a b c out")
    front = optimal_front(graph)
    assert front.bound_class == "listed order"
    assert front.lower_bound[0] > front.cost[-1]
    assert all(bound <= cost for bound, cost in zip(front.lower_bound, front.cost, strict=True))


def test_order_effort_and_seed_reach_the_search_of_other_graphs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def front(graph: Graph, **search: Any) -> Front:
        asked.append(search)
        return general_front(graph, rounds=1)

    monkeypatch.setattr("sim.strategies.optimal.strategy.general_front", front)
    for graph in (listed("b c a out"), chain(length=3)):
        schedules.call("optimal", graph, order="listed", effort=0.5, seed=3)
    assert [{k: one[k] for k in ("order", "effort", "seed")} for one in asked] == [
        {"order": "listed", "effort": 0.5, "seed": 3}
    ]


@given(graphs(most=6))
def test_a_bound_holds_for_any_order_where_there_is_only_one(graph: Graph) -> None:
    m, c = len(graph.inputs), graph.columns
    active = [i for i in range(len(graph)) if graph.active[m + i]]
    reads = {i: set((c.input_index[c.input_ptr[i] : c.input_ptr[i + 1]] - m).tolist()) for i in active}
    orders = [
        order for order in permutations(active)
        if all(j not in reads[i] for k, i in enumerate(order) for j in order[:k])
    ]  # fmt: skip
    assert (bound_class(graph) == "any order") == (len(orders) == 1)


LARGE = st.one_of(
    st.integers(0, 9), st.integers(0, 18).map(lambda e: 10**e), st.integers(0, 60).map(lambda e: 2**e - 1)
)


@given(st.data(), st.integers(1, 6), st.sampled_from(["none", "input", "output", "both"]))
def test_counts_of_any_size_are_planned_exactly_or_refused(data: st.DataObject, length: int, needs: Needs) -> None:
    keys = ("activation_bytes", "residual_bytes", "workspace_bytes", "forward_flops", "vjp_flops")
    columns: dict[str, Any] = {
        key: data.draw(st.lists(LARGE, min_size=length, max_size=length), label=key) for key in keys
    }
    try:
        graph = chain(length=length, needs=needs, input_bytes=data.draw(LARGE, label="input_bytes"), **columns)
        front = optimal_front(graph)
    except CountOverflow:
        assert max(map(sum, columns.values())) * length > 2**55
        return
    for i in range(len(front)):
        cost = replay(front.schedule(graph, i))
        assert (cost.peak_bytes, cost.flops.total) == (front.peak_bytes[i], front.cost[i])
    assert all(bound <= cost for bound, cost in zip(front.lower_bound, front.cost, strict=True))
    assert front.cost[-1] == sum(columns["forward_flops"]) + sum(columns["vjp_flops"])


@pytest.mark.parametrize(
    "columns", [{"residual_bytes": 10**18}, {"workspace_bytes": 2**60}, {"activation_bytes": [10**18, 1]}]
)
def test_sizes_beyond_what_can_be_planned_with_are_refused(columns: dict[str, Any]) -> None:
    with pytest.raises(CountOverflow, match=r"2\^58 times what divides them all.*bytes in units of"):
        schedules.call("optimal", chain(length=2, **columns))


def test_large_sizes_with_a_common_divisor_are_planned() -> None:
    unit = optimal_front(chain(length=2, activation_bytes=1, residual_bytes=1, input_bytes=0))
    front = optimal_front(chain(length=2, activation_bytes=10**17, residual_bytes=10**17, input_bytes=0))
    assert front.cost == unit.cost
    assert front.peak_bytes == tuple(10**17 * peak for peak in unit.peak_bytes)


def test_measured_times_beyond_what_can_be_counted_are_refused() -> None:
    graph = chain(length=2)
    slow = np.full((2, 3), 5e6)
    graph = dataclasses.replace(graph, columns=dataclasses.replace(graph.columns, seconds=slow))
    with pytest.raises(CountOverflow, match="seconds"):
        optimal_front(graph, minimize="seconds")


def test_rounding_does_not_lift_the_lower_bound() -> None:
    """A window's price is a difference of numbers near 10^12, of which rounding leaves some ten-thousandths."""
    graph = chain(
        length=4, activation_bytes=[2, 2**30 - 1, 2**30 - 1, 0], forward_flops=[100, 10**12, 0, 0], vjp_flops=0
    )
    front = optimal_front(graph)
    assert front.lower_bound[-1] <= front.cost[-1]


@pytest.mark.parametrize("budget", [2**62 - 1, 2**70])
def test_a_budget_of_any_size_is_enough_for_full_store(budget: int) -> None:
    front = optimal_front(chain(length=3, activation_bytes=10))
    assert front.within(budget) == len(front) - 1


def test_costs_other_than_flops_choose_other_schedules() -> None:
    """Layers of equal flops of which the second takes a hundred times longer: its output is not computed twice."""
    graph = chain(length=4, activation_bytes=10)
    ticks = np.array([1, 100, 1, 1])
    found = optimal_front(graph, costs=(ticks, ticks))
    assert found.cost[-1] == 2 * 103
    assert found.cost[-2] - found.cost[-1] == 1


def test_seconds_need_measured_times() -> None:
    with pytest.raises(ParameterError, match="measured times"):
        schedules.call("optimal", chain(length=3), minimize="seconds")


def test_a_budget_below_the_smallest_proven_peak_is_told_from_one_that_is_merely_not_met() -> None:
    front = optimal_front(listed("a b c out"))
    assert front.smallest_proven is not None
    assert front.smallest_proven <= front.peak_bytes[0]
    smaller = dataclasses.replace(front, smallest_proven=front.peak_bytes[0] - 1)
    with pytest.raises(ParameterError, match=rf"^no schedule fits .*none exists below .*\({front.peak_bytes[0] - 1} b"):
        smaller.within(front.peak_bytes[0] - 2)
    with pytest.raises(ParameterError, match=r"^no schedule that was found fits"):
        smaller.within(front.peak_bytes[0] - 1)
