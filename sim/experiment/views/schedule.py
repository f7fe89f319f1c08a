"""A few schedules of a run, described action by action: what the picture of a checkpointing schedule shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, get_args

import numpy as np
from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from sim.base.json import Amount, Plain
from sim.base.pareto import front, knee
from sim.experiment.measurements import Measurements
from sim.experiment.point import Point, coordinates
from sim.experiment.views import view
from sim.graphs.graph import Graph
from sim.schedules.effects import COPY, FORWARD
from sim.schedules.replay import walk
from sim.schedules.schedule import Schedule
from sim.schedules.values import ACTIVATION, DEVICE, RESIDUAL, TIERS, VALUE_KINDS

PICTURED_POINTS = 6
PICTURED_ACTIONS = 2_000
SHORTEST_LIFE = 3
"""Actions that a value on the device is there for at the least; fewer pass it from one to the next."""
SweepKind = Literal["forward", "recompute", "jvp", "vjp", "copy"]
SWEEP_KINDS: tuple[SweepKind, ...] = get_args(SweepKind)


Few = Annotated[int, Field(ge=0, le=1_000_000)]
"""A number of marks that a figure can draw."""


class Loop(TypedDict):
    """Actions start … stop-1, which stand for `times` turns."""

    start: Amount
    stop: Amount
    times: Amount


class Stored(TypedDict):
    """The spans during which values of a kind are in memory in a tier: (node, start, stop, bytes)."""

    value: str
    tier: str
    spans: list[tuple[int, int, int, Amount]]


class Picture(TypedDict):
    """A schedule as `picture` describes it."""

    nodes: Few
    actions: Few
    kinds: list[SweepKind]
    sweeps: list[tuple[int, int, int]]
    stored: list[Stored]
    loops: list[Loop]


class PictureOfPoint(Picture):
    """The picture of a point."""

    label: str
    strategy: str
    parameters: Mapping[str, Plain]


def _fitting(entry: PictureOfPoint) -> PictureOfPoint:
    nodes, actions = range(-1, entry["nodes"]), entry["actions"]
    kinds = range(len(entry["kinds"]))
    if any(kind not in kinds or a not in nodes or b not in nodes for kind, a, b in entry["sweeps"]):
        raise ValueError("sweeps of known kinds along known nodes")
    if actions != sum(abs(b - a) + 1 for _, a, b in entry["sweeps"]):
        raise ValueError("as many actions as the sweeps have")
    lives = [span for stored in entry["stored"] for span in stored["spans"]]
    if any(node not in nodes for node, *_ in lives):
        raise ValueError("values of known nodes")
    spans = [(start, stop) for _, start, stop, _ in lives]
    if any(not 0 <= a < b <= actions for a, b in [*spans, *((x["start"], x["stop"]) for x in entry["loops"])]):
        raise ValueError("spans and loops that begin before they end, within the actions")
    return entry


@view("pictures", place=1)
def pictures(run: Measurements) -> list[Annotated[PictureOfPoint, AfterValidator(_fitting)]]:
    """Up to six schedules short enough to be looked at, those with fewer actions first; none without checkpoints.

    Each kind of schedule has one before any has two, those with checkpoints before others.
    """
    entries: list[PictureOfPoint] = []
    if len(run.graph) > PICTURED_ACTIONS:
        return entries
    for i in _ranked(run.graph, run.points):
        schedule, point = run.schedule(i), run.points[i]
        if len(schedule.flat.rows) <= PICTURED_ACTIONS:
            content = picture(schedule)
            if any(entry["sweeps"] == content["sweeps"] and entry["stored"] == content["stored"] for entry in entries):
                continue
            entries.append(
                PictureOfPoint(label=point.label, strategy=point.strategy, parameters=point.parameters, **content)
            )
        elif not entries and not _is_checkpointed(run.graph, point):
            break
        if len(entries) == PICTURED_POINTS:
            break
    return sorted(entries, key=lambda entry: entry["actions"])


def picture(schedule: Schedule) -> Picture:
    """The actions and the lives of stored values of one schedule; at most three turns of a loop are laid out.

    `sweeps` are rows (index into `kinds`, first node, last node), each |last - first| + 1 actions that
    step from node to node; together they are all `actions` in order. Node -1 is a graph input.
    `stored` lists, by kind of value and tier, rows (node, start, stop, bytes): the value of that
    node is in memory during actions start … stop-1; what passes from one action to the next is left out.
    `loops` marks the actions that stand for `times` turns.
    """
    flat = schedule.flat
    nodes = schedule.table.node[flat.rows].tolist()
    kinds = _kinds(schedule, nodes)
    change = np.diff(np.concatenate([[0], flat.weights > 1, [0]]))
    starts, stops = np.flatnonzero(change > 0).tolist(), np.flatnonzero(change < 0).tolist()
    return Picture(
        nodes=len(schedule.graph),
        actions=len(nodes),
        kinds=list(SWEEP_KINDS),
        sweeps=list(_sweeps(kinds, nodes)),
        stored=_stored(schedule),
        loops=[Loop(start=a, stop=b, times=int(flat.weights[a])) for a, b in zip(starts, stops, strict=True)],
    )


def _ranked(graph: Graph, points: Sequence[Point]) -> list[int]:
    """The points that compute derivatives node by node, most instructive first; none where nothing is recomputed."""
    swept = [i for i, p in enumerate(points) if not p.actions.get("jacobian") and not p.actions.get("multiply")]
    again = [i for i in swept if _is_checkpointed(graph, points[i])]
    if not again:
        return []
    first: list[int] = []
    for group in (again, [i for i in swept if i not in again]):
        names = [str(points[i].parameters.get("schedule", points[i].strategy)) for i in group]
        for name in dict.fromkeys(names):
            own = [i for i, n in zip(group, names, strict=True) if n == name]
            pairs = [coordinates(points[i], "flops") for i in own]
            middle = knee(pairs)
            first.append(own[front(pairs)[0] if middle is None else middle])
    return list(dict.fromkeys([*first, *again, *swept]))


def _is_checkpointed(graph: Graph, point: Point) -> bool:
    """Tell whether a reverse mode evaluates nodes again."""
    return point.actions.get("vjp", 0) > 0 and point.actions.get("forward", 0) > len(graph)


def _kinds(schedule: Schedule, nodes: Sequence[int]) -> list[int]:
    names = {opcode: SWEEP_KINDS.index(name) for opcode, name in enumerate(("forward", "vjp", "jvp"))}
    names[COPY] = SWEEP_KINDS.index("copy")
    seen: set[int] = set()
    kinds = []
    for opcode, node in zip(schedule.table.opcode[schedule.flat.rows].tolist(), nodes, strict=True):
        kinds.append(names[opcode] + (opcode == FORWARD and node in seen))
        if opcode == FORWARD:
            seen.add(node)
    return kinds


def _sweeps(kinds: Sequence[int], nodes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    start = 0
    for k in range(1, len(nodes) + 1):
        goes_on = k < len(nodes) and kinds[k] == kinds[start] and abs(nodes[k] - nodes[k - 1]) == 1
        if not goes_on or (k > start + 1 and nodes[k] - nodes[k - 1] != nodes[start + 1] - nodes[start]):
            yield kinds[start], nodes[start], nodes[k - 1]
            start = k


def _stored(schedule: Schedule) -> list[Stored]:
    """The spans of activations and residuals that take memory for longer than an action or two, by liveness."""
    t = schedule.table
    spans: dict[tuple[int, int], list[tuple[int, int, int, int]]] = {}
    for v, size, start, stop in walk(schedule, lives=True).record.lives.tolist():
        kind, tier = int(t.columns.value_kind[v]), int(t.columns.value_tier[v])
        if kind in (ACTIVATION, RESIDUAL) and size > 0 and (tier != DEVICE or stop - start >= SHORTEST_LIFE):
            spans.setdefault((kind, tier), []).append((t.node_of_value(v), start, stop, size))
    return [
        Stored(value=VALUE_KINDS[kind], tier=TIERS[tier], spans=sorted(lives))
        for (kind, tier), lives in sorted(spans.items())
    ]
