"""This machine as a `Device`: the rates that the NumPy execution really gets, measured.

With it, predicted seconds of layers that compute (matrix products) come near measured ones. Every rate
is the best of several runs, because what else the machine does only ever adds time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import numpy as np

from sim.execution.numpy.arrays import inputs_for, parameters_for
from sim.execution.numpy.execute import execute
from sim.models.families.mlp import mlp
from sim.simulation.device import Device
from sim.strategies.reverse import reverse_full

Dtype = Literal["float32", "float64"]

MATRIX = 2048
"""Rows and columns of the product: enough for full rate, little enough to take a fraction of a second."""
STREAM_BYTES = 64_000_000
"""Of each array: more than caches hold."""
TINY_LAYERS = 40


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The rates of a machine: flops a second by dtype, bytes a second, seconds."""

    flops_per_s: dict[str, float]
    bandwidth_bytes_per_s: float
    copy_bytes_per_s: float
    overhead_s: float
    memory_bytes: int
    cores: int
    day: date

    def device(self, dtype: Dtype) -> Device:
        """The device that computes in a dtype."""
        return Device(
            name=f"this machine, {dtype}",
            flops_per_s=self.flops_per_s[dtype],
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s,
            memory_bytes=self.memory_bytes,
            to_host_bytes_per_s=self.copy_bytes_per_s,
            from_host_bytes_per_s=self.copy_bytes_per_s,
            to_disk_bytes_per_s=self.copy_bytes_per_s,
            from_disk_bytes_per_s=self.copy_bytes_per_s,
            overhead_s=self.overhead_s,
            copy_latency_s=self.overhead_s,
            source=f"measured on {self.day}",
        )

    def to_yaml(self, dtype: Dtype) -> str:
        """The keys of `device:`, to be pasted there or written to a file that `device:` names."""
        others = "; ".join(f"{d}: {_rate(r, 'FLOP/s')}" for d, r in self.flops_per_s.items() if d != dtype)
        copies = _rate(self.copy_bytes_per_s, "B/s")
        overhead = f"{self.overhead_s * 1e6:.3g} us"
        lines = [
            f"# measured by sim calibrate on {self.day}: NumPy {np.__version__}, {self.cores} cores",
            f"name: this machine, {dtype}",
            f"flops: {_rate(self.flops_per_s[dtype], 'FLOP/s')}  # matrix products in {dtype}; {others}",
            f"bandwidth: {_rate(self.bandwidth_bytes_per_s, 'B/s')}  # triad a = b + s·c",
            f"memory: {self.memory_bytes}",
            f"to_host: {copies}  # host and disk are this memory too, in the NumPy execution",
            f"from_host: {copies}",
            f"to_disk: {copies}",
            f"from_disk: {copies}",
            f"overhead: {overhead}  # one action on tiny arrays",
            f"copy_latency: {overhead}",
        ]
        return "\n".join(lines) + "\n"


def calibrate(*, repeats: int = 5, matrix: int = MATRIX, stream_bytes: int = STREAM_BYTES) -> Calibration:
    """The rates of this machine, each the best of `repeats` runs."""
    bandwidth, copies = _stream_rates(stream_bytes, repeats)
    return Calibration(
        flops_per_s={d: _matmul_rate(d, matrix, repeats) for d in ("float32", "float64")},
        bandwidth_bytes_per_s=bandwidth,
        copy_bytes_per_s=copies,
        overhead_s=_overhead(repeats),
        memory_bytes=physical_memory(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        day=date.today(),
    )


def shortest(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of `repeats` runs, after one that is not counted."""
    run()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def _matmul_rate(dtype: str, size: int, repeats: int) -> float:
    """Flops a second of the product with a transposed weight, as a linear layer has it."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size)).astype(dtype) for _ in range(2))
    return 2.0 * size**3 / shortest(lambda: a @ b.T, repeats)


def _stream_rates(size: int, repeats: int) -> tuple[float, float]:
    """(bandwidth of a triad, rate of a copy), bytes a second.

    The triad is two NumPy operations, which read three arrays and write two. A copy counts its bytes
    once and pays for fresh memory, as copies between tiers do.
    """
    count = size // 8
    a, b, c = np.zeros(count), np.ones(count), np.full(count, 2.0)

    def triad() -> None:
        np.multiply(c, 3.0, out=a)
        np.add(a, b, out=a)

    return 5.0 * a.nbytes / shortest(triad, repeats), a.nbytes / shortest(lambda: np.array(b), repeats)


def _overhead(repeats: int) -> float:
    """Seconds of one action on arrays so small that nothing else counts."""
    graph = mlp(widths=[4] * (TINY_LAYERS + 1), activation="relu", batch=4, dtype="float32", loss="mse")
    schedule = reverse_full(graph.configured(wrt="parameters"))
    inputs, parameters = inputs_for(graph, 0), parameters_for(graph, 0)
    return shortest(lambda: execute(schedule, inputs, parameters), repeats) / len(schedule)


def physical_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _rate(value: float, unit: str) -> str:
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
