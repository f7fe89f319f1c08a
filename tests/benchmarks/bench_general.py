"""Plans of general graphs, and what no plan costs less than: of networks, and of published graphs.

Run `python tests/benchmarks/bench_general.py [--effort SECONDS] [resnet50 unet random_layered_100 …]`. Networks:
recomputation in units of one forward evaluation at shares of full store's working bytes, planned (all budgets of
a network in one search) and proven in any order of VJPs at both levels, the gap, and seconds of each. Published
graphs: rise of the cost in percent at shares of the peak of the order given, beside the best published (FastSA,
NeurIPS 2023; Checkmate; Moccasin); their files are read from ../shared/data and skipped if they are absent.
Solving linear programs takes the extra `bound`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from sim.models import importers
from sim.scenario.scenario import load
from sim.schedules.replay import replay
from sim.strategies.general.certificate import certificate
from sim.strategies.general.planner import Plan, Planner, plan
from sim.strategies.general.problem import graph_problem, problem_of
from sim.strategies.reverse import reverse_full

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
NETWORKS: dict[str, dict[float, float]] = {
    "resnet50": {0.6: 0.0068, 0.5: 0.0243, 0.4: 0.073, 0.3: 0.167, 0.25: 0.2955, 0.2: 0.700},
    "unet": {0.6: 0.0862, 0.5: 0.2002, 0.4: 0.554, 0.35: 0.9683},
    "transformer": {0.5: 0.0689, 0.3: 0.4652},
    "vgg19": {0.6: 0.0991},
    "onnx_densenet121": {0.2: 0.025},
    "onnx_resnet50": {},
}
"""Shares of memory, and the overheads to be met there."""
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Those at which the gap between plan and bound is told for every network."""
PUBLISHED = {
    "random_layered_100": {0.9: 0.0, 0.8: 0.3, 0.7: 2.2},
    "random_layered_250": {0.9: 0.0, 0.8: 0.0, 0.7: 2.6},
    "fcn8_train": {0.9: 0.0, 0.8: 0.1, 0.7: 3.0},
}


def best(plans: list[Plan], budget: int) -> Plan | None:
    return next((p for p in reversed(plans) if p.peak <= budget), None)


def seconds_of(task: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    return task(), time.perf_counter() - started


def network(name: str, effort: float) -> None:
    graph = load(ROOT / "scenarios" / f"{name}.yaml").build_graph()
    problem = problem_of(graph)
    shares = sorted({*SHARES, *NETWORKS[name]}, reverse=True)
    full = replay(reverse_full(graph, chunk=graph.output_scalars)).working_bytes
    budgets = [int(full * share) for share in shares]
    plans, planning = seconds_of(lambda: plan(problem, budgets, effort=effort))
    single, levels = graph_problem(graph, width=1), ("fast", "proof")
    proven = [seconds_of(lambda at=at: certificate(single, np.array(budgets), level=at)) for at in levels]
    times = " and ".join(f"{t:.1f}" for _, t in proven)
    print(f"{name}, {len(graph)} nodes; plans {planning:.1f} s, bounds {times} s")
    for share, budget in zip(shares, budgets, strict=True):
        fast, proof = (bound.recomputed(budget) / graph.forward_flops for bound, _ in proven)
        found = best(plans, budget)
        spent = None if found is None else (found.cost - problem.base_cost) / graph.forward_flops
        planned = "none found" if spent is None else f"{spent:10.4f}"
        wanted = NETWORKS[name].get(share)
        meet = f"  (to meet: {wanted:6.4f})" if wanted is not None else " " * 19
        gap = "" if spent is None else f"  gap {spent - max(fast, proof):8.4f}"
        print(f"  {share:4.0%}  planned {planned}{meet}  fast {fast:8.4f}  proof {proof:8.4f}{gap}")


def computation_graph(name: str, effort: float) -> None:
    if not (DATA / f"{name}.json").exists():
        print(f"{name}: skipped, its file is absent")
        return
    problem = problem_of(importers.load().call("dag", file=DATA / f"{name}.json"))
    full = Planner(problem, order="listed").plans[0].peak
    budgets = [int(full * share) for share in PUBLISHED[name]]
    plans, planning = seconds_of(lambda: plan(problem, budgets, effort=effort))
    proven, proving = seconds_of(lambda: certificate(problem, np.array(budgets), level="fast"))
    print(f"{name}, {len(problem)} nodes; plans {planning:.1f} s, bound {proving:.1f} s")
    for (share, wanted), budget in zip(PUBLISHED[name].items(), budgets, strict=True):
        found, least = best(plans, budget), 100 * proven.recomputed(budget) / problem.base_cost
        rise = "none found" if found is None else f"{100 * (found.cost / problem.base_cost - 1):6.2f} %"
        print(f"  {share:4.0%}  planned {rise}  published {wanted} %  bound {least:6.2f} %")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[*NETWORKS, *PUBLISHED])
    parser.add_argument("--effort", type=float, default=20.0, help="seconds of two cores for the plans of each graph")
    given = parser.parse_args()
    for each in given.names:
        (network if each in NETWORKS else computation_graph)(each, given.effort)
