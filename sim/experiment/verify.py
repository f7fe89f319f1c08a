"""Predicted against measured: a scenario's schedules run on real arrays, and how far each number is off.

Bytes are exact: at every action what is held is what replay counts. Flops are counted again from the
shapes of the arrays. Gradients are compared with full-store reverse mode in the graph's own precision,
and along random directions with central differences in float64. Seconds are compared where a device is
given, and judged where products take most of them (`COMPUTE_BOUND`): that is what calibration is for.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from sim.base.errors import NotApplicable
from sim.base.units import format_bytes, format_seconds
from sim.execution import differences
from sim.execution.numpy.arrays import inputs_for, parameters_for
from sim.execution.numpy.execute import Execution, execute
from sim.execution.numpy.products import executed_flops
from sim.experiment.calibrate import physical_memory, shortest
from sim.graphs.graph import Graph
from sim.graphs.node import STRUCTURES
from sim.ops.rule import Array
from sim.scenario.points import FULL_STORE, StrategyPoint
from sim.schedules.effects import JACOBIAN
from sim.schedules.replay import cost_of, replay, walk
from sim.schedules.schedule import Schedule
from sim.simulation.device import Device
from sim.simulation.roofline import action_seconds
from sim.simulation.simulate import simulate

GRADIENT_TOLERANCE: Mapping[str, float] = MappingProxyType({"float64": 1e-10, "float32": 1e-4, "float16": 5e-2})
"""Largest difference to full store, over the largest entry of the gradient."""
DIFFERENCE_TOLERANCE: Mapping[str, float] = MappingProxyType({"float64": 1e-5, "float32": 1e-3, "float16": 5e-2})
"""Largest difference to the slope along a direction, over the size that a random direction's slope has."""
SECONDS_TOLERANCE = 0.25
COMPUTE_BOUND = 0.8
"""Share of the predicted seconds that products must take for them to be judged."""
ROUNDINGS = 2
"""The multiple of what rounding to its dtype moves the reference's slopes by that is allowed, where that is more."""
DIRECTIONS = 2
REPEATS = 3

ROUGH_BANDWIDTH, ROUGH_OVERHEAD_S, ROUGH_EFFICIENCY = 2e9, 1e-4, 0.5
"""The least rate of NumPy, to say beforehand how long a point would take."""
TEMPORARIES = 3
"""Memory that an execution needs, in units of the peak: operations have temporaries that no schedule counts."""


@dataclass(frozen=True)
class Check:
    """One predicted number and the one measured; `error` is relative, and `tolerance` `None` if it is not judged."""

    quantity: str
    predicted: float | int | None
    measured: float | int | None
    error: float
    tolerance: float | None

    @property
    def ok(self) -> bool:
        return self.tolerance is None or self.error <= self.tolerance


@dataclass(frozen=True)
class Verified:
    """One point with its checks, or the reason why it was not run."""

    label: str
    checks: tuple[Check, ...] = ()
    skipped: str | None = None

    @property
    def ok(self) -> bool:
        return all(c.ok for c in self.checks)

    def check(self, quantity: str) -> Check | None:
        """The check of one quantity, if there is one."""
        return next((c for c in self.checks if c.quantity == quantity), None)


@dataclass(frozen=True)
class Clock:
    """The time that all points may take together."""

    end: float

    @staticmethod
    def of(limit_s: float) -> Clock:
        """A clock that starts now."""
        return Clock(time.perf_counter() + limit_s)

    @property
    def left_s(self) -> float:
        """Seconds until the limit."""
        return self.end - time.perf_counter()

    def refusal(self, needed_s: float) -> str | None:
        """The reason not to run what takes so long, if there is one."""
        left = self.left_s
        if needed_s <= left:
            return None
        return f"about {format_seconds(needed_s)}, of {format_seconds(max(0.0, left))} that are left"

    def seconds(self, schedule: Schedule, device: Device, first_s: float, again: Callable[[], float]) -> Check:
        """Predicted seconds beside those of the fastest of a few runs, as many as there is time for."""
        cost = replay(schedule)
        predicted, measured = simulate(schedule, device).seconds, first_s
        for _ in range(REPEATS - 1):
            if self.left_s > measured:
                measured = min(measured, again())
        # local Jacobians are formed column by column here, whatever the graph says that forming them costs
        products = cost.flops.total / device.flops_per_s if not cost.actions["jacobian"] else 0.0
        judged = products >= COMPUTE_BOUND * predicted
        error = abs(predicted - measured) / measured
        return Check("seconds", predicted, measured, error, SECONDS_TOLERANCE if judged else None)


