"""Where a graph is cut into stages: between which nodes, so that the largest work of a stage is least."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim.base.errors import ParameterError
from sim.base.units import format_bytes
from sim.graphs.graph import Graph
from sim.schedules.schedule import Builder
from sim.schedules.values import GRADIENT
from sim.simulation.device import Device
from sim.simulation.roofline import action_seconds

MOST_PLACES = 800
"""Places between which cuts are chosen; of more, some that are spread over the work."""
BLOCK = re.compile(r"(?:.*?\.)?block\d+\.")
"""How names of the nodes of a block begin."""


def seconds_of(graph: Graph, device: Device) -> NDArray[np.float64]:
    """Seconds of each node's forward and VJP on a device, of one micro-batch and one cotangent."""
    builder = Builder(graph)
    builder.forward(range(len(graph)))
    builder.vjp(range(len(graph) - 1, -1, -1))
    schedule = builder.build()
    columns = schedule.table.columns
    sizes = columns.value_bytes.copy()
    if not graph.preallocated_gradients:
        sizes[GRADIENT * len(graph) : (GRADIENT + 1) * len(graph)] = graph.columns.param_bytes
    schedule = replace(schedule, table=replace(schedule.table, columns=columns._replace(value_bytes=sizes)))
    seconds = np.zeros((2, len(graph)))
    for row, took in zip(schedule.flat.rows.tolist(), action_seconds(schedule, device).tolist(), strict=True):
        seconds[divmod(row, len(graph))] = took
    return seconds


def cut(
    graph: Graph,
    count: int,
    *,
    after: Sequence[str] = (),
    at_blocks: bool = False,
    seconds: NDArray[np.float64] | None = None,
) -> tuple[int, ...]:
    """The starts of `count` stages and the end of the last: the largest work of one is least, the rest is even.

    Cuts go where a single activation crosses, with `at_blocks` between named blocks alone. Work is the `seconds` of
    forward passes and VJPs, or without them flops. With `after`, the names of the last nodes of all stages but one,
    cuts are there.

    Raises
    ------
    ParameterError
        If there are too few such places, or a name is not that of one.
    """
    places = graph.articulation_points
    if after:
        return _named_cuts(graph, count, after)
    if at_blocks:
        places = np.array([p for p in places if p in (0, len(graph)) or _begins_block(graph, p)])
    if len(places) - 1 < count:
        many = len(places) - 2
        where = "between blocks" if at_blocks else "where a single activation crosses"
        message = f"got {count} stages, expected at most {many + 1}: the graph has {many} places {where}"
        raise ParameterError(message, parameter=("stages",))
    c = graph.columns
    of_nodes = c.forward_flops + c.vjp_flops + c.param_vjp_flops if seconds is None else seconds.sum(axis=0)
    work = np.concatenate([[0.0], np.cumsum(of_nodes, dtype=np.float64)])[places]
    if len(places) > max(MOST_PLACES, 2 * count):
        kept = np.searchsorted(work, np.linspace(0, work[-1], max(MOST_PLACES, 2 * count)))
        kept = np.unique(np.concatenate([kept, np.linspace(0, len(places) - 1, 2 * count).astype(np.int64)]))
        places, work = places[kept], work[kept]
    between = work[None, :] - work[:, None]
    between[np.tri(len(work), dtype=np.bool_)] = np.inf
    largest = _best_ends(between, count, np.maximum)[1]
    even = np.where(between <= largest * (1 + 1e-12), between**2, np.inf)
    return tuple(int(places[k]) for k in _best_ends(even, count, np.add)[0])


def _begins_block(graph: Graph, node: int) -> bool:
    """Whether a node is of another named block than the one before, or one of both is of none."""
    names, m = graph.names, len(graph.inputs)
    own, before = BLOCK.match(names[m + node]), BLOCK.match(names[m + node - 1])
    return (own and own[0]) != (before and before[0])


def _best_ends(costs: NDArray[np.float64], count: int, joined: np.ufunc) -> tuple[list[int], float]:
    """The ends of `count` stretches whose costs, from place to place, joined are least; and what these are."""
    best, choices = costs[0], []
    for _ in range(count - 1):
        through = joined(best[:, None], costs)
        choices.append(through.argmin(axis=0))
        best = through.min(axis=0)
    ends = [len(costs) - 1]
    for choice in reversed(choices):
        ends.append(int(choice[ends[-1]]))
    return [0, *reversed(ends)], float(best[-1])


def _named_cuts(graph: Graph, count: int, after: Sequence[str]) -> tuple[int, ...]:
    if len(after) != count - 1:
        raise ParameterError(f"got {len(after)} cuts, expected {count - 1} for {count} stages", parameter=("cuts",))
    places, m = set(graph.articulation_points.tolist()), len(graph.inputs)
    position = {name: k + 1 - m for k, name in enumerate(graph.names)}
    for name in after:
        if position.get(name, -1) not in places - {0, len(graph)}:
            why = "no node has that name" if name not in position else _crossing(graph, position[name])
            raise ParameterError(f"cannot cut after '{name}': {why}", parameter=("cuts",))
    starts = [0, *(position[name] for name in after), len(graph)]
    if any(b <= a for a, b in pairwise(starts)):
        raise ParameterError("got cuts out of order, expected them in the order of the graph", parameter=("cuts",))
    return tuple(starts)


def _crossing(graph: Graph, place: int) -> str:
    """What crosses a cut before a node, and its bytes."""
    if not 0 < place < len(graph):
        return "nothing is left behind it" if place > 0 else "it is an input of the graph"
    m, c = len(graph.inputs), graph.columns
    read = set(c.input_index[int(c.input_ptr[place]) :].tolist())
    crossing = [k for k in range(place) if m + k in read]
    names = ", ".join(graph.names[m + k] for k in crossing[:3]) + (", …" if len(crossing) > 3 else "")
    size = format_bytes(int(c.activation_bytes[crossing].sum()))
    return f"{len(crossing)} activations cross there, {size} of {names}; a stage sends one"
