"""Scalars moved without arithmetic: copies in another order or place, and views that own no memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim import ops
from sim.graphs.node import Node
from sim.models.onnx.call import Attributes, Call, Refused, copied, operator
from sim.ops.core import fail
from sim.ops.rule import Array, At, Rule


@operator("Expand", "Slice", "Split")
def part(call: Call) -> None:
    """A view: the same storage, read as another shape or in part."""


@operator("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
def reshaped(call: Call) -> None:
    """A view of all of the storage; an error where the shapes hold different numbers of scalars.

    That happens where a symbolic batch meets a reshape to the numbers of another batch.
    """
    if call.x.size != call.size:
        advice = "if the file was made for one batch, give that under 'dims', and 'batch' beside it"
        fail(call.name, f"cannot reshape {call.x.shape} to {call.shape}; {advice}")


operator("Pad", "Tile", "DepthToSpace", "SpaceToDepth")(copied)


def _runs_concat(call: Call) -> Attributes:
    if len(call.data) < len(call.operands):
        raise Refused("it joins constants to activations")
    return {"axis": call.attributes["axis"] % len(call.shape)}


@operator("Concat", runs=_runs_concat)
def concat(call: Call) -> Node | None:
    """Concat: a copy; of one tensor, a view."""
    if len(call.operands) == 1:
        return None
    axis = call.attributes["axis"]
    if len(call.data) == len(call.operands) and axis % len(call.shape):
        return ops.concat(call.name, *call.data, axis=axis)
    return copied(call)


def _transposed(at: At, v: Array, order: Sequence[int]) -> Array:
    return v.transpose(0, *(1 + axis for axis in order))


_TRANSPOSE = Rule(
    forward=lambda at: (at.x[0].transpose(at["perm"]), None),
    jvp=lambda at, dx: _transposed(at, dx[0], at["perm"]),
    vjp=lambda at, g: (_transposed(at, g, np.argsort(at["perm"]).tolist()),),
)


def _runs_transpose(call: Call) -> Attributes:
    return {"rule": _TRANSPOSE, "perm": tuple(call.attributes.get("perm", reversed(range(len(call.x.shape)))))}


@operator("Transpose", runs=_runs_transpose)
def transpose(call: Call) -> Node | None:
    """Transpose: a copy, which whatever reads it contiguously makes in PyTorch; a view where no scalar moves."""
    rank = len(call.x.shape)
    order = call.attributes.get("perm", tuple(reversed(range(rank))))
    moved = [axis for axis in order if call.x.shape[axis] > 1]
    return None if moved == sorted(moved) else copied(call)
