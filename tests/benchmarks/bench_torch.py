"""A training step under a full-store plan against the plain step: `python bench_torch.py`, with tests/ on the path.

CPU time of one thread, steps in turn, so that other processes disturb both alike.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn

import sim.torch
from sim.models.torch.program import program
from sim.schedules.plan import plan_of
from sim.strategies.reverse import reverse_full

sys.path.insert(0, str(Path(__file__).parent.parent))
import models

ROUNDS = 40
MOST = 1.05
"""At most 5 % over the plain step, where a step takes 50 ms or more."""

Case = tuple[Callable[[], nn.Module], Callable[[], dict[str, torch.Tensor]]]

CASES: dict[str, Case] = {
    "resnet50": (lambda: models.resnet50(10), lambda: {"x": torch.randn(2, 3, 64, 64)}),
    "gpt": (
        lambda: models.GPT(vocab=500, hidden=192, layers=6, context=64),
        lambda: {"ids": torch.randint(0, 500, (8, 64))},
    ),
}


def ratio(case: Case, granularity: str) -> tuple[float, float]:
    """Seconds of the plain step (the least), and how many times that the planned one beside it takes (the median)."""
    make, batch = case
    plain, inputs = make(), batch()
    with torch.no_grad():
        labels = torch.zeros(copy.deepcopy(plain)(**inputs).shape[:-1], dtype=torch.long)
    traced = program(plain, inputs | {"labels": labels}, granularity=granularity, loss="cross_entropy")
    planned = sim.torch.apply(copy.deepcopy(plain), plan_of(reverse_full(traced.graph)))
    times: dict[nn.Module, list[float]] = {plain: [], planned: []}
    for turn in range(ROUNDS + 2):
        for module in (plain, planned) if turn % 2 else (planned, plain):
            begin = time.process_time()
            module.zero_grad()
            nn.functional.cross_entropy(module(**inputs).flatten(0, -2), labels.flatten()).backward()
            if turn >= 2:
                times[module].append(time.process_time() - begin)
    return min(times[plain]), median(b / a for a, b in zip(times[plain], times[planned], strict=True))


def main() -> int:
    torch.set_num_threads(1)
    slow = False
    for name, case in CASES.items():
        for granularity in ("modules", "blocks"):
            seconds, times = ratio(case, granularity)
            print(f"{name:9} {granularity:8} plain {seconds * 1e3:6.1f} ms, planned {100 * (times - 1):+5.1f} %")
            slow |= times > MOST
    return int(slow)


if __name__ == "__main__":
    raise SystemExit(main())
