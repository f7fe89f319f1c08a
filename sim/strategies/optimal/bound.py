"""A certificate: flops of forwards below which no schedule of a chain can come, for each memory.

Every node is evaluated once before the first VJP. After it, time is cut into windows by VJPs: at the
start of VJP j only so many bytes can be in memory for later, and what VJPs j-1 … j' need beyond that
must be evaluated again before VJP j', from the nearest activation that is still there. Each window is
a knapsack; its relaxation by a price per byte is solved by a walk along the chain, and the best windows
are chosen by a dynamic program. Costs of windows add up, because windows do not overlap.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.base.compiled import compiled
from sim.graphs.node import Ints
from sim.strategies.optimal.stages import COST, FREE, GRADIENTS, READS_INPUT, READS_OUTPUT, RESIDUAL, VJP_PEAK, Stages

Floats = NDArray[np.float64]

PRICES = 32
MOST_CUTS = 128


def lower_bound(stages: Stages, memory: Ints) -> Ints:
    """The flops of forwards below which no schedule of a chain comes, for each number of working bytes.

    On graphs that are no chains it is one evaluation of each node; `sim.strategies.general.bound` has more.
    """
    table, n = stages.table, len(stages)
    once = int(table[:, COST].sum())
    last_needs_forward = not table[n - 1, FREE] and (table[n - 1, RESIDUAL] or table[n - 1, READS_OUTPUT])
    if not stages.exact or n < 3 or not (last_needs_forward or table[n - 1, READS_INPUT]):
        return np.full(len(memory), once, dtype=np.int64)
    sizes = np.append(stages.crossing[1:, n - 1], 0)  # of what each stage makes; the last is read by nobody
    taped = (table[:, FREE] == 0) & ((table[:, READS_OUTPUT] == 0) | (table[:, RESIDUAL] > 0))
    taped[n - 1] = False
    prices = price_grid(table[:-1, COST], sizes[:-1], PRICES)
    cuts = np.unique(np.linspace(0, n - 1, min(n, MOST_CUTS)).astype(np.int64))
    return once + recomputed(_windows(table, sizes, taped, prices, cuts), prices, cuts, stages, memory)


def price_grid(costs: Ints, sizes: Ints, count: int) -> Floats:
    """The prices of a byte: 0 and `count` more: up to four times what the dearest byte costs to make again."""
    high = float((costs / np.maximum(1, sizes)).max()) * 4 + 1e-300
    return np.concatenate([[0.0], np.geomspace(high * 1e-6, high, count)])


def recomputed(
    windows: Floats,
    prices: Floats,
    cuts: Ints,
    stages: Stages,
    memory: Ints,
) -> Ints:
    """The flops beyond one evaluation of each node that windows add up to, for each number of working bytes.

    `windows[p, b, a]` is the least cost at prices[p] from the start of VJP cuts[b] to that of VJP cuts[a].
    """
    table = stages.table
    left = np.append(np.cumsum(table[::-1, GRADIENTS])[::-1][1:], 0)
    beside = np.maximum(table[:, VJP_PEAK], 0) + left
    by_cuts = np.ascontiguousarray(np.moveaxis(windows, 0, 2))
    error = 2.0**-52 * (4 * len(table) + 8)  # of what is added up for a window, relatively
    bounds = np.array([_best(by_cuts, prices, cuts, beside, int(m), error) for m in memory])
    exact = np.ceil(bounds * (1 - 1e-9) - 1e-6).astype(np.int64)
    return np.maximum(exact, 0)


@compiled
def _windows(table: Ints, sizes: Ints, taped: NDArray[np.bool_], prices: Floats, cuts: Ints) -> Floats:
    """For each price and two cuts b > a: the least cost, with the price of bytes in memory at the start of VJP
    cuts[b], of all evaluations from there to the start of VJP cuts[a]."""
    count = len(cuts)
    out = np.zeros((len(prices), count, count))
    for p in range(len(prices)):
        price = prices[p]
        for b in range(1, count):
            start = cuts[b]
            for a in range(b):
                stop = cuts[a]
                there, missing = 0.0, 1e300  # the activation before the stage is there in the window, or not
                for i in range(start):
                    charge = price * sizes[i]
                    if i == start - 1 and table[start, READS_INPUT]:
                        charge = 0.0  # VJP `start` reads it, so it is in memory and counted there
                    evaluated = there + table[i, COST]
                    if i < stop:
                        kept = min(there, missing)
                        there, missing = min(kept + charge, evaluated), kept
                        continue
                    before = there if table[i, READS_INPUT] else min(there, missing)
                    held = before + (price * table[i, RESIDUAL] if taped[i] else 0.0)
                    there, missing = min(held + charge, evaluated), 1e300 if table[i, READS_OUTPUT] else held
                out[p, b, a] = min(there, missing)
    return out


@compiled
def _best(windows: Floats, prices: Floats, cuts: Ints, beside: Ints, memory: int, error: float) -> float:
    """The most that windows from the last VJP to the first add up to."""
    count = len(cuts)
    most = np.zeros(count)
    for b in range(1, count):
        room = memory - beside[cuts[b]]
        for a in range(b):
            least = 0.0
            for p in range(len(prices)):
                dual, paid = windows[b, a, p], prices[p] * room
                least = max(least, dual - paid - error * (dual + abs(paid)))
            most[b] = max(most[b], most[a] + least)
    return float(most[count - 1])
