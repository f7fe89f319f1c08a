"""The schedule with the least flops for a byte budget, and the whole front of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from sim.base.errors import NotApplicable, ParameterError
from sim.base.pareto import front
from sim.base.registry import Count
from sim.base.units import Bytes, format_bytes
from sim.graphs.graph import Graph, Ints
from sim.schedules.actions import VJP
from sim.schedules.cost import dot
from sim.schedules.schedule import Builder, Schedule, replay
from sim.schedules.table import base_table
from sim.strategies.checkpointing.segments import schedules
from sim.strategies.reverse import reverse_full
from sim.strategies.selective import selective, worth_keeping

MOST_NODES = 4000
MOST_REPLAYS = 4000
PICOSECONDS = 1e12

Minimize = Literal["flops", "seconds"]


@dataclass(frozen=True, eq=False)
class Front:
    """The best schedules that were found, rising in peak bytes (resident ones included), falling in cost.

    `cost` is total flops, or picoseconds of all forwards and VJPs where seconds are minimised.
    `lower_bound[i]` is a cost that no schedule with fewer bytes than the next point has can come below
    (of reverse mode on one device, whose VJPs run from the last node to the first). `exact` says that the
    points are all breakpoints of the class, at most 1 + `tolerance` above it; on graphs that are no chains
    they are replayed estimates.
    """

    graph: Graph
    peak_bytes: tuple[int, ...]
    cost: tuple[int, ...]
    lower_bound: tuple[int, ...]
    exact: bool
    tolerance: float
    _makers: tuple[Callable[[], Schedule], ...]

    def __len__(self) -> int:
        return len(self.peak_bytes)

    def schedule(self, index: int) -> Schedule:
        """The schedule of a point."""
        return self._makers[index]()

    def within(self, budget: int) -> int:
        """The cheapest point whose peak is at most `budget`.

        Raises
        ------
        ParameterError
            If there is none; the message has the smallest peak.
        """
        at = int(np.searchsorted(np.array(self.peak_bytes), budget, side="right")) - 1
        if at < 0:
            smallest = self.peak_bytes[0]
            raise ParameterError(
                f"no schedule fits {format_bytes(budget)}: the smallest peak is {format_bytes(smallest)} "
                f"({smallest} bytes, {format_bytes(self.graph.resident_bytes)} of them resident)",
                parameter=("budget",),
            )
        return at

    def spread(self, count: int) -> list[int]:
        """At most `count` points, both ends among them, spread evenly over the logarithm of the cost."""
        from sim.strategies.general.blocks import spread

        return spread(np.array(self.cost, dtype=np.float64).astype(np.int64), count)


@schedules.register("optimal")
def optimal(
    graph: Graph,
    *,
    budget: Annotated[Bytes | None, Field(description="peak bytes, resident ones included")] = None,
    points: Annotated[Count | None, Field(description="how many points of the front to take")] = None,
    point: Annotated[
        Count | None, Field(description="which of them, the smallest peak first; the first if not given")
    ] = None,
    tolerance: Annotated[float, Field(ge=0, le=1, description="how far above the optimum, relatively")] = 0.0,
    minimize: Annotated[Minimize, Field(description="what the budget is spent on saving")] = "flops",
) -> Schedule:
    """Least flops for a budget on heterogeneous chains, all breakpoints exact; near it on other graphs.

    Without a budget it is the schedule with the smallest peak, or point `point` of `points` spread over
    the front (see `optimal_front`). The class of schedules is that of `sim.strategies.optimal.recurrence`, with all
    cotangents at once; on chains it contains the fixed schedules. Full store in smaller chunks of
    cotangents is considered as well.

    Raises
    ------
    ParameterError
        If nothing fits the budget (the message says what would), or seconds are asked for and not known.
    """
    found = optimal_front(graph, tolerance=tolerance, minimize=minimize)
    if budget is not None:
        return found.schedule(found.within(budget))
    chosen = found.spread(points or 1) if points else [0]
    at = (point or 1) - 1
    if at >= len(chosen):
        raise ParameterError(
            f"the front has only {len(chosen)} points to choose from, got point {at + 1}", parameter=("point",)
        )
    return found.schedule(chosen[at])


def optimal_front(
    graph: Graph, *, tolerance: float = 0.0, minimize: Minimize = "flops", costs: tuple[Ints, Ints] | None = None
) -> Front:
    """The front of reverse mode with all cotangents at once; made once for each graph and parameters.

    `costs` are those of each node's forward and VJP in any whole unit, such as picoseconds on a device;
    they stand in for flops. `minimize="seconds"` takes the graph's measured times.

    Raises
    ------
    NotApplicable
        If the graph has too many nodes for the planner's tables.
    ParameterError
        If seconds are asked for, and the graph has no measured times.
    CountOverflow
        If the exact front has too many breakpoints; a tolerance helps.
    """
    if len(graph) > MOST_NODES:
        raise NotApplicable(
            f"optimal plans at most {MOST_NODES:,} nodes, the graph has {len(graph):,}; schedule: binomial has no limit"
        )
    if costs is None and minimize == "seconds":
        costs = _measured(graph)
    fronts = graph.__dict__.setdefault("_optimal_fronts", {})
    key = (tolerance, None if costs is None else tuple(c.tobytes() for c in costs))
    if key not in fronts:
        fronts[key] = _make_front(graph, tolerance, costs)
    made: Front = fronts[key]
    return made


def _measured(graph: Graph) -> tuple[Ints, Ints]:
    seconds = graph.columns.seconds
    if seconds is None or np.isnan(seconds[:, [0, 2]]).any():
        raise ParameterError(
            "minimize: seconds needs measured times of every node (a profiled model); got a graph without them",
            parameter=("minimize",),
        )
    ticks = np.rint(seconds * PICOSECONDS).astype(np.int64)
    return ticks[:, 0], ticks[:, 2]


Candidate = tuple[int, int, Callable[[], Schedule]]


def _make_front(graph: Graph, tolerance: float, costs: tuple[Ints, Ints] | None) -> Front:
    from sim.strategies.general.blocks import planned, spread
    from sim.strategies.general.bound import block_lower_bound
    from sim.strategies.optimal.bound import lower_bound
    from sim.strategies.optimal.stages import stages_of

    width = graph.output_scalars
    stairs = planned(graph, width=width, tolerance=tolerance, costs=None if costs is None else costs[0])
    table = base_table(graph)
    flops = (table.own_flops(0), table.own_flops(VJP) * width) if costs is None else costs
    active = graph.active[len(graph.inputs) :]
    adjoint = sum(flops[1][active].tolist())

    def maker(index: int) -> Callable[[], Schedule]:
        return lambda: _schedule(graph, stairs.plan(index), width, prune=not chain)

    candidates: list[Candidate] = []
    chain = stairs.stages.exact
    if chain and stairs.exact:
        resident = graph.resident_bytes
        candidates += [
            (resident + m, c + adjoint, maker(i))
            for i, (m, c) in enumerate(zip(stairs.memory.tolist(), stairs.cost.tolist(), strict=True))
        ]
    else:
        chosen = range(len(stairs)) if chain else spread(stairs.cost, MOST_REPLAYS)
        candidates += _replayed((maker(i) for i in chosen), costs)
    if not chain:
        candidates += _replayed(_fixed(graph), costs)
        candidates += _replayed(_selective(graph, flops[0]), costs)
    if width > 1 and costs is None:
        candidates += _replayed(_in_chunks(graph, width), None)
    kept = front([(peak, cost) for peak, cost, _ in candidates])
    unique = [i for k, i in enumerate(kept) if not k or candidates[i][:2] != candidates[kept[k - 1]][:2]]
    peaks = tuple(candidates[i][0] for i in unique)
    working = np.array([*peaks[1:], peaks[-1] + 1], dtype=np.int64) - 1 - graph.resident_bytes
    one = stairs.stages if width == 1 else stages_of(graph, costs=None if costs is None else costs[0])
    below = lower_bound(one, working) if chain else block_lower_bound(graph, one, working)
    return Front(
        graph=graph,
        peak_bytes=peaks,
        cost=tuple(candidates[i][1] for i in unique),
        lower_bound=tuple(b + adjoint for b in below.tolist()),
        exact=chain,
        tolerance=tolerance,
        _makers=tuple(candidates[i][2] for i in unique),
    )


def _schedule(graph: Graph, rows: Any, width: int, *, prune: bool) -> Schedule:
    builder = Builder(graph)
    builder.rows(rows, width=width)
    return builder.build(prune=prune)


def _replayed(makers: Iterator[Callable[[], Schedule]], costs: tuple[Ints, Ints] | None) -> list[Candidate]:
    """Candidates as replay sees them, with the costs of forwards and of VJPs of all cotangents if not flops."""
    out: list[Candidate] = []
    for make in makers:
        schedule = make()
        cost = replay(schedule)
        if costs is None or schedule.loops:
            total = cost.flops.total
        else:
            n = len(costs[0])
            counts = np.bincount(schedule.rows, minlength=2 * n)[: 2 * n]
            total = dot(costs[0], counts[:n]) + dot(costs[1], counts[n:])
        out.append((cost.peak_bytes, total, make))
    return out


def _in_chunks(graph: Graph, width: int) -> Iterator[Callable[[], Schedule]]:
    """Full store with fewer cotangents at once: 1, 2, 4, …"""
    for power in range(width.bit_length()):
        if 2**power < width:
            yield lambda chunk=2**power: reverse_full(graph, chunk=chunk)  # type: ignore[misc]


def _fixed(graph: Graph) -> Iterator[Callable[[], Schedule]]:
    """Every fixed schedule: full store, segments, periods and binomial plans of all sizes."""
    steps = len(graph.step_starts) - 1
    sizes = range(1, steps + 1)
    yield lambda: reverse_full(graph, chunk=graph.output_scalars)

    def call(name: str, **parameters: int) -> Callable[[], Schedule]:
        return lambda: schedules[name].function(graph, **parameters)

    for size in sizes:
        yield call("uniform", segments=size)
    periods: Sequence[int] = [k for k in sizes if steps % k or k == 1]
    for size in periods:
        yield call("periodic", every=size)
    for size in sizes:
        yield call("binomial", slots=size)


def _selective(graph: Graph, costs: Ints) -> Iterator[Callable[[], Schedule]]:
    """What is cheap for its bytes dropped everywhere, for several meanings of cheap."""
    for kept in worth_keeping(graph, costs):
        yield lambda kept=kept: selective(graph, kept)  # type: ignore[misc]
