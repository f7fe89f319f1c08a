"""Replay: what a schedule takes, as exact integers; no clock. The oracle of every other interpreter.

`walk` is one pass of the ledger; `replay` makes a `Cost` of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.base.errors import CountOverflow, InvalidSchedule
from sim.graphs.graph import Graph
from sim.graphs.node import LARGEST, Ints
from sim.schedules import ledger
from sim.schedules.actions import OWN
from sim.schedules.effects import FORWARD, KINDS, Kind
from sim.schedules.ledger import Record
from sim.schedules.schedule import Schedule, all_ones
from sim.schedules.table import Table
from sim.schedules.values import ACCUMULATE, TIERS, VALUE_KINDS

BREAKDOWN_KINDS = (*VALUE_KINDS, "workspace", "resident")
COUNTED_KINDS = ("forward", "jvp", "vjp", "jacobian", "multiply", "copy")
"""Kinds of actions in the order in which people read them."""


@dataclass(frozen=True, slots=True)
class Flops:
    """Flops by kind, as exact integers."""

    primal: int
    recompute: int
    tangent: int
    adjoint: int
    jacobian: int
    product: int

    @property
    def total(self) -> int:
        return self.primal + self.recompute + self.tangent + self.adjoint + self.jacobian + self.product


class PeakAt(NamedTuple):
    """The action during which the peak is first reached (a number in the schedule)."""

    action: int
    kind: str
    node: str


@dataclass(frozen=True, slots=True)
class Cost:
    """The exact cost of a schedule. Bytes are of the device unless a name says otherwise."""

    working_bytes: int
    resident_bytes: int
    peak_at: PeakAt
    peak_breakdown: dict[str, int]
    flops: Flops
    actions: dict[str, int]
    copied_bytes: dict[str, int]
    tier_peak_bytes: dict[str, int]

    @property
    def peak_bytes(self) -> int:
        return self.working_bytes + self.resident_bytes


class Walk(NamedTuple):
    """The outcome of one pass of the ledger; `left` is the width of each value that is there at the end."""

    peak: int
    peak_action: int
    breakdown: Ints
    tier_peaks: Ints
    runs: Ints
    run_widths: Ints
    evaluated: NDArray[np.bool_]
    left: NDArray[np.int32]
    record: Record


def walk(
    schedule: Schedule,
    *,
    bytes_of_actions: bool = False,
    lives: bool = False,
    buckets: int = 0,
    stop: int | None = None,
) -> Walk:
    """One pass of the ledger over the flat schedule (up to action `stop`), with a record of what is asked for.

    Raises
    ------
    InvalidSchedule
        If an action reads a value that is not in memory, of another width, or not yet complete.
    CountOverflow
        If bytes or counts could leave 64-bit integers.
    """
    if not len(schedule):
        raise InvalidSchedule("the schedule is empty", action=0)
    columns, flat = schedule.table.columns, schedule.flat
    _check_magnitudes(schedule)
    rows = flat.rows[:stop]
    widths = np.ones(1, dtype=np.int32) if all_ones(flat.widths) else np.ascontiguousarray(flat.widths[:stop])
    room = int(_makes(schedule.table)[rows].sum()) if lives else 0
    record = Record(
        during=np.empty(len(rows) if bytes_of_actions else 0, dtype=np.int64),
        after=np.empty(len(rows) if bytes_of_actions else 0, dtype=np.int64),
        buckets=np.zeros((buckets, len(VALUE_KINDS) + 1), dtype=np.int64),
        lives=np.empty((room, 4), dtype=np.int64),
    )
    fault, action, value, *rest, began = ledger.ledger(rows, widths, flat.weights, schedule.flags, columns, record)
    if fault != ledger.OK:
        raise _fault(schedule, fault, flat.origin(action), value)
    walked = Walk._make([*rest, record._replace(lives=record.lives[:began])])
    return walked if len(walked.run_widths) else walked._replace(run_widths=walked.runs)


def _makes(table: Table) -> Ints:
    """The most values that each row may make."""
    c = table.columns
    return np.diff(np.concatenate([[0], np.cumsum(c.access >= ACCUMULATE)])[c.ptr])


def _fault(schedule: Schedule, fault: int, action: int, value: int) -> InvalidSchedule:
    what = schedule.table.describe_value(value)
    reason = {
        ledger.MISSING: "which is not in memory",
        ledger.WRONG_WIDTH: "which is there for another number of tangents or cotangents",
        ledger.INCOMPLETE: "to which not all of its consumers have added",
    }[fault]
    message = f"action {action}, {schedule.action(action)}, reads {what}, {reason}"
    return InvalidSchedule(message, action=action, value=str(what))


def _check_magnitudes(schedule: Schedule) -> None:
    t, flat = schedule.table, schedule.flat
    width = int(flat.widths.max(initial=1))
    sizes = t.columns.value_bytes
    workspace = float(max(t.columns.workspace.max(initial=0), t.columns.saving_workspace.max(initial=0)))
    if workspace + width * float(sizes.sum(dtype=np.float64)) > LARGEST:
        fixed, per_width = (float(sizes[t.scaled == s].sum(dtype=np.float64)) for s in (False, True))
        if workspace + fixed + width * per_width > LARGEST:
            raise CountOverflow(f"values of width {width} could take more than 4 EiB; use smaller chunks")
    if len(flat.weights) and float(np.dot(flat.weights.astype(np.float64), flat.widths.astype(np.float64))) > LARGEST:
        raise CountOverflow("the schedule has more than 4.6e18 actions")


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
    return cost_of(schedule, walk(schedule))


def cost_of(schedule: Schedule, walked: Walk) -> Cost:
    """The cost that a walk over a whole schedule found."""
    t, graph = schedule.table, schedule.graph
    k = schedule.flat.origin(walked.peak_action)
    action = schedule.action(k)
    resident = graph.resident_bytes
    counts = _by_kind(t, walked.runs, None)
    return Cost(
        working_bytes=int(walked.peak),
        resident_bytes=resident,
        peak_at=PeakAt(k, action.kind, action.node),
        peak_breakdown=dict(zip(BREAKDOWN_KINDS, [*walked.breakdown.tolist(), resident], strict=True)),
        flops=_flops(graph, t, walked),
        actions={kind: counts[kind] for kind in COUNTED_KINDS},
        copied_bytes=_copied(t, walked) if t.added else {},
        tier_peak_bytes=dict(zip(TIERS, walked.tier_peaks.tolist(), strict=True)),
    )


def _by_kind(t: Table, times: Ints, of_row: Ints | None) -> dict[str, int]:
    """Σ times · what a row counts for (1 if `None`), by kind of action."""
    rows_of: list[tuple[Kind, Any]] = [(own.kind, t.numbers.rows(opcode)) for opcode, own in enumerate(OWN)]
    if t.added:
        first = t.numbers.first_added_row
        added = t.opcode[first:]
        rows_of += [(KINDS[code], first + np.flatnonzero(added == code)) for code in np.unique(added).tolist()]
    sums: dict[str, int] = dict.fromkeys(KINDS, 0)
    for kind, rows in rows_of:
        sums[kind] += int(times[rows].sum()) if of_row is None else dot(of_row[rows], times[rows])
    return sums


def _flops(graph: Graph, t: Table, walked: Walk) -> Flops:
    sums = _by_kind(t, walked.run_widths, t.flops)
    primal = dot(graph.columns.forward_flops, walked.evaluated)
    recompute = sums[KINDS[FORWARD]] - primal
    return Flops(primal, recompute, sums["jvp"], sums["vjp"], sums["jacobian"], sums["multiply"])


def _copied(t: Table, walked: Walk) -> dict[str, int]:
    rows, source, target = (x[walked.runs[t.copies[0]] > 0] for x in t.copies)
    times = np.where(t.scaled[source], walked.run_widths[rows], walked.runs[rows])
    link = len(TIERS) * t.columns.value_tier[source].astype(np.int64) + t.columns.value_tier[target]
    copied: dict[str, int] = {}
    for k in sorted(np.unique(link, return_index=True)[1].tolist()):  # in the order of the first copies
        here = link == link[k]
        name = "_to_".join(TIERS[tier] for tier in divmod(int(link[k]), len(TIERS)))
        copied[name] = dot(t.columns.value_bytes[source[here]], times[here])
    return copied


def dot(costs: Ints, counts: NDArray[np.int64] | NDArray[np.bool_]) -> int:
    """Σ costs·counts as an exact Python integer, whatever its size."""
    if int(costs.max(initial=0)) * int(counts.sum()) < LARGEST:
        return int(np.dot(costs, counts))
    nonzero = np.flatnonzero(counts)
    return sum(a * b for a, b in zip(costs[nonzero].tolist(), counts[nonzero].tolist(), strict=True))


def profile(schedule: Schedule, *, samples: int = 500) -> NDArray[np.int64]:
    """Device bytes by kind over the actions: shape (samples or fewer, 8), columns `BREAKDOWN_KINDS`.

    The flat schedule is cut into equal stretches; each row is its fullest action, so that the peak
    is always among them.
    """
    count = min(samples, len(schedule.flat.rows))
    buckets = walk(schedule, buckets=count).record.buckets
    resident = np.full((count, 1), schedule.graph.resident_bytes, dtype=np.int64)
    return np.hstack([buckets, resident])