class Verifier:
    """Runs schedules of one graph on the same arrays; `limit_s` is what all of them may take together.

    Raises
    ------
    NotApplicable
        If an op of the graph cannot be executed.
    """

    engine = "NumPy"
    without_slopes: str | None = None

    def __init__(
        self, graph: Graph, *, device: Device | None, limit_s: float, memory_bytes: int, seed: int = 0
    ) -> None:
        self.graph = graph.configured(optimizer="none")
        self.device = dataclasses.replace(device, memory_bytes=None) if device else None
        self.dtype = precision(self.graph)
        self.slope_tolerance = DIFFERENCE_TOLERANCE[self.dtype]
        self._clock, self._memory_bytes = Clock.of(limit_s), memory_bytes
        self._rough = _rough_device(self.dtype)
        self._full = FULL_STORE.schedule(self.graph)
        self._seed = seed
        self._reference: Execution | None = None
        self._slopes: differences.Slopes | None = None
        self._inputs: dict[str, Array] = {}
        self._parameters: dict[str, Array] = {}
        self.impossible = self._refusal(self._full, reference=True)
        if self.impossible is None:
            self._prepare()

    def _prepare(self) -> None:
        self._inputs, self._parameters = inputs_for(self.graph, self._seed), parameters_for(self.graph, self._seed + 1)
        self._reference = execute(self._full, self._inputs, self._parameters)
        self._slopes = differences.slopes(
            self.graph, self._inputs, self._parameters, directions=DIRECTIONS, seed=self._seed + 2
        )
        if self.dtype != "float64":
            wide = FULL_STORE.schedule(differences.in_float64(self.graph))
            arrays = (differences.widened(a) for a in (self._inputs, self._parameters))
            own, other = (differences.derivative(r) for r in (self._reference, execute(wide, *arrays)))
            self.slope_tolerance = max(self.slope_tolerance, ROUNDINGS * self._slopes.apart(own, other))

    def verify(self, request: StrategyPoint) -> Verified:
        """Run one point and check its predictions; a schedule that takes too long or too much memory is not run."""
        schedule = request.schedule(self.graph)
        reason = self.impossible or self._refusal(schedule)
        if reason is not None:
            return Verified(request.label, skipped=reason)
        result, first_s = self._timed(schedule)
        checks = [self._bytes(schedule, result), _flops(schedule, result), self._gradient(result), self._slope(result)]
        if self.device is not None:
            checks.append(self._clock.seconds(schedule, self.device, first_s, lambda: self._timed(schedule)[1]))
        return Verified(request.label, tuple(checks))

    def _bytes(self, schedule: Schedule, result: Execution) -> Check:
        """The peak, and as its error the largest difference at any action and in any tier."""
        walked = walk(schedule, bytes_of_actions=True)
        cost, counted = cost_of(schedule, walked), walked.record.during
        off = int(np.abs(result.live_bytes[:, 0] - counted[result.flat]).max())
        tiers = zip(result.live_bytes.max(axis=0).tolist(), cost.tier_peak_bytes.values(), strict=True)
        off = max(off, *(abs(held - told) for held, told in tiers))
        resident = [*self._inputs.values(), *self._parameters.values()]
        if result.jacobian is not None:
            resident.append(result.jacobian)
        elif self.graph.preallocated_gradients:
            resident += result.gradients.values()
        measured = result.working_bytes + sum(a.nbytes for a in resident)
        off = max(off, abs(measured - cost.peak_bytes))
        return Check("peak bytes", cost.peak_bytes, measured, off / max(1, cost.peak_bytes), 0.0)

    def _gradient(self, result: Execution) -> Check:
        assert self._reference is not None
        error = differences.distance(differences.derivative(result), differences.derivative(self._reference))
        return Check("gradient", None, None, error, GRADIENT_TOLERANCE[self.dtype])

    def _slope(self, result: Execution) -> Check:
        assert self._slopes is not None
        error = self._slopes.error(differences.derivative(result))
        return Check("slopes", None, None, error, self.slope_tolerance)

    def _timed(self, schedule: Schedule) -> tuple[Execution, float]:
        start = time.perf_counter()
        return execute(schedule, self._inputs, self._parameters), time.perf_counter() - start

    def _refusal(self, schedule: Schedule, *, reference: bool = False) -> str | None:
        """The reason not to run a schedule, if there is one."""
        needed = TEMPORARIES * replay(schedule).peak_bytes
        if needed > self._memory_bytes:
            return f"about {format_bytes(needed)} of memory, of {format_bytes(self._memory_bytes)} that are free"
        return self._clock.refusal(self._estimate(schedule, reference=reference))

    def _estimate(self, schedule: Schedule, *, reference: bool = False) -> float:
        seconds = action_seconds(schedule, self._rough)
        weights = schedule.flat.weights
        once = float(np.dot(seconds, weights) if len(weights) else seconds.sum())
        if reference:  # the evaluations of the central differences too, and a full store, in float64
            evaluations = 2 * len(differences.STEPS) * DIRECTIONS
            forward = 2 * self.graph.forward_flops / self._rough.flops_per_s + len(self.graph) * ROUGH_OVERHEAD_S
            return 3 * once + evaluations * forward
        return once + self._forming_s(schedule)

    def _forming_s(self, schedule: Schedule) -> float:
        """Seconds of forming local Jacobians, one tangent for each scalar of a node's input (constant: of a sample)."""
        t, c, m = schedule.table, self.graph.columns, len(self.graph.inputs)
        flops = 0.0
        for i in t.node[schedule.rows[t.opcode[schedule.rows] == JACOBIAN]].tolist():
            structure = STRUCTURES[int(c.jacobian_structure[i])]
            if structure != "diagonal":
                source = int(c.input_index[c.input_ptr[i]])
                columns = self.graph.input_scalars if source < m else int(c.scalars[source - m])
                samples = self.graph.batch if structure == "constant" else 1
                flops += columns * float(c.jvp_flops[i]) / samples
        return flops / self._rough.flops_per_s


