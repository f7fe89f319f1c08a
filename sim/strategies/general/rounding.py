"""Rounding cuts: what whole values in memory, instead of shares of them, cannot do within a budget.

A memory row says Σ b_j x_j ≤ C for 0-1 columns x. Let some columns be complemented (y = 1 - x, with b_j turned and
taken off C; elsewhere y = x), u > 0 any number, C = q u + r and b_j = p_j u + s_j with 0 ≤ r, s_j < u. Then

    Σ_j G_j y_j ≤ q (u - r)   with   G_j = p_j (u - r) + max(0, s_j - r)

holds for all 0-1 points (mixed-integer rounding; G. L. Nemhauser and L. A. Wolsey, A recursive procedure to generate
all cuts for 0-1 mixed integer programs, Mathematical Programming 46, 1990, doi:10.1007/BF01585752). Which columns to
complement and which u to divide by: those near 1, and sizes of columns between 0 and 1 (H. Marchand and L. A. Wolsey,
Aggregation and mixed integer rounding to solve MIPs, Operations Research 49, 2001, doi:10.1287/opre.49.3.363.11211).
With the sizes of a cover for u it is a cover inequality.

Unlike path cuts they are made of a budget, and hold for it and for smaller ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.base.compiled import compiled
from sim.strategies.general.relaxation import Terms

THRESHOLDS = (0.5, 0.2, 0.8, 1e-6, 1 - 1e-6)
"""Columns above one of them are complemented."""
PARTS = (1, 2, 4)
"""Sizes are divided by these, too, to find u."""


def rounding_cuts(memory: Terms, x: NDArray[np.float64], working_bytes: int, *, tolerance: float) -> Terms:
    """For each memory row the rounding cut that x violates most, by more than `tolerance` times its length."""
    room = np.zeros((len(memory.column), 2), dtype=np.int64)
    least, length = _round(
        memory.ptr, memory.column, -memory.factor, working_bytes - memory.least, x, tolerance,
        np.array(THRESHOLDS), np.array(PARTS), room,
    )  # fmt: skip
    rows = np.flatnonzero(length)
    start = memory.ptr[rows]
    ptr = np.concatenate([[0], np.cumsum(length[rows])])
    at = np.repeat(start - ptr[:-1], length[rows]) + np.arange(ptr[-1])
    return Terms(ptr, room[at, 0], room[at, 1], least[rows])


@compiled
def _round(
    ptr: Any, column: Any, size: Any, room_left: Any, x: Any, tolerance: Any, thresholds: Any, parts: Any, room: Any
) -> Any:
    """Writes (column, factor) of each row's cut from its start on; returns the right sides, and how many terms."""
    n_rows = len(ptr) - 1
    least, length = np.zeros(n_rows, dtype=np.int64), np.zeros(n_rows, dtype=np.int64)
    for g in range(n_rows):
        a, b = ptr[g], ptr[g + 1]
        worst, worst_u, worst_threshold = tolerance, np.int64(0), 0.0
        for t in range(a, b):
            if x[column[t]] < 1e-6 or x[column[t]] > 1 - 1e-6:
                continue
            known = False
            for k in range(a, t):
                if size[k] == size[t] and 1e-6 <= x[column[k]] <= 1 - 1e-6:
                    known = True
            if known:
                continue
            for part in parts:
                u = size[t] // part
                if u == 0:
                    continue
                for threshold in thresholds:
                    capacity = room_left[g]
                    for k in range(a, b):
                        if x[column[k]] > threshold:
                            capacity -= size[k]
                    q = capacity // u
                    r = capacity - q * u
                    over, norm = -float(q * (u - r)), 0.0
                    for k in range(a, b):
                        turned = x[column[k]] > threshold
                        whole = _rounded(-size[k] if turned else size[k], u, r)
                        over += whole * (1 - x[column[k]] if turned else x[column[k]])
                        norm += float(whole) * whole
                    if r and over > worst * np.sqrt(norm):
                        worst, worst_u, worst_threshold = over / np.sqrt(norm), u, threshold
        if worst_u == 0:
            continue
        capacity = room_left[g]
        for k in range(a, b):
            if x[column[k]] > worst_threshold:
                capacity -= size[k]
        q = capacity // worst_u
        r = capacity - q * worst_u
        right = q * (worst_u - r)
        for k in range(a, b):
            turned = x[column[k]] > worst_threshold
            whole = _rounded(-size[k] if turned else size[k], worst_u, r)
            if turned:
                right -= whole
            if whole:
                room[a + length[g], 0], room[a + length[g], 1] = column[k], whole if turned else -whole
                length[g] += 1
        least[g] = -right
    return least, length


@compiled
def _rounded(size: Any, u: Any, r: Any) -> Any:
    p = size // u
    return p * (u - r) + max(0, size - p * u - r)
