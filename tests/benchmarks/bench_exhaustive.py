"""Plans of small general graphs beside the exhaustive optimum: every shape of so many nodes.

Run `python tests/benchmarks/bench_exhaustive.py [--nodes 5]`. Shapes that differ by a renumbering alone are drawn once
(302 of five nodes, 5,984 of six), sizes and costs at random, every third graph plain; each is planned with the effort
that is spent where nobody says how much. Printed: how many points of the true fronts are met, how far the worst plan is
above, and whether a budget is refused that can be met.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from bisect import bisect_right
from pathlib import Path

import numpy as np

from sim.strategies.general.planner import plan

sys.path.insert(0, str(Path(__file__).parent.parent))
from general_oracles import true_front
from general_problems import random_problem


def different_shapes(nodes: int) -> list[list[list[int]]]:
    """The DAGs of so many nodes but for renumbering: the nodes that each one reads."""
    pairs = [(u, i) for i in range(nodes) for u in range(i)]
    edges = np.arange(2 ** len(pairs))[:, None] >> np.arange(len(pairs)) & 1
    least = np.full(len(edges), np.iinfo(np.int64).max)
    for order in itertools.permutations(range(nodes)):
        bits = np.array([1 << (order[u] * nodes + order[i]) for u, i in pairs], dtype=np.int64)
        least = np.minimum(least, edges @ bits)
    _, first = np.unique(least, return_index=True)
    return [
        [[u for k, (u, j) in enumerate(pairs) if j == i and edges[shape, k]] for i in range(nodes)] for shape in first
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=5)
    nodes = parser.parse_args().nodes
    met = total = refused = 0
    worst, rng = 1.0, random.Random(nodes)
    shapes = different_shapes(nodes)
    for k, shape in enumerate(shapes):
        problem = random_problem(rng, shape, plain=k % 3 == 0)
        plans = plan(problem)
        for memory, least in true_front(problem):
            at = bisect_right([p.peak for p in plans], memory)
            total += 1
            refused += not at
            if at:
                met += plans[at - 1].cost == least
                worst = max(worst, plans[at - 1].cost / max(1, least))
    print(f"{len(shapes)} shapes of {nodes} nodes: {met} of {total} points met, worst {worst:.3f}, {refused} refused")
