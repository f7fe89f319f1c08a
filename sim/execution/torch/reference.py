"""References for the gradient of a PyTorch module: that of plain autograd, and the slopes of its loss.

Slopes are central differences in float64, which know nothing of autograd.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from sim.base.errors import NotApplicable
from sim.execution.differences import Derivative, Slopes, central
from sim.graphs.graph import Graph
from sim.models.torch.program import with_loss
from sim.models.torch.tensors import part_of
from sim.ops.rule import Array

_SEED = 1


def plain(
    module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], loss: str
) -> tuple[float, dict[str, torch.Tensor]]:
    """Seconds and gradients of one pass of plain autograd, which updates the module's buffers.

    Raises
    ------
    NotApplicable
        If the module and its loss do not end in a scalar.
    """
    torch.manual_seed(_SEED)
    start = time.perf_counter()
    _scalar(module, inputs, loss).backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return time.perf_counter() - start, gradients


def slopes(
    graph: Graph, module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], loss: str, *, directions: int, seed: int
) -> tuple[Slopes, dict[str, torch.Tensor]]:
    """Slopes of the loss along directions as large as the parameters, and plain autograd's gradients in float64.

    Makes the module one of float64: give it a copy.

    Raises
    ------
    NotApplicable
        If the module cannot be evaluated in float64 throughout.
    """
    module = module.double()
    wide = {name: t.double() if t.is_floating_point() else t for name, t in inputs.items()}
    shapes = {name: p.shape for name, p in module.named_parameters()}

    def at(shifted: Mapping[str, Array]) -> Array:
        tensors = {name: torch.from_numpy(a).reshape(shapes[name]) for name, a in shifted.items()}
        tensors |= {name: b.clone() for name, b in module.named_buffers()}
        made = _scalar(lambda **given: torch.func.functional_call(module, tensors, (), given), wide, loss)
        return np.array([made.item()])

    moved = flat({name: p for name, p in module.named_parameters() if p.requires_grad})
    with _in_float64():
        with torch.no_grad():
            found = central(graph, moved, at, directions=directions, seed=seed)
        return found, plain(module, wide, loss)[1]


def flat(tensors: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    """Each tensor as a vector of float64."""
    return {name: t.detach().cpu().double().reshape(-1).numpy() for name, t in tensors.items()}


def derivative(gradients: Mapping[str, torch.Tensor], found: Slopes) -> Derivative:
    """Gradients by parameter in the form that `Slopes` reads; zeros where there is none."""
    given = flat(gradients)
    return {name: given.get(name, np.zeros_like(v))[None] for name, v in found.directions[0].items()}


def _scalar(module: Any, inputs: Mapping[str, torch.Tensor], loss: str) -> torch.Tensor:
    """The loss of what a module makes of its inputs."""
    out = part_of(with_loss(module, inputs, loss), "loss")
    if not isinstance(out, torch.Tensor) or out.numel() != 1:
        raise NotApplicable("the module does not end in a scalar; give the graph a loss")
    return out


@contextmanager
def _in_float64() -> Iterator[None]:
    """Floats that the module makes by itself are float64; a coarser one is refused, as is an operation without it."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Float64Alone():
            yield
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise NotApplicable(f"the module does not run in float64: {reason}") from None
    finally:
        torch.set_default_dtype(usual)


class _Float64Alone(TorchDispatchMode):  # type: ignore[misc]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in pytree.tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.dtype.is_floating_point and t.dtype != torch.float64:
                name = str(t.dtype).removeprefix("torch.")
                raise NotApplicable(f"the module computes in {name} whatever its parameters are ({func})")
        return out
