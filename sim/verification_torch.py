"""Predicted against measured for PyTorch modules: schedules run on real tensors on the CPU.

Bytes are those of all storages alive above what is resident, flops those that PyTorch's FlopCounterMode
counts (products of matrices), and the gradient is compared with that of plain autograd.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

from sim.device import Device
from sim.errors import NotApplicable
from sim.importers import extra
from sim.importers.factory import find
from sim.points import StrategyPoint
from sim.schedule import Schedule, replay
from sim.simulate import simulate
from sim.units import format_bytes, format_seconds
from sim.verification import GRADIENT_TOLERANCE, TEMPORARIES, Check, Verified

BYTES_TOLERANCE = 0.01
_BELOW = 2
"""Random integers are below this: classes and tables have two entries at the least."""


class TorchVerifier:
    """Runs schedules of the module that a factory makes, on random inputs; `limit_s` is the time for all of them.

    Raises
    ------
    GraphError
        If PyTorch is missing, the factory fails, or its module cannot be traced.
    NotApplicable
        If the module is too large to be run here.
    """

    engine = "PyTorch (CPU)"
    slopes = False
    impossible: str | None = None

    def __init__(
        self, parameters: Mapping[str, Any], *, device: Device | None, limit_s: float, memory_bytes: int
    ) -> None:
        (self._torch,) = extra("torch", "torch")
        from sim.importers import torch as importer
        from sim.tracing.program import program

        self.device = device
        self._end = time.perf_counter() + limit_s
        self._loss = parameters.get("loss", "none")
        traced = importer.load(**parameters)
        needed = TEMPORARIES * (traced.graph.resident_bytes + sum(traced.graph.columns.activation_bytes.tolist()))
        if needed > memory_bytes:
            raise NotApplicable(
                f"the module is too large to be run here: about {format_bytes(needed)} of memory, of "
                f"{format_bytes(memory_bytes)} that are free"
            )
        self._torch.manual_seed(0)
        self._module = find(parameters["factory"])(**(parameters.get("arguments") or {})).train()
        given = {i.name: (i.shape, i.dtype) for i in traced.graph.inputs}
        wanted = {**dict.fromkeys(parameters["inputs"]), **{n: None for n in ("labels", "target") if n in given}}
        self._inputs = {name: self._random(*given[name]) for name in wanted}
        self._program = program(
            self._module, self._inputs, granularity=parameters.get("granularity", "modules"), loss=self._loss,
            name=traced.graph.name,
        )  # fmt: skip
        self.graph = self._program.graph
        dtypes = {str(p.dtype).removeprefix("torch.") for p in self._module.parameters()}
        self.dtype = next((d for d in ("bfloat16", "float16", "float32", "float64") if d in dtypes), "float32")
        self._plain_s, self._expected = self._plain()

    def verify(self, wanted: StrategyPoint) -> Verified:
        """The checks of one point; what is no single sweep of reverse mode, or takes too long, is not run."""
        from sim.execute.torch import Runner

        schedule = wanted.schedule(self.graph)
        left = self._end - time.perf_counter()
        needed = 3 * self._plain_s
        if needed > left:
            reason = f"about {format_seconds(needed)}, of {format_seconds(max(0.0, left))} that are left"
            return Verified(wanted.label, skipped=reason)
        try:
            runner = Runner(self._program, schedule)
        except NotApplicable as error:
            return Verified(wanted.label, skipped=str(error))
        gradients, peak, seconds = self._run(runner)
        predicted = replay(schedule).working_bytes
        checks = [
            Check("peak bytes", predicted, peak, abs(peak - predicted) / max(1, predicted), BYTES_TOLERANCE),
            self._flops(runner, schedule),
            self._gradient(gradients),
        ]
        if self.device is not None:
            told = simulate(schedule, self.device).seconds
            checks.append(Check("seconds", told, seconds, abs(told - seconds) / seconds, None))
        return Verified(wanted.label, tuple(checks))

    def _random(self, shape: tuple[int, ...], dtype: str) -> Any:
        kind = getattr(self._torch, dtype)
        if kind.is_floating_point:
            return self._torch.randn(shape).to(kind)
        return self._torch.randint(0, _BELOW, shape).to(kind)

    def _plain(self) -> tuple[float, dict[str, Any]]:
        """Seconds and gradients of plain autograd."""
        functional, module, given = self._torch.nn.functional, copy.deepcopy(self._module), dict(self._inputs)
        target = given.pop({"cross_entropy": "labels", "mse": "target"}.get(self._loss, ""), None)
        self._torch.manual_seed(1)
        start = time.perf_counter()
        out = module(**given)
        if self._loss == "cross_entropy":
            out = functional.cross_entropy(out.reshape(-1, out.shape[-1]), target.reshape(-1))
        elif self._loss == "mse":
            out = functional.mse_loss(out, target)
        elif self._loss in ("sum", "mean"):
            out = getattr(out, self._loss)()
        if out.numel() != 1:
            raise NotApplicable("the module does not end in a scalar; give the graph a loss")
        out.backward()
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        return time.perf_counter() - start, gradients

    def _run(self, runner: Any, context: Any = None) -> tuple[dict[str, Any], int, float]:
        """(gradients, peak of live bytes, seconds) of one pass on a copy of the module."""
        from sim.execute.torch_memory import LiveBytes

        module, live = copy.deepcopy(self._module), context or LiveBytes()
        self._torch.manual_seed(1)
        start = time.perf_counter()
        with self._torch.no_grad():
            run = runner.start(dict(module.named_parameters()), dict(module.named_buffers()), self._inputs)
            with live:
                made = runner.forward(run)
                seeds = [[self._torch.ones_like(t) for t in tensors] for tensors in made]
                del made
                gradients = runner.backward(run, seeds)
        return gradients, getattr(live, "peak_bytes", 0), time.perf_counter() - start

    def _flops(self, runner: Any, schedule: Schedule) -> Check:
        """Those of matrix products, which are what PyTorch counts."""
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
        self._run(runner, counter)
        costs, n = [node.attributes["contraction_flops"] for node in self.graph.nodes], len(self.graph)
        predicted = sum(int(costs[row % n][row // n]) for row in schedule.rows.tolist() if row < 2 * n)
        counted = int(counter.get_total_flops())
        return Check("flops", predicted, counted, abs(predicted - counted) / max(1, counted), 0.0)

    def _gradient(self, got: Mapping[str, Any]) -> Check:
        tolerance = GRADIENT_TOLERANCE.get(self.dtype, GRADIENT_TOLERANCE["float16"])
        if got.keys() != self._expected.keys():
            return Check("gradient", None, None, float("inf"), tolerance)
        largest = max((float(g.abs().max()) for g in self._expected.values()), default=0.0)
        off = max((float((got[name] - g).abs().max()) for name, g in self._expected.items()), default=0.0)
        error = off / largest if largest else off
        return Check("gradient", None, None, error if error == error else float("inf"), tolerance)
