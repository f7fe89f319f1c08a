"""Schedules: computations in order, nothing else; and replay, which says exactly what they take.

A `Builder` takes whole ranges of actions at once; a `Schedule` is columns of rows and widths with
loops around them; `replay` gives the exact peak bytes and flops. What stays in memory follows from
liveness: a value stays from the action that writes it to the last that reads it before it is
written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.base.errors import CountOverflow, InvalidSchedule
from sim.graphs.graph import LARGEST, Graph, Ints
from sim.schedules import ledger as kernels
from sim.schedules.actions import (
    COPY,
    JVP,
    KINDS,
    TIERS,
    VALUE_KINDS,
    VJP,
    Action,
)
from sim.schedules.cost import BREAKDOWN_KINDS, Cost, Flops, PeakAt, dot
from sim.schedules.extras import Extras
from sim.schedules.table import Table

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

    table: Table
    rows: NDArray[np.int32]
    widths: NDArray[np.int32]
    loops: tuple[Loop, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"Schedule({self.graph!r}, {len(self)} actions, {len(self.loops)} loops)"

    @property
    def graph(self) -> Graph:
        return self.table.graph

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Action]:
        return (self.action(k) for k in range(len(self)))

    def action(self, k: int) -> Action:
        """Action number k as people read it."""
        return self.table.describe(int(self.rows[k]), int(self.widths[k]))

    def turns_of(self, k: int) -> int:
        """How many times action k is done."""
        turns = 1
        for loop in self.loops:
            if loop.start <= k < loop.stop:
                turns *= loop.turns
        return turns

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
        """For each touch of each action of `flat`, in order: kernels.FREE, kernels.SKIP or 0."""
        t = self.table
        marked: NDArray[np.uint8] = kernels.mark(self.flat.rows, t.ptr, t.value, t.access, t.value_code)
        return marked


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
    """Fills a schedule, whole ranges of actions at a time.

    Nodes are numbers; a range in Python's order is done in that order, so adjoint sweeps pass
    `range(n - 1, -1, -1)`. Nodes that nothing differentiated reaches have no JVP or VJP and are
    passed over.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.extras = Extras(graph)
        self._active = graph.active[len(graph.inputs) :]
        self._all_active = bool(self._active.all())
        self._rows: list[NDArray[np.int32]] = []
        self._widths: list[NDArray[np.int32]] = []
        self._loops: list[Loop] = []
        self._length = 0

    def forward(self, nodes: ArrayLike | range) -> None:
        """Evaluate the nodes, in the order given."""
        self.rows(_as_rows(nodes))

    def vjp(self, nodes: ArrayLike | range, *, width: int = 1) -> None:
        """The VJP of each node, `width` cotangents at once."""
        self.rows(self._differentiable(nodes) + len(self.graph) * VJP, width=width)

    def jvp(self, nodes: ArrayLike | range, *, width: int = 1) -> None:
        """The JVP of each node, `width` tangents at once."""
        self.rows(self._differentiable(nodes) + len(self.graph) * JVP, width=width)

    def rows(self, rows: ArrayLike, *, width: int = 1) -> None:
        """Rows of the graph's table or of `extras`, in the order given.

        Forwards among them have width 1 whatever `width` says.
        """
        if width > 2**31 - 1:
            raise CountOverflow(f"{width} tangents or cotangents at once are more than 2^31 - 1; use smaller chunks")
        array = np.asarray(rows, dtype=np.int32).reshape(-1)
        if len(array):
            self._rows.append(array)
            primal = array < len(self.graph)
            if width == 1 or not primal.any():
                self._widths.append(np.broadcast_to(np.int32(width), len(array)))
            else:
                self._widths.append(np.where(primal, np.int32(1), np.int32(width)))
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
        rows = _joined(self._rows)
        ones = all(all_ones(w) for w in self._widths)
        widths = np.broadcast_to(np.int32(1), len(rows)) if ones else _joined(self._widths)
        jvp = len(rows) > 0 and int(rows.max()) >= JVP * len(self.graph)
        schedule = Schedule(self.extras.table(jvp=jvp), rows, widths, tuple(self._loops), notes)
        return pruned(schedule) if prune else schedule

    def _differentiable(self, nodes: ArrayLike | range) -> NDArray[np.int32]:
        array = _as_rows(nodes)
        return array if self._all_active else array[self._active[array]]


