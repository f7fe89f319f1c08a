"""Slow, obvious twins of the planner of general graphs, on the arrays of a `Problem` alone."""

from __future__ import annotations

import heapq
from typing import Any

import numba
import numpy as np

from sim.schedules.values import ACCUMULATE, CONSUME, READ, SAVE, WRITE
from sim.strategies.general.problem import Problem, Rows


def touches(problem: Problem, row: int) -> list[tuple[int, int]]:
    """(value, access) of everything a row touches."""
    span = slice(int(problem.ptr[row]), int(problem.ptr[row + 1]))
    return list(zip(problem.value[span].tolist(), problem.access[span].tolist(), strict=True))


def assert_valid(problem: Problem, rows: Rows) -> None:
    """Every row runs as often as it has to, and after what it reads was written."""
    sequence = rows.tolist()
    counts = {r: sequence.count(r) for r in range(len(problem))}
    assert all((counts[r] > 0) == problem.must[r] for r in counts)
    assert all(counts[r] <= 1 for r in counts if problem.once[r])
    added: dict[int, int] = {}
    for k, row in enumerate(sequence):
        for v, access in touches(problem, row):
            if access == READ:
                assert v in added, f"action {k} reads value {v}, which was never written"
            elif access == CONSUME:
                assert added.get(v, 0) == problem.accumulations[v], f"action {k} consumes value {v} too early"
            else:
                added[v] = added.get(v, 0) + 1


def profile(problem: Problem, rows: Rows) -> list[int]:
    """Bytes in memory during each action; raises `AssertionError` where the sequence is not valid."""
    assert_valid(problem, rows)
    sequence = rows.tolist()
    there: set[int] = set()
    during = []
    for k, row in enumerate(sequence):
        saving = False
        for v, access in touches(problem, row):
            if access not in (READ, CONSUME) and (access != SAVE or _is_read_later(problem, sequence, k, v)):
                there.add(v)
                saving = saving or access == SAVE
        workspace = problem.saving_workspace if saving else problem.workspace
        during.append(sum(int(problem.value_bytes[v]) for v in there) + int(workspace[row]))
        there = {v for v in there if _is_read_later(problem, sequence, k, v)}
    return during


def _is_read_later(problem: Problem, sequence: list[int], k: int, v: int) -> bool:
    """Whether value v, in memory after action k, is read before it is written again (or remains to the end)."""
    for row in sequence[k + 1 :]:
        accesses = [access for u, access in touches(problem, row) if u == v]
        if any(access in (READ, CONSUME, ACCUMULATE) for access in accesses):
            return True
        if any(access in (WRITE, SAVE) for access in accesses):
            return False
    return bool(problem.remains[v])


def least_cost(problem: Problem, memory: int, *, order: str = "free", forwards_first: bool = False) -> int | None:
    """The least cost of any plan within so many bytes, by a shortest path over (what has run, what is in memory).

    Every row that can run may run, with or without saving, and everything may be dropped at any time; a run that
    does not save drops what an earlier one saved. Listed: rows that may not run again, or else the first runs of
    all, are in the order given. For up to about 14 rows.
    """
    rows = problem.order.tolist()
    again = [v for v in range(len(problem.value_bytes)) if problem.remaker[v] >= 0]
    once = sorted({int(v) for v in problem.value if problem.remaker[v] < 0})
    bit = {v: 1 << i for i, v in enumerate(again)}
    reads, writes, saves, before = (np.zeros(len(rows), dtype=np.int64) for _ in range(4))
    made, read = (dict.fromkeys(once, 0) for _ in range(2))
    touched = np.zeros((len(rows), len(once) + 1), dtype=np.bool_)
    for i, row in enumerate(rows):
        for v, access in touches(problem, row):
            if v in bit:
                kind = reads if access in (READ, CONSUME) else saves if access == SAVE else writes
                kind[i] |= bit[v]
            else:
                touched[i, once.index(v)] = True
                (read if access in (READ, CONSUME) else made)[v] |= 1 << i
    single = problem.once[rows]
    for v in once:
        before[[i for i in range(len(rows)) if read[v] >> i & 1]] |= made[v]
    before &= ~(1 << np.arange(len(rows)))
    if order == "listed":
        kept = np.flatnonzero(single) if single.any() else np.arange(len(rows))
        before[kept[1:]] |= 1 << kept[:-1]
    if forwards_first:
        before[single] |= sum(1 << i for i in np.flatnonzero(~single).tolist())
    cost = _cheapest_path(
        reads, writes, saves, before, touched, single, problem.cost[rows], problem.workspace[rows],
        problem.saving_workspace[rows], np.array([*made.values(), 0]),
        np.array([*((1 << 62) if problem.remains[v] else read[v] for v in once), 0]),
        np.array([*problem.value_bytes[once].tolist(), 0]), problem.value_bytes[again],
        sum(bit[v] for v in again if problem.remains[v]), memory,
    )  # fmt: skip
    return None if cost < 0 else int(cost)


def true_front(problem: Problem) -> list[tuple[int, int]]:
    """Every breakpoint (memory, cost) of the exhaustive optimum, by bisection."""
    out: list[tuple[int, int]] = []
    known: dict[int, int | None] = {}

    def cost(memory: int) -> int | None:
        if memory not in known:
            known[memory] = least_cost(problem, memory)
        return known[memory]

    top = int(problem.value_bytes.sum() + problem.workspace.max() + problem.saving_workspace.max())
    while (best := cost(top)) is not None:
        low, high = -1, top
        while high - low > 1:
            middle = (low + high) // 2
            found = cost(middle)
            low, high = (low, middle) if found is not None and found <= best else (middle, high)
        out.append((high, best))
        top = high - 1
    return out


@numba.njit(cache=True)
def _cheapest_path(
    reads: Any, writes: Any, saves: Any, before: Any, touched: Any, single: Any, cost: Any, workspace: Any,
    saving_workspace: Any, made: Any, read: Any, once_bytes: Any, again_bytes: Any, remains: Any, memory: Any,
) -> Any:  # fmt: skip
    """States are bit masks: rows that have run, then values in memory that can be made again."""
    n = len(cost)
    all_rows = (1 << n) - 1
    best = numba.typed.Dict.empty(numba.int64, numba.int64)
    best[np.int64(0)] = np.int64(0)
    queue = [(np.int64(0), np.int64(0))]
    while len(queue) > 0:
        spent, state = heapq.heappop(queue)
        if best[state] < spent:
            continue
        done, there = state & all_rows, state >> n
        if done == all_rows and there & remains == remains:
            return spent
        for v in range(len(again_bytes)):
            if there >> v & 1:
                after = state ^ (np.int64(1) << (n + v))
                if after not in best or best[after] > spent:
                    best[after] = spent
                    heapq.heappush(queue, (spent, after))
        for r in range(n):
            if (single[r] and done >> r & 1) or there & reads[r] != reads[r] or done & before[r] != before[r]:
                continue
            held = 0
            for v in range(len(made)):
                if touched[r, v] or (made[v] & done and read[v] & ~done):
                    held += once_bytes[v]
            for saving in range(2 if saves[r] else 1):
                now = (there & ~saves[r]) | writes[r] | (saves[r] if saving else 0)  # what is written again is new
                level = held + (saving_workspace[r] if saving else workspace[r])
                for v in range(len(again_bytes)):
                    if now >> v & 1:
                        level += again_bytes[v]
                after, total = now << n | done | np.int64(1) << r, spent + cost[r]
                if level <= memory and (after not in best or best[after] > total):
                    best[after] = total
                    heapq.heappush(queue, (total, after))
    return -1
