"""Jacobian chaining within a memory budget: the orders that no other beats in both peak bytes and flops."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated

from pydantic import Field

from sim.base.memo import remembered
from sim.base.units import Bytes
from sim.graphs.graph import Graph
from sim.schedules.schedule import Schedule
from sim.strategies.front import Front, Recipe, replayed, unbeaten
from sim.strategies.jacobians.chaining import Chain, check_chain, orders
from sim.strategies.jacobians.interleave import Move, best_order
from sim.strategies.jacobians.matrix_chain import Bracketing, best_matrix_free, best_product, in_order
from sim.strategies.jacobians.search import Search

EXACT_ELEMENTS = 24
"""Up to this many elements the front is searched without tolerance unless one is given: about a second."""
MOST_ELEMENTS = 40
ORDERED_ELEMENTS = 400
REORDERED_ELEMENTS = 10


@remembered
def chaining_front(graph: Graph, *, tape: int | None = None, tolerance: float | None = None) -> Front:
    """The orders that no other beats in both peak bytes and flops, by rising peak.

    On a chain of single nodes of up to 24 elements the front is exact, in the class of
    `sim.strategies.jacobians.search`; with `tolerance` ε (0.05 from 25 to 40 elements unless given) the flops
    are at most (1 + ε) times the least for the peak. Longer chains get the best of a few common orders,
    without a guarantee. Where elements are blocks of several nodes, the search estimates their memory,
    and the common orders compete with it. Up to 10 elements the steps of each of these bracketings are then
    put into the order of least peak, parts interleaved at will. What is reported is what replay says.

    Raises
    ------
    NotApplicable
        As `jacobian_chain`.
    """
    chain = Chain(graph)
    recipes: list[Recipe] = []
    for tree, interleaved in _candidates(chain, tape, tolerance):
        recipes.append(partial(_schedule, tree=tree, interleaved=interleaved))
        if len(chain) <= REORDERED_ELEMENTS:
            order = best_order(chain.elements(), chain.memory(), tree)
            recipes += [partial(_ordered, tree=tree, moves=order[1])] if order else []
    points = unbeaten(replayed(graph, recipes, None))
    return Front(
        peak_bytes=tuple(c.peak_bytes for c in points),
        cost=tuple(c.cost for c in points),
        recipes=tuple(c.recipe for c in points),
        label="orders of products",
        schedules="order of products and sweeps, one part after the other,",
        exact=len(chain) <= MOST_ELEMENTS and chain.is_single,
        tolerance=_tolerance(chain, tolerance),
    )


def _candidates(chain: Chain, tape: int | None, tolerance: float | None) -> Iterator[tuple[Bracketing, bool]]:
    """(bracketing, whether elements are evaluated just before they are needed) of all that may be on the front."""
    elements, memory, length = chain.elements(), chain.memory(), len(chain)
    searched = length <= MOST_ELEMENTS
    searches = []
    if searched:
        searches = [Search(elements, memory, tape=tape, tolerance=_tolerance(chain, tolerance))]
    if not searched or not chain.is_single:
        most = int(elements.tape.sum()) if tape is None else tape
        trees = [in_order(length, forward=True), in_order(length, forward=False), best_product(elements)[1]]
        trees += [best_matrix_free(elements, tape=limit)[1] for limit in sorted({0, most // 4, most // 2, most})]
        if length <= ORDERED_ELEMENTS:
            searches += [Search(elements, memory, only=tree) for tree in trees]
        yield from ((tree, interleaved) for tree in trees for interleaved in (False, True))
    for search in searches:
        yield from ((point.tree, point.interleaved) for point in search.front())


def _tolerance(chain: Chain, asked: float | None) -> float:
    return asked if asked is not None else 0.0 if len(chain) <= EXACT_ELEMENTS else 0.05


def _schedule(graph: Graph, *, tree: Bracketing, interleaved: bool) -> Schedule:
    return Chain(graph).schedule(tree, interleaved=interleaved)


def _ordered(graph: Graph, *, tree: Bracketing, moves: list[Move]) -> Schedule:
    return Chain(graph).ordered(tree, moves)


@orders.register("optimal_in_memory", front=chaining_front, requires=check_chain)
def optimal_in_memory(
    graph: Graph,
    *,
    budget: Annotated[Bytes | None, Field(description="most peak bytes; without it the smallest peak there is")] = None,
    tape: Annotated[Bytes | None, Field(description="most bytes of tape that an adjoint sweep may use")] = None,
    tolerance: Annotated[float | None, Field(ge=0, le=1, description="relative slack in flops, for speed")] = None,
) -> Schedule:
    """The fewest flops whose true peak fits a budget, over products, sweeps, their order and forming Jacobians.

    `chaining_front` gives the orders for all budgets at once.
    """
    front = chaining_front(graph, tape=tape, tolerance=tolerance)
    return front.schedule(graph, 0 if budget is None else front.within(budget))
