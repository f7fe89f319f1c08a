"""The effects of one action as people read them, from the table that replay, simulate and execute read."""

from __future__ import annotations

from dataclasses import dataclass

from sim.graphs.graph import Graph
from sim.schedules.actions import Action
from sim.schedules.table import Rows
from sim.schedules.values import ACCUMULATE, CONSUME, READ, SAVE, WRITE, Value


@dataclass(frozen=True, slots=True)
class Effects:
    """The effects of one action. Bytes and flops are for the whole action, its width multiplied in."""

    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    accumulates: tuple[Value, ...]
    flops: int
    moved_bytes: int
    workspace_bytes: int


def effects(graph: Graph, action: Action) -> Effects:
    """The effects of `action` on `graph`: what it reads, writes, accumulates into, costs and moves."""
    rows = Rows(graph)
    row, table = rows.number(action), rows.table()
    touches = table.touches(row)

    def values(*accesses: int) -> tuple[Value, ...]:
        return tuple(table.describe_value(v) for v, access in touches.items() if access in accesses)

    fixed, per_width = table.moved_bytes
    saves = SAVE in touches.values() and row < table.numbers.nodes
    workspace = table.columns.saving_workspace if saves else table.columns.workspace
    return Effects(
        reads=values(READ, CONSUME),
        writes=values(WRITE, SAVE),
        accumulates=values(ACCUMULATE),
        flops=int(table.flops[row]) * action.width,
        moved_bytes=int(fixed[row]) + int(per_width[row]) * action.width,
        workspace_bytes=int(workspace[row]),
    )
