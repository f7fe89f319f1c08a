"""Schedules as short lists of plain data, and back: what a plan file holds and an executor reads.

Each item is a mapping. `{"kind": "forward", "node": "a", "through": "c"}` evaluates every node from a to
c in the order of the graph (backwards, for VJPs, where `through` comes before `node`); without
`through` it is one node. `width` is the number of tangents or cotangents, 1 unless given. A copy has
`value` (`activation`, `residual`, …), `tier` and `to`. `{"kind": "repeat", "times": n, "actions": […]}` is a
loop. The other keys are those of `sim.schedules.actions.Action`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sim.base.errors import NotApplicable, SimError
from sim.graphs.graph import Graph
from sim.schedules.actions import ACTIVATION, FORWARD, GRADIENT, JVP, KINDS, TIERS, VALUE_KINDS, VJP, Action
from sim.schedules.schedule import Builder, Loop, Schedule

Item = dict[str, Any]
Items = list[Item]

_DEEPEST = 16


def compact(schedule: Schedule) -> Items:
    """The actions of a schedule as plain data; runs of neighbouring nodes are one item.

    Raises
    ------
    NotApplicable
        If it copies Jacobians between tiers, which has no short form.
    """
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
    n, nodes = len(schedule.graph), schedule.graph.nodes
    rows, widths = schedule.rows[start:stop].tolist(), schedule.widths[start:stop].tolist()
    items: Items = []
    k = 0
    while k < len(rows):
        row, width = rows[k], widths[k]
        if row >= 3 * n:
            items.append(_item(schedule.table.describe(row, width)))
            k += 1
            continue
        end = k + 1
        step = rows[end] - row if end < len(rows) else 0
        while (
            abs(step) == 1
            and end < len(rows)
            and rows[end] == rows[end - 1] + step
            and rows[end] // n == row // n
            and widths[end] == width
        ):
            end += 1
        item = {"kind": KINDS[row // n], "node": nodes[row % n].name}
        if end > k + 1:
            item["through"] = nodes[rows[end - 1] % n].name
        items.append(item if width == 1 else item | {"width": width})
        k = end
    return items


def _item(action: Action) -> Item:
    item: Item = {"kind": action.kind, "node": action.node}
    if action.width != 1:
        item["width"] = action.width
    if action.value is not None:
        if action.value.source is not None:
            raise NotApplicable(f"{action} has no short form")
        return item | {
            "node": action.value.node, "value": action.value.kind, "tier": action.value.tier, "to": action.to
        }  # fmt: skip
    if action.carried is not None:
        return item | {"carried": list(action.carried), "seeded": action.seeded}
    named = {"source": action.source, "middle": action.middle, "target": action.target, "into": action.into}
    return item | {key: name for key, name in named.items() if name is not None}


def expand(items: Sequence[Any], graph: Graph) -> Schedule:
    """The schedule that `compact` made these items of, on a graph with nodes of the same names.

    Raises
    ------
    SimError
        For an item that is none, or names a node that the graph does not have.
    """
    reader = _Reader(graph)
    try:
        reader.add(items, depth=0)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SimError(f"{reader.where}: no action of a plan: {type(error).__name__}: {error}") from None
    return reader.builder.build()


class _Reader:
    """Adds items to a builder; `where` says which one it is at."""

    def __init__(self, graph: Graph) -> None:
        self.builder = Builder(graph)
        self.where = "schedule"
        self._m = len(graph.inputs)
        self._position = {i.name: p for p, i in enumerate(graph.inputs)}
        self._position |= {node.name: self._m + i for i, node in enumerate(graph.nodes)}

    def add(self, items: Sequence[Any], *, depth: int, inside: str = "schedule") -> None:
        if not isinstance(items, list) or depth > _DEEPEST:
            raise SimError(f"{inside}: got {items!r:.60}, expected a list of actions")
        for k, item in enumerate(items):
            self.where = f"{inside}[{k}]"
            if not isinstance(item, Mapping):
                raise SimError(f"{self.where}: got {item!r:.60}, expected an action")
            if item["kind"] == "repeat":
                with self.builder.loop(_whole(item["times"])):
                    self.add(item["actions"], depth=depth + 1, inside=self.where)
            else:
                self.builder.rows(self._rows(item), width=_whole(item.get("width", 1)))

    def _rows(self, item: Mapping[str, Any]) -> Any:
        n, kind, extras = len(self.builder.graph), item["kind"], self.builder.extras
        if kind not in KINDS:
            raise SimError(f"{self.where}: unknown kind of action '{kind}'")
        if kind == "copy":
            return [extras.copy(self._value(item), TIERS.index(item["tier"]), TIERS.index(item["to"]))]
        if kind == "multiply":
            at = (self._at(item[key]) for key in ("target", "middle", "source"))
            return [extras.multiply(*at, into=item.get("into"))]
        node = self._node(item["node"])
        if kind == "jacobian" and "source" in item:
            return [extras.jacobian_by(node, self._at(item["source"]), item["into"])]
        if kind == "jacobian":
            return [extras.jacobian(node)]
        if "source" in item:
            return [extras.jvp_of_jacobian(node, self._at(item["source"]))]
        if "target" in item:
            return [extras.vjp_of_jacobian(node, self._at(item["target"]))]
        if "carried" in item:
            carried = tuple(self._at(name) for name in item["carried"])
            return [extras.seeded_jvp(node, carried, seeded=bool(item["seeded"]))]
        first = {"forward": FORWARD, "vjp": VJP, "jvp": JVP}[kind] * n
        last = self._node(item.get("through", item["node"]))
        return [first + i for i in (range(node, last + 1) if last >= node else range(node, last - 1, -1))]

    def _value(self, item: Mapping[str, Any]) -> int:
        at = self._at(item["node"])
        if at < self._m:
            return self.builder.extras.input_value(at)
        kind = VALUE_KINDS.index(item["value"])
        if not ACTIVATION <= kind <= GRADIENT:
            raise SimError(f"{self.where}: a value of kind '{item['value']}' is not copied")
        return kind * len(self.builder.graph) + at - self._m

    def _at(self, name: Any) -> int:
        if name not in self._position:
            raise SimError(f"{self.where}: '{name}' is no node or input of the graph")
        return self._position[name]

    def _node(self, name: Any) -> int:
        node = self._at(name) - self._m
        if node < 0:
            raise SimError(f"{self.where}: '{name}' is an input of the graph, expected a node")
        return node


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"got {value!r:.60}, expected a whole number of at least 1")
    return value
