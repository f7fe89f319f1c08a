"""Binomial checkpointing: the fewest evaluations of equal steps for so many checkpoints.

Griewank & Walther, Algorithm 799: Revolve, ACM TOMS 26(1), 2000, doi:10.1145/347837.347846.
"""

from __future__ import annotations

from math import comb
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sim.base.compiled import compiled, put
from sim.base.errors import CountOverflow
from sim.base.registry import Count
from sim.graphs.graph import Graph
from sim.schedules.schedule import Schedule
from sim.strategies.checkpointing.segments import Cotangents, from_plan, schedules

MOST_ACTIONS = 2**31 - 1


def check_count(graph: Graph, *, slots: int) -> None:
    """Raise CountOverflow for more actions than a schedule has room for."""
    _check_actions(len(graph.step_starts) - 1, slots)


@schedules.register("binomial", requires=check_count)
def binomial(
    graph: Graph,
    *,
    slots: Annotated[Count, Field(description="checkpoints held at once, the input counted as one")],
    chunk: Cotangents = None,
) -> Schedule:
    """Fewest evaluations of equal steps for so many checkpoints, the input counted as one.

    With C(s+r-1, s) < l ≤ C(s+r, s) they are l + r·l - C(s+r, s+1) (Griewank & Walther 2000).
    Prefer `optimal` where steps differ in cost or size.
    """
    return from_plan(graph, binomial_plan(len(graph.step_starts) - 1, slots), chunk)


def repetitions(length: int, slots: int) -> int:
    """The repetition number r: the smallest with length ≤ C(slots + r, slots).

    >>> repetitions(10, 3)
    2
    """
    r = 0
    while comb(slots + r, slots) < length:
        r += 1
    return r


def forward_count(length: int, slots: int) -> int:
    """Evaluations of a step in all: l + r·l - C(s+r, s+1), the taping ones included.

    >>> [forward_count(l, s) for l, s in ((2, 1), (10, 3), (1000, 10))]
    [3, 25, 4636]
    """
    r = repetitions(length, slots)
    return length + r * length - comb(slots + r, slots + 1)


def binomial_plan(length: int, slots: int) -> NDArray[np.int32]:
    """The plan for `length` steps: k evaluates step k, ~k is its adjoint (see `checkpointing.Plan`).

    More slots than steps are not used.

    Raises
    ------
    CountOverflow
        If the plan would have more than 2^31 - 1 actions.
    """
    slots = min(slots, length)
    actions = _check_actions(length, slots)
    r = repetitions(length, slots)
    # C(a + b, a) for a ≤ slots and b ≤ r, cut off at length, where its exact value no longer matters
    table = np.array([[min(comb(a + b, a), length) for b in range(r + 1)] for a in range(slots + 1)], dtype=np.int64)
    plan: NDArray[np.int32] = emit(length, slots, r, table, actions)
    return plan


def _check_actions(length: int, slots: int) -> int:
    """The actions of a plan, if a schedule has room for so many."""
    slots = min(slots, length)
    actions = forward_count(length, slots) + length
    if actions > MOST_ACTIONS:
        raise CountOverflow(
            f"{length} steps with {slots} checkpoints take {actions:,} actions, more than 2^31 - 1; use more slots"
        )
    return actions


@compiled
def emit(length: Any, slots: Any, repetition: Any, reach: Any, actions: Any) -> Any:
    """Steps of the plan. A stack entry (a, b, s, r): step a … b-1 from the stored state before a.

    Splitting l steps at k is optimal if the right part (with one slot less) is done with repetition
    r and the left with r-1; `reach[s, r]` steps can be done with s slots and repetition r.
    """
    plan = np.empty(actions, dtype=np.int32)
    stack = np.empty((slots + 4, 4), dtype=np.int64)
    put(stack, 0, 0, length, slots, repetition)
    top, out = 1, 0
    while top:
        top -= 1
        a, b, s, r = stack[top]
        size = b - a
        while s > 0 and r > 0 and size <= reach[s, r - 1]:
            r -= 1
        if size == 1:
            plan[out], plan[out + 1] = a, ~a
            out += 2
        elif s == 1:
            for i in range(b - 1, a - 1, -1):
                for j in range(a, i + 1):
                    plan[out] = j
                    out += 1
                plan[out] = ~i
                out += 1
        else:
            # smallest advance that leaves the right part within reach and the left not too small
            k = max(size - reach[s - 1, r], reach[s, r - 2] if r >= 2 else 1, 1)
            for j in range(a, a + k):
                plan[out] = j
                out += 1
            put(stack, top, a, a + k, s, r)
            put(stack, top + 1, a + k, b, s - 1, r)
            top += 2
    return plan[:out]
