"""Slow, obvious twins of the planner of general graphs, on the arrays of a `Problem` alone."""

from __future__ import annotations

from sim.schedules.values import ACCUMULATE, CONSUME, READ, SAVE, WRITE
from sim.strategies.general.problem import Problem, Rows


def touches(problem: Problem, row: int) -> list[tuple[int, int]]:
    """(value, access) of everything a row touches."""
    span = slice(int(problem.ptr[row]), int(problem.ptr[row + 1]))
    return list(zip(problem.value[span].tolist(), problem.access[span].tolist(), strict=True))


def profile(problem: Problem, rows: Rows) -> list[int]:
    """Bytes in memory during each action; raises `AssertionError` where the sequence is not valid."""
    sequence = rows.tolist()
    counts = {r: sequence.count(r) for r in range(len(problem))}
    assert all((counts[r] > 0) == problem.must[r] for r in counts)
    assert all(counts[r] <= 1 for r in counts if problem.once[r])
    written: set[int] = set()
    added: dict[int, int] = {}
    there: set[int] = set()
    during = []
    for k, row in enumerate(sequence):
        saving = False
        for v, access in touches(problem, row):
            if access == READ:
                assert v in written, f"action {k} reads value {v}, which was never written"
            elif access == CONSUME:
                assert added.get(v, 0) == problem.accumulations[v], f"action {k} consumes value {v} too early"
            else:
                written.add(v)
                added[v] = added.get(v, 0) + 1
                if access != SAVE or _is_read_later(problem, sequence, k, v):
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
