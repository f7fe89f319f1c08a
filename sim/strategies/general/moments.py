"""Moments of a problem that all orders share: along one path of rows, what has run before each and what has not.

A path in the graph of "runs before in every valid sequence" fixes the order of its rows. At the first run
of a row of the path, the rows before it (ancestors) have run, those after it have not, and the others may
or may not. `sim.strategies.general.relaxation` puts its memory rows at these moments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from sim.base.compiled import compiled
from sim.graphs.node import Ints
from sim.schedules.values import ACCUMULATE, SAVE
from sim.strategies.general.problem import Flags, Problem

Order = Literal["free", "listed"]
LONGEST = 1000
"""Moments that are looked at, evenly spaced where there are more."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a problem by their place in the order given, and a last one that reads what remains.

    Edges (CSR `read_ptr`, `read`) lead from a row to the values it reads that a row can make again, and that
    take memory; `maker` says which row that is. `before_ptr`, `before` are the rows that run earlier. `held` are
    values made once, with all (row that makes, row that reads) pairs between which they are in memory.
    """

    cost: Ints
    again: Flags  # may run again
    bytes: Ints  # of all that a row touches, and of its workspace
    sizes: Ints  # of values
    maker: Ints  # of values, -1 where nothing makes them again
    read_ptr: Ints
    read: Ints
    before_ptr: Ints
    before: Ints
    touch_ptr: Ints
    touch: Ints
    held: Ints  # (value, from, until)

    def __len__(self) -> int:
        return len(self.cost)


@dataclass(frozen=True, eq=False)
class Moments:
    """The rows at whose first run memory is counted, in order; `done` and `later` of each and every row."""

    rows: Ints
    done: Flags  # (moments, rows): has run when the moment ends, in every order
    later: Flags  # (moments, rows): runs first after it, in every order

    def __len__(self) -> int:
        return len(self.rows)


def rows_of(problem: Problem, order: Order, *, forwards_first: bool = False) -> Rows:
    """The rows of a problem with the precedences of its data, and of the order given where it is to be kept."""
    n, sequence = len(problem.order) + 1, problem.order.astype(np.int64)
    place = np.full(len(problem), -1, dtype=np.int64)
    place[sequence] = np.arange(n - 1)
    row = place[problem.row_of_touch]
    value, access, row = problem.value[row >= 0].astype(np.int64), problem.access[row >= 0], row[row >= 0]
    remaker, size = problem.remaker.astype(np.int64), problem.value_bytes
    maker = np.where((remaker >= 0) & (size > 0), place[remaker], -1)
    remains = np.flatnonzero(problem.remains)
    reads = access < ACCUMULATE
    reader = np.concatenate([row[reads], np.full(len(remains), n - 1)])
    of = np.concatenate([value[reads], remains])
    write = access >= ACCUMULATE
    pairs = _joined(row[write], value[write], reader, of, len(size))
    pairs = pairs[pairs[:, 1] != pairs[:, 2]]
    once = problem.once[sequence]
    edges = [pairs[:, 1:]]
    if order == "listed":
        kept = np.flatnonzero(once) if once.any() else np.arange(n - 1)
        edges.append(np.stack([kept[:-1], kept[1:]], axis=1))
    if forwards_first and once.any():
        first = np.setdiff1d(np.flatnonzero(once), pairs[once[np.minimum(pairs[:, 1], n - 2)], 2])
        edges += [np.stack([np.flatnonzero(~once), np.full((~once).sum(), f)], axis=1) for f in first.tolist()]
    edges.append(np.stack([np.arange(n - 1), np.full(n - 1, n - 1)], axis=1))
    before_ptr, before = _csr(np.unique(np.concatenate(edges), axis=0)[:, ::-1], n)
    again_read = maker[of] >= 0
    read_ptr, read = _csr(np.stack([reader[again_read], of[again_read]], axis=1), n)
    touches = np.unique(np.stack([np.concatenate([row, reader]), np.concatenate([value, of])], axis=1), axis=0)
    touch_ptr, touch = _csr(touches, n)
    need = np.zeros(n, dtype=np.int64)
    np.add.at(need, touches[:, 0], size[touches[:, 1]])
    saves = access == SAVE
    saved = np.bincount(row[saves], minlength=n)
    np.subtract.at(need, row[saves], size[value[saves]])  # a row may save nothing
    plain, saving = problem.workspace[sequence], problem.saving_workspace[sequence]
    np.add.at(saved, row[saves], size[value[saves]] - 1)
    need[:-1] += np.minimum(plain, np.where(np.isin(np.arange(n - 1), row[saves]), saved[:-1] + saving, plain))
    return Rows(
        cost=np.append(problem.cost[sequence], 0),
        again=np.append(~once, False),
        bytes=need,
        sizes=size,
        maker=maker,
        read_ptr=read_ptr,
        read=read,
        before_ptr=before_ptr,
        before=before,
        touch_ptr=touch_ptr,
        touch=touch,
        held=pairs[(remaker[pairs[:, 0]] < 0) & (size[pairs[:, 0]] > 0)],
    )


def _joined(row: Ints, value: Ints, reader: Ints, of: Ints, n_values: int) -> Ints:
    """All (value, row that makes it, row that reads it)."""
    ptr, readers = _csr(np.stack([of, reader], axis=1), n_values)
    count = ptr[value + 1] - ptr[value]
    at = np.repeat(ptr[value] - np.concatenate([[0], np.cumsum(count)[:-1]]), count) + np.arange(count.sum())
    return np.stack([np.repeat(value, count), np.repeat(row, count), readers[at]], axis=1)


def _csr(pairs: Ints, n: int) -> tuple[Ints, Ints]:
    order = np.argsort(pairs[:, 0], kind="stable")
    ptr = np.concatenate([[0], np.cumsum(np.bincount(pairs[:, 0], minlength=n))])
    return ptr.astype(np.int64), pairs[order, 1].astype(np.int64)


def all_moments(rows: Rows) -> Moments:
    """The moments of a path with the most rows, the last row among them; rows that run once alone, if there are any."""
    once = ~rows.again[:-1].all()
    weight = np.where(rows.again, 1, len(rows)) if once else np.ones(len(rows), dtype=np.int64)
    path = _heaviest_path(rows.before_ptr, rows.before, weight)
    if once:
        path = path[~rows.again[path]]
    if len(path) > LONGEST:
        path = path[np.linspace(0, len(path) - 1, LONGEST).astype(np.int64)]
    done = np.zeros((len(path), len(rows)), dtype=np.bool_)
    later = np.zeros((len(path), len(rows)), dtype=np.bool_)
    _reach(rows.before_ptr, rows.before, path, done, later)
    return Moments(path, done, later)


def moments_of(rows: Rows, most: int) -> Moments:
    """At most `most` moments, with many bytes in memory in every order, and far from one another."""
    found = all_moments(rows)
    if len(found) <= most:
        return found
    chosen = _thinned(fixed_bytes(rows, found), most)
    return Moments(found.rows[chosen], found.done[chosen], found.later[chosen])


def fixed_bytes(rows: Rows, moments: Moments) -> Ints:
    """Bytes in memory at each moment in every order: what its row touches, and what was made once and is read later."""
    value, start, stop = rows.held.T
    live = moments.done[:, start] & moments.later[:, stop]
    out = rows.bytes[moments.rows].copy()
    for g, row in enumerate(moments.rows.tolist()):
        held = np.setdiff1d(value[live[g]], rows.touch[rows.touch_ptr[row] : rows.touch_ptr[row + 1]])
        out[g] += rows.sizes[held].sum()
    return out


def _thinned(weight: Ints, most: int) -> Ints:
    """The last, and one after the other that of the most bytes times how far it is from all before."""
    chosen = [len(weight) - 1]
    far = (len(weight) - 1 - np.arange(len(weight))).astype(np.float64)
    while len(chosen) < most:
        chosen.append(int(np.argmax(weight * far)))
        far = np.minimum(far, abs(np.arange(len(weight)) - chosen[-1]))
    return np.unique(chosen)


@compiled
def _heaviest_path(before_ptr: Any, before: Any, weight: Any) -> Any:
    n = len(weight)
    best, came = weight.copy(), np.full(n, -1)
    for r in range(n):
        for t in range(before_ptr[r], before_ptr[r + 1]):
            if best[before[t]] + weight[r] > best[r]:
                best[r], came[r] = best[before[t]] + weight[r], before[t]
    out = np.empty(n, dtype=np.int64)
    r, count = n - 1, 0
    while r >= 0:
        out[count] = r
        count += 1
        r = came[r]
    return out[:count][::-1].copy()


@compiled
def _reach(before_ptr: Any, before: Any, path: Any, done: Any, later: Any) -> None:
    n = len(before_ptr) - 1
    for g in range(len(path)):
        done[g, path[g]] = True
        for r in range(n - 1, -1, -1):
            if done[g, r]:
                for t in range(before_ptr[r], before_ptr[r + 1]):
                    done[g, before[t]] = True
        for r in range(path[g] + 1, n):
            for t in range(before_ptr[r], before_ptr[r + 1]):
                if before[t] == path[g] or later[g, before[t]]:
                    later[g, r] = True


def contracted(rows: Rows, moments: Moments) -> Rows:
    """The rows, with row x joined to the only reader y of its only value where keeping y's is never worse.

    So it is at moments that both have run before, if y reads nothing else and makes one value, no larger
    than x's: a schedule that keeps x's value over a moment may as well run y at once. Row x stays, with
    nothing to do.
    """
    reads = [rows.read[a:b].tolist() for a, b in zip(rows.read_ptr[:-1], rows.read_ptr[1:], strict=True)]
    outputs: list[list[int]] = [[] for _ in reads]
    for v, r in enumerate(rows.maker.tolist()):
        if r >= 0:
            outputs[r].append(v)
    readers: list[list[int]] = [[] for _ in rows.sizes]
    for r, of in enumerate(reads):
        for v in of:
            readers[v].append(r)
    cost, again, maker, size = rows.cost.copy(), rows.again.copy(), rows.maker.copy(), rows.sizes
    movable = rows.again & moments.done[0]
    for x in np.flatnonzero(movable).tolist():
        if len(outputs[x]) != 1 or len(readers[outputs[x][0]]) != 1:
            continue
        v, y = outputs[x][0], readers[outputs[x][0]][0]
        if not movable[y] or len(reads[y]) != 1 or len(outputs[y]) != 1 or size[outputs[y][0]] > size[v]:
            continue
        cost[y] += cost[x]
        reads[y], reads[x], outputs[x] = reads[x], [], []
        for u in reads[y]:
            readers[u][readers[u].index(x)] = y
        maker[v], again[x], cost[x] = -1, False, 0
    pairs = np.array([(r, v) for r, of in enumerate(reads) for v in of], dtype=np.int64).reshape(-1, 2)
    read_ptr, read = _csr(pairs, len(rows))
    return replace(rows, cost=cost, again=again, maker=maker, read_ptr=read_ptr, read=read)
