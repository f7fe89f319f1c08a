"""What points do with memory: which values are there when, which nodes are evaluated again, who waits for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, NamedTuple, NotRequired, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from sim.base.json import Amount, Column, Measured, rounded, words
from sim.experiment.measurements import Measurements
from sim.experiment.point import landmarks
from sim.experiment.views import view
from sim.experiment.views.model import shares, stretches
from sim.graphs.node import Ints
from sim.schedules.effects import COPY, FORWARD, KINDS
from sim.schedules.ledger import LIFE_BYTES, LIFE_START, LIFE_STOP, LIFE_VALUE
from sim.schedules.lifetimes import STREAMS
from sim.schedules.replay import BREAKDOWN_KINDS, Walk, walk
from sim.schedules.schedule import Schedule
from sim.schedules.values import ACTIVATION, DEVICE, RESIDUAL, TIERS, VALUE_KINDS
from sim.simulation.trace import Trace

MOST_PLANS = 12
MOST_ACTIONS = 4_000_000
"""Actions of all plans together: a walk over them takes a second or two."""
SAMPLES = 200
MOST_LIVES = 256
MOST_SPANS = 1_200
SHORTEST_WAIT_S = 1e-12

Place = Annotated[int, Field(ge=-1, le=10**12)]
"""A node, or -1 for a graph input."""


class Lives(TypedDict):
    """Values in memory, those of most bytes times samples first: in samples `start` … `stop`-1, each column a field."""

    kind: Column
    node: list[Place]
    tier: Column
    bytes: list[Amount]
    start: list[Amount]
    stop: list[Amount]


class Steps(TypedDict):
    """Runs of actions of one kind over nodes `first` … `last`, in actions `start` … `stop`-1."""

    kind: Column
    start: list[Amount]
    stop: list[Amount]
    first: list[Place]
    last: list[Place]


class Spans(TypedDict):
    """Stretches of a stream that is busy, on the clock of the simulation; it waited `wait` seconds before."""

    stream: Column
    kind: Column
    node: list[Place]
    start: list[Measured]
    stop: list[Measured]
    wait: list[Measured]


class Turns(TypedDict):
    """Actions `start` … `stop`-1, one turn for `times` of a loop; `work` and `seconds` when it begins and ends."""

    start: Amount
    stop: Amount
    times: Amount
    work: Annotated[list[Amount], Field(min_length=2, max_length=2)]
    seconds: NotRequired[Annotated[list[Measured], Field(min_length=2, max_length=2)]]


class Plan(TypedDict):
    """The schedule of `points[point]`, at most three turns of a loop laid out.

    Its `actions` are cut into stretches as equal as can be, and each sample is the fullest action of one, so
    that the peak is among them. `at_kind` and `at_node` are what it does; `bytes` is device memory by kind
    without what is resident; `work` and `seconds` are where stretches begin and the last ends, with the turns
    that are laid out alone (no seconds where copies overlap: `spans` has those). `lives` holds
    up to `MOST_LIVES` values. Where `exact`, `steps` go from node to node, one action each; else each is the
    nodes that a kind of action touches in a stretch. `held` says, for each stretch of the model's nodes, what
    becomes of the bytes of their activations and residuals: `kept` until derivatives begin, on `host` or
    `disk`, `recomputed`, or `freed` before; `evaluations` counts how often nodes are evaluated.
    """

    point: Amount
    actions: Amount
    at_kind: Column
    at_node: list[Place]
    bytes: Mapping[str, list[Amount]]
    work: list[Amount]
    seconds: NotRequired[list[Measured]]
    lives: Lives
    exact: bool
    steps: Steps
    loops: list[Turns]
    held: Mapping[str, list[Amount]]
    evaluations: list[Amount]
    spans: NotRequired[Spans]


def _fitting(plan: Plan) -> Plan:
    samples = len(plan["at_node"])
    for key in ("lives", "steps", "spans"):
        columns = cast("dict[str, Any]", plan.get(key, {})).values()
        if len({len(c["of"]) if isinstance(c, dict) else len(c) for c in columns}) > 1:
            raise ValueError(f"columns of {key} that are as long as each other")
    sampled = [plan["at_kind"]["of"], *plan["bytes"].values()]
    if not samples or any(len(column) != samples for column in sampled):
        raise ValueError("as many kinds, nodes and bytes as there are samples")
    if any(len(clock) != samples + 1 for clock in (plan["work"], plan.get("seconds", plan["work"]))):
        raise ValueError("clocks with one more entry than there are samples")
    ranges = [(*pair, samples) for pair in zip(plan["lives"]["start"], plan["lives"]["stop"], strict=True)]
    ranges += [(*pair, plan["actions"]) for pair in zip(plan["steps"]["start"], plan["steps"]["stop"], strict=True)]
    ranges += [(turns["start"], turns["stop"], plan["actions"]) for turns in plan["loops"]]
    if any(not start < stop <= end for start, stop, end in ranges):
        raise ValueError("lives, steps and loops that begin before they end, within samples and actions")
    return plan


@view("plans", place=5)
def plans(run: Measurements) -> list[Annotated[Plan, AfterValidator(_fitting)]]:
    """The plans of up to `MOST_PLANS` points: those of the fronts first, then the others as they come."""
    found: list[Plan] = []
    room = MOST_ACTIONS
    for i in _ranked(run):
        schedule = run.schedule(i)
        if len(found) == MOST_PLANS:
            break
        if len(schedule.flat.rows) <= room:
            room -= len(schedule.flat.rows)
            found.append(plan(i, schedule, run.trace(i)))
    return sorted(found, key=lambda entry: entry["point"])


def _ranked(run: Measurements) -> list[int]:
    """All points, those first that stand for a front, then one of each strategy."""
    points, of_strategy = run.points, dict[str, int]()
    for i in sorted(range(len(points)), key=lambda i: points[i].peak_bytes):
        of_strategy.setdefault(points[i].strategy, i)
    timed = [i for i, p in enumerate(points) if p.seconds is not None]
    by_seconds = [timed[k] for k in landmarks([points[i] for i in timed], "seconds", len(timed))]
    return list(
        dict.fromkeys(
            [*of_strategy.values(), *landmarks(points, "flops", len(points)), *by_seconds, *range(len(points))]
        )
    )


def plan(point: int, schedule: Schedule, trace: Trace | None = None) -> Plan:
    """The plan of one schedule, with seconds and the spans of streams if there is a trace."""
    flat, table = schedule.flat, schedule.table
    count = min(SAMPLES, len(flat.rows))
    walked = walk(schedule, bytes_of_actions=True, lives=True, buckets=count)
    edges = -(-np.arange(count + 1) * len(flat.rows) // count)  # action k is in sample k·count // actions
    at = edges[:-1] + np.array([int(np.argmax(walked.record.during[a:b])) for a, b in pairwise(edges)], dtype=np.int64)
    opcode, node = table.opcode[flat.rows], table.node[flat.rows]
    work = _clock(table.flops[flat.rows].astype(np.float64) * flat.widths)
    copies = bool((opcode == COPY).any())
    seconds = None if trace is None or copies else _clock(np.diff(np.maximum.accumulate(trace.ends), prepend=0.0))
    kinds = BREAKDOWN_KINDS[:-1]
    exact = len(flat.rows) <= MOST_SPANS
    described = Plan(
        point=point,
        actions=len(flat.rows),
        at_kind=words([KINDS[k] for k in opcode[at].tolist()]),
        at_node=node[at].tolist(),
        bytes={k: b.tolist() for k, b in zip(kinds, walked.record.buckets.T, strict=True) if b.any()},
        work=_whole(work[edges]),
        lives=_lives(schedule, walked, at),
        exact=exact,
        steps=_steps(schedule, np.arange(len(flat.rows) + 1) if exact else edges),
        loops=_turns(schedule, work, seconds),
        held=_held(schedule, walked),
        evaluations=shares(
            {"all": walked.runs[: len(schedule.graph)]}, stretches(schedule.graph)
        )["all"],
    )  # fmt: skip
    if trace is not None and copies:
        described["spans"] = _spans(trace)
    elif seconds is not None:
        described["seconds"] = _rounded(seconds[edges])
    return described


def _clock(takes: NDArray[np.float64]) -> NDArray[np.float64]:
    """When each action begins and the last one ends."""
    return np.concatenate([[0.0], np.cumsum(takes)])


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return list(map(rounded, values.tolist()))


def _whole(values: NDArray[np.float64]) -> list[int]:
    return [int(v) for v in _rounded(values)]


def _turns(schedule: Schedule, work: NDArray[np.float64], seconds: NDArray[np.float64] | None) -> list[Turns]:
    """The stretches that stand for several turns, with the clocks at their ends."""
    flat = schedule.flat
    if not len(flat.weights):
        return []
    change = np.diff(np.concatenate([[0], flat.weights > 1, [0]]))
    found = []
    for a, b in zip(np.flatnonzero(change > 0).tolist(), np.flatnonzero(change < 0).tolist(), strict=True):
        turns = Turns(start=a, stop=b, times=int(flat.weights[a]), work=_whole(work[[a, b]]))
        if seconds is not None:
            turns["seconds"] = _rounded(seconds[[a, b]])
        found.append(turns)
    return found


def _lives(schedule: Schedule, walked: Walk, at: Ints) -> Lives:
    """The values that take memory in a sample, those first that take most for longest."""
    lives, columns = walked.record.lives, schedule.table.columns
    start, stop = (np.searchsorted(at, lives[:, side]) for side in (LIFE_START, LIFE_STOP))
    weight = lives[:, LIFE_BYTES].astype(np.float64) * (stop - start)
    order = np.argsort(-weight, kind="stable")[:MOST_LIVES]
    order = order[weight[order] > 0]
    value = lives[order, LIFE_VALUE]
    return Lives(
        kind=words([VALUE_KINDS[k] for k in columns.value_kind[value].tolist()]),
        node=[schedule.table.node_of_value(v) for v in value.tolist()],
        tier=words([TIERS[t] for t in columns.value_tier[value].tolist()]),
        bytes=lives[order, LIFE_BYTES].tolist(),
        start=start[order].tolist(),
        stop=stop[order].tolist(),
    )


class _Step(NamedTuple):
    kind: str
    start: int
    stop: int
    first: int
    last: int


def _steps(schedule: Schedule, edges: Ints) -> Steps:
    """The nodes that each kind of action touches between edges; neighbours that go on from node to node are joined."""
    flat = schedule.flat
    node = schedule.table.node[flat.rows]
    kind = _kinds_of_steps(schedule, node)
    found: list[_Step] = []
    for a, b in pairwise(edges.tolist()):
        for k in dict.fromkeys(kind[a:b].tolist()):
            touched = node[a:b][kind[a:b] == k]
            step = _Step(_STEP_KINDS[k], a, b, int(touched[0]), int(touched[-1]))
            found.append(step if b - a == 1 else step._replace(first=int(touched.min()), last=int(touched.max())))
    return _columns(_joined(found) if len(edges) == len(flat.rows) + 1 else found)


_STEP_KINDS = (*KINDS, "recompute")


def _kinds_of_steps(schedule: Schedule, node: NDArray[np.int32]) -> NDArray[np.int64]:
    """The kind of each action, a forward of a node that was evaluated before being another."""
    kind = schedule.table.opcode[schedule.flat.rows].astype(np.int64)
    forwards = np.flatnonzero(kind == FORWARD)
    again = np.ones(len(forwards), dtype=np.bool_)
    again[np.unique(node[forwards], return_index=True)[1]] = False
    kind[forwards[again]] = len(KINDS)
    return kind


def _joined(steps: Sequence[_Step]) -> list[_Step]:
    joined: list[_Step] = []
    for step in steps:
        before = joined[-1] if joined else None
        if before is not None and before.kind == step.kind and abs(step.first - before.last) == 1:
            direction = (before.last > before.first) - (before.last < before.first)
            if direction in (0, step.first - before.last):
                joined[-1] = before._replace(stop=step.stop, last=step.last)
                continue
        joined.append(step)
    return joined


def _columns(steps: Sequence[_Step]) -> Steps:
    kind, start, stop, first, last = ([*column] for column in zip(*steps, strict=True))
    return Steps(kind=words(kind), start=start, stop=stop, first=first, last=last)


_FATES = ("freed", "recomputed", "disk", "host", "kept")
"""What becomes of a value, the worst first: of a value that is made several times, the best counts."""


def _held(schedule: Schedule, walked: Walk) -> dict[str, list[int]]:
    """The bytes of activations and residuals by what becomes of them, summed over stretches of nodes."""
    graph, table = schedule.graph, schedule.table
    n, columns, lives = len(graph), table.columns, walked.record.lives
    derivatives = np.flatnonzero(~np.isin(table.opcode[schedule.flat.rows], (FORWARD, COPY)))
    turn = derivatives[0] if len(derivatives) else len(schedule.flat.rows)
    value = lives[:, LIFE_VALUE]
    tier = columns.value_tier[value]
    node = _nodes(schedule, value)
    stored = np.isin(columns.value_kind[value], (ACTIVATION, RESIDUAL)) & (node >= 0)
    crosses = (lives[:, LIFE_START] < turn) & (lives[:, LIFE_STOP] > turn)
    again = walked.runs[:n] > 1
    rank = again[node].astype(np.int64)
    rank[(tier == DEVICE) & (crosses | (graph.plain & ~again[node]))] = _FATES.index("kept")
    for name in ("host", "disk"):
        rank[tier == TIERS.index(name)] = _FATES.index(name)
    slot = (2 * node + (columns.value_kind[value] == RESIDUAL))[stored]
    best, size = np.zeros(2 * n, dtype=np.int64), np.zeros(2 * n, dtype=np.int64)
    np.maximum.at(best, slot, rank[stored])
    np.maximum.at(size, slot, lives[stored, LIFE_BYTES])
    of_nodes = {name: np.where(best == r, size, 0).reshape(n, 2).sum(axis=1) for r, name in enumerate(_FATES)}
    return shares({name: of_nodes[name] for name in reversed(_FATES)}, stretches(graph))


def _nodes(schedule: Schedule, values: Ints) -> Ints:
    """The node that each value belongs to, -1 for those of graph inputs."""
    numbers = schedule.table.numbers
    node = numbers.node(values)
    for k in np.flatnonzero(~numbers.is_of_node(values)).tolist():
        node[k] = schedule.table.node_of_value(int(values[k]))
    return node


def _spans(trace: Trace) -> Spans:
    """What each stream does when; neighbours are one span where there are too many."""
    schedule, run = trace.schedule, trace.run
    node, opcode = schedule.table.node[schedule.flat.rows], schedule.table.opcode[schedule.flat.rows]
    merged = -(-len(node) // MOST_SPANS)
    groups: list[tuple[str, NDArray[np.int64]]] = []
    for s, name in enumerate(STREAMS):
        own = np.flatnonzero(trace.stream_of == s)
        groups += [(name, own[i : i + merged]) for i in range(0, len(own), merged)]
    first = np.array([group[0] for _, group in groups], dtype=np.int64)
    waits = np.array([float((run.starts[group] - run.issued[group]).sum()) for _, group in groups])
    return Spans(
        stream=words([name for name, _ in groups]),
        kind=words([KINDS[k] for k in opcode[first].tolist()]),
        node=node[first].tolist(),
        start=_rounded(run.starts[first]),
        stop=_rounded(np.array([run.ends[group].max() for _, group in groups])),
        wait=_rounded(np.where(waits > SHORTEST_WAIT_S, waits, 0.0)),
    )
