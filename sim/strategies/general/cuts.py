"""Path cuts of the stage relaxation, and their exact separation by shortest paths.

The rows of the relaxation alone prove next to nothing: where v is wanted in ten stages, a tenth of its maker
may run in each, on a tenth of its input that is made there too, and the flops of all this add up to one
evaluation of each. A path cut forbids it. Let row r read v, and x_0 → … → x_k = v be values of which the
maker of each reads the one before. For stages a ≤ b

    Σ_i kept[a, x_i] + Σ_{t = a … b} runs[t, maker of x_0] ≥ done[b+1, r] - done[a, r].

Proof: the right side is 1 only if r runs first in stages a … b. Then it finds v, which was kept into stage a, or
made in stages a … b; in that case its maker found x_{k-1}, which was kept into stage a or made since; and so
on, until x_0 was kept, or its own maker ran. Nothing is said of the order in which rows run within the stages, so
that the cut holds in every order that the moments leave open, and for every memory.

The most violated cut of (a, v, b) is a shortest path backward from v whose nodes weigh kept[a, ·], ended at the
node where the sum with `runs` is least.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.base.compiled import compiled
from sim.strategies.general.relaxation import Relaxation, Terms

ROOM = 3_000_000
"""Terms that one call may write."""


def violated_cuts(relaxation: Relaxation, x: NDArray[np.float64], *, tolerance: float, most: int) -> Terms:
    """The path cuts that the columns x violate by more than `tolerance`, the `most` violated ones."""
    r = relaxation
    kept, again = _at(r.kept, x), _at(r.again, x)
    done = np.where(r.done_column >= 0, _at(r.done_column, x), r.done)
    runs = np.concatenate([np.zeros((1, len(r.rows))), np.cumsum(again + np.diff(done, axis=0), axis=0)])
    first_done = np.argmax(r.moments.done, axis=0)
    determined = (r.moments.done | r.moments.later)[:-1].all(axis=0)
    readers = np.argsort(r.rows.read, kind="stable")
    reader = np.repeat(np.arange(len(r.rows)), np.diff(r.rows.read_ptr))[readers]
    reader_ptr = np.concatenate([[0], np.cumsum(np.bincount(r.rows.read, minlength=len(r.rows.sizes)))])
    room = np.empty((ROOM, 2), dtype=np.int64)
    count, cuts = _separate(
        kept, done, runs, r.kept, r.again, r.done_column, r.done, r.moments.done, r.moments.later, first_done,
        determined, r.rows.maker, r.rows.read_ptr, r.rows.read, reader_ptr, reader, tolerance, room,
    )  # fmt: skip
    cuts = cuts[:count]
    chosen = np.argsort(-cuts[:, 0], kind="stable")[:most]
    start, stop = cuts[chosen, 1].astype(np.int64), cuts[chosen, 2].astype(np.int64)
    length = stop - start
    ptr = np.concatenate([[0], np.cumsum(length)])
    at = np.repeat(start - ptr[:-1], length) + np.arange(ptr[-1])
    return Terms(ptr, room[at, 0], room[at, 1], cuts[chosen, 3].astype(np.int64))


def _at(columns: Any, x: Any) -> Any:
    return np.where(columns >= 0, x[np.maximum(columns, 0)], 0.0)


@compiled
def _separate(
    kept: Any, done: Any, runs: Any, kept_column: Any, again_column: Any, done_column: Any, done_constant: Any,
    surely: Any, later: Any, first_done: Any, determined: Any, maker: Any, read_ptr: Any, read: Any, reader_ptr: Any,
    reader: Any, tolerance: Any, room: Any,
) -> Any:  # fmt: skip
    """Writes terms (column, factor) to `room`; returns how many cuts, (violation, start, stop, least) of each."""
    stages, n_values = kept.shape
    n = len(first_done)
    cuts = np.empty((200_000, 4))
    count = used = 0
    near, via, following = np.empty(n), np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    for a in range(stages):
        for v in range(n_values):
            top = maker[v]
            if top < 0 or later[a, top] or kept[a, v] >= 1.0 - tolerance:
                continue
            soonest = 1 << 30
            unsure = False
            for t in range(reader_ptr[v], reader_ptr[v + 1]):
                r = reader[t]
                if not surely[a, r]:
                    if determined[r]:
                        soonest = min(soonest, first_done[r] - 1)
                    else:
                        unsure = True
            if soonest == 1 << 30 and not unsure:
                continue
            for u in range(top):
                near[u] = 2.0
            near[top], via[top], following[top] = kept[a, v], v, -1
            for u in range(top, -1, -1):
                if near[u] >= 1.0 - tolerance:
                    continue
                for t in range(read_ptr[u], read_ptr[u + 1]):
                    w = read[t]
                    m = maker[w]
                    if near[u] + kept[a, w] < near[m]:
                        near[m], via[m], following[m] = near[u] + kept[a, w], w, u
            worst, worst_u, worst_b, worst_r = tolerance, -1, -1, -1
            if soonest < 1 << 30:
                for u in range(top + 1):
                    if near[u] < 1.0:
                        gap = 1.0 - near[u] - runs[soonest + 1, u] + runs[a, u]
                        if gap > worst:
                            worst, worst_u, worst_b, worst_r = gap, u, soonest, -1
            if unsure:
                for t in range(reader_ptr[v], reader_ptr[v + 1]):
                    r = reader[t]
                    if determined[r] or surely[a, r]:
                        continue
                    for b in range(a, min(first_done[r], soonest)):
                        wanted = done[b + 1, r] - done[a, r]
                        if wanted <= worst:
                            continue
                        for u in range(top + 1):
                            gap = wanted - near[u] - runs[b + 1, u] + runs[a, u]
                            if gap > worst:
                                worst, worst_u, worst_b, worst_r = gap, u, b, r
            if worst_u < 0 or count == len(cuts) or used + 2 * n + 2 * stages + 4 > len(room):
                continue
            cuts[count, 0], cuts[count, 1] = worst, used
            least = 1
            u = worst_u
            while u >= 0:
                column = kept_column[a, via[u]]
                if column >= 0:
                    room[used, 0], room[used, 1] = column, 1
                    used += 1
                u = following[u]
            for t in range(a, worst_b + 1):
                column = again_column[t, worst_u]
                if column >= 0:
                    room[used, 0], room[used, 1] = column, 1
                    used += 1
            if worst_r >= 0:
                least = 0
            for side in range(4):
                r = worst_u if side < 2 else worst_r
                if r < 0:
                    continue
                g = worst_b + 1 if side % 2 == 0 else a
                factor = 1 if side in (0, 3) else -1
                column = done_column[g, r]
                if column >= 0:
                    room[used, 0], room[used, 1] = column, factor
                    used += 1
                elif done_constant[g, r]:
                    least -= factor
            cuts[count, 2], cuts[count, 3] = used, least
            count += 1
    return count, cuts
