"""The recurrence of optimal checkpointing, compiled: a state's transitions to smaller states.

A *state* (s, t, variant) is: do the VJPs t … s, given the cotangent of stage t. Its variant says

    back      how many stages before s the source lies: what crosses cut s - back is in memory
    outlives  (back = 0) the source outlives the state, because an outer VJP reads it
    held      what VJP t needs of forward t (its residual, its output) is in memory already
    holds     (back > 0) what VJP s - 1 needs of forward s - 1 is in memory when the state is done

and a *transition* does it by at most two smaller states. With u = s - back:

    BASE        s = t: forward s unless it is held; VJP s
    KEEP        forward s, holding what VJP s needs; s+1 … t; VJP s
    DROP        forward u and forget the source; s … t from cut u + 1
    NOW         VJP t at once, where it is held; then s … t-1
    SPLIT       with the source in memory, forward u … k-1; k+d … t from cut k; then s … k+d-1
    SPLIT_HELD  the same, and what VJP k+d-1 needs is held until then

The README beside this file works them through. Memory is counted without the gradients that later stages
have left.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.base.compiled import compiled
from sim.graphs.node import Ints
from sim.strategies.optimal.stages import (
    COST,
    COTANGENTS,
    FREE,
    GRADIENTS,
    OUTPUT,
    PASSING,
    READS,
    READS_INPUT,
    READS_OUTPUT,
    RESIDUAL,
    SAVING,
    SIZES,
    VJP_PEAK,
    Stages,
)

Ints32 = NDArray[np.int32]

INFINITE = 2**60
BASE, KEEP, DROP, NOW, SPLIT, SPLIT_HELD = range(6)
TRANSITION_FIELDS, STATE_FIELDS = 12, 4
PEAK, OWN_COST, KIND, CUT, ONE, TWO = 0, 1, 2, 3, 4, 8
S, T, V, HELD = range(STATE_FIELDS)
"""A transition is a row of numbers: its own actions take PEAK bytes and cost OWN_COST; KIND and CUT say which forwards
are done. At ONE and TWO begin its states (S, T, V), S below 0 where there is none, and the bytes HELD beside each."""


class Problem(NamedTuple):
    """The stages as the recurrence reads them, sizes in units that divide them all, and sums over earlier stages."""

    table: Ints  # (n, FIELDS)
    crossing: Ints  # (n, n)
    cost_before: Ints  # (n + 1,)
    gradients_before: Ints  # (n + 1,)
    reach: int  # the largest `back`


class States(NamedTuple):
    """The numbers of the states: alike where their stages cost the same things, (ids[s, t], variant) in one."""

    same: Ints32  # (n, n): the first s' whose stages s' … s' + t - s are like s … t
    ids: Ints32  # (n, n)
    number: int


def problem_of(stages: Stages, unit: int, reach: int) -> Problem:
    """The problem of planning some stages, all of whose sizes `unit` divides."""
    table = stages.table.copy()
    table[:, SIZES] = np.where(table[:, SIZES] > 0, table[:, SIZES] // unit, table[:, SIZES])
    cost, gradients = (np.concatenate([[0], np.cumsum(table[:, column])]) for column in (COST, GRADIENTS))
    return Problem(table, stages.crossing // unit, cost, gradients, reach)


def states_of(problem: Problem) -> States:
    """The states of a problem, numbered."""
    table, n = problem.table, len(problem.table)
    before = np.concatenate([[0], table[:-1, READS_OUTPUT]])
    columns = [table, before[:, None], problem.crossing.diagonal()[:, None], (np.arange(n) == n - 1)[:, None]]
    alike = np.unique(np.concatenate(columns, axis=1), axis=0, return_inverse=True)[1]
    same = equal_stages(alike.astype(np.int64).reshape(-1), problem.reach)
    ids, distinct = numbered(same)
    return States(same, ids, distinct * variants(problem.reach))


@compiled
def variants(reach: int) -> int:
    """The number of variants."""
    return 4 * (reach + 1)


@compiled
def encode(back: int, outlives: int, held: int, holds: int) -> int:
    """The number of a variant; those with the source at s come first."""
    return 2 * held + outlives if back == 0 else 4 * back + 2 * holds + held


@compiled
def decode(variant: int) -> tuple[int, int, int, int]:
    """(back, outlives, held, holds) of a variant."""
    if variant < 4:
        return 0, variant & 1, variant >> 1, 0
    return variant >> 2, 0, variant & 1, variant >> 1 & 1


@compiled
def place(n: int, reach: int, s: int, t: int, variant: int) -> int:
    """The place of a state in an array of all, alike or not."""
    return (s * n + t) * variants(reach) + variant


@compiled
def normal(table: Ints, t: int, held: int) -> int:
    """`held` as the state has it: what is free is always held, and the last stage never is."""
    if t == len(table) - 1:
        return 0
    return 1 if table[t, FREE] else held


@compiled
def exists(table: Ints, s: int, t: int, variant: int) -> bool:
    """Tell whether any transition asks for this state."""
    back, outlives, held, holds = decode(variant)
    if normal(table, t, held) != held:
        return False
    if back == 0:
        return not outlives or (s > 0 and table[s - 1, READS_OUTPUT] == 1)
    return s - back >= 1 and not (holds and table[s - 1, FREE])


@compiled
def row_of(row: Ints32, n: int, reach: int, transition: Ints, state: int) -> int:
    """The row of the state at ONE or TWO of a transition; 0, that of no stages, where there is none."""
    w = transition
    return row[place(n, reach, w[state], w[state + T], w[state + V])] if w[state] >= 0 else 0


@compiled
def number_of(ids: Ints32, reach: int, transition: Ints, state: int, nothing: int) -> int:
    """The number of the state at ONE or TWO of a transition; `nothing` where there is none."""
    w = transition
    return ids[w[state], w[state + T]] * variants(reach) + w[state + V] if w[state] >= 0 else nothing


@compiled
def _add(out: Ints, count: int, kind: int, cut: int, peak: int, cost: int) -> None:
    """Write the next transition, without a second state."""
    w = out[count]
    w[PEAK], w[OWN_COST], w[KIND], w[CUT] = peak, cost, kind, cut
    w[TWO], w[TWO + HELD] = -1, 0


@compiled
def _state(out: Ints, count: int, state: int, held: int, s: int, t: int, variant: int) -> None:
    w = out[count]
    w[state], w[state + T], w[state + V], w[state + HELD] = s, t, variant, held


@compiled
def most_transitions(n: int, reach: int) -> int:
    """More transitions than any state has."""
    return 2 * (reach + 1) * n + 4


@compiled
def transitions_of(problem: Problem, s: int, t: int, variant: int, out: Ints) -> int:
    """Fill `out` with the transitions of a state; return how many there are."""
    table, crossing, cost_before, gradients_before, reach = problem
    back, outlives, held, holds = decode(variant)
    u = s - back
    beside = table[t, COTANGENTS] + (table[t, RESIDUAL] + table[t, OUTPUT] if held else 0)
    n = 0
    if back == 0:
        longer = max(0, crossing[s, s] - table[s, READS]) if outlives else 0
        left = gradients_before[t + 1] - gradients_before[s + 1]  # by the stages of this state after s
        vjp = table[s, VJP_PEAK] + longer + left if table[s, VJP_PEAK] >= 0 else 0
        forward = crossing[s, t] + table[s, SAVING] + beside
        if s == t:
            _add(out, 0, BASE, s, vjp if held else max(forward, vjp), 0 if held else table[s, COST])
            _state(out, 0, ONE, 0, -1, -1, 0)
            return 1
        _add(out, n, KEEP, s, max(forward, vjp), table[s, COST])
        stays = table[s, RESIDUAL] + (crossing[s, t] if outlives else table[s, READS])
        _state(out, n, ONE, stays, s + 1, t, encode(0, table[s, READS_OUTPUT], held, 0))
    elif back == 1 and holds:
        _add(out, n, DROP, u, crossing[u, t] + table[u, SAVING] + beside, table[u, COST])
        _state(out, n, ONE, table[u, RESIDUAL], s, t, encode(0, table[u, READS_OUTPUT], held, 0))
    else:
        _add(out, n, DROP, u, crossing[u, t] + table[u, PASSING] + beside, table[u, COST])
        _state(out, n, ONE, 0, s, t, encode(back - 1, 0, held, holds))
    n += 1
    if held and s < t and not table[t, READS_INPUT]:
        _add(out, n, NOW, t, crossing[u, t - 1] + table[t, VJP_PEAK] if table[t, VJP_PEAK] >= 0 else 0, 0)
        left = gradients_before[t + 1] - gradients_before[t]
        _state(out, n, ONE, left, s, t - 1, encode(back, outlives, normal(table, t - 1, 0), holds))
        n += 1
    first = crossing[u, t] + table[u, PASSING] + beside
    before = running = 0  # the most that the forwards after u take, without the source: but the last, and all
    for k in range(u + 1, t + 1):
        i = k - 1
        if i > u:
            before, running = running, max(running, crossing[i, t] + table[i, PASSING] + beside)
        cost = cost_before[k] - cost_before[u]
        for d in range(min(reach, t - k) + 1):
            k2 = k + d
            if k2 <= s:
                continue
            source = crossing[u, k2 - 1]
            advance = max(first, source + running) if i > u else first
            left = gradients_before[t + 1] - gradients_before[k2]
            free = table[k2 - 1, FREE]
            _add(out, n, SPLIT, k, advance, cost)
            _state(out, n, ONE, source, k2, t, encode(d, 0, held, 0))
            _state(out, n, TWO, left, s, k2 - 1, encode(back, outlives, 1 if free else 0, holds))
            n += 1
            if free:
                continue
            if d == 0:
                peak = crossing[i, t] + table[i, SAVING] + beside
                if i > u:
                    peak = max(first, source + max(before, peak))
                _add(out, n, SPLIT_HELD, k, peak, cost)
                _state(out, n, ONE, source + table[i, RESIDUAL], k, t, encode(0, table[i, READS_OUTPUT], held, 0))
            else:
                _add(out, n, SPLIT_HELD, k, advance, cost)
                _state(out, n, ONE, source, k2, t, encode(d, 0, held, 1))
            _state(out, n, TWO, left, s, k2 - 1, encode(back, outlives, 1, holds))
            n += 1
    return n


@compiled
def equal_stages(alike: Ints, reach: int) -> Ints32:
    """For s ≤ t, the first s' whose stages s'-reach … s'+t-s cost what those around s … t do."""
    n = len(alike)
    common = np.zeros((n + 1, n + 1), dtype=np.int32)  # of the rows of stages from i and from j
    for i in range(n - 1, -1, -1):
        for j in range(n - 1, i, -1):
            common[i, j] = common[i + 1, j + 1] + 1 if alike[i] == alike[j] else 0
    out = np.empty((n, n), dtype=np.int32)
    for s in range(n):
        done = s
        for other in range(reach + 1 if reach else 0, s):
            stop = min(n, s - reach + common[other - reach, s - reach])
            for t in range(done, stop):
                out[s, t] = other
            done = max(done, stop)
        for t in range(done, n):
            out[s, t] = s
    return out


@compiled
def numbered(same: Ints32) -> tuple[Ints32, int]:
    """(ids, how many): a number for each pair s ≤ t of stages that cost different things."""
    n = len(same)
    ids = np.empty((n, n), dtype=np.int32)
    distinct = 0
    for t in range(n):
        for s in range(t, -1, -1):
            if same[s, t] == s:
                ids[s, t] = distinct
                distinct += 1
            else:
                ids[s, t] = ids[same[s, t], t - s + same[s, t]]
    return ids, distinct
