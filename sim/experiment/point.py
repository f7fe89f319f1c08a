"""One strategy with its parameters, measured: a point of a chart and an entry of results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NotRequired

from typing_extensions import TypedDict

from sim.base import pareto
from sim.base.json import Amount, Measured, Plain


class PeakAt(TypedDict):
    """The action during which the peak is first reached."""

    action: Amount
    kind: str
    node: str


class Flops(TypedDict):
    """Flops by kind, and their sum."""

    primal: Amount
    recompute: Amount
    tangent: Amount
    adjoint: Amount
    jacobian: Amount
    product: Amount
    total: Amount


class OnFront(TypedDict):
    """The fronts that a point is on: no other beats it in memory and work, and in memory and time."""

    flops: bool
    seconds: bool


class Phase(TypedDict):
    """What a rank does in all passes of one part, and what it holds at most meanwhile, by kind."""

    busy_seconds: Measured
    waiting_seconds: Measured
    peak_bytes: Amount
    breakdown: Mapping[str, Amount]


class Rank(TypedDict):
    """Ranks of a pipeline that do the same: how many, what they hold at the peak, and what they do in a step.

    `ranks` are their numbers in one replica, `count` counts all replicas'. `in_flight` is how many
    micro-batches their share of the model holds activations of; `idle_seconds` is what is left of the step
    beside `busy_seconds`, and `communication_seconds` how long their sends and collectives take. Bytes, and
    when they are highest, are there if there is a graph, and `phases`, by the part of a stage that a rank computes.
    """

    ranks: list[Amount]
    count: Amount
    in_flight: Measured
    busy_seconds: Measured
    idle_seconds: Measured
    communication_seconds: Measured
    peak_bytes: NotRequired[Amount]
    peak_seconds: NotRequired[Measured]
    breakdown: NotRequired[Mapping[str, Amount]]
    phases: NotRequired[Mapping[str, Phase]]


class Throughput(TypedDict):
    """What all ranks get done in a second, and which share of the device's peak rate their flops are.

    Model flops are three times those of the first evaluation, as if a VJP took twice as many, and of nothing done
    again (Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B); hardware flops are all that are computed.
    """

    samples_per_second: Measured
    tokens_per_second: NotRequired[Measured]
    model_flops_utilization: NotRequired[Measured]
    hardware_flops_utilization: NotRequired[Measured]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One strategy with its parameters: exact bytes, flops and counts; seconds if a device was given.

    `fits` is false if the peak exceeds the budget or the device cannot hold it, and `why_not` says by
    how much; there are no seconds then. `simulated_peak_bytes` is more than `peak_bytes` where copies
    lag behind the computation, and `serial_seconds` what copies and computations would take one after
    the other. `notes` is what the planner says of its plan (a bracketing, the cost of its recurrence).
    `pareto["flops"]` says that no other point is at least as good in peak bytes, flops and copied bytes
    and better in one, `pareto["seconds"]` the same of simulated peak bytes and seconds. A pipeline has its
    `bubble`, the share of the step in which the busiest rank computes nothing, and its `ranks`. A point of a
    sweep has the keys and values of its `cell`, whose points alone its fronts are of.
    """

    strategy: str
    parameters: Mapping[str, Plain]
    label: str
    peak_bytes: Amount
    working_bytes: Amount
    resident_bytes: Amount
    peak_at: PeakAt
    peak_breakdown: Mapping[str, Amount]
    flops: Flops
    actions: Mapping[str, Amount]
    seconds: Measured | None = None
    stall_seconds: Measured | None = None
    simulated_peak_bytes: Amount | None = None
    copied_bytes: Mapping[str, Amount] = field(default_factory=dict)
    serial_seconds: Measured | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    fits: bool = True
    why_not: str | None = None
    bubble: Measured | None = None
    ranks: tuple[Rank, ...] = ()
    throughput: Throughput | None = None
    cell: Mapping[str, Plain] = field(default_factory=dict)
    pareto: OnFront = field(default_factory=lambda: OnFront(flops=False, seconds=False))

    def to_dict(self) -> dict[str, Any]:
        """The plain data of the point; what pipelines or points of sweeps alone have is left out of others."""
        data = asdict(self)
        absent = [*(() if self.ranks else ("bubble", "ranks")), *(() if self.cell else ("cell",))]
        absent += [] if self.throughput else ["throughput"]
        return {k: v for k, v in data.items() if k not in absent}

    @property
    def name(self) -> str:
        """The label, and in a sweep the cell."""
        return ", ".join([self.label, *(f"{key} = {value}" for key, value in self.cell.items())])


def coordinates(point: Point, by: str) -> tuple[pareto.Number, pareto.Number]:
    """Bytes and flops, exact; or the bytes that were in use in the simulation, and its seconds."""
    if by == "flops":
        return point.peak_bytes, point.flops["total"]
    return max(point.peak_bytes, point.simulated_peak_bytes or 0), point.seconds or 0.0


def landmarks(points: Sequence[Point], by: str, count: int) -> list[int]:
    """Indices of the points that stand for the front, the most important first.

    By flops, points that copy do not compete: they pay in time.
    """
    competing = [i for i, p in enumerate(points) if by != "flops" or not any(p.copied_bytes.values())]
    pairs, series = [coordinates(points[i], by) for i in competing], [points[i].strategy for i in competing]
    return [competing[k] for k in pareto.landmarks(pairs, series, count=count)]