def all_ones(widths: NDArray[np.int32]) -> bool:
    """Whether every width is 1, held in the memory of one number."""
    return widths.strides == (0,) and bool((widths[:1] == 1).all())


def _joined(pieces: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate([np.empty(0, dtype=np.int32), *pieces])


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
    t = schedule.table
    keep = kernels.alive_forwards(schedule.rows, t.ptr, t.value, t.access, len(schedule.graph), len(t.value_bytes))
    if keep.all():
        return schedule
    widths = schedule.widths[: int(keep.sum())] if all_ones(schedule.widths) else schedule.widths[keep]
    return Schedule(t, schedule.rows[keep], widths, notes=schedule.notes)


class Walk(NamedTuple):
    """What one pass of the ledger kernel returns."""

    peak: int
    peak_action: int
    breakdown: Ints
    tier_peaks: Ints
    runs: Ints
    run_widths: Ints
    evaluated: NDArray[np.bool_]


_NONE = np.empty(0, dtype=np.int64)


def walk(
    schedule: Schedule, *, during: Ints = _NONE, after: Ints = _NONE, buckets: NDArray[np.int64] | None = None
) -> Walk:
    """One pass of the ledger over the flat schedule; fills the arrays that are given.

    Raises
    ------
    InvalidSchedule
        If an action reads a value that is not in memory, of another width, or not yet complete.
    CountOverflow
        If bytes or counts could leave 64-bit integers.
    """
    t, flat = schedule.table, schedule.flat
    _check_magnitudes(schedule)
    uniform = all_ones(flat.widths)
    fault, action, value, *rest = kernels.ledger(
        len(schedule.graph), flat.rows, np.ones(1, dtype=np.int32) if uniform else flat.widths, flat.weights,
        schedule.flags, t.ptr, t.value, t.access, t.workspace, t.value_bytes, t.value_code, t.contributions,
        during, after, np.empty((0, len(VALUE_KINDS) + 1), dtype=np.int64) if buckets is None else buckets,
    )  # fmt: skip
    if fault != kernels.OK:
        raise _fault(schedule, fault, flat.origin(action), value)
    done = Walk(*rest)
    return done if len(done.run_widths) else done._replace(run_widths=done.runs)


def _fault(schedule: Schedule, fault: int, action: int, value: int) -> InvalidSchedule:
    what = schedule.table.describe_value(value)
    reason = {
        kernels.MISSING: "which is not in memory",
        kernels.WRONG_WIDTH: "which is there for another number of tangents or cotangents",
        kernels.INCOMPLETE: "to which not all of its consumers have added",
    }[fault]
    message = f"action {action}, {schedule.action(action)}, reads {what}, {reason}"
    return InvalidSchedule(message, action=action, value=str(what))


def _check_magnitudes(schedule: Schedule) -> None:
    t, flat = schedule.table, schedule.flat
    width = int(flat.widths.max(initial=1))
    most = float(t.workspace.max(initial=0)) + width * float(t.value_bytes.sum(dtype=np.float64))
    if most > LARGEST and float(t.workspace.max(initial=0)) + _most_bytes(t, width) > LARGEST:
        raise CountOverflow(f"values of width {width} could take more than 4 EiB; use smaller chunks")
    if len(flat.weights) and float(np.dot(flat.weights.astype(np.float64), flat.widths.astype(np.float64))) > LARGEST:
        raise CountOverflow("the schedule has more than 4.6e18 actions")


def _most_bytes(t: Table, width: int) -> float:
    sums = [float(t.value_bytes[t.scaled == s].sum(dtype=np.float64)) for s in (False, True)]
    return sums[0] + width * sums[1]


def replay(schedule: Schedule) -> Cost:
    """Exact peak bytes, flops and counts of a schedule; loops are multiplied out.

    >>> from sim.models.families.chain import chain
    >>> from sim.strategies.reverse import reverse_full
    >>> replay(reverse_full(chain(length=3, activation_bytes=1))).flops.total
    6

    Raises
    ------
    InvalidSchedule
        If an action reads a value that is not in memory, of another width, or not yet complete.
    CountOverflow
        If bytes or counts could leave 64-bit integers.
    """
    if not len(schedule):
        raise InvalidSchedule("the schedule is empty", action=0)
    done = walk(schedule)
    t, graph = schedule.table, schedule.graph
    k = schedule.flat.origin(done.peak_action)
    breakdown = dict(zip(BREAKDOWN_KINDS, [*done.breakdown.tolist(), graph.resident_bytes], strict=True))
    n = len(graph)
    own = [done.runs[o * n : (o + 1) * n].sum() for o in range(3)]
    counts = dict(zip(KINDS, [*map(int, own), 0, 0, 0], strict=True))
    for extra, times in zip(t.extra_rows, done.runs[3 * n :].tolist(), strict=True):
        counts[KINDS[extra.opcode]] += times
    return Cost(
        working_bytes=int(done.peak),
        resident_bytes=graph.resident_bytes,
        peak_at=PeakAt(k, schedule.action(k).kind, schedule.action(k).node),
        peak_breakdown=breakdown,
        flops=_flops(t, done),
        actions={kind: counts[kind] for kind in ("forward", "jvp", "vjp", "jacobian", "multiply", "copy")},
        copied_bytes=_copied(schedule, done),
        tier_peak_bytes=dict(zip(TIERS, done.tier_peaks.tolist(), strict=True)),
    )


def _flops(t: Table, done: Walk) -> Flops:
    n = len(t.graph)
    by_kind = [dot(t.own_flops(o), done.run_widths[o * n : (o + 1) * n]) for o in range(3) if len(t) > o * n]
    by_kind += [0] * (len(KINDS) - len(by_kind))
    for extra, widths in zip(t.extra_rows, done.run_widths[3 * n :].tolist(), strict=True):
        by_kind[extra.opcode] += extra.flops * widths
    primal = dot(t.graph.columns.forward_flops, done.evaluated)
    return Flops(primal, by_kind[0] - primal, by_kind[2], by_kind[1], by_kind[3], by_kind[4])


def _copied(schedule: Schedule, done: Walk) -> dict[str, int]:
    t = schedule.table
    copied: dict[str, int] = {}
    for e, extra in enumerate(t.extra_rows):
        row = 3 * len(t.graph) + e
        if extra.opcode != COPY or not done.runs[row]:
            continue
        source, target = (int(v) for v in t.value[t.ptr[row] : t.ptr[row + 1]])
        link = f"{TIERS[t.value_tier[source]]}_to_{TIERS[t.value_tier[target]]}"
        times = int((done.run_widths if t.scaled[source] else done.runs)[row])
        copied[link] = copied.get(link, 0) + times * int(t.value_bytes[source])
    return copied


def profile(schedule: Schedule, *, samples: int = 500) -> NDArray[np.int64]:
    """Device bytes by kind over the actions: shape (samples or fewer, 8), columns `BREAKDOWN_KINDS`.

    The flat schedule is cut into equal stretches; each row is its fullest action, so that the peak
    is always among them.
    """
    count = min(samples, len(schedule.flat.rows))
    buckets = np.zeros((count, len(VALUE_KINDS) + 1), dtype=np.int64)
    walk(schedule, buckets=buckets)
    resident = np.full((count, 1), schedule.graph.resident_bytes, dtype=np.int64)
    return np.hstack([buckets, resident])
