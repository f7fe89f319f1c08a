"""Calls that write into memory: made into calls that make new tensors, noted (buffers), or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sim.base.errors import GraphError
from sim.models.torch.recorded import Op, storage, value, where


def settle_writes(
    op: Op, before: Sequence[Op], by_kind: Sequence[Mapping[torch.fx.Node, str]],
    renamed: dict[torch.fx.Node, torch.fx.Node], owners: dict[int, torch.fx.Node],
) -> None:  # fmt: skip
    """Turn a write into an activation into a new value; note writes into buffers; refuse all others."""
    node = op.node
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    parameters, buffers, inputs = by_kind
    written = [n for n in _written(node) if isinstance(n, torch.fx.Node)]
    for target in written:
        owner = owners.get(storage(value(target)))
        name = str(node.target)
        if owner in buffers:
            if owner is not target:
                raise GraphError(f"{where(op)}: {name} writes into a view of buffer '{buffers[owner]}'")
            op.mutated = (*op.mutated, owner)
        elif owner in parameters:
            raise GraphError(f"{where(op)}: {name} writes into parameter '{parameters[owner]}'")
        elif owner in inputs:
            raise GraphError(f"{where(op)}: {name} writes into input '{inputs[owner]}', which belongs to the caller")
        elif owner is not None and owner.op == "get_attr":
            raise GraphError(f"{where(op)}: {name} writes into a tensor that is no buffer of the model")
        else:
            _functional(op, target, renamed, before, owners)


def _written(node: torch.fx.Node) -> list[Any]:
    schema = node.target._schema
    operands = dict(zip([a.name for a in schema.arguments], node.args, strict=False)) | dict(node.kwargs)
    targets = [operands.get(a.name) for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    if schema.name in ("aten::batch_norm", "aten::instance_norm"):  # their schemas do not say that they write
        training = operands.get("training", operands.get("use_input_stats"))
        targets += [operands.get("running_mean"), operands.get("running_var")] if training else []
    return targets


def _functional(
    op: Op, target: torch.fx.Node, renamed: dict[torch.fx.Node, torch.fx.Node], before: Sequence[Op],
    owners: dict[int, torch.fx.Node],
) -> None:  # fmt: skip
    """Replace an in-place call by the one that makes a new tensor; later calls read that."""
    node = op.node
    namespace, _, name = node.target._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None) if name.endswith("_") else None
    overload = getattr(packet, node.target._overloadname, None)
    if overload is None:
        raise GraphError(f"{where(op)}: in-place {node.target} has no counterpart that makes a new tensor")
    if owners[storage(value(target))] is not target:
        raise GraphError(f"{where(op)}: in-place {node.target} writes into a view; write the result into a new tensor")
    if any(o.aliases is target and any(user > node for user in o.node.users) for o in before):
        raise GraphError(f"{where(op)}: in-place {node.target} writes into memory that is read later through a view")
    node.target = overload
    owners[storage(value(target))] = node
    renamed.update({old: node for old, new in renamed.items() if new is target})
    renamed[target] = node


def check_buffers(ops: Sequence[Op], buffers: Mapping[torch.fx.Node, str]) -> None:
    """Raise `GraphError` unless each updated buffer is read by its updates alone: evaluating again is harmless then."""
    updated = {n for op in ops for n in op.mutated}
    for op in ops:
        for n in updated.intersection(op.node.all_input_nodes).difference(op.mutated):
            raise GraphError(f"{where(op)} reads buffer '{buffers[n]}', which the forward updates")
