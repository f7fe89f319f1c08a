"""Prices of the calls of a joint graph: seconds measured on the device in front of it, of a roofline, or flops."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from sim.graphs.node import Ints
from sim.models.torch.flops import flops
from sim.simulation.device import Device

PICOSECONDS = 10**12
LEAST_SECONDS, MOST_RUNS = 2e-3, 25
"""A call is run again until it has taken so long, or so often; the least counts."""

_measured: dict[Any, float] = {}


def flop_prices(nodes: Sequence[fx.Node | None]) -> Ints:
    """Flops of each call, as `sim.models.torch.flops` counts them; `None` costs nothing."""
    return np.array([0 if n is None else flops(n) for n in nodes], dtype=np.int64)


def roofline_prices(nodes: Sequence[fx.Node | None], device: Device) -> Ints:
    """Picoseconds of each call by the roofline of a device: the larger of its flops and its bytes, and a launch."""
    return _picoseconds([0.0 if n is None else _roofline(n, device) for n in nodes])


def measured_prices(nodes: Sequence[fx.Node | None], *, seconds: float) -> Ints:
    """Picoseconds of each call, measured where its tensors are, warm; equal calls are measured once in a process.

    After `seconds` of measuring the remaining calls are priced by a roofline through those measured, as are calls
    that do not run on made-up numbers.
    """
    keys = [None if n is None else _key(n) for n in nodes]
    stop = time.perf_counter() + seconds
    with _disable_current_modes(), torch.no_grad(), torch.random.fork_rng(_cuda_devices(nodes)):
        for node, key in zip(nodes, keys, strict=True):
            if node is not None and key not in _measured and time.perf_counter() < stop:
                taken = _timed(node)
                if taken is not None:
                    _measured[key] = taken
    known = {k: _measured[k] for k in keys if k in _measured}
    fitted = _fitted(nodes, keys, known)
    out = [
        0.0 if n is None else known[k] if k in known else _roofline(n, fitted) for n, k in zip(nodes, keys, strict=True)
    ]
    return _picoseconds(out)


def _picoseconds(seconds: Sequence[float]) -> Ints:
    whole: Ints = np.rint(np.array(seconds) * PICOSECONDS).astype(np.int64)
    return whole


def _timed(node: fx.Node) -> float | None:
    """Seconds of one run of a call on made-up numbers; `None` where it refuses them."""
    try:
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), _made_up)
        device = next((t.device for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)), None)
        wait = torch.cuda.synchronize if device is not None and device.type == "cuda" else lambda: None
        node.target(*args, **kwargs)
        runs: list[float] = []
        while len(runs) < 3 or (len(runs) < MOST_RUNS and sum(runs) < LEAST_SECONDS):
            wait()
            start = time.perf_counter()
            node.target(*args, **kwargs)
            wait()
            runs.append(time.perf_counter() - start)
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
        return None
    return min(runs)  # other processes only ever add to it


def _made_up(node: fx.Node) -> Any:
    def tensor(fake: Any) -> Any:
        if not isinstance(fake, torch.Tensor):
            return fake
        made = torch.empty_strided(tuple(fake.shape), fake.stride(), dtype=fake.dtype, device=fake.device)
        return made.fill_(0.5) if made.dtype.is_floating_point else made.zero_()

    return pytree.tree_map(tensor, node.meta["val"])


def _key(node: fx.Node) -> Any:
    def described(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return tuple(value.shape), value.stride(), str(value.dtype), str(value.device)
        return repr(value)

    given = fx.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta["val"])
    return str(node.target), torch.get_num_threads(), tuple(map(described, pytree.tree_leaves(given)))


def moved_bytes(node: fx.Node) -> int:
    """Bytes that a call reads and writes."""
    tensors = [t for n in [*node.all_input_nodes, node] for t in pytree.tree_leaves(n.meta.get("val"))]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


def _roofline(node: fx.Node, device: Device) -> float:
    work, moved = flops(node) / device.flops_per_s, moved_bytes(node) / device.bandwidth_bytes_per_s
    return max(work, moved) + device.overhead_s


def _fitted(nodes: Sequence[fx.Node | None], keys: Sequence[Any], known: Mapping[Any, float]) -> Device:
    """The roofline through measured calls: the rates that the fastest tenth of them reach."""
    timed = [(n, known[k]) for n, k in zip(nodes, keys, strict=True) if n is not None and k in known]
    rates = [(flops(n) / s, moved_bytes(n) / s, s) for n, s in timed if s > 0] or [(1e11, 1e10, 1e-5)]
    compute, memory, seconds = (np.array(x) for x in zip(*rates, strict=True))
    bandwidth = float(np.quantile(memory, 0.9))
    return Device(
        name="fitted", flops_per_s=max(1.0, float(np.quantile(compute, 0.9))),
        bandwidth_bytes_per_s=max(1.0, bandwidth), memory_bytes=None,
        to_host_bytes_per_s=bandwidth, from_host_bytes_per_s=bandwidth,
        to_disk_bytes_per_s=bandwidth, from_disk_bytes_per_s=bandwidth, overhead_s=float(seconds.min()),
    )  # fmt: skip


def _cuda_devices(nodes: Sequence[fx.Node | None]) -> list[int]:
    tensors = [t for n in nodes if n is not None for t in pytree.tree_leaves(n.meta.get("val"))]
    found = {t.device.index or 0 for t in tensors if isinstance(t, torch.Tensor) and t.device.type == "cuda"}
    return sorted(found)
