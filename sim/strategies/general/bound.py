"""A certificate for graphs that are no chains: flops of forwards below which no schedule can come, for each memory.

The argument is that of `sim.strategies.optimal.bound`, with blocks in place of layers: articulation points cut the
graph into a row of blocks. In a window between two VJPs, what the VJPs in it read was either in memory when
it began, which costs a price per byte, or its node is evaluated again, which costs flops and asks for that
node's inputs in turn. Within a block the cheapest such choice is a minimum cut (a closure problem: Picard,
Management Science 22, 1976), and any flow is a bound on it from below. From block to block only one
activation passes, so that a walk along the row puts a window together; its two ends may lie inside blocks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.base.compiled import compiled
from sim.graphs.graph import Graph
from sim.graphs.node import Ints
from sim.strategies.optimal.bound import price_grid, recomputed
from sim.strategies.optimal.stages import COST, RESIDUAL, Stages

BLOCK_PRICES = 96
MOST_CUTS = 192
LARGEST_BLOCK = 256
"""Nodes up to which a block is looked into; what a larger one takes counts as nothing."""
LARGEST_CUT_BLOCK = 48
"""Nodes up to which windows begin and end inside a block too."""
ENDLESS = 1e300
SOURCE, SINK, FIRST = 0, 1, 2


class Choices(NamedTuple):
    """Tables that the kernels read: the reads of each node, and the costs of having it or evaluating it again."""

    ptr: Any
    index: Any  # of the nodes read, below 0 for graph inputs
    derivative_reads: Any
    reads_output: Any
    costs: Any
    sizes: Any
    residuals: Any
    prices: Any  # rising, from 0


def block_lower_bound(graph: Graph, stages: Stages, memory: Ints, *, prices: int = BLOCK_PRICES) -> Ints:
    """Flops of forwards that any schedule takes within each of the working bytes given.

    It holds for all schedules on one device whose VJPs run from the last node to the first. `stages` are
    those of the graph, with the width of the narrowest sweep and the costs in question. More `prices` of a byte
    are closer to the optimum of the relaxation.
    """
    c, costs = graph.columns, stages.table[:, COST]
    once = int(costs.sum())
    cuts, costs = _from_the_top(_cuts(graph), _evaluated_before(graph), costs)
    if len(cuts) < 2:
        return np.full(len(memory), once, dtype=np.int64)
    choices = Choices(
        ptr=c.input_ptr,
        index=c.input_index - np.int32(len(graph.inputs)),
        derivative_reads=graph.derivative_reads,
        reads_output=_reads_own_output(graph),
        costs=costs,
        sizes=c.activation_bytes,
        residuals=stages.table[:, RESIDUAL],
        prices=price_grid(costs[: cuts[-1]], c.activation_bytes[: cuts[-1]], prices),
    )
    windows = _windows(choices, graph.articulation_points, cuts)
    return once + recomputed(windows, choices.prices, cuts, stages, memory)


def _cuts(graph: Graph) -> Ints:
    """The VJPs whose starts bound windows: the first of each block, and others within blocks that are not too large.

    A VJP that reads what its block does of earlier ones is left out unless it is the block's first: the
    block before would then have an output in memory that is counted elsewhere.
    """
    points, c = graph.articulation_points, graph.columns
    sizes = np.diff(points)
    first = np.repeat(points[:-1], sizes)
    reader = np.repeat(np.arange(len(graph)), np.diff(c.input_ptr))
    source = c.input_index - len(graph.inputs)
    inside = np.repeat(sizes <= LARGEST_CUT_BLOCK, sizes)
    inside[reader[graph.derivative_reads & (source >= 0) & (source < first[reader])]] = False
    inside[points[:-1]] = True
    cuts = np.flatnonzero(inside)
    return cuts[np.unique(np.linspace(0, len(cuts) - 1, min(len(cuts), MOST_CUTS)).astype(np.int64))]


def _from_the_top(cuts: Ints, before: Ints, costs: Ints) -> tuple[Ints, Ints]:
    """The cuts up to the last one worth using, and the costs of evaluating nodes again after its VJP has begun.

    What may be a first evaluation then costs nothing: one of each node is counted already.
    """
    again = [int(costs[:s][before[:s] >= s].sum()) for s in cuts.tolist()]
    last = len(again) - 1 - int(np.argmax(again[::-1]))
    return cuts[: last + 1], np.where(before >= cuts[last], costs, 0)


def _reads_own_output(graph: Graph) -> NDArray[np.bool_]:
    return graph.active[len(graph.inputs) :] & ((graph.columns.needs & 2) > 0)


def _evaluated_before(graph: Graph) -> Ints:
    """For each node, the last of the VJPs that cannot start before it was evaluated; -1 where there is none."""
    m, c = len(graph.inputs), graph.columns
    uses_itself = _reads_own_output(graph) | (graph.active[m:] & (c.residual_bytes >= 0))
    before = np.where(uses_itself, np.arange(len(graph)), -1).tolist()
    ptr, index, reads = c.input_ptr.tolist(), (c.input_index - m).tolist(), graph.derivative_reads.tolist()
    for i in range(len(graph) - 1, -1, -1):
        for t in range(ptr[i], ptr[i + 1]):
            if index[t] >= 0:
                before[index[t]] = max(before[index[t]], before[i], i if reads[t] else -1)
    return np.array(before, dtype=np.int64)


@compiled
def _windows(choices: Any, points: Any, cuts: Any) -> Any:
    """As in `bounds`: `[p, b, a]`, the least cost from the start of VJP cuts[b] to that of VJP cuts[a]."""
    count, n_prices, n_blocks = len(cuts), len(choices.prices), len(points) - 1
    blocks = np.zeros((n_blocks, 2, 2, 2, n_prices))  # needed by VJPs or not, input there or not, output asked or not
    tops = np.zeros((count, 2, n_prices))
    begins = np.zeros(count, dtype=np.int64)  # the block of which a window from cuts[b] takes the first nodes
    k = 0
    for b in range(1, count):
        while points[k + 1] < cuts[b]:
            k += 1
        begins[b] = k
        for there in range(2):
            _least_costs(choices, points[k], cuts[b], points[k], there, 0, 1, tops[b, there])
    for k in range(begins[count - 1]):
        for needed in range(2):
            for there in range(2):
                for asked in range(2):
                    low = points[k] if needed else points[k + 1]
                    _least_costs(
                        choices, points[k], points[k + 1], low, there, asked, 0, blocks[k, needed, there, asked]
                    )
    out = np.zeros((n_prices, count, count))
    states = np.zeros((2, n_prices))  # what the block reads of earlier ones is missing in the window, or there
    before = np.zeros((2, n_prices))  # the same at the block in which windows to cuts[a] end
    last = np.zeros((2, 2, n_prices))
    top = np.zeros((2, n_prices))
    for p in range(n_prices):
        before[0, p] = ENDLESS
    home = 0
    for a in range(count - 1):
        while points[home + 1] <= cuts[a]:
            _pass(before, blocks[home, 0])
            home += 1
        b = a + 1
        while b < count and begins[b] == home:
            for there in range(2):
                _least_costs(choices, points[home], cuts[b], cuts[a], there, 0, 1, top[there])
            _close(before, top, out, b, a)
            b += 1
        if b == count:
            continue
        for there in range(2):
            for p in range(n_prices):
                states[there, p] = before[there, p]
            for asked in range(2):
                _least_costs(choices, points[home], points[home + 1], cuts[a], there, asked, 0, last[there, asked])
        _pass(states, last)
        k = home + 1
        while b < count:
            while k < begins[b]:
                _pass(states, blocks[k, 1])
                k += 1
            _close(states, tops[b], out, b, a)
            b += 1
    return out


@compiled
def _pass(states: Any, block: Any) -> None:
    """Moves on over a block whose costs are `[there, asked, p]`."""
    for p in range(states.shape[1]):
        missing = min(states[0, p] + block[0, 0, p], states[1, p] + block[1, 0, p])
        states[1, p] = min(states[0, p] + block[0, 1, p], states[1, p] + block[1, 1, p])
        states[0, p] = missing


@compiled
def _close(states: Any, top: Any, out: Any, b: Any, a: Any) -> None:
    """Ends a window at its uppermost block, whose costs are `[there, p]`."""
    for p in range(states.shape[1]):
        out[p, b, a] = min(states[0, p] + top[0, p], states[1, p] + top[1, p])


@compiled
def _least_costs(choices: Any, start: Any, stop: Any, low: Any, there: Any, asked: Any, begins: Any, out: Any) -> None:
    """Writes for each price the least cost of nodes start … stop-1 of a block, of which VJPs low … stop-1 are needed.

    `there`: what the block reads of earlier ones is in memory; `asked`: so must be the last node's output;
    `begins`: the window begins with VJP `stop`, so that what this reads is in memory, and counted there.

    Two vertices a node, each on the source's side if it is true: its activation is there, and the node is
    evaluated again. Edges cost what they cut: there but not evaluated again, the price of the activation;
    evaluated again, its flops; not evaluated, the price of a residual that is needed. Prices rise, and a flow
    that fits one fits all above it.
    """
    n = stop - start
    head, free, wanted = np.full(FIRST + 2 * n, -1), np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    if begins:
        for t in range(choices.ptr[stop], choices.ptr[stop + 1]):
            u = choices.index[t]
            if choices.derivative_reads[t] and u >= start:
                free[u - start] = True
    wanted[n - 1] = asked
    for v in range(low, stop):
        wanted[v - start] |= choices.reads_output[v]
        for t in range(choices.ptr[v], choices.ptr[v + 1]):
            u = choices.index[t]
            if choices.derivative_reads[t] and u >= start:
                wanted[u - start] = True
            elif choices.derivative_reads[t] and u >= 0 and not there:
                for p in range(len(out)):
                    out[p] = ENDLESS
                return
    if n > LARGEST_BLOCK or (low >= stop and not asked):
        for p in range(len(out)):
            out[p] = 0.0
        return
    most = 2 * (4 * n + choices.ptr[stop] - choices.ptr[start])
    ends, room, growth = np.empty((most, 2), dtype=np.int64), np.zeros(most), np.zeros(most)
    e = 0
    largest = 0.0
    for v in range(start, stop):
        again, held = FIRST + v - start, FIRST + n + v - start
        cost = float(choices.costs[v])
        largest = max(largest, cost)
        for t in range(choices.ptr[v], choices.ptr[v + 1]):
            u = choices.index[t]
            if u >= start:
                e = _edge(head, ends, room, growth, e, again, FIRST + n + u - start, ENDLESS, 0)
            elif u >= 0 and not there:
                cost = ENDLESS
        e = _edge(head, ends, room, growth, e, again, SINK, cost, 0)
        e = _edge(head, ends, room, growth, e, held, again, 0.0, 0 if free[v - start] else choices.sizes[v])
        if v >= low:
            e = _edge(head, ends, room, growth, e, SOURCE, again, 0.0, choices.residuals[v])
        if wanted[v - start]:
            e = _edge(head, ends, room, growth, e, SOURCE, held, ENDLESS, 0)
    total, price = 0.0, 0.0
    for p in range(len(out)):
        for i in range(e):
            room[i] += (choices.prices[p] - price) * growth[i]
        price = choices.prices[p]
        total += _augment(head, ends, room, largest * 1e-12)
        out[p] = total


@compiled
def _edge(head: Any, ends: Any, room: Any, growth: Any, e: Any, tail: Any, tip: Any, fixed: Any, per_price: Any) -> Any:
    """Adds an edge and its reverse; `ends[e]` is its tip and the next edge of its tail. Returns how many there are."""
    ends[e, 0], ends[e, 1] = tip, head[tail]
    head[tail] = e
    room[e], growth[e] = fixed, per_price
    ends[e + 1, 0], ends[e + 1, 1] = tail, head[tip]
    head[tip] = e + 1
    return e + 2


@compiled
def _augment(head: Any, ends: Any, room: Any, least: Any) -> Any:
    """Sends what still can flow along shortest paths (Edmonds and Karp 1972), and returns how much that was."""
    came_by, queue = np.empty(len(head), dtype=np.int64), np.empty(len(head), dtype=np.int64)
    total = 0.0
    while True:
        for v in range(len(head)):
            came_by[v] = -1
        queue[0] = SOURCE
        done, queued = 0, 1
        while done < queued and came_by[SINK] < 0:
            e = head[queue[done]]
            done += 1
            while e >= 0:
                tip = ends[e, 0]
                if room[e] > least and came_by[tip] < 0 and tip != SOURCE:
                    came_by[tip] = e
                    queue[queued] = tip
                    queued += 1
                e = ends[e, 1]
        if came_by[SINK] < 0:
            return total
        most, v = ENDLESS, SINK
        while v != SOURCE:
            most = min(most, room[came_by[v]])
            v = ends[came_by[v] ^ 1, 0]
        v = SINK
        while v != SOURCE:
            room[came_by[v]] -= most
            room[came_by[v] ^ 1] += most
            v = ends[came_by[v] ^ 1, 0]
        total += most
