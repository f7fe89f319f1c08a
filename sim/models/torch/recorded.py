"""The recording of a PyTorch module: calls with their place in the module, and placeholders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

ROOT = "model"
"""The name of operations of the outermost module's own forward."""


@dataclass(eq=False)
class Op:
    """One recorded call.

    `path` names the submodules around it, outermost first; `call` tells calls of one submodule apart;
    `aliases` is the value whose storage the result shares (a view), `mutated` the buffers it updates.
    """

    node: torch.fx.Node
    path: tuple[str, ...]
    call: int
    grad: bool
    leaf: bool
    aliases: torch.fx.Node | None = None
    mutated: tuple[torch.fx.Node, ...] = ()


@dataclass(eq=False)
class Captured:
    """A module as a list of operations on placeholders.

    `parameters`, `buffers`, `inputs` and `constants` map placeholders to names (constants, tensors that are no
    attribute of the module, to the tensor itself); `outputs` are the values that the module returns.
    `containers` are the paths of submodules that only hold others.
    """

    ops: list[Op]
    parameters: dict[torch.fx.Node, str]
    buffers: dict[torch.fx.Node, str]
    inputs: dict[torch.fx.Node, str]
    constants: dict[torch.fx.Node, Any]
    outputs: list[torch.fx.Node]
    mode: FakeTensorMode
    containers: frozenset[str]
    trainable: frozenset[str]


def part_of(output: Any, name: str) -> Any:
    """The tensor that a mapping or dataclass holds as `name`, else the output itself.

    Models of `transformers` return their `loss` so where they are given labels, and `logits`.
    """
    found = output.get(name) if isinstance(output, Mapping) else None
    if is_dataclass(output) and found is None:
        found = getattr(output, name, None)
    return found if isinstance(found, torch.Tensor) else output


def value(node: torch.fx.Node) -> Any:
    """The fake tensor that a recorded call returns."""
    return node.meta["val"]


def storage(tensor: Any) -> int:
    """A number that tensors share if and only if they share memory."""
    return int(tensor.untyped_storage()._cdata)


def tensors_of(node: torch.fx.Node) -> list[Any]:
    """The fake tensors among what a recorded call returns."""
    return [t for t in pytree.tree_leaves(value(node)) if isinstance(t, torch.Tensor)]


def where(op: Op) -> str:
    """The submodule that makes a call, as messages name it."""
    return f"module '{op.path[-1] or ROOT}'" if op.path else "the model"
