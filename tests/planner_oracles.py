"""Slow, obvious twins of the checkpointing planners, which search all schedules of a small graph, and random graphs."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from typing import Any

import numba
import numpy as np

from sim.graphs.graph import Graph
from sim.graphs.node import GraphInput, Needs, Node
from sim.models.families.chain import chain
from sim.schedules.replay import Cost, replay
from sim.schedules.schedule import Builder

INFEASIBLE = 2**60
NEEDS: tuple[Needs, ...] = ("none", "input", "output", "both")


def least_cost(graph: Graph, memory: int) -> int | None:
    """The least flops of forwards of any schedule whose working bytes are at most `memory`, VJPs from last to first.

    A shortest path over (what is in memory, the next VJP): every forward that can run may run, with or
    without saving its residual, and everything may be dropped at any time. Every node is evaluated at
    least once, because all lead to the last one. The input is differentiated, one cotangent at a time.
    Up to about six nodes.
    """
    c, n, m = graph.columns, len(graph), len(graph.inputs)
    assert graph.sinks.tolist() == [n - 1]
    assert graph.wrt == "input"
    assert graph.active.all()
    assert graph.output_scalars == 1
    assert c.vjp_workspace_bytes is None
    assert c.taping_workspace_bytes is None
    inputs = [
        {p - m for p in c.input_index[c.input_ptr[i] : c.input_ptr[i + 1]].tolist()} - {*range(-m, 0)} for i in range(n)
    ]
    consumers = [[i for i in range(n) if v in inputs[i]] for v in range(n)]
    cotangent = graph.cotangent_bytes[m:].tolist()
    before = [sum(cotangent[v] for v in range(j + 1) if any(i > j for i in consumers[v])) for j in range(n)]
    during = [sum(cotangent[v] for v in range(j + 1) if v == j or any(i >= j for i in consumers[v])) for j in range(n)]
    read = np.array([sum(1 << v for v in of) for of in inputs])
    derivative = np.where(c.needs & 1, read, 0) | np.where(c.needs & 2, 1 << np.arange(n), 0)
    assert c.reads is None
    found = _least_cost(
        c.activation_bytes, c.residual_bytes, c.workspace_bytes, c.forward_flops, read, derivative,
        np.array(before), np.array(during), memory,
    )  # fmt: skip
    return None if found >= INFEASIBLE else int(found)


@numba.njit(cache=True)
def _least_cost(
    a: Any, residual: Any, workspace: Any, flops: Any, read: Any, derivative: Any, before: Any, during: Any, memory: Any
) -> Any:
    """Sets are bit masks: activation i is bit i, residual i bit n + i, bit 2n says that the last node has run.

    `read` and `derivative` are the activations that a forward and a VJP read; `before` and `during` the
    bytes of cotangents in memory between the VJP of the next node and a node's own, and during that.
    """
    n = len(flops)
    sets = 1 << (2 * n + 1)
    size = np.zeros(2 * n + 1, dtype=np.int64)
    for i in range(n):
        size[i], size[n + i] = a[i], max(0, residual[i])
    total = np.zeros(sets, dtype=np.int64)
    for m in range(sets):
        for b in range(2 * n):
            if m >> b & 1:
                total[m] += size[b]
    best = np.full(sets, INFEASIBLE, dtype=np.int64)
    best[0] = 0
    for j in range(n - 1, -1, -1):  # the next VJP
        changed = True
        while changed:
            changed = False
            for m in range(sets - 1, -1, -1):
                if best[m] >= INFEASIBLE:
                    continue
                for b in range(2 * n):
                    if m >> b & 1 and best[m ^ (1 << b)] > best[m]:
                        best[m ^ (1 << b)] = best[m]
                        changed = True
                for i in range(n):
                    if m & read[i] != read[i]:
                        continue
                    for saves in range(2 if residual[i] >= 0 else 1):
                        after = m | 1 << i | saves << (n + i)
                        if i == n - 1:
                            after |= 1 << 2 * n
                        if total[after] + workspace[i] + before[j] <= memory and best[after] > best[m] + flops[i]:
                            best[after] = best[m] + flops[i]
                            changed = True
        following = np.full(sets, INFEASIBLE, dtype=np.int64)
        for m in range(sets):
            if m & derivative[j] != derivative[j] or (residual[j] >= 0 and not m >> (n + j) & 1):
                continue
            if total[m] + workspace[j] + during[j] <= memory:
                after = m & ~(1 << j) & ~(1 << (n + j))
                following[after] = min(following[after], best[m])
        best = following
    return best[1 << 2 * n :].min()


def persistent_cost(
    *, forward: list[int], adjoint: list[int], sizes: list[int], tapes: list[int], memory: int
) -> float:
    """What the published recurrence finds in its own memory model (Beaumont et al. 2019), slots of one byte.

    There a cotangent takes what its activation does, a tape holds its stage's output, and the input
    (sizes[0]) takes memory like everything else.
    """

    @functools.cache
    def best(s: int, t: int, m: int) -> float:
        keep = max(sizes[t + 1] + tapes[s], sizes[s] + sizes[s + 1] + tapes[s])
        if s == t:
            return forward[s] + adjoint[s] if m >= keep else math.inf
        found = math.inf
        if m >= keep:
            found = forward[s] + best(s + 1, t, m - tapes[s]) + adjoint[s]
        later = [sizes[t + 1] + sizes[j] + sizes[j + 1] for j in range(s + 1, t)]
        advance = max([sizes[t + 1] + sizes[s + 1], *later])
        if m >= advance:
            for k in range(s + 1, t + 1):
                found = min(found, sum(forward[s:k]) + best(k, t, m - sizes[k]) + best(s, k - 1, m))
        return found

    return best(0, len(forward) - 1, memory - sizes[0])


def replayed(graph: Graph, plan: np.ndarray) -> Cost:
    builder = Builder(graph)
    builder.rows(plan, width=graph.output_scalars)
    return replay(builder.build())


def forwards(cost: Cost) -> int:
    return cost.flops.primal + cost.flops.recompute


def random_chain(rng: random.Random, length: int, *, largest: int = 10) -> Graph:
    """A chain with random sizes, costs, workspaces and needs; half of the chains have layers without a tape."""
    graph = chain(
        length=length,
        forward_flops=[rng.randint(1, 9) for _ in range(length)],
        activation_bytes=[rng.randint(1, largest) for _ in range(length)],
        residual_bytes=[rng.randint(0, largest) for _ in range(length)],
        workspace_bytes=[rng.randint(0, 4) for _ in range(length)],
        needs=[rng.choice(NEEDS) for _ in range(length)] if rng.random() < 0.5 else rng.choice(NEEDS),
        input_bytes=0,
    )
    if rng.random() < 0.5:
        return graph
    untaped = np.array([rng.random() < 0.5 for _ in range(length)])
    residual = np.where(untaped, -1, graph.columns.residual_bytes)
    return dataclasses.replace(graph, columns=dataclasses.replace(graph.columns, residual_bytes=residual))


def random_blocks(rng: random.Random, length: int) -> Graph:
    """A graph with one sink, in which about every other node reads two; what nobody reads goes into the next node."""
    nodes: list[Node] = []
    for i in range(length):
        earlier = range(max(0, i - 3), i)
        inputs = {i - 1} if i and rng.random() < 0.5 else set(rng.sample(earlier, min(len(earlier), rng.randint(1, 2))))
        inputs |= {v for v in earlier if i == length - 1 or v == i - 3 if not reads(nodes, v)}
        names = [f"n{v}" for v in sorted(inputs)]
        if not names or rng.random() < 0.2:
            names.append("x")
        node = Node(
            name=f"n{i}", inputs=tuple(names), output_shape=(1, 1), activation_bytes=rng.randint(1, 9),
            forward_flops=rng.randint(1, 9), needs=rng.choice(NEEDS), workspace_bytes=rng.choice([0, 0, 3]),
            residual_bytes=rng.choice([None, None, rng.randint(0, 9)]),
        )  # fmt: skip
        nodes.append(node)
    return Graph.from_nodes(nodes, [GraphInput("x", (1, 1))], wrt="input")


def reads(nodes: list[Node], v: int) -> bool:
    return any(f"n{v}" in node.inputs for node in nodes)
