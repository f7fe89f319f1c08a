"""A training step within a budget against PyTorch's min-cut partitioner: `python bench_torch.py [model …]`.

For each `activation_memory_budget` of the partitioner: the peak of live bytes it comes to and its step's time, and
those of a step under `sim.torch.backend` that may take as many bytes. Both run call by call on this machine's CPU, one
thread, in turn, so that other processes disturb both alike; times are those of plain training, in per cent.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.debugging import boxed_nop
from torch._functorch import config
from torch._functorch.partitioners import min_cut_rematerialization_partition

import sim.torch
from sim.base.errors import ParameterError
from sim.execution.torch.memory import LiveBytes

sys.path.insert(0, str(Path(__file__).parent.parent))
import models

ROUNDS = 7
BUDGETS = (0.9, 0.7, 0.5, 0.3, 0.1)


class WithLoss(nn.Module):
    """A model and its loss, as one graph."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.model(x)
        return nn.functional.cross_entropy(out.flatten(0, -2), out.flatten(0, -2).argmax(-1))


CASES: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
    "gpt": lambda: (models.GPT(vocab=500, hidden=192, layers=6, context=128), torch.randint(0, 500, (8, 128))),
    "resnet50": lambda: (models.resnet50(10), torch.randn(16, 3, 64, 64)),
    "unet": lambda: (models.UNet(channels=16), torch.randn(4, 1, 64, 64)),
}


def compiled(module: nn.Module, backend: Any) -> Any:
    torch._dynamo.reset()
    call = torch.compile(module, backend=backend, fullgraph=True)
    return lambda x: call(x)


def min_cut(share: float) -> Any:
    kept = {"keep_inference_input_mutations": True}  # else buffers that it reads again have changed
    inner = aot_autograd(fw_compiler=boxed_nop, partition_fn=min_cut_rematerialization_partition, **kept)

    def backend(graph: Any, inputs: Any) -> Any:
        with config.patch(activation_memory_budget=share):
            return inner(graph, inputs)

    return backend


def step(call: Any, x: torch.Tensor) -> None:
    call(x).backward()


def peak(call: Any, module: nn.Module, x: torch.Tensor) -> int:
    """Live bytes of a step beside parameters and inputs; the first call traces."""
    for _ in range(2):
        module.zero_grad()
        with LiveBytes() as live:
            step(call, x)
    return live.peak_bytes


def seconds(calls: list[tuple[Any, nn.Module]], x: torch.Tensor) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for (call, module), taken in zip(calls, times, strict=True):
            module.zero_grad()
            begin = time.process_time()
            step(call, x)
            taken.append(time.process_time() - begin)
    return times


def row(name: str, share: float, plain: nn.Module, x: torch.Tensor) -> str:
    theirs, ours = copy.deepcopy(plain), copy.deepcopy(plain)
    cut = compiled(theirs, min_cut(share))
    most = peak(cut, theirs, x)
    resident = sum(t.untyped_storage().nbytes() for t in (*plain.parameters(), *plain.buffers(), x))
    backend = sim.torch.backend(budget=most + resident)
    planned = torch.compile(ours, backend=backend, fullgraph=True)
    try:
        own = peak(planned, ours, x)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        if not isinstance(error.inner_exception, ParameterError):
            raise
        return f"{name:9} {share:4.1f} {most / 1e6:8.2f} MB   {error.inner_exception}"
    base, first, second = seconds([(plain, plain), (cut, theirs), (planned, ours)], x)
    extra = [100 * (median(b / a for a, b in zip(base, t, strict=True)) - 1) for t in (first, second)]
    predicted = 100 * backend.plans[0].overhead
    return (
        f"{name:9} {share:4.1f} {most / 1e6:8.2f} MB {extra[0]:+6.1f} % {own / 1e6:8.2f} MB {extra[1]:+6.1f} % "
        f"{predicted:+6.1f} %"
    )


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    print("model     share  min-cut: peak, time  budgeted: peak, time, predicted")
    for name in names or CASES:
        torch.manual_seed(0)
        model, x = CASES[name]()
        plain = WithLoss(model)
        print(f"{name:9} full {peak(plain, plain, x) / 1e6:8.2f} MB, plain training", flush=True)
        for share in BUDGETS:
            print(row(name, share, plain, x), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
