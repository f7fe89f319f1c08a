"""The whole exact front of a chain, against one budget of the published program in slots.

Run `python tests/benchmarks/bench_best_plans.py [200 [500]]`; seconds of processor time and ratios within
this run. The slot program is timed with its loops as published (memory outermost) and with memory
innermost, where the compiler can use vector instructions. The first argument is a number of random
layers of which the exact front is timed as well, the second one with a tolerance of 1 % (both by the clock).
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from sim.graphs.graph import Graph
from sim.models.families.chain import chain
from sim.strategies.optimal.bound import lower_bound
from sim.strategies.optimal.planner import best_plans
from sim.strategies.optimal.stages import stages_of

LAYERS, SLOTS = 100, 500


@numba.njit(cache=True)
def slot_program(forward: Any, adjoint: Any, size: Any, tape: Any, workspace: Any, slots: Any) -> Any:
    """The least cost for a budget of `slots`: rotor's recurrence (Beaumont et al. 2019), memory innermost.

    Its table has a cost for every number of slots up to the budget, as the published program's has.
    """
    n = len(forward)
    best = np.full((n, n, slots + 1), np.inf)
    before = np.zeros(n + 1)
    for i in range(n):
        before[i + 1] = before[i] + forward[i]
    for i in range(n):
        low = size[i] + size[i + 1] + tape[i] + workspace[i]
        for m in range(low, slots + 1):
            best[i, i, m] = forward[i] + adjoint[i]
    for length in range(1, n):
        for s in range(n - length):
            t = s + length
            row = best[s, t]
            advance = size[t + 1] + size[s + 1] + workspace[s]
            for j in range(s + 1, t):
                advance = max(advance, size[t + 1] + size[j] + size[j + 1] + workspace[j])
            for k in range(s + 1, t + 1):
                cost, low = before[k] - before[s], max(advance, size[k])
                if low > slots:
                    continue
                right, left, out = best[k, t, low - size[k] :], best[s, k - 1, low:], row[low:]
                for m in range(len(out)):
                    out[m] = min(out[m], cost + right[m] + left[m])
            keep = max(size[t + 1] + tape[s] + workspace[s], size[s] + size[s + 1] + tape[s])
            if keep <= slots:
                right, out = best[s + 1, t, keep - tape[s] :], row[keep:]
                for m in range(len(out)):
                    out[m] = min(out[m], forward[s] + adjoint[s] + right[m])
    return best[0, n - 1]


@numba.njit(cache=True)
def published_slot_program(forward: Any, adjoint: Any, size: Any, tape: Any, workspace: Any, slots: Any) -> Any:
    """What `slot_program` returns, with the loops in the order of the published program: memory outermost."""
    n = len(forward)
    best = np.full((slots + 1, n, n), np.inf)
    before = np.zeros(n + 1)
    for i in range(n):
        before[i + 1] = before[i] + forward[i]
    advance = np.zeros((n, n), dtype=np.int64)
    for s in range(n):
        beside = size[s + 1] + workspace[s]
        for t in range(s + 1, n):
            advance[s, t] = size[t + 1] + beside
            beside = max(beside, size[t] + size[t + 1] + workspace[t])
    for m in range(slots + 1):
        for i in range(n):
            if m >= size[i] + size[i + 1] + tape[i] + workspace[i]:
                best[m, i, i] = forward[i] + adjoint[i]
        for length in range(1, n):
            for s in range(n - length):
                t = s + length
                least = np.inf
                for k in range(s + 1, t + 1):
                    if m >= max(advance[s, t], size[k]):
                        least = min(least, before[k] - before[s] + best[m - size[k], k, t] + best[m, s, k - 1])
                if m >= max(size[t + 1] + tape[s] + workspace[s], size[s] + size[s + 1] + tape[s]):
                    least = min(least, forward[s] + adjoint[s] + best[m - tape[s], s + 1, t])
                best[m, s, t] = least
    return best[:, 0, n - 1]


def random_layers(length: int, seed: int = 0) -> Graph:
    """Layers of real-valued (that is, large and random) costs and sizes."""
    rng = np.random.default_rng(seed)
    largest = 10**9
    return chain(
        length=length,
        forward_flops=rng.integers(1, largest, length),
        activation_bytes=rng.integers(1, largest, length),
        residual_bytes=rng.integers(1, largest, length),
        workspace_bytes=rng.integers(1, largest // 10, length),
        input_bytes=0,
    )


def in_slots(graph: Graph, program: Callable[..., Any]) -> Callable[[], Any]:
    """One run of a slot program on a chain whose full store takes all slots."""
    c = graph.columns
    activation = np.concatenate([[0], c.activation_bytes])
    tape = c.residual_bytes + c.activation_bytes
    slot = float(tape.sum() + activation.max()) / SLOTS
    columns = [np.ceil(x / slot).astype(np.int64) for x in (activation, tape, c.workspace_bytes)]
    costs = [x.astype(np.float64) for x in (c.forward_flops, c.vjp_flops)]
    return lambda: program(*costs, *columns, SLOTS)


def seconds(run: Callable[[], object], times: int = 3) -> float:
    """Processor seconds of the fastest of some runs."""
    found = []
    for _ in range(times):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    small = random_layers(8)
    for program in (slot_program, published_slot_program):
        in_slots(small, program)()
    best_plans(stages_of(small))
    best_plans(stages_of(random_layers(30)))
    best_plans(stages_of(chain(length=8)))
    graph = random_layers(LAYERS)
    np.testing.assert_array_equal(in_slots(graph, slot_program)(), in_slots(graph, published_slot_program)())
    front = seconds(lambda: best_plans(stages_of(graph)))
    best = best_plans(stages_of(graph))
    print(f"{LAYERS} random layers, all {len(best)} breakpoints: {front:.2f} s")
    for order, program in (("as published", published_slot_program), ("memory innermost", slot_program)):
        slots = seconds(in_slots(graph, program))
        print(f"one budget in {SLOTS} slots, {order}: {slots:.2f} s; ratio {front / slots:.1f}")
    above = best.cost / lower_bound(stages_of(graph), best.memory) - 1
    print(f"above their lower bound: {np.mean(above):.2%} on average, {np.max(above):.2%} at most")
    equal = chain(length=500, activation_bytes=1)
    print(f"500 equal layers: {seconds(lambda: best_plans(stages_of(equal)), 1):.2f} s")
    for argument, tolerance in zip(sys.argv[1:], (0.0, 0.01), strict=False):
        graph = random_layers(int(argument))
        start = time.perf_counter()
        found = best_plans(stages_of(graph), tolerance=tolerance)
        took = time.perf_counter() - start
        print(f"{len(graph)} random layers: {took:.1f} s, proven within {found.gap:.2%} of the optimum")
    print(f"largest memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
