"""Schedules as short lists of plain data, and back: what a plan file holds and a solver iterates over.

Each item is a mapping. `{"kind": "forward", "node": "a", "through": "c"}` evaluates every node from a to
c in the order of the graph (backwards, for VJPs, where `through` comes before `node`); without
`through` it is one node. `width` is the number of tangents or cotangents, 1 unless given.
`{"kind": "repeat", "times": n, "actions": […]}` is a loop. The other keys are those of the action's class
in `sim.schedules.actions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sim.base.errors import NotApplicable, SimError, suggest
from sim.graphs.graph import Graph
from sim.graphs.node import LARGEST
from sim.schedules.actions import ADDED, OWN, Action, Scope
from sim.schedules.effects import KINDS
from sim.schedules.schedule import Builder, Loop, Schedule

Item = dict[str, Any]
Items = list[Item]

_DEEPEST = 16


def compact(schedule: Schedule) -> Items:
    """The actions of a schedule as plain data; runs of neighbouring nodes are one item."""
    loops = sorted(schedule.loops, key=lambda loop: (loop.start, -loop.stop))
    return _stretch(schedule, 0, len(schedule), loops)


def _stretch(schedule: Schedule, start: int, stop: int, loops: Sequence[Loop]) -> Items:
    items: Items = []
    at, i = start, 0
    while i < len(loops):
        loop = loops[i]
        inner = [x for x in loops[i + 1 :] if x.start < loop.stop]
        items += _runs(schedule, at, loop.start)
        body = _stretch(schedule, loop.start, loop.stop, inner)
        items.append({"kind": "repeat", "times": loop.turns, "actions": body})
        at, i = loop.stop, i + 1 + len(inner)
    return items + _runs(schedule, at, stop)


def _runs(schedule: Schedule, start: int, stop: int) -> Items:
    numbers, nodes = schedule.table.numbers, schedule.graph.nodes
    rows, widths = schedule.rows[start:stop].tolist(), schedule.widths[start:stop].tolist()
    opcodes = schedule.opcode[start:stop].tolist()
    items: Items = []
    k = 0
    while k < len(rows):
        item = schedule.table.action(rows[k], widths[k]).json()
        end = k + 1
        if rows[k] < numbers.first_added_row:
            step = rows[end] - rows[k] if end < len(rows) else 0
            alike = (opcodes[k], widths[k])
            while (
                abs(step) == 1
                and end < len(rows)
                and rows[end] == rows[end - 1] + step
                and (opcodes[end], widths[end]) == alike
            ):
                end += 1
            if end > k + 1:
                item["through"] = nodes[numbers.node(rows[end - 1])].name
        items.append(item)
        k = end
    return items


def expand(items: Sequence[Any], graph: Graph) -> Schedule:
    """The schedule that `compact` made these items of, on a graph with nodes of the same names.

    Raises
    ------
    SimError
        For an item that is none, or names a node that the graph does not have; with its place.
    """
    builder, scope = Builder(graph), Scope(graph)
    _add(builder, scope, items, place="actions", depth=0)
    return builder.build()


def _add(builder: Builder, scope: Scope, items: Any, *, place: str, depth: int) -> None:
    if not isinstance(items, list) or depth > _DEEPEST:
        raise SimError(f"{place}: got {items!r:.60}, expected a list of actions, at most {_DEEPEST} loops deep")
    for k, item in enumerate(items):
        where = f"{place}[{k}]"
        if not isinstance(item, Mapping):
            raise SimError(f"{where}: got {item!r:.60}, expected an action")
        try:
            if item.get("kind") == "repeat":
                with builder.loop(_whole(item.get("times"))):
                    _add(builder, scope, item.get("actions"), place=f"{where}.actions", depth=depth + 1)
            else:
                rows, width = _rows(builder, scope, item)
                builder.rows(rows, width=width)
        except _NotAnAction as error:
            raise SimError(f"{where}: {error}") from None


class _NotAnAction(Exception):
    """The fault of an item."""


def _rows(builder: Builder, scope: Scope, item: Mapping[str, Any]) -> tuple[list[int], int]:
    kind = item.get("kind")
    if kind not in KINDS:
        raise _NotAnAction(f"unknown kind of action {kind!r:.60}{suggest(str(kind), KINDS)}")
    fields = {k: v for k, v in item.items() if k not in ("kind", "width", "through")}
    width = _whole(item.get("width", 1))
    fits = [action for action in (*OWN, *ADDED) if action.kind == kind and action.takes(fields)]
    if not fits:
        allowed = " or ".join(sorted({", ".join(a.keys()) for a in (*OWN, *ADDED) if a.kind == kind}))
        raise _NotAnAction(f"got the keys {', '.join(map(str, fields))} of a {kind}, expected {allowed}")
    try:
        action: Action = fits[0].from_json(fields)
        for name in action.names():
            if name not in scope.positions:
                raise _NotAnAction(f"got {name!r:.60}, expected a node or input of the graph")
        if scope.is_input(action.node) and kind != "copy":
            raise _NotAnAction(f"got {action.node!r:.60}, an input of the graph, expected a node")
        first = builder.row_of(action)
    except (ValueError, NotApplicable) as error:
        raise _NotAnAction(str(error)) from None
    last = item.get("through")
    if last is None or fits[0] not in OWN:
        return [first], width
    if not isinstance(last, str) or last not in scope.positions or scope.is_input(last):
        raise _NotAnAction(f"got {last!r:.60} as 'through', expected a node of the graph")
    step = 1 if scope.node(last) >= scope.node(action.node) else -1
    stop = first + scope.node(last) - scope.node(action.node) + step
    return list(range(first, stop, step)), width


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < LARGEST:
        raise _NotAnAction(f"got {value!r:.60}, expected a whole number from 1 to 2^62")
    return value