def tolerance_of(tolerances: Mapping[str, float], dtype: str) -> float:
    """The tolerance of a dtype; that of float16 for what is as coarse."""
    return tolerances.get(dtype, tolerances["float16"])


def precision(graph: Graph) -> str:
    """The coarsest floating dtype of the graph's nodes.

    Raises
    ------
    NotApplicable
        If it is one that NumPy does not have.
    """
    dtypes = {n.dtype for n in graph.nodes}
    floats = [d for d in ("float16", "float32", "float64") if d in dtypes]
    if "bfloat16" in dtypes:
        raise NotApplicable("NumPy has no bfloat16, so the graph cannot be executed; give it dtype: float32")
    return floats[0] if floats else "float64"


def _flops(schedule: Schedule, result: Execution) -> Check:
    predicted, counted = replay(schedule).flops.total, executed_flops(schedule, result.actions)
    return Check("flops", predicted, counted, abs(predicted - counted) / max(1, counted), 0.0)


def _rough_device(dtype: str) -> Device:
    """A device a little slower than this machine, measured in some milliseconds."""
    size = 512
    a = np.ones((size, size), dtype="float64" if dtype == "float64" else "float32")
    rate = ROUGH_EFFICIENCY * 2.0 * size**3 / shortest(lambda: a @ a, 10)
    return Device(
        name="rough", flops_per_s=rate, bandwidth_bytes_per_s=ROUGH_BANDWIDTH, memory_bytes=None,
        to_host_bytes_per_s=ROUGH_BANDWIDTH, from_host_bytes_per_s=ROUGH_BANDWIDTH,
        to_disk_bytes_per_s=ROUGH_BANDWIDTH, from_disk_bytes_per_s=ROUGH_BANDWIDTH, overhead_s=ROUGH_OVERHEAD_S,
    )  # fmt: skip


def free_memory() -> int:
    """Bytes that this machine could give to an execution now."""
    try:
        with open("/proc/meminfo") as file:
            available = next((line for line in file if line.startswith("MemAvailable:")), None)
    except OSError:
        available = None
    return int(available.split()[1]) * 1024 if available else physical_memory()
