"""Mixed checkpointing: each unit of storage holds a checkpoint or the residual of one step, whichever saves more.

Source: Maddison 2024, Step-based checkpointing with high-level algorithmic differentiation, Journal of
Computational Science 82, 102405, doi:10.1016/j.jocs.2024.102405.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sim.base.compiled import compiled
from sim.base.errors import CountOverflow, NotApplicable
from sim.base.registry import Count
from sim.graphs.graph import Graph
from sim.schedules.schedule import Schedule
from sim.strategies.checkpointing.segments import Cotangents, from_plan, schedules

MOST_ACTIONS = 2**31 - 1
MOST_WORK = 2 * 10**11
"""Transitions that a dynamic program over equal steps may take: about two minutes."""


def check_steps(graph: Graph, *, slots: int) -> None:
    """Raise a refusal for a dynamic program that would run for minutes, or a plan too long."""
    _check_plan(len(graph.step_starts) - 1, slots)


@schedules.register("mixed", requires=check_steps)
def mixed(
    graph: Graph,
    *,
    slots: Annotated[Count, Field(description="units of storage, each for a checkpoint or the residual of a step")],
    chunk: Cotangents = None,
) -> Schedule:
    """Fewest evaluations of equal steps where a unit holds either a checkpoint or a residual (Maddison 2024).

    Prefer it over `binomial` where a step's residual takes about as much as its activation; it is
    planned by a dynamic program over steps² · slots.
    """
    return from_plan(graph, mixed_plan(len(graph.step_starts) - 1, slots), chunk)


def check_work(steps: int, slots: int, schedule: str, *, instead: str = "binomial, which has a closed form") -> None:
    """Raise `NotApplicable` unless a dynamic program of steps² · slots / 2 transitions is bearable.

    Raises
    ------
    NotApplicable
        If it would run for more than some minutes.
    """
    if steps * steps // 2 * slots > MOST_WORK:
        raise NotApplicable(
            f"{schedule} is planned by a dynamic program over steps² · slots; {steps:,} steps with {slots:,} slots "
            f"are too many. Use schedule: {instead}"
        )


def _check_plan(length: int, slots: int) -> None:
    if slots >= length - 1:  # every residual is kept
        return
    check_work(length, slots, "mixed")
    if slots <= 1 and length * (length + 1) // 2 > MOST_ACTIONS:
        raise CountOverflow(f"{length} steps with one unit take more than 2^31 - 1 actions; use more slots")


def forward_count(length: int, slots: int) -> int:
    """Evaluations of a step in all, the taping ones included.

    >>> [forward_count(n, s) for n, s in ((2, 1), (5, 2), (10, 3), (50, 5), (100, 10))]
    [2, 8, 19, 138, 237]
    """
    slots = min(slots, length - 1)
    return int(_solve(length, slots)[0][slots, length])


def mixed_plan(length: int, slots: int) -> NDArray[np.int32]:
    """The plan for `length` steps: k evaluates step k, ~k is its adjoint (see `checkpointing.Plan`).

    The input takes a unit only while it is kept to restart from, and the last step, whose adjoint
    follows at once, takes none. More units than `length - 1` are not used.

    Raises
    ------
    NotApplicable
        If the dynamic program would run for more than some minutes.
    CountOverflow
        If the plan would have more than 2^31 - 1 actions.
    """
    slots = min(slots, length - 1)
    if slots == length - 1:  # every residual is kept
        steps = np.arange(length, dtype=np.int32)
        return np.concatenate([steps, ~steps[::-1]])
    _check_plan(length, slots)
    cost, advance = _solve(length, slots)
    actions = int(cost[slots, length]) + length
    if actions > MOST_ACTIONS:
        raise CountOverflow(
            f"{length} steps with {slots} units take {actions:,} actions, more than 2^31 - 1; use more slots"
        )
    plan: NDArray[np.int32] = _emit(length, slots, advance, actions)
    return plan


@compiled
def _solve(length: Any, slots: Any) -> Any:
    """(forwards, advance) by (units, steps); `advance` 1 keeps the residual of the first step.

    An advance of i ≥ 2 keeps the input in one of the units, does the last n - i steps with the
    others, and then the first i from the input.
    """
    cost = np.zeros((slots + 1, length + 1), dtype=np.int64)
    advance = np.ones((slots + 1, length + 1), dtype=np.int32)
    cost[:, 1] = 1
    for s in range(1, slots + 1):
        for n in range(2, length + 1):
            best, at = 1 + cost[s - 1, n - 1] if n == 2 or s > 1 else np.int64(2) ** 62, 1
            if n > s + 1:
                if s == 1:
                    best, at = np.int64(n) * (n + 1) // 2 - 1, n - 1
                else:
                    for i in range(2, n):
                        c = i + cost[s, i] + cost[s - 1, n - i]
                        if c < best:
                            best, at = c, i
            cost[s, n], advance[s, n] = best, at
    return cost, advance


@compiled
def _emit(length: Any, slots: Any, advance: Any, actions: Any) -> Any:
    """Actions of the plan. A stack entry (a, n, s): n steps from a with s units; n = 0: the adjoint of a."""
    plan = np.empty(actions, dtype=np.int32)
    stack = np.empty((length + slots + 4, 3), dtype=np.int64)
    stack[0] = (0, length, slots)
    top, out = 1, 0
    while top:
        top -= 1
        a, n, s = stack[top]
        if n == 0:
            plan[out] = ~a
            out += 1
            continue
        if n == 1 or advance[s, n] == 1:
            plan[out] = a
            out += 1
            stack[top] = (a, 0, 0)
            top += 1
            if n > 1:
                stack[top] = (a + 1, n - 1, s - 1)
                top += 1
            continue
        i = np.int64(advance[s, n])
        for k in range(a, a + i):
            plan[out] = k
            out += 1
        stack[top] = (a, i, s)
        stack[top + 1] = (a + i, n - i, s - 1)
        top += 2
    return plan
