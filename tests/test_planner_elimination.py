"""Vertex elimination: every order against a plain count, the best against all orders, and the real Jacobian."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from effects import effects
from execution import check_bytes
from graphs import graphs
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import NotApplicable
from sim.execution.numpy.arrays import inputs_for, parameters_for
from sim.execution.numpy.execute import execute
from sim.graphs.graph import Graph
from sim.models.families import load as load_families
from sim.models.families.chain import chain
from sim.schedules.replay import replay
from sim.strategies import load
from sim.strategies.jacobians.elimination import Blocks, blocks_of, eliminate, elimination_by

RULES = ("forward", "reverse", "markowitz", "optimal")


def counted(blocks: Blocks, order: tuple[int, ...]) -> tuple[int, int, int]:
    """(flops, products, edges filled in) of dense blocks, by doing the elimination on a set of edges."""
    edges, flops, products = set(blocks.edges), 0, 0
    filled = set()
    for v in order:
        sources, targets = {u for u, w in edges if w == v}, {w for u, w in edges if u == v}
        for p in sources:
            for s in targets:
                flops += 2 * blocks.sizes[p] * blocks.sizes[v] * blocks.sizes[s] * blocks.batch
                products += 1
                if (p, s) not in edges:
                    filled.add((p, s))
        edges = {e for e in edges if v not in e} | {(p, s) for p in sources for s in targets}
    assert not {v for _, v in edges} & {u for u, _ in edges}  # only edges from inputs to outputs are left
    return flops, products, len(filled)


def diamond() -> Blocks:
    """x (3) → a (2) → b (5), c (7) → d (4)."""
    edges = dict.fromkeys([(0, 1), (1, 2), (1, 3), (2, 4), (3, 4)], "dense")
    return Blocks({0: 3, 1: 2, 2: 5, 3: 7, 4: 4}, edges)


@pytest.mark.parametrize(
    ("order", "multiply_adds", "fill_in"),
    [
        ((1, 2, 3), 5 * 2 * 3 + 7 * 2 * 3 + 4 * 5 * 3 + 4 * 7 * 3, 3),  # x→b, x→c, x→d
        ((3, 2, 1), 4 * 7 * 2 + 4 * 5 * 2 + 4 * 2 * 3, 2),  # a→d, x→d
        ((2, 1, 3), 4 * 5 * 2 + 7 * 2 * 3 + 4 * 2 * 3 + 4 * 7 * 3, 3),  # a→d, x→c, x→d
    ],
)
def test_a_diamond_costs_what_paper_says(order: tuple[int, ...], multiply_adds: int, fill_in: int) -> None:
    done = eliminate(diamond(), order)
    assert (done.flops, done.fill_in) == (2 * multiply_adds, fill_in)
    assert elimination_by(diamond(), "optimal").flops == 2 * 120


@pytest.mark.parametrize(("rule", "products"), [("forward", 8), ("reverse", 10), ("markowitz", 7), ("optimal", 7)])
def test_a_small_program_takes_fewest_multiplications_inside_out(rule: str, products: int) -> None:
    """t = x0·sin(x0·x1); x0 = cos(t); x1 = t/x1, the example of Naumann's lectures; counts worked out on paper.

    v1 = x0·x1, v2 = sin(v1), v3 = x0·v2, v4 = cos(v3), v5 = v3/x1. Forward: 2 + 2 + 4; reverse:
    4 + 2 + 4; v2 first: 1 + 2 + 4.
    """
    x0, x1, v1, v2, v3, v4, v5 = range(7)
    edges = [(x0, v1), (x1, v1), (v1, v2), (x0, v3), (v2, v3), (v3, v4), (v3, v5), (x1, v5)]
    done = elimination_by(Blocks(dict.fromkeys(range(7), 1), dict.fromkeys(edges, "dense")), rule)  # type: ignore[arg-type]
    assert (done.products, done.flops) == (products, 2 * products)


@st.composite
def meshes(draw: st.DrawFn, most: int = 5) -> Blocks:
    """Dense blocks on up to two inputs, `most` intermediates and two outputs, all on a path."""
    inputs, inner, outputs = draw(st.integers(1, 2)), draw(st.integers(1, most)), draw(st.integers(1, 2))
    total = inputs + inner + outputs
    edges = {}
    for v in range(inputs, total):
        earlier = list(range(min(v, inputs + inner)))
        for u in draw(st.lists(st.sampled_from(earlier), min_size=1, max_size=3, unique=True)):
            edges[u, v] = "dense"
    for u in range(inputs + inner):
        if not any(e[0] == u for e in edges):
            edges[u, total - 1] = "dense"
    return Blocks({v: draw(st.integers(1, 6)) for v in range(total)}, edges)


@given(blocks=meshes())
def test_the_best_order_is_the_cheapest_of_all(blocks: Blocks) -> None:
    costs = {order: counted(blocks, order) for order in permutations(blocks.intermediates)}
    for rule in RULES:
        done = elimination_by(blocks, rule)
        assert (done.flops, done.products, done.fill_in) == costs[done.order]
    assert elimination_by(blocks, "optimal").flops == min(flops for flops, _, _ in costs.values())


@given(blocks=meshes(most=9))
def test_markowitz_takes_the_cheapest_vertex_each_time(blocks: Blocks) -> None:
    order = elimination_by(blocks, "markowitz").order
    for k in range(len(order)):
        assert counted_prefix(blocks, order[: k + 1]) == min(counted_prefix(blocks, (*order[:k], v)) for v in order[k:])


def counted_prefix(blocks: Blocks, order: tuple[int, ...]) -> int:
    """Flops of eliminating some vertices only."""
    edges, flops = set(blocks.edges), 0
    for v in order:
        sources, targets = {u for u, w in edges if w == v}, {w for u, w in edges if u == v}
        flops += sum(2 * blocks.sizes[p] * blocks.sizes[v] * blocks.sizes[s] for p in sources for s in targets)
        edges = {e for e in edges if v not in e} | {(p, s) for p in sources for s in targets}
    return flops


@given(sizes=st.lists(st.integers(1, 50), min_size=2, max_size=9))
def test_on_a_chain_elimination_orders_are_bracketings(sizes: list[int]) -> None:
    graph = chain(sizes=sizes)
    for order in ("forward", "reverse", "optimal"):
        eliminated = replay(load().call("vertex_elimination", graph, order=order))
        chained = replay(load().call("jacobian_chain", graph, order=order))
        assert eliminated.flops == chained.flops
        if order != "optimal":
            assert eliminated.actions == chained.actions


@given(graph=graphs(wrt="input"), rule=st.sampled_from(RULES))
def test_the_schedule_does_the_products_that_were_planned(graph: Graph, rule: str) -> None:
    schedule = load().call("vertex_elimination", graph, order=rule)
    plan = elimination_by(blocks_of(graph), rule)  # type: ignore[arg-type]
    done = replay(schedule)
    assert (done.flops.product, done.actions["multiply"]) == (plan.flops, plan.products)
    assert done.actions["jacobian"] == len(blocks_of(graph).edges)
    assert done.actions["forward"] == len(graph)
    assert dict(schedule.notes)["fill-in"] == str(plan.fill_in)


TWO_AND_TWO = (
    {"name": "a", "op": "linear", "features": 4, "inputs": ["x"]},
    {"name": "b", "op": "tanh", "inputs": ["a"]},
    {"name": "c", "op": "linear", "features": 4, "inputs": ["y"]},
    {"name": "d", "op": "mul", "inputs": ["b", "c"]},
    {"name": "e", "op": "add", "inputs": ["d", "a"]},
    {"name": "f", "op": "linear", "features": 2, "inputs": ["e"]},
    {"name": "g", "op": "sigmoid", "inputs": ["e"]},
)


@pytest.mark.parametrize("rule", RULES)
def test_several_inputs_and_outputs_have_their_places_in_the_jacobian(rule: str) -> None:
    places = {"x": {"shape": [3, 5], "dtype": "float64"}, "y": {"shape": [3, 2], "dtype": "float64"}}
    graph = load_families().call("layers", layers=[dict(x) for x in TWO_AND_TWO], inputs=places).configured(wrt="input")
    inputs, parameters = inputs_for(graph, 1), parameters_for(graph, 2)
    schedule = load().call("vertex_elimination", graph, order=rule)
    found = execute(schedule, inputs, parameters)
    check_bytes(rule, schedule, found)
    expected = execute(load().call("reverse_full", graph), inputs, parameters)
    assert found.jacobian is not None
    assert expected.jacobian is not None
    np.testing.assert_allclose(found.jacobian, expected.jacobian, rtol=1e-12, atol=1e-12)


def test_a_block_of_a_diagonal_and_a_dense_path_is_dense() -> None:
    """x → a → b and x → b, a layer and its skip: the skip alone would be diagonal."""
    blocks = Blocks({0: 4, 1: 4, 2: 4}, {(0, 1): "dense", (1, 2): "diagonal", (0, 2): "diagonal"}, batch=2)
    assert blocks.structure(0, 2) == "dense"
    assert elimination_by(blocks, "forward").flops == 2 * 4 * 4  # rows scaled, for each of two samples


def test_effects_answers_for_what_is_added() -> None:
    graph = chain(sizes=[3, 2, 4])
    actions = list(load().call("vertex_elimination", graph))
    formed = next(a for a in actions if a.kind == "jacobian")
    product = next(a for a in actions if a.kind == "multiply")
    assert [str(v) for v in effects(graph, formed).accumulates] == ["jacobian(layer1 by x)"]
    assert effects(graph, product).flops == 2 * 4 * 2 * 3


def test_what_it_does_not_apply_to_is_refused() -> None:
    with pytest.raises(NotApplicable, match="at most 14 intermediates"):
        load().call("vertex_elimination", chain(length=16), order="optimal")
    mlp = load_families().call("mlp", widths=[3, 2, 1], batch=2).configured(wrt="parameters")
    with pytest.raises(NotApplicable, match="Set wrt: input"):
        load().call("vertex_elimination", mlp)
