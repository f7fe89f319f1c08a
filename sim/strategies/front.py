"""The front of a planner: for every budget its cheapest schedule, with a bound from below where one is proven.

A planner whose budget picks one schedule of many registers its front beside itself
(`Registry.register(…, front=…)`), so that a scenario can ask for the whole of it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from sim.base import pareto
from sim.base.errors import ParameterError
from sim.base.units import format_bytes
from sim.graphs.graph import Graph
from sim.graphs.node import Ints
from sim.schedules.effects import VJP
from sim.schedules.replay import dot, replay
from sim.schedules.schedule import Schedule
from sim.schedules.table import base_table
from sim.strategies.reverse import reverse_full

BoundClass = Literal["any order", "listed order"]
"""The schedules that a lower bound holds for: all on one device, or those whose VJPs run from the last node to the
first in the order of the graph's list (on a plain graph: whose nodes first run in that order)."""

Recipe = Callable[[Graph], Schedule]


class Candidate(NamedTuple):
    """The cost of a schedule, and the way to make it."""

    peak_bytes: int
    cost: int
    recipe: Recipe


@dataclass(frozen=True, eq=False)
class Front:
    """Schedules of which none is beaten: rising in peak bytes (resident ones included), falling in cost.

    `cost` is total flops, or picoseconds of all forwards and VJPs where seconds are minimised.
    `lower_bound[i]`, where there is a bound, is a cost that no schedule of the `bound_class` with fewer bytes
    than point i + 1 can come below. `exact` says that the points are all breakpoints of the `schedules` that
    were searched, at most 1 + `tolerance` above them; otherwise they are the best that were found.

    A front keeps no graph, so that it is forgotten together with the graph that it was planned for.
    """

    peak_bytes: tuple[int, ...]
    cost: tuple[int, ...]
    recipes: tuple[Recipe, ...]
    label: str
    schedules: str
    exact: bool
    tolerance: float = 0.0
    unit: Literal["flops", "picoseconds"] = "flops"
    lower_bound: tuple[int, ...] = ()
    bound_class: BoundClass | None = None
    smallest_proven: int | None = None
    """Peak bytes, resident ones included, below which no order of any schedule fits."""
    needed_by: str | None = None
    """Whose run takes all of `smallest_proven` by itself beside what is resident, where there is such a one."""

    def __len__(self) -> int:
        return len(self.peak_bytes)

    def schedule(self, graph: Graph, index: int) -> Schedule:
        """The schedule of a point, for the graph that the front was planned for."""
        return self.recipes[index](graph)

    def within(self, budget: int) -> int:
        """The cheapest point whose peak is at most `budget`.

        Raises
        ------
        ParameterError
            If there is none; the message has the smallest peak found, and the class of schedules where none was left
            out, or else the smallest peak proven.
        """
        at = bisect_right(self.peak_bytes, budget) - 1
        if at < 0:
            smallest = self.peak_bytes[0]
            size = f"{format_bytes(smallest)} ({smallest} bytes, resident ones included)"
            which = f"no {self.schedules}" if self.exact else "no schedule that was found"
            proven = self.smallest_proven
            if proven is not None:
                which = "no schedule" if budget < proven else which
                size += f", and none exists below {format_bytes(proven)} ({proven} bytes)"
                if self.needed_by is not None:
                    size += f", which {self.needed_by} takes by itself beside what is resident"
            raise ParameterError(
                f"{which} fits {format_bytes(budget)}: the smallest peak found is {size}", parameter=("budget",)
            )
        return at

    def spread(self, count: int) -> list[int]:
        """`count` points (all, where there are fewer), both ends among them, evenly over the logarithm of the cost."""
        return spread(self.cost, count)

    def curves(self) -> list[dict[str, Any]]:
        """Every breakpoint in (bytes, flops), and the bound with the class that it holds for."""
        if self.unit != "flops":
            return []
        points = [list(pair) for pair in zip(self.peak_bytes, self.cost, strict=True)]
        curves: list[dict[str, Any]] = [{"label": self.label, "kind": "exact", "breakpoints": points}]
        if self.bound_class is not None:
            bounds = [list(pair) for pair in zip(self.peak_bytes, self.lower_bound, strict=True)]
            curves.append(
                {"label": "lower bound", "kind": "bound", "breakpoints": bounds, "bound_class": self.bound_class}
            )
        return curves


def spread(costs: Sequence[int] | Ints, count: int) -> list[int]:
    """`count` indices of falling costs (all, where there are fewer), both ends among them, as far apart as may be.

    Even steps of the logarithm choose them; where two steps choose the same, the next one takes its place.

    >>> spread([1000, 90, 80, 70, 9, 1], 4), spread([1000, 999, 998, 1], 3), spread([4, 2, 1], 1)
    ([0, 1, 4, 5], [0, 2, 3], [2])
    """
    last = len(costs) - 1
    if count > last:
        return list(range(len(costs)))
    if count == 1:
        return [last]
    logs = np.array([math.log(max(1, int(c))) for c in reversed(costs)])
    steps = np.linspace(logs[0], logs[-1], count)
    chosen = sorted((last - np.searchsorted(logs, steps).clip(0, last)).tolist())
    chosen[0] = 0
    for k in range(1, count):
        chosen[k] = max(chosen[k], chosen[k - 1] + 1)
    return [min(i, last - (count - 1 - k)) for k, i in enumerate(chosen)]


def replayed(graph: Graph, recipes: Iterable[Recipe], costs: tuple[Ints, Ints] | None) -> list[Candidate]:
    """Candidates with what replay says of them; `costs` of forwards and of VJPs stand in for flops."""
    candidates = []
    for recipe in recipes:
        schedule = recipe(graph)
        cost = replay(schedule)
        total = cost.flops.total
        if costs is not None:
            assert not schedule.loops
            n = len(graph)
            counts = np.bincount(schedule.rows, minlength=2 * n)[: 2 * n]
            total = dot(costs[0], counts[:n]) + dot(costs[1], counts[n:])
        candidates.append(Candidate(cost.peak_bytes, total, recipe))
    return candidates


def unbeaten(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that none beats in peak and cost, by rising peak; of equal ones the first."""
    kept: list[Candidate] = []
    for i in pareto.front([c[:2] for c in candidates]):
        if not kept or candidates[i][:2] != kept[-1][:2]:
            kept.append(candidates[i])
    return kept


def adjoint_cost(graph: Graph, width: int, costs: tuple[Ints, Ints] | None) -> int:
    """The cost of all VJPs of `width` cotangents; `costs` are of all cotangents."""
    each = base_table(graph).own_flops(VJP) if costs is None else costs[1]
    total: int = sum(each[graph.active[len(graph.inputs) :]].tolist())
    return total * width if costs is None else total


def in_chunks(width: int) -> list[partial[Schedule]]:
    """Full store with fewer cotangents at once: 1, 2, 4, …"""
    return [partial(reverse_full, chunk=2**k) for k in range(width.bit_length()) if 2**k < width]


def below_next(graph: Graph, peaks: Sequence[int]) -> Ints:
    """The most working bytes that are fewer than those of the next peak; of the last, its own."""
    return np.array([*(p - 1 for p in peaks[1:]), peaks[-1]], dtype=np.int64) - graph.resident_bytes
