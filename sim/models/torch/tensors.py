"""Tensors behind the nodes of a traced graph: which there are, and which share memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree


def storage(tensor: Any) -> int:
    """A number that tensors share if and only if they share memory."""
    return int(tensor.untyped_storage()._cdata)


def tensors_of(node: torch.fx.Node) -> list[Any]:
    """The fake tensors among what a call returns."""
    return [t for t in pytree.tree_leaves(node.meta.get("val")) if isinstance(t, torch.Tensor)]


def part_of(output: Any, name: str) -> Any:
    """The tensor that a mapping or dataclass holds as `name`, else the output itself.

    Models of `transformers` return their `loss` so where they are given labels, and `logits`.
    """
    found = output.get(name) if isinstance(output, Mapping) else None
    if is_dataclass(output) and found is None:
        found = getattr(output, name, None)
    return found if isinstance(found, torch.Tensor) else output
