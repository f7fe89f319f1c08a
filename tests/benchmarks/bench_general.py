"""Plans of general graphs, and what no plan costs less than, at shares of full store's working bytes.

Run `python tests/benchmarks/bench_general.py [resnet50 unet …]`: recomputation in units of one forward evaluation
(F), planned and proven in any order of VJPs at both levels, the gap, and processor seconds of each, all
budgets of a network together. Solving linear programs takes the extra `bound`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

import sim
from sim.schedules.replay import replay
from sim.strategies.general.certificate import certificate
from sim.strategies.general.problem import graph_problem
from sim.strategies.optimal.strategy import optimal_front
from sim.strategies.reverse import reverse_full

SCENARIOS = Path(__file__).parents[2] / "scenarios"
SHARES = {
    "resnet50": (0.2, 0.25, 0.3, 0.4, 0.5, 0.6),
    "unet": (0.35, 0.4, 0.5, 0.6),
    "transformer": (0.3, 0.4, 0.5, 0.6),
    "vgg19": (0.6, 0.7, 0.8),
    "onnx_densenet121": (0.1, 0.2, 0.3, 0.5),
}


def row(name: str) -> None:
    graph = sim.load(SCENARIOS / f"{name}.yaml").build_graph()
    full = replay(reverse_full(graph, chunk=graph.output_scalars)).working_bytes
    working = np.array([int(full * share) for share in SHARES[name]])
    started = time.process_time()
    front = optimal_front(graph, bound="none")
    planning = time.process_time() - started
    problem = graph_problem(graph, width=1)
    bounds, seconds = [], []
    for level in ("fast", "proof"):
        started = time.process_time()
        bounds.append(certificate(problem, working, level=level))
        seconds.append(time.process_time() - started)
    evaluation = graph.forward_flops
    print(
        f"{name}, {len(graph)} nodes; smallest peak {front.peak_bytes[0] - graph.resident_bytes:,} found, "
        f"{bounds[0].smallest_peak:,} proven; plan {planning:.1f} s, bounds {seconds[0]:.1f} and {seconds[1]:.1f} s"
    )
    for share, budget in zip(SHARES[name], working.tolist(), strict=True):
        fast, proof = (b.recomputed(budget) / evaluation for b in bounds)
        fits = front.peak_bytes[0] - graph.resident_bytes <= budget
        plan = (front.cost[front.within(graph.resident_bytes + budget)] - front.cost[-1]) / evaluation if fits else None
        planned = "none found" if plan is None else f"{plan:10.4f}"
        gap = "" if plan is None else f"{plan - max(fast, proof):10.4f}"
        print(f"  {share:4.0%}  planned {planned}  fast {fast:8.4f}  proof {proof:8.4f}  gap {gap}")


if __name__ == "__main__":
    for network in sys.argv[1:] or SHARES:
        row(network)
