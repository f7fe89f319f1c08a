"""Predicted against measured for PyTorch modules: schedules run on real tensors on the CPU.

Bytes are those of all storages alive above what is resident, flops those that PyTorch's FlopCounterMode
counts (products of matrices), and the gradient is compared with that of plain autograd and with central
differences in float64.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from sim.base.errors import NotApplicable
from sim.base.units import format_bytes
from sim.experiment.verify import (
    DIFFERENCE_TOLERANCE,
    DIRECTIONS,
    GRADIENT_TOLERANCE,
    ROUNDINGS,
    TEMPORARIES,
    Check,
    Clock,
    Verified,
    tolerance_of,
)
from sim.models.factory import find
from sim.models.importers import extra
from sim.scenario.points import StrategyPoint
from sim.schedules.replay import replay
from sim.schedules.schedule import Schedule
from sim.simulation.device import Device

if TYPE_CHECKING:
    from sim.execution.differences import Slopes

BYTES_TOLERANCE = 0.01
PARTS = 0.1
"""Share of the peak that may be missing besides: while a VJP runs, what it reads goes bit by bit, and a cotangent that
is made in parts counts as a whole from the first part on."""
_DIRECTIONS_SEED = 2
_COARSEST = 0.25
"""Share of a slope that rounding may be of for the slope to say anything."""
_BELOW = 2
"""Random integers are below this: classes and tables have two entries at the least."""


def _off(measured: int, predicted: int) -> float:
    """How far measured bytes are from those predicted; below them a few percent more may be, see `PARTS`."""
    over = (measured - predicted) / max(1, predicted)
    return over if over >= 0 else max(0.0, -over - PARTS)


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
    impossible: str | None = None
    without_slopes: str | None = None

    def __init__(
        self, parameters: Mapping[str, Any], *, device: Device | None, limit_s: float, memory_bytes: int
    ) -> None:
        (self._torch,) = extra("torch", "torch")
        from sim.execution.torch import reference as torch_reference
        from sim.models.torch import importer as importer
        from sim.models.torch.program import program

        self.device = device
        self._clock, self._memory_bytes = Clock.of(limit_s), memory_bytes
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
        layouts = {i.name: (i.shape, i.dtype) for i in traced.graph.inputs}
        names = dict.fromkeys([*parameters["inputs"], *(n for n in ("labels", "target") if n in layouts)])
        self._inputs = {name: self._random(*layouts[name]) for name in names}
        self._program = program(
            self._module, self._inputs, granularity=parameters.get("granularity", "modules"), loss=self._loss,
            name=traced.graph.name,
        )  # fmt: skip
        self.graph = self._program.graph
        dtypes = {str(p.dtype).removeprefix("torch.") for p in self._module.parameters()}
        self.dtype = next((d for d in ("bfloat16", "float16", "float32", "float64") if d in dtypes), "float32")
        self._plain_s, self._expected = torch_reference.plain(copy.deepcopy(self._module), self._inputs, self._loss)
        self._slopes: Slopes | None = None
        self.slope_tolerance = tolerance_of(DIFFERENCE_TOLERANCE, self.dtype)
        try:
            self._slopes = self._differences()
        except NotApplicable as error:
            self.without_slopes = str(error)

    def verify(self, request: StrategyPoint) -> Verified:
        """Run one point and check it; what is no single sweep of reverse mode, or takes too long, is not run."""
        from sim.execution.torch.execute import Runner

        schedule = request.schedule(self.graph)
        reason = self._clock.refusal(3 * self._plain_s)
        if reason is not None:
            return Verified(request.label, skipped=reason)
        try:
            runner = Runner(self._program, schedule)
        except NotApplicable as error:
            return Verified(request.label, skipped=str(error))
        gradients, peak, _ = self._run(runner)
        predicted = replay(schedule).working_bytes + runner.state_bytes
        checks = [
            Check("peak bytes", predicted, peak, _off(peak, predicted), BYTES_TOLERANCE),
            self._flops(runner, schedule),
            self._gradient(gradients),
        ]
        if self._slopes is not None:
            checks.append(self._slope(gradients, self._slopes))
        if self.device is not None:
            checks.append(self._clock.seconds(schedule, self.device, self._timed(runner), lambda: self._timed(runner)))
        return Verified(request.label, tuple(checks))

    def _differences(self) -> Slopes:
        """The slopes of the loss; the tolerance becomes twice what rounding does to plain autograd, if that is more.

        Raises
        ------
        NotApplicable
            With the reason why there can be none.
        """
        from sim.execution.differences import STEPS
        from sim.execution.torch import reference as torch_reference

        drawing = {r for r, row in enumerate(self._program.captured.joint.rows) if row.state is not None}
        pieces = self._program.pieces.pieces
        random = next((piece.name for piece in pieces if drawing.intersection(piece.forward)), None)
        if random is not None:
            raise NotApplicable(f"'{random}' draws random numbers, which are others in float64")
        doubles = (DIRECTIONS + 4) * self.graph.parameter_count + sum(self.graph.columns.scalars.tolist())
        if 8 * doubles > self._memory_bytes:
            raise NotApplicable(f"they take about {format_bytes(8 * doubles)} of memory")
        evaluations = 2 * len(STEPS) * DIRECTIONS
        reason = self._clock.refusal((evaluations + 2) * self._plain_s)
        if reason is not None:
            raise NotApplicable(f"they take {reason}")
        slopes, in_float64 = torch_reference.slopes(
            self.graph, copy.deepcopy(self._module), self._inputs, self._loss,
            directions=DIRECTIONS, seed=_DIRECTIONS_SEED,
        )  # fmt: skip
        wide, own = (torch_reference.derivative(g, slopes) for g in (in_float64, self._expected))
        if not slopes.error(wide) <= DIFFERENCE_TOLERANCE["float64"]:
            raise NotApplicable(
                f"plain autograd is {slopes.error(wide):.1%} off them in float64; the module stops gradients on "
                "purpose (detach, no_grad), or bends too sharply"
            )
        rounding = slopes.apart(own, wide)
        if rounding > _COARSEST:
            raise NotApplicable(f"rounding to {self.dtype} alone moves them by more than {_COARSEST:.0%}")
        self.slope_tolerance = max(self.slope_tolerance, ROUNDINGS * rounding)
        return slopes

    def _random(self, shape: tuple[int, ...], dtype: str) -> Any:
        kind = getattr(self._torch, dtype)
        if kind.is_floating_point:
            return self._torch.randn(shape).to(kind)
        return self._torch.randint(0, _BELOW, shape).to(kind)

    def _run(self, runner: Any, context: Any = None) -> tuple[dict[str, Any], int, float]:
        """(gradients, peak of live bytes, seconds) of one pass on a copy of the module."""
        from sim.execution.torch.memory import LiveBytes

        module, live = copy.deepcopy(self._module), context or LiveBytes()
        self._torch.manual_seed(1)
        start = time.perf_counter()
        named = dict([*module.named_parameters(), *module.named_buffers(), *self._inputs.items()])
        with self._torch.no_grad(), live:
            outputs, saved = runner.forward(named)
            seeds = [self._torch.ones_like(t) for t in outputs]
            del outputs
            gradients = runner.backward(saved, seeds)
        return gradients, getattr(live, "peak_bytes", 0), time.perf_counter() - start

    def _timed(self, runner: Any) -> float:
        return self._run(runner, nullcontext())[2]

    def _flops(self, runner: Any, schedule: Schedule) -> Check:
        """The check of flops of matrix products, which are what PyTorch counts."""
        from sim.models.torch.flops import counter as flop_counter

        counter = flop_counter()
        self._run(runner, counter)
        costs, n = [node.attributes["contraction_flops"] for node in self.graph.nodes], len(self.graph)
        predicted = sum(int(costs[row % n][row // n]) for row in schedule.rows.tolist() if row < 2 * n)
        counted = int(counter.get_total_flops())
        return Check("flops", predicted, counted, abs(predicted - counted) / max(1, counted), 0.0)

    def _gradient(self, got: Mapping[str, Any]) -> Check:
        tolerance = tolerance_of(GRADIENT_TOLERANCE, self.dtype)
        if got.keys() != self._expected.keys():
            return Check("gradient", None, None, float("inf"), tolerance)
        largest = max((float(g.abs().max()) for g in self._expected.values()), default=0.0)
        off = max((float((got[name] - g).abs().max()) for name, g in self._expected.items()), default=0.0)
        error = off / largest if largest else off
        return Check("gradient", None, None, error if error == error else float("inf"), tolerance)

    def _slope(self, got: Mapping[str, Any], slopes: Slopes) -> Check:
        from sim.execution.torch import reference as torch_reference

        error = slopes.error(torch_reference.derivative(got, slopes))
        return Check("slopes", None, None, error, self.slope_tolerance)
