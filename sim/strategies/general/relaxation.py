"""The stage relaxation of a problem, as a sparse integer program: columns and rows, for every memory at once.

A *stage* is the time from one moment (see `sim.strategies.general.moments`) to the next, whose row included.
Columns, all in [0, 1]: `kept[g, v]`, value v stays in memory over the start of stage g; `again[g, r]`, row r
runs in stage g though it has run before; `done[g, r]`, row r has run when stage g begins (where orders differ);
`held`, a value made once is in memory (where orders differ). With runs[g, r] = again[g, r] + done[g+1, r] - done[g, r],
the rows are

(a) kept[g, v] ≤ kept[g-1, v] + runs[g-1, maker of v]: what is kept was kept before, or made in the stage before;
(b) runs[g, r] ≤ kept[g, v] + runs[g, maker of v] for each v that r reads: a row finds what it reads;
(c) done[g, r] ≤ done[g+1, r], done[g, r] ≤ done[g, q] for q before r, kept and again ≤ done of their row,
    held ≥ done of a row that makes the value - done of a row that reads it;
(d) Σ bytes of v · kept[g, v] + Σ bytes · held ≤ M - bytes that every order has in memory at the moment,
    the sum over what the moment's row does not touch.

The sum of cost · again is what the plan costs beyond one run of each row. A value of no bytes is never missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.graphs.node import Ints
from sim.strategies.general.moments import Moments, Rows, fixed_bytes
from sim.strategies.general.problem import Flags


class Line(NamedTuple):
    """(`intercept` - `slope` · working bytes) / 2^`bits`, which no plan within `until` bytes recomputes less than."""

    intercept: int
    slope: int
    bits: int
    until: int | None = None  # any, if not given

    def at(self, working_bytes: int) -> int:
        return -((self.slope * working_bytes - self.intercept) >> self.bits)


@dataclass(frozen=True, eq=False)
class Terms:
    """Linear terms in CSR: Σ `factor` · column over `ptr[i] : ptr[i + 1]`, at least `least[i]`."""

    ptr: Ints
    column: Ints
    factor: Ints
    least: Ints

    def __len__(self) -> int:
        return len(self.least)


@dataclass(frozen=True, eq=False)
class Relaxation:
    """Columns by place (-1 where there is none) and rows; done[g, r] is `done_column`, or the constant `done`."""

    rows: Rows
    moments: Moments
    kept: Ints  # (stages, values)
    again: Ints  # (stages, rows)
    done_column: Ints  # (moments, rows)
    done: Flags  # (moments, rows), where there is no column
    cost: Ints  # of columns
    logic: Terms
    memory: Terms  # at least `least` - M

    @property
    def stages(self) -> int:
        return len(self.kept)


class _Assembly:
    """Collects terms: constants among the columns move to the right side."""

    def __init__(self) -> None:
        self.rows = 0
        self.parts: list[tuple[Ints, Ints, Ints]] = []
        self.least: list[Ints] = []

    def more(self, count: int, least: int = 0) -> Ints:
        """Numbers of new rows."""
        self.least.append(np.full(count, least, dtype=np.int64))
        self.rows += count
        return np.arange(self.rows - count, self.rows)

    def put(self, row: Ints, column: Ints, factor: int | Ints, constant: NDArray[np.bool_] | None = None) -> None:
        """Add factor · column to the last rows asked for, or factor · constant where there is no column."""
        factors = np.broadcast_to(np.asarray(factor, dtype=np.int64), column.shape)
        there = column >= 0
        self.parts.append((row[there], column[there], factors[there]))
        if constant is not None:
            np.subtract.at(
                self.least[-1], row[~there] - (self.rows - len(self.least[-1])), factors[~there] * constant[~there]
            )

    def terms(self) -> Terms:
        row, column, factor = (np.concatenate(p) for p in zip(*self.parts, strict=True))
        order = np.argsort(row, kind="stable")
        ptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=self.rows))])
        return Terms(ptr, column[order], factor[order], np.concatenate(self.least))


def relaxation_of(rows: Rows, moments: Moments) -> Relaxation:
    """The relaxation of rows at moments."""
    n, stages = len(rows), len(moments) - 1
    done, later = moments.done, moments.later
    made = rows.maker >= 0
    maker = np.maximum(rows.maker, 0)
    useful_row, useful = _useful(rows, ~done[:stages])
    number = 0

    def columns(where: Flags) -> Ints:
        nonlocal number
        out = np.where(where, np.cumsum(where.ravel()).reshape(where.shape) - 1 + number, -1)
        number += int(where.sum())
        return out

    kept = columns(useful & made & ~later[:stages, maker])
    first = ~done[:stages] & done[1:] & later[:stages]  # runs first in this stage, in every order
    again = columns(useful_row & rows.again & ~later[1:] & ~first)
    unknown = ~done & ~later
    unknown[-1] = False
    done_column = columns(unknown)
    cost = np.zeros(number, dtype=np.int64)
    g, r = np.nonzero(again >= 0)
    cost[again[g, r]] = rows.cost[r]

    a = _Assembly()

    def runs(row: Ints, g: Ints, r: Ints, sign: int) -> None:
        a.put(row, again[g, r], sign)
        a.put(row, done_column[g + 1, r], sign, done[g + 1, r])
        a.put(row, done_column[g, r], -sign, done[g, r])

    g, v = np.nonzero(kept >= 0)  # (a)
    of = maker[v]
    g, v, of = (x[(g > 0) & ~first[np.maximum(g - 1, 0), of]] for x in (g, v, of))
    row = a.more(len(g))
    a.put(row, kept[g, v], -1)
    a.put(row, kept[g - 1, v], 1)
    runs(row, g - 1, of, 1)

    reader = np.repeat(np.arange(n), np.diff(rows.read_ptr))  # (b)
    of = maker[rows.read]
    possible = (again >= 0) | first | (unknown[:stages] | unknown[1:]) & ~(unknown[:stages] & done[:stages])
    g, t = np.nonzero(possible[:, reader] & ~first[:, of])
    row = a.more(len(g))
    runs(row, g, reader[t], -1)
    a.put(row, kept[g, rows.read[t]], 1)
    runs(row, g, of[t], 1)

    g, r = np.nonzero(unknown[:-1] & unknown[1:])  # (c)
    row = a.more(len(g))
    a.put(row, done_column[g + 1, r], 1)
    a.put(row, done_column[g, r], -1)
    reader = np.repeat(np.arange(n), np.diff(rows.before_ptr))
    g, t = np.nonzero(unknown[:, reader] & unknown[:, rows.before])
    row = a.more(len(g))
    a.put(row, done_column[g, rows.before[t]], 1)
    a.put(row, done_column[g, reader[t]], -1)
    g, v = np.nonzero((kept >= 0) & unknown[:stages, maker])
    row = a.more(len(g))
    a.put(row, done_column[g, maker[v]], 1)
    a.put(row, kept[g, v], -1)
    g, r = np.nonzero((again >= 0) & unknown[:stages])
    row = a.more(len(g))
    a.put(row, done_column[g, r], 1)
    a.put(row, again[g, r], -1)

    m = _Assembly()
    touched = np.zeros((stages, len(rows.sizes)), dtype=np.bool_)
    for k, e in enumerate(moments.rows[:-1].tolist()):
        touched[k, rows.touch[rows.touch_ptr[e] : rows.touch_ptr[e + 1]]] = True
    row = m.more(stages)
    g, v = np.nonzero((kept >= 0) & ~touched)
    m.put(g, kept[g, v], -rows.sizes[v])
    value, start, stop = rows.held.T  # values made once
    surely = done[:stages, start] & later[:stages, stop]
    live = np.zeros(touched.shape, dtype=np.bool_)
    g, p = np.nonzero(surely)
    live[g, value[p]] = True
    maybe = ~later[:stages, start] & ~done[:stages, stop] & ~live[:, value] & ~touched[:, value]
    held_at = np.zeros(touched.shape, dtype=np.bool_)
    g, p = np.nonzero(maybe)
    held_at[g, value[p]] = True
    held = columns(held_at)
    row = a.more(len(g))
    a.put(row, held[g, value[p]], 1)
    a.put(row, done_column[g, start[p]], -1, done[g, start[p]])
    a.put(row, done_column[g, stop[p]], 1, done[g, stop[p]])
    g, v = np.nonzero(held_at)
    m.put(g, held[g, v], -rows.sizes[v])
    m.least[0] += fixed_bytes(rows, moments)[:stages]
    return Relaxation(
        rows=rows,
        moments=moments,
        kept=kept,
        again=again,
        done_column=done_column,
        done=done,
        cost=np.concatenate([cost, np.zeros(number - len(cost), dtype=np.int64)]),
        logic=a.terms(),
        memory=m.terms(),
    )


def _useful(rows: Rows, ahead: Flags) -> tuple[Flags, Flags]:
    """The rows that may run, and the values that may be read, once the rows that are not `ahead` have run."""
    row, value = ahead.copy(), np.zeros((len(ahead), len(rows.sizes)), dtype=np.bool_)
    outputs: list[list[int]] = [[] for _ in range(len(rows))]
    for v, r in enumerate(rows.maker.tolist()):
        if r >= 0:
            outputs[r].append(v)
    for r in range(len(rows) - 1, -1, -1):
        row[:, r] |= value[:, outputs[r]].any(axis=1)
        value[:, rows.read[rows.read_ptr[r] : rows.read_ptr[r + 1]]] |= row[:, r : r + 1]
    return row, value
