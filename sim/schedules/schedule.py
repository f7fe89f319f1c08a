"""Schedules: computations in order, nothing else.

A `Builder` takes whole ranges of actions at once; a `Schedule` is columns of rows and widths with
loops around them. What stays in memory follows from liveness: a value stays from the action that
writes it to the last that reads it before it is written again (`sim.schedules.replay`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.base.errors import CountOverflow
from sim.base.picture import Picture, drawing, shown
from sim.graphs.graph import Graph
from sim.graphs.node import LARGEST, Ints
from sim.schedules import ledger
from sim.schedules.actions import Action
from sim.schedules.effects import JVP, VJP
from sim.schedules.table import Rows, Table

TURNS = 3
"""Turns of a loop that are walked through: the first, one that stands for all between, the last.

Every turn is alike, so memory is the same in each turn but the first (what is left from before may
not be there yet) and the last (what only the next turn reads is gone)."""


class Loop(NamedTuple):
    """Actions start … stop-1, done `turns` times; loops nest or are disjoint."""

    start: int
    stop: int
    turns: int


@dataclass(frozen=True, eq=False)
class Schedule:
    """Computations and copies in order. Iterating yields readable `Action`s, each loop's body once.

    `notes` are what a planner tells people about the schedule, as (what, text): a bracketing, a guarantee.
    """

    graph: Graph
    table: Table
    rows: NDArray[np.int32]
    widths: NDArray[np.int32]
    loops: tuple[Loop, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"Schedule({self.graph!r}, {len(self)} actions, {len(self.loops)} loops)"

    def plot(self) -> Picture:
        """The picture of the schedule, actions over nodes, which notebooks show; raises as `sim.plot` does."""
        return drawing(self)

    def _repr_html_(self) -> str:
        """What notebooks show: the cost, and the picture of a schedule that is short enough for one."""
        return shown(self)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Action]:
        return (self.action(k) for k in range(len(self)))

    def action(self, k: int) -> Action:
        """Action number k as people read it."""
        return self.table.action(int(self.rows[k]), int(self.widths[k]))

    @property
    def opcode(self) -> NDArray[np.int8]:
        return self.table.opcode[self.rows]

    @property
    def node(self) -> NDArray[np.int32]:
        return self.table.node[self.rows]

    @cached_property
    def flat(self) -> Flat:
        """The actions with at most three turns of each loop written out."""
        if not self.loops:
            return Flat(None, self.rows, self.widths, np.empty(0, dtype=np.int64))
        index, weights = _unrolled(0, len(self), sorted(self.loops, key=lambda s: (s.start, -s.stop)), 1)
        return Flat(index, self.rows[index], self.widths[index], weights)

    @cached_property
    def flags(self) -> NDArray[np.uint8]:
        """For each touch of each action of `flat`, in order: `ledger.FREE`, `ledger.SKIP` or 0."""
        return ledger.mark(self.flat.rows, self.table.columns)


class Flat(NamedTuple):
    """A schedule without loops: which actions (`None`: all, in order), and how often each stands for itself."""

    actions: Ints | None
    rows: NDArray[np.int32]
    widths: NDArray[np.int32]
    weights: Ints

    def origin(self, k: int) -> int:
        """The action of the schedule that flat action k is."""
        return k if self.actions is None else int(self.actions[k])


def _unrolled(start: int, stop: int, loops: Sequence[Loop], weight: int) -> tuple[Ints, Ints]:
    if weight > LARGEST:
        raise CountOverflow("nested loops make more than 4.6e18 turns")
    index: list[Ints] = []
    weights: list[Ints] = []
    at, i = start, 0
    while i < len(loops):
        loop = loops[i]
        end = i + 1
        while end < len(loops) and loops[end].start < loop.stop:
            end += 1
        index.append(np.arange(at, loop.start))
        weights.append(np.full(loop.start - at, weight))
        turns = [1] * loop.turns if loop.turns <= TURNS else [1, loop.turns - 2, 1]
        for turn in turns:
            body, body_weights = _unrolled(loop.start, loop.stop, loops[i + 1 : end], weight * turn)
            index.append(body)
            weights.append(body_weights)
        at, i = loop.stop, end
    index.append(np.arange(at, stop))
    weights.append(np.full(stop - at, weight))
    return np.concatenate(index).astype(np.int64), np.concatenate(weights).astype(np.int64)


class Builder:
    """A builder that fills a schedule, whole ranges of actions at a time.

    Nodes are numbers; a range in Python's order is done in that order, so adjoint sweeps pass
    `range(n - 1, -1, -1)`. Nodes that nothing differentiated reaches have no JVP or VJP and are
    passed over.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._added = Rows(graph)
        self._numbers = self._added.scope.numbers
        self._active = graph.active[len(graph.inputs) :]
        self._all_active = bool(self._active.all())
        self._rows: list[NDArray[np.int32]] = []
        self._widths: list[int] = []
        self._loops: list[Loop] = []
        self._length = 0

    def forward(self, nodes: ArrayLike | range) -> None:
        """Evaluate the nodes, in the order given."""
        self.rows(_as_rows(nodes))

    def vjp(self, nodes: ArrayLike | range, *, width: int = 1) -> None:
        """The VJP of each node, `width` cotangents at once."""
        self.rows(self._numbers.row(VJP, self._differentiable(nodes)), width=width)

    def jvp(self, nodes: ArrayLike | range, *, width: int = 1) -> None:
        """The JVP of each node, `width` tangents at once."""
        self.rows(self._numbers.row(JVP, self._differentiable(nodes)), width=width)

    def add(self, *actions: Action) -> None:
        """Any actions, one after the other, each with its width."""
        for width, alike in groupby(actions, key=attrgetter("width")):
            self.rows([self.row_of(action) for action in alike], width=width)

    def row_of(self, action: Action) -> int:
        """The row of an action, for `rows`."""
        return self._added.number(action)

    def nodes_of(self, rows: NDArray[np.int32]) -> NDArray[np.int64]:
        """The node of each of some rows."""
        first = self._numbers.first_added_row
        return np.array([self._added.node(r) if r >= first else self._numbers.node(r) for r in rows.tolist()])

    def rows(self, rows: ArrayLike, *, width: int = 1) -> None:
        """Rows of the graph's own or of `row_of`, in the order given.

        Forwards among them have width 1 whatever `width` says.
        """
        if width > 2**31 - 1:
            raise CountOverflow(f"{width} tangents or cotangents at once are more than 2^31 - 1; use smaller chunks")
        array = np.asarray(rows, dtype=np.int32).reshape(-1)
        self._rows.append(array)
        self._widths.append(width)
        self._length += len(array)

    @contextmanager
    def loop(self, turns: int) -> Iterator[None]:
        """Do what is added inside `turns` times."""
        start = self._length
        yield
        if turns > 1 and self._length > start:
            self._loops.append(Loop(start, self._length, turns))

    def build(self, *, prune: bool = False, notes: tuple[tuple[str, str], ...] = ()) -> Schedule:
        """The schedule; with `prune`, without recomputations whose outputs nobody reads."""
        rows = self._rows[0] if len(self._rows) == 1 else np.concatenate([np.empty(0, dtype=np.int32), *self._rows])
        if all(width == 1 for width in self._widths):
            widths = np.broadcast_to(np.int32(1), len(rows))
        else:
            widths = np.repeat(np.array(self._widths, dtype=np.int32), [len(piece) for piece in self._rows])
            widths[rows < len(self.graph)] = 1
        jvp = len(rows) > 0 and int(rows.max()) >= self._numbers.row(JVP, 0)
        schedule = Schedule(self.graph, self._added.table(jvp=jvp), rows, widths, tuple(self._loops), notes)
        return pruned(schedule) if prune else schedule

    def _differentiable(self, nodes: ArrayLike | range) -> NDArray[np.int32]:
        array = _as_rows(nodes)
        return array if self._all_active else array[self._active[array]]


def all_ones(widths: NDArray[np.int32]) -> bool:
    """Tell whether every width is 1, held in the memory of one number."""
    return widths.strides == (0,) and bool((widths[:1] == 1).all())


def _as_rows(nodes: ArrayLike | range) -> NDArray[np.int32]:
    if isinstance(nodes, range):
        return np.arange(nodes.start, nodes.stop, nodes.step, dtype=np.int32)
    return np.asarray(nodes, dtype=np.int32).reshape(-1)


def pruned(schedule: Schedule) -> Schedule:
    """The schedule without forwards, beyond each node's first, whose outputs nobody reads.

    Schedules with loops are returned as they are: an action that one turn does not need may serve
    the next.
    """
    if schedule.loops:
        return schedule
    keep = ledger.alive_forwards(schedule.rows, schedule.table.columns)
    if keep.all():
        return schedule
    widths = schedule.widths[: int(keep.sum())] if all_ones(schedule.widths) else schedule.widths[keep]
    return Schedule(schedule.graph, schedule.table, schedule.rows[keep], widths, notes=schedule.notes)
