"""A reverse schedule as a tree of regions: what it keeps, and the stretches of nodes that it computes again.

The first forward sweep keeps some values for the adjoint sweep. Each burst of forwards between VJPs
computes a stretch of nodes again, and keeps some values for later bursts, which lie inside it.
Stretches nest like the regions of `jax.checkpoint`. That keeps what enters and leaves a region by
itself, so a stretch is a region only where no kept value is read both in it and around it; otherwise
it is computed again together with the stretch around it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.base.errors import NotApplicable
from sim.graphs.graph import Graph
from sim.graphs.node import NEEDS
from sim.schedules.effects import FORWARD, VJP
from sim.schedules.schedule import Schedule
from sim.schedules.values import ACTIVATION, READ, RESIDUAL, SAVE, WRITE

Kept = frozenset[tuple[int, int]]
"""Values that are kept, as (kind, node)."""


@dataclass(frozen=True, slots=True)
class Region:
    """Nodes start … stop-1, and what of them is kept when the sweep around the region evaluates them.

    Kept are `activations` and `residuals` of the nodes that these name; everything else is computed
    again when the region's adjoint begins. `inner` are regions in order, disjoint.
    """

    start: int
    stop: int
    activations: frozenset[int]
    residuals: frozenset[int]
    inner: tuple[Region, ...] = ()


@dataclass(frozen=True, slots=True)
class _Burst:
    """Forwards in a row and the VJPs after them: the first node evaluated, those of VJPs, and what is kept.

    `kept` are the values that these VJPs and later actions read.
    """

    first: int
    lowest: int
    kept: Kept


def regions(schedule: Schedule) -> Region:
    """The tree of a schedule; its root spans all nodes and says what the first forward sweep keeps.

    Raises
    ------
    NotApplicable
        If the schedule has other actions than forwards and VJPs: tangents, copies, Jacobians.
    """
    if set(schedule.opcode.tolist()) != {FORWARD, VJP}:
        raise NotApplicable("the plan is not reverse mode on the device alone: jax.checkpoint keeps or recomputes")
    n = len(schedule.graph)
    bursts = _bursts(schedule)
    ends = [n, *(b.lowest for b in bursts)]  # burst k has the VJPs of nodes ends[k+1] … ends[k]-1
    ends[-1] = 0
    if any(a <= b for a, b in itertools.pairwise(ends)):
        bursts, ends = bursts[:1], [n, 0]  # VJPs do not go down in stretches: one region

    def children(k: int, last: int, kept: Kept) -> tuple[Region, ...]:
        """The regions of bursts k … last, which lie in the region (or sweep) that keeps `kept`."""
        siblings: list[Region] = []
        while k <= last:
            end = k
            while end < last and bursts[k].first < ends[end + 1]:
                end += 1
            if _closed(schedule.graph, ends[end + 1], ends[k], kept):
                siblings.append(_region(ends[end + 1], ends[k], kept, children(k + 1, end, bursts[k].kept)))
            k = end + 1
        return tuple(siblings[::-1])

    first = bursts[0].kept
    return _region(0, n, first, children(1, len(bursts) - 1, first))


def _region(start: int, stop: int, kept: Kept, inner: Sequence[Region]) -> Region:
    def of(kind: int) -> frozenset[int]:
        return frozenset(i for k, i in kept if k == kind and start <= i < stop)

    return Region(start, stop, of(ACTIVATION), of(RESIDUAL), tuple(inner))


def _closed(graph: Graph, start: int, stop: int, kept: Kept) -> bool:
    """Tell whether no kept value that enters or leaves nodes start … stop-1 is read on both sides of their border.

    JAX would keep it twice (under two names for one buffer): for the region, and for what is around it.
    """
    m, c = len(graph.inputs), graph.columns
    reader = np.repeat(np.arange(len(graph)), np.diff(c.input_ptr))
    made = c.input_index >= m
    reader, value = reader[made], c.input_index[made] - m
    crossing = ((value >= start) & (value < stop)) != ((reader >= start) & (reader < stop))
    crossing_values = {i for k, i in kept if k == ACTIVATION}.intersection(value[crossing].tolist())
    reads_output = c.needs & NEEDS.index("output") > 0
    if any(reads_output[v] for v in crossing_values):
        return False
    within = (reader >= start) & (reader < stop)
    return not crossing_values.intersection(value[within].tolist()) & set(value[~within].tolist())


def _turning_points(schedule: Schedule) -> list[int]:
    """The places where runs of forwards end and VJPs begin."""
    opcode = schedule.opcode
    return [k for k in range(1, len(opcode)) if opcode[k] == VJP and opcode[k - 1] == FORWARD]


def _bursts(schedule: Schedule) -> list[_Burst]:
    opcode, node = schedule.opcode, schedule.node
    turns = _turning_points(schedule)
    bursts = []
    start = 0
    for turn, following in zip(turns, [*turns[1:], len(opcode)], strict=True):
        stop = turn
        while stop < following and opcode[stop] == VJP:
            stop += 1
        forwards, adjoints = node[start:turn], node[turn:stop]
        bursts.append(_Burst(int(forwards.min()), int(adjoints.min()), _kept_by(schedule, start, turn)))
        start = stop
    return bursts


def _kept_by(schedule: Schedule, start: int, turn: int) -> Kept:
    """The values that actions start … turn-1 write, and that action `turn` or a later one reads.

    Only activations and residuals are looked at.
    """
    table = schedule.table
    written: set[int] = set()
    kept: set[int] = set()
    for k in range(start, len(schedule)):
        for value, access in table.touches(int(schedule.rows[k])).items():
            if not table.numbers.is_made_by_forward(value):
                continue
            if k < turn and access in (WRITE, SAVE):
                written.add(value)
            elif k >= turn and access == READ and value in written:
                kept.add(value)
            elif k >= turn and access in (WRITE, SAVE):
                written.discard(value)
    return frozenset(map(table.numbers.kind_and_node, kept))
