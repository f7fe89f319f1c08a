"""Slow, obvious twins of the checkpointing planners: exhaustive search over all schedules of a small chain."""

from __future__ import annotations

import functools
import math
from typing import Any

import numba
import numpy as np

from sim.graph import Graph

INFEASIBLE = 2**60


def least_cost(graph: Graph, memory: int) -> int | None:
    """The least flops of forwards of any schedule of a chain whose working bytes are at most `memory`.

    A shortest path over (what is in memory, the next VJP): every forward that can run may run, with or
    without saving its residual, and everything may be dropped at any time. Every node is evaluated at
    least once. The input is differentiated, one cotangent at a time. Up to about six layers.
    """
    c = graph.columns
    assert graph.is_chain
    assert graph.wrt == "input"
    assert graph.output_scalars == 1
    found = _least_cost(
        np.concatenate([[0], c.activation_bytes]), c.residual_bytes, c.workspace_bytes, c.forward_flops, c.needs,
        graph.cotangent_bytes, memory,
    )  # fmt: skip
    return None if found >= INFEASIBLE else int(found)


@numba.njit(cache=True)
def _least_cost(a: Any, residual: Any, workspace: Any, flops: Any, needs: Any, cotangent: Any, memory: Any) -> Any:
    """Sets are bit masks: activation i is bit i, residual i bit n + i, bit 2n says that the last node has run."""
    n = len(flops)
    sets = 1 << (2 * n + 1)
    size = np.zeros(2 * n + 1, dtype=np.int64)
    for i in range(n):
        size[i], size[n + i] = a[i + 1], max(0, residual[i])
    total = np.zeros(sets, dtype=np.int64)
    for m in range(sets):
        for b in range(2 * n):
            if m >> b & 1:
                total[m] += size[b]
    best = np.full(sets, INFEASIBLE, dtype=np.int64)
    best[0] = 0
    for j in range(n - 1, -1, -1):  # the next VJP
        beside = 0 if j == n - 1 else cotangent[j + 1]
        changed = True
        while changed:
            changed = False
            for m in range(sets - 1, -1, -1):
                if best[m] >= INFEASIBLE:
                    continue
                for b in range(2 * n):
                    if m >> b & 1 and best[m ^ (1 << b)] > best[m]:
                        best[m ^ (1 << b)] = best[m]
                        changed = True
                for i in range(n):
                    if i > 0 and not m >> (i - 1) & 1:
                        continue
                    for saves in range(2 if residual[i] >= 0 else 1):
                        after = m | 1 << i | saves << (n + i)
                        if i == n - 1:
                            after |= 1 << 2 * n
                        if total[after] + workspace[i] + beside <= memory and best[after] > best[m] + flops[i]:
                            best[after] = best[m] + flops[i]
                            changed = True
        following = np.full(sets, INFEASIBLE, dtype=np.int64)
        for m in range(sets):
            if (
                (needs[j] & 1 and j > 0 and not m >> (j - 1) & 1)
                or (needs[j] & 2 and not m >> j & 1)
                or (residual[j] >= 0 and not m >> (n + j) & 1)
            ):
                continue
            made = cotangent[j] if j > 0 else 0
            if total[m] + workspace[j] + cotangent[j + 1] + made <= memory:
                after = m & ~(1 << j) & ~(1 << (n + j))
                following[after] = min(following[after], best[m])
        best = following
    return best[1 << 2 * n :].min()


def persistent_cost(
    *, forward: list[int], adjoint: list[int], sizes: list[int], tapes: list[int], memory: int
) -> float:
    """What the published recurrence finds in its own memory model (Beaumont et al. 2019), slots of one byte.

    There a cotangent takes what its activation does, a tape holds its stage's output, and the input
    (sizes[0]) takes memory like everything else.
    """

    @functools.cache
    def best(s: int, t: int, m: int) -> float:
        keep = max(sizes[t + 1] + tapes[s], sizes[s] + sizes[s + 1] + tapes[s])
        if s == t:
            return forward[s] + adjoint[s] if m >= keep else math.inf
        found = math.inf
        if m >= keep:
            found = forward[s] + best(s + 1, t, m - tapes[s]) + adjoint[s]
        later = [sizes[t + 1] + sizes[j] + sizes[j + 1] for j in range(s + 1, t)]
        advance = max([sizes[t + 1] + sizes[s + 1], *later])
        if m >= advance:
            for k in range(s + 1, t + 1):
                found = min(found, sum(forward[s:k]) + best(k, t, m - sizes[k]) + best(s, k - 1, m))
        return found

    return best(0, len(forward) - 1, memory - sizes[0])
