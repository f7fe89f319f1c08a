"""Orders of Jacobian products: the planners against an enumeration of every bracketing and mode, and their promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.base.errors import CountOverflow, ParameterError
from sim.graphs.graph import Graph
from sim.models.families import load as load_families
from sim.models.families.chain import chain
from sim.schedules.replay import replay
from sim.strategies import load
from sim.strategies.jacobians.chaining import Chain
from sim.strategies.jacobians.in_memory import chaining_front
from sim.strategies.jacobians.interleave import Move, Step, best_order, steps_of
from sim.strategies.jacobians.matrix_chain import Bracketing, Elements, best_matrix_free, best_product, in_order
from sim.strategies.jacobians.search import Search


@st.composite
def chains(draw: st.DrawFn, most: int = 5) -> Graph:
    """Chains of Jacobians with any sizes, costs and bytes."""
    length = draw(st.integers(1, most))

    def column(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=length, max_size=length))

    return chain(
        sizes=draw(st.lists(st.integers(1, 6), min_size=length + 1, max_size=length + 1)),
        jacobian_flops=column(0, 100),
        jvp_flops=column(1, 40),
        vjp_flops=column(1, 40),
        activation_bytes=column(0, 200),
        residual_bytes=column(0, 200),
        workspace_bytes=column(0, 100),
        needs=draw(st.lists(st.sampled_from(["none", "input", "output", "both"]), min_size=length, max_size=length)),
    )


def every_tree(i: int, j: int) -> Iterator[Bracketing]:
    """Every bracketing of elements i … j with every mode of each step, products alone in both orders."""
    if i == j:
        for how in ("form", "tangent", "adjoint"):
            yield Bracketing(i, i, how)
    for k in range(i, j):
        late, early = list(every_tree(k + 1, j)), list(every_tree(i, k))
        for left in late:
            yield Bracketing(i, j, "adjoint", left=left, left_first=True)
            for right in early:
                yield Bracketing(i, j, "multiply", left, right)
                yield Bracketing(i, j, "multiply", left, right, left_first=True)
        for right in early:
            yield Bracketing(i, j, "tangent", right=right)


def published_cost(e: Elements, tree: Bracketing, tape: int) -> float:
    """Flops of a tree of dense products, tangents and adjoints; infinite where a tape is over its limit."""
    n, total = e.sizes.tolist(), 0.0
    for part in tree.parts():
        i, j = part.first, part.last
        if part.how == "form":
            return float("inf")
        if part.how == "multiply":
            assert part.right is not None
            total += 2 * n[j + 1] * n[part.right.last + 1] * n[i] * e.batch
        elif part.how == "tangent":
            total += n[i] * int(e.tangent[part.right.last + 1 if part.right else i : j + 1].sum())
        else:
            through = slice(i, part.left.first if part.left else j + 1)
            total += n[j + 1] * int(e.adjoint[through].sum()) if e.tape[through].sum() <= tape else float("inf")
    return total


@given(graph=chains(most=4), share=st.sampled_from([0.0, 0.3, 0.6, 1.0]))
def test_matrix_free_is_the_best_of_all_bracketings_within_the_tape(graph: Graph, share: float) -> None:
    """Naumann, arXiv 2406.11862."""
    elements = Chain(graph).elements()
    tape = int(share * elements.tape.sum())
    trees = [t for t in every_tree(0, len(elements) - 1) if not t.left_first or t.how == "adjoint"]
    cost, tree = best_matrix_free(elements, tape=tape)
    assert cost == min(published_cost(elements, t, tape) for t in trees)
    assert cost == published_cost(elements, tree, tape)
    done = replay(load().call("jacobian_chain", graph, order="optimal_matrix_free", tape=tape))
    assert done.flops.total == graph.forward_flops + cost


@pytest.mark.parametrize(
    ("sizes", "forward", "reverse", "best"),
    [([10, 2, 100, 20], 22_000, 4_400, 4_400), ([100, 5, 100, 5, 100], 150_000, 150_000, 55_000)],
)
def test_product_orders_cost_the_published_multiply_adds(
    sizes: list[int], forward: int, reverse: int, best: int
) -> None:
    """Multiply-adds x·b·(a+y), y·a·(b+x) and the cheapest order, worked out on paper; 2 flops each."""
    costs = {
        order: replay(load().call("jacobian_chain", chain(sizes=sizes), order=order)).flops.product
        for order in ("forward", "reverse", "optimal")
    }
    assert costs == {"forward": 2 * forward, "reverse": 2 * reverse, "optimal": 2 * best}


@pytest.mark.parametrize(("tape", "flops", "text"), [(None, 4_800, "((F3→F2→)←F1)"), (0, 5_400, "((F3→F2→)·F1→)")])
def test_a_tape_limit_forbids_adjoints(tape: int | None, flops: int, text: str) -> None:
    """Sizes 10, 2, 100, 20; one sweep through F1, F2, F3 costs 20, 200, 2,000; a tape of one byte each.

    F2 by 2 tangents (400), pushed through F3 (2·2,000); then 20 adjoints through F1 (20·20): 4,800.
    Without adjoints F1 takes 10 tangents (200) and a product of 2·20·2·10 instead: 5,400.
    """
    graph = chain(sizes=[10, 2, 100, 20], residual_bytes=1, jvp_flops=[20, 200, 2000], vjp_flops=[20, 200, 2000])
    cost, tree = best_matrix_free(Chain(graph).elements(), tape=tape)
    assert (cost, str(tree)) == (flops, text)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(graph=chains(most=3))
def test_the_front_is_that_of_all_schedules_replayed(graph: Graph) -> None:
    jacobians = Chain(graph)
    seen = set()
    for tree in every_tree(0, len(jacobians) - 1):
        for interleaved in (False, True):
            cost = replay(jacobians.schedule(tree, interleaved=interleaved))
            seen.add((cost.peak_bytes, cost.flops.total))
    best = [p for p in sorted(seen) if all(p[1] < q[1] for q in seen if q[0] < p[0] or (q[0] == p[0] and q != p))]
    fixed = graph.resident_bytes, graph.forward_flops
    found = Search(jacobians.elements(), jacobians.memory()).front()
    assert [(p.peak_bytes + fixed[0], p.flops + fixed[1]) for p in found] == best
    # parts interleaved, the peaks may only be lower
    front = chaining_front(graph)
    for peak, flops in best:
        assert front.cost[front.within(peak)] <= flops


@pytest.mark.parametrize("flops", [2**56, 2**61])
def test_sums_of_flops_beyond_64_bits_are_refused(flops: int) -> None:
    """Two elements: their 2^61 flops by tangents and as many by adjoints add up to 2^63 and were taken for -2^63."""
    graph = chain(sizes=[1, 1, 1], jvp_flops=flops, vjp_flops=flops, jacobian_flops=1)
    front = chaining_front(graph)  # in Python integers: two Jacobians formed, 1 + 1, and their product, 2
    assert front.cost[-1] == graph.forward_flops + 4
    if flops < 2**60:
        done = replay(load().call("jacobian_chain", graph, order="optimal_matrix_free"))
        assert done.flops.total == graph.forward_flops + 2 * flops
        return
    with pytest.raises(CountOverflow, match=r"up to 2\^61 flops"):
        load().call("jacobian_chain", graph, order="optimal_matrix_free")


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(data=st.data(), length=st.integers(1, 3))
def test_flops_beyond_53_bits_are_compared_exactly(data: st.DataObject, length: int) -> None:
    near = st.integers(2**58, 2**58 + 3)
    columns = {key: data.draw(st.lists(near, min_size=length, max_size=length)) for key in ("jvp_flops", "vjp_flops")}
    graph = chain(sizes=[1] * (length + 1), jacobian_flops=2**60, residual_bytes=1, **columns)
    jacobians = Chain(graph)
    least = min(replay(jacobians.schedule(tree, interleaved=True)).flops.total for tree in every_tree(0, length - 1))
    assert chaining_front(graph).cost[-1] == least


@st.composite
def trees(draw: st.DrawFn, i: int, j: int) -> Bracketing:
    if i == j:
        return Bracketing(i, i, draw(st.sampled_from(["form", "tangent", "adjoint"])))
    k, how = draw(st.integers(i, j - 1)), draw(st.sampled_from(["multiply", "multiply", "tangent", "adjoint"]))
    left = draw(trees(k + 1, j)) if how != "tangent" else None
    right = draw(trees(i, k)) if how != "adjoint" else None
    return Bracketing(i, j, how, left, right)


def all_orders(
    steps: list[Step], elements: int, done: tuple[int, ...] = (), evaluated: int = 0
) -> Iterator[list[Move]]:
    """Every order of evaluations and steps in which each finds what it needs."""
    if len(done) == len(steps) and evaluated == elements:
        yield []
    if evaluated < elements:
        for rest in all_orders(steps, elements, done, evaluated + 1):
            yield [Move(evaluated, -1), *rest]
    for s, step in enumerate(steps):
        if s not in done and set(step.inputs) <= set(done) and step.element < evaluated:
            for rest in all_orders(steps, elements, (*done, s), evaluated):
                yield [Move(-1, s), *rest]


@given(data=st.data(), graph=chains(most=3))
def test_no_order_of_a_bracketing_has_a_lower_peak(data: st.DataObject, graph: Graph) -> None:
    jacobians = Chain(graph)
    elements, memory = jacobians.elements(), jacobians.memory()
    tree = data.draw(trees(0, len(jacobians) - 1))
    found = best_order(elements, memory, tree)
    assert found is not None
    peak, moves = found
    steps = steps_of(elements, memory, tree)
    peaks = [replay(jacobians.ordered(tree, o)).working_bytes for o in all_orders(steps, len(jacobians))]
    assert peak == replay(jacobians.ordered(tree, moves)).working_bytes == min(peaks)


@given(data=st.data(), graph=chains(most=7))
def test_interleaving_parts_keeps_flops_and_never_adds_to_the_peak(data: st.DataObject, graph: Graph) -> None:
    jacobians = Chain(graph)
    elements, memory = jacobians.elements(), jacobians.memory()
    tree = data.draw(trees(0, len(jacobians) - 1))
    apart = Search(elements, memory, only=tree).front()[0]
    found = best_order(elements, memory, tree)
    assert found is not None
    cost = replay(jacobians.ordered(tree, found[1]))
    assert cost.working_bytes == found[0] <= apart.peak_bytes
    assert cost.flops.total == graph.forward_flops + apart.flops


def test_a_search_for_an_order_gives_up_in_time() -> None:
    jacobians = Chain(chain(length=8, jacobian_flops=1))
    tree = in_order(8, forward=True)
    assert best_order(jacobians.elements(), jacobians.memory(), tree, most_states=3) is None


@given(graph=chains(most=9), share=st.sampled_from([None, 0.0, 0.5]))
def test_the_search_promises_what_replay_finds(graph: Graph, share: float | None) -> None:
    jacobians = Chain(graph)
    elements = jacobians.elements()
    tape = None if share is None else int(share * elements.tape.sum())
    for point in Search(elements, jacobians.memory(), tape=tape).front():
        cost = replay(jacobians.schedule(point.tree, interleaved=point.interleaved))
        assert cost.working_bytes == point.peak_bytes
        assert cost.flops.total == graph.forward_flops + point.flops


@given(graph=chains(most=8), tolerance=st.sampled_from([0.01, 0.1, 0.5]))
def test_a_tolerance_costs_no_more_than_it_says(graph: Graph, tolerance: float) -> None:
    jacobians = Chain(graph)
    coarse = Search(jacobians.elements(), jacobians.memory(), tolerance=tolerance).front()
    for exact in Search(jacobians.elements(), jacobians.memory()).front():
        within = [p.flops for p in coarse if p.peak_bytes <= exact.peak_bytes]
        assert min(within) <= (1 + tolerance) * exact.flops * (1 + 1e-9)


@given(graph=chains(most=8))
def test_ordering_a_bracketing_keeps_its_flops_and_never_adds_to_its_peak(graph: Graph) -> None:
    jacobians = Chain(graph)
    cost, tree = best_matrix_free(jacobians.elements())
    (best, *more) = Search(jacobians.elements(), jacobians.memory(), only=tree).front()
    assert (best.flops, more, str(best.tree)) == (cost, [], str(tree))
    assert best.peak_bytes <= replay(jacobians.schedule(tree)).working_bytes


def test_the_front_of_a_long_chain_holds_the_known_orders_or_better() -> None:
    rng = np.random.default_rng(1)
    graph = chain(sizes=rng.integers(1, 30, 61).tolist(), jacobian_flops=1000, residual_bytes=100)
    front = chaining_front(graph)
    for order in ("forward", "reverse", "optimal", "optimal_matrix_free"):
        known = replay(load().call("jacobian_chain", graph, order=order))
        assert front.cost[front.within(known.peak_bytes)] <= known.flops.total, order


@given(graph=chains(most=6))
def test_a_budget_is_kept_at_the_least_flops(graph: Graph) -> None:
    front = chaining_front(graph)
    for peak, flops in zip(front.peak_bytes, front.cost, strict=True):
        call: dict[str, Any] = {"order": "optimal_in_memory", "budget": peak}
        done = replay(load().call("jacobian_chain", graph, **call))
        assert (done.peak_bytes, done.flops.total) == (peak, flops)
    if smallest := front.peak_bytes[0]:
        with pytest.raises(ParameterError, match=rf"smallest peak found is .*\({smallest} bytes") as error:
            load().call("jacobian_chain", graph, order="optimal_in_memory", budget=smallest - 1)
        assert error.value.parameter == ("budget",)


def test_the_bracketing_is_told_with_the_mode_of_each_step() -> None:
    leaf = [Bracketing(i, i, "form") for i in range(5)]
    forward = Bracketing(0, 2, "multiply", leaf[2], Bracketing(0, 1, "multiply", leaf[1], leaf[0]))
    tree = Bracketing(0, 4, "multiply", Bracketing(3, 4, "multiply", leaf[4], leaf[3]), forward)
    assert str(tree) == "((F5·F4)·(F3·(F2·F1)))"
    pushed = Bracketing(0, 2, "tangent", right=Bracketing(0, 0, "tangent"))
    assert str(pushed) == "(F3→(F2→F1→))"
    assert str(Bracketing(0, 2, "adjoint", left=Bracketing(2, 2, "adjoint"), left_first=True)) == "((←F3←F2)←F1)"
    notes = dict(load().call("jacobian_chain", chain(sizes=[10, 2, 100, 20]), order="reverse").notes)
    assert notes == {"bracketing": "((F3·F2)·F1)"}


def test_a_chain_of_thousands_of_elements_can_be_told() -> None:
    assert str(in_order(5000, forward=True)).endswith("F2·F1" + ")" * 4999)


def test_the_best_product_of_the_textbook_example() -> None:
    """Cormen et al., Introduction to Algorithms, 15.2: sizes 30, 35, 15, 5, 10, 20, 25 take 15,125 multiplications.

    A product A1 ⋯ A6 has the dimensions of the chain from its end.
    """
    cost, tree = best_product(Chain(chain(sizes=[25, 20, 10, 5, 15, 35, 30])).elements())
    assert cost == 2 * 15_125
    assert str(tree) == "((F6·(F5·F4))·((F3·F2)·F1))"


def test_on_blocks_of_several_nodes_no_known_order_is_better() -> None:
    """Blocks whose branches are added up, between layers in a row."""
    listed = []
    for b in range(4):
        before = f"s{b - 1}" if b else "x"
        listed += [
            {"name": f"a{b}", "op": "linear", "features": 3 + 2 * b, "inputs": [before]},
            {"name": f"b{b}", "op": "tanh", "inputs": [f"a{b}"]},
            {"name": f"c{b}", "op": "sigmoid", "inputs": [f"a{b}"]},
            {"name": f"s{b}", "op": "add", "inputs": [f"b{b}", f"c{b}"]},
        ]
    graph = load_families().call("layers", layers=listed, inputs={"x": {"shape": [2, 6]}}).configured(wrt="input")
    front = chaining_front(graph)
    for order in ("forward", "reverse", "optimal", "optimal_matrix_free"):
        known = replay(load().call("jacobian_chain", graph, order=order))
        assert front.cost[front.within(known.peak_bytes)] <= known.flops.total, order
