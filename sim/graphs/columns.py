"""The nodes of a graph as NumPy columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np
from numpy.typing import NDArray

from sim.base.errors import CountOverflow
from sim.graphs.node import ITEMSIZE, LARGEST, NEEDS, STRUCTURES, GraphInput, Ints, Node

ALWAYS, OTHERS, PARAMETERS, ITSELF = 1, 2, 4, 8
"""The reads of an input as a bit mask: always; where another input, the node's parameters or it itself is
differentiated."""
_CONDITION = {"never": 0, "always": ALWAYS, "others": OTHERS, "parameters": PARAMETERS}


@dataclass(frozen=True, slots=True)
class Columns:
    """The nodes of a graph as arrays of length n (int64 unless said otherwise); see `Node`.

    `residual_bytes` is -1 where a node has no residual; `needs` is a bit mask (1 inputs, 2 output);
    `scalars` is the size of one sample's output; `input_ptr` and `input_index` are a CSR of distinct
    inputs as *positions*: graph inputs first (0 … m-1), then node i at m + i; `reads` says of each when
    the derivative reads it (a bit mask: `ALWAYS`, …; `None`: always, where `needs` has the inputs). `tied`
    lists (node, the node whose parameters it uses).
    """

    activation_bytes: Ints
    scalars: Ints
    forward_flops: Ints
    forward_bytes: Ints
    jvp_flops: Ints
    vjp_flops: Ints
    param_vjp_flops: Ints
    param_size: Ints
    param_bytes: Ints
    residual_bytes: Ints
    needs: Ints
    workspace_bytes: Ints
    jacobian_structure: Ints  # index into STRUCTURES
    jacobian_flops: Ints
    itemsize: Ints
    vjp_broadcasts: NDArray[np.bool_]
    input_ptr: Ints
    input_index: Ints
    tied: tuple[tuple[int, int], ...] = ()
    taping_workspace_bytes: Ints | None = None  # None: as workspace_bytes
    vjp_workspace_bytes: Ints | None = None  # None: as workspace_bytes
    cotangent_bytes: Ints | None = None  # -1 where it is as large as the activation; None: everywhere
    reads: NDArray[np.uint8] | None = None
    seconds: NDArray[np.float64] | None = None  # shape (n, 3): forward, JVP, VJP; NaN where not measured


def per_sample(shape: tuple[int, ...], batch: int) -> int:
    """The scalars of one sample in an array of this shape, whose first axis may be the batch."""
    return math.prod(shape[1:] if shape and shape[0] == batch else shape)


def columns_of(nodes: Sequence[Node], inputs: Sequence[GraphInput], batch: int) -> Columns:
    """The columns of sorted and checked nodes.

    Raises
    ------
    CountOverflow
        If their values take more than 4 EiB together.
    """
    m = len(inputs)
    position = {i.name: p for p, i in enumerate(inputs)} | {n.name: m + i for i, n in enumerate(nodes)}
    read = [list(dict.fromkeys(position[name] for name in n.inputs)) for n in nodes]
    itemsize = np.array([ITEMSIZE[n.dtype] for n in nodes], dtype=np.int64)
    activation = [
        math.prod(n.output_shape) * ITEMSIZE[n.dtype] if n.activation_bytes is None else n.activation_bytes
        for n in nodes
    ]
    param_bytes = [n.param_size * ITEMSIZE[n.dtype] for n in nodes]
    of_position = [i.total_bytes for i in inputs] + activation
    total = sum(of_position) + sum(param_bytes) + sum((n.residual_bytes or 0) + _workspace(n) for n in nodes)
    if total > LARGEST:
        raise CountOverflow(f"the graph's values take {total} bytes together, more than 4 EiB")
    forward_bytes = [
        sum(of_position[p] for p in read[i]) + activation[i] + param_bytes[i]
        if n.forward_bytes is None
        else n.forward_bytes
        for i, n in enumerate(nodes)
    ]

    def column(values: Sequence[int]) -> Ints:
        return np.array(values, dtype=np.int64)

    return Columns(
        activation_bytes=column(activation),
        scalars=column([per_sample(n.output_shape, batch) for n in nodes]),
        forward_flops=column([n.forward_flops for n in nodes]),
        forward_bytes=column(forward_bytes),
        jvp_flops=column([n.forward_flops if n.jvp_flops is None else n.jvp_flops for n in nodes]),
        vjp_flops=column([n.forward_flops if n.vjp_flops is None else n.vjp_flops for n in nodes]),
        param_vjp_flops=column([n.param_vjp_flops for n in nodes]),
        param_size=column([n.param_size for n in nodes]),
        param_bytes=column(param_bytes),
        residual_bytes=column([-1 if n.residual_bytes is None else n.residual_bytes for n in nodes]),
        needs=column([NEEDS.index(n.needs) for n in nodes]),
        workspace_bytes=column([n.workspace_bytes for n in nodes]),
        jacobian_structure=column([STRUCTURES.index(n.jacobian.structure) for n in nodes]),
        jacobian_flops=column([n.jacobian.flops for n in nodes]),
        itemsize=itemsize,
        vjp_broadcasts=np.array([n.vjp_broadcasts for n in nodes], dtype=np.bool_),
        input_ptr=np.concatenate([[0], np.cumsum([len(r) for r in read])]).astype(np.int64),
        input_index=column([p for r in read for p in r]),
        tied=tuple((i, position[n.tied_to] - m) for i, n in enumerate(nodes) if n.tied_to is not None),
        taping_workspace_bytes=_workspaces([n.taping_workspace_bytes for n in nodes], nodes),
        vjp_workspace_bytes=_workspaces([n.vjp_workspace_bytes for n in nodes], nodes),
        cotangent_bytes=_cotangents(nodes),
        reads=_conditions(nodes),
        seconds=_seconds(nodes),
    )


def _cotangents(nodes: Sequence[Node]) -> Ints | None:
    own = [-1 if n.cotangent_bytes is None else n.cotangent_bytes for n in nodes]
    return None if all(size == -1 for size in own) else np.array(own, dtype=np.int64)


def _workspace(node: Node) -> int:
    others = (node.taping_workspace_bytes or 0, node.vjp_workspace_bytes or 0)
    return max(node.workspace_bytes, *(abs(w) for w in others))


def _workspaces(own: Sequence[int | None], nodes: Sequence[Node]) -> Ints | None:
    if all(w is None for w in own):
        return None
    both = zip(own, nodes, strict=True)
    return np.array([n.workspace_bytes if w is None else w for w, n in both], dtype=np.int64)


def _conditions(nodes: Sequence[Node]) -> NDArray[np.uint8] | None:
    """Flags that say when the derivative reads each distinct input of each node; `None` where all are `always`.

    An input that stands at several positions is read where one of them is; of a product of x by itself
    each factor is another input to the other.
    """
    if all(node.reads is None for node in nodes):
        return None
    flags: list[int] = []
    for node in nodes:
        words: dict[str, list[str]] = {}
        for name, word in zip(node.inputs, node.reads or ("always",) * len(node.inputs), strict=True):
            words.setdefault(name, []).append(word)
        for of_input in words.values():
            twice = ITSELF if "others" in of_input and len(of_input) > 1 else 0
            flags.append(reduce(or_, [_CONDITION[word] for word in of_input], twice))
    return np.array(flags, dtype=np.uint8)


def _seconds(nodes: Sequence[Node]) -> NDArray[np.float64] | None:
    if all(n.seconds is None for n in nodes):
        return None
    rows = [(n.seconds.forward, n.seconds.jvp, n.seconds.vjp) if n.seconds else (math.nan,) * 3 for n in nodes]
    return np.array(rows, dtype=np.float64)
