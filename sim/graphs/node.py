"""Nodes and graph inputs, of which graphs are made, and the checks that refuse meaningless ones."""

from __future__ import annotations

import graphlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sim.base.errors import GraphError, suggest

Needs = Literal["none", "input", "output", "both"]
Reads = Literal["never", "always", "others", "parameters"]
Wrt = Literal["input", "parameters"]
Optimizer = Literal["none", "sgd", "momentum", "adam"]
Structure = Literal["dense", "diagonal", "constant"]
Ints = NDArray[np.int64]

NEEDS: tuple[Needs, ...] = get_args(Needs)  # the index is a bit mask: 1 reads inputs, 2 reads the output
READS: tuple[Reads, ...] = get_args(Reads)
STRUCTURES: tuple[Structure, ...] = get_args(Structure)
OPTIMIZER_STATES: Mapping[str, int] = MappingProxyType({"none": 0, "sgd": 0, "momentum": 1, "adam": 2})
ITEMSIZE: Mapping[str, int] = MappingProxyType(
    {
        "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
        "int64": 8, "int32": 4, "int8": 1, "uint8": 1, "bool": 1,
    }
)  # fmt: skip
FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
LOSS = "loss"
"""The attribute that marks a loss put behind a model, which is no part of the model's plan."""
GRANULARITY = "granularity"
"""The attribute that says how finely a model was cut into nodes."""
LARGEST = 2**62  # what a column or a sum of bytes may reach: half of int64, so that one addition never wraps


@dataclass(frozen=True, slots=True)
class GraphInput:
    """A tensor that the caller owns: resident, never freed, differentiable if its dtype is a float.

    `constant` marks a float that nothing is differentiated by, such as the target of a loss.
    `bytes` overrides what shape and dtype say, for abstract chains.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    bytes: int | None = None
    constant: bool = False

    @property
    def differentiable(self) -> bool:
        return self.dtype in FLOATS and not self.constant

    @property
    def total_bytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype] if self.bytes is None else self.bytes


@dataclass(frozen=True, slots=True)
class LocalJacobian:
    """The Jacobian of one node's output by its (only) input: how it is stored and what forming it costs.

    Samples are independent, so a batch makes every Jacobian block-diagonal and only blocks are kept:
    `dense` has a block of output × input scalars for each sample, `diagonal` one scalar for each
    output scalar of each sample, `constant` one dense block that serves all samples (of a linear
    layer: its weight).
    """

    structure: Structure = "dense"
    flops: int = 0


@dataclass(frozen=True, slots=True)
class Seconds:
    """Measured times of a node that override the roofline (profiled models)."""

    forward: float
    jvp: float
    vjp: float


Group = Literal["tensor", "context", "expert"]


@dataclass(frozen=True, slots=True)
class Collective:
    """What ranks that divide a node move among each other when it is evaluated (`forward`) or differentiated (`vjp`).

    `bytes` are those of the whole tensor, before it is scattered or after it is gathered, of which each rank has an
    equal share; of an all-to-all those that each rank has. One that is `overlapped` needs nothing of what the node
    computes meanwhile, and takes time only where it takes longer.
    """

    kind: Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]
    among: Group
    part: Literal["forward", "vjp"]
    bytes: int
    overlapped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One layer or operation, with everything the simulation needs to know about it.

    `inputs` names nodes or graph inputs. `needs` says which activations the derivative reads, and
    `reads` for each of `inputs`, where `needs` has the inputs, when that is so (`None`: always, of all):
    `never`, `always`, or only where something is differentiated: `others` another input (each factor of
    a product), `parameters` the node's own (the input of a linear map). A JVP reads what a VJP does.
    `residual_bytes` is what the derivative needs beyond activations; `None` means that there is
    nothing (a VJP then never asks for an evaluation of its own node), while 0 means an empty tape
    that a forward evaluation must still have written, as in the checkpointing literature.
    `jvp_flops` and `vjp_flops` are for one tangent or cotangent with respect to activations and
    default to `forward_flops`; `param_vjp_flops` is the share of the weight gradient.
    `workspace_bytes` lives only while the node runs. Where evaluations that save the residual or VJPs
    differ from that, `taping_workspace_bytes` and `vjp_workspace_bytes` say so; they may be negative,
    for a node that frees parts of what it reads (its residual, its own cotangent) before it is done.
    `cotangent_bytes` are those of its cotangent where it is not as large as the activation (it is made in a larger
    array, or is one with another node's). `vjp_broadcasts` marks a sum or mean, whose VJP is a view of its own (small)
    cotangent.
    `tied_to` names an earlier node whose parameters this one uses: its own `param_size` is 0, and its
    share of the gradient, `param_vjp_flops`, is added to that node's.
    `collectives` are those of ranks that divide the node, of which this is the share of one.
    `attributes` (strides, heads, …) is for execution alone; no cost is read from it.
    """

    name: str
    inputs: tuple[str, ...]
    output_shape: tuple[int, ...]
    op: str = "custom"
    dtype: str = "float32"
    forward_flops: int = 0
    forward_bytes: int | None = None
    jvp_flops: int | None = None
    vjp_flops: int | None = None
    param_vjp_flops: int = 0
    param_size: int = 0
    residual_bytes: int | None = None
    needs: Needs = "input"
    reads: tuple[Reads, ...] | None = None
    workspace_bytes: int = 0
    taping_workspace_bytes: int | None = None
    vjp_workspace_bytes: int | None = None
    jacobian: LocalJacobian = LocalJacobian()
    activation_bytes: int | None = None
    cotangent_bytes: int | None = None
    vjp_broadcasts: bool = False
    tied_to: str | None = None
    seconds: Seconds | None = None
    collectives: tuple[Collective, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


def check_names(nodes: Sequence[Node], inputs: Sequence[GraphInput], *, may_read_nothing: bool = False) -> None:
    """Raise `GraphError` unless every name is used once, and every node reads something that exists."""
    seen: set[str] = set()
    for name in [i.name for i in inputs] + [n.name for n in nodes]:
        if name in seen:
            raise GraphError(f"two nodes or inputs are named '{name}'", node=name)
        seen.add(name)
    for node in nodes:
        if not (node.inputs or may_read_nothing):
            message = f"node '{node.name}' reads nothing; name a node or a graph input under 'inputs'"
            raise GraphError(message, node=node.name)
        for name in node.inputs:
            if name not in seen:
                message = f"node '{node.name}' reads '{name}', which does not exist{suggest(name, seen)}"
                raise GraphError(message, node=node.name, key="inputs")


def sorted_nodes(nodes: Sequence[Node], inputs: Sequence[GraphInput]) -> list[Node]:
    """Sort the nodes topologically; an order that is one already stays.

    Raises
    ------
    GraphError
        For a cycle, which the message walks through.
    """
    earlier = {i.name for i in inputs}
    for node in nodes:
        if not earlier.issuperset(node.inputs):
            break
        earlier.add(node.name)
    else:
        return list(nodes)
    by_name = {n.name: n for n in nodes}
    sorter = graphlib.TopologicalSorter({n.name: [i for i in n.inputs if i in by_name] for n in nodes})
    try:
        return [by_name[name] for name in sorter.static_order()]
    except graphlib.CycleError as error:
        cycle = error.args[1][::-1]
        raise GraphError(f"the nodes form a cycle: {' -> '.join(cycle)}", node=cycle[0], key="inputs") from None


def numbers_of(names: Sequence[str], nodes: Sequence[Node]) -> tuple[int, ...]:
    """The numbers of the nodes that `names` lists, each once.

    Raises
    ------
    GraphError
        If no node has one of the names.
    """
    number = {node.name: i for i, node in enumerate(nodes)}
    for name in names:
        if name not in number:
            raise GraphError(f"outputs: no node makes '{name}'{suggest(name, number)}", key="outputs")
    return tuple(dict.fromkeys(number[name] for name in names))


def check_ties(nodes: Sequence[Node]) -> None:
    """Raise `GraphError` unless a node that uses another's parameters comes after that and has none of its own."""
    earlier: set[str] = set()
    for node in nodes:
        if node.tied_to is not None:
            tie = f"node '{node.name}' is tied to '{node.tied_to}'"
            if node.tied_to not in earlier:
                message = f"{tie}, which is no earlier node with parameters"
                raise GraphError(message, node=node.name, key="tied_to")
            if node.param_size:
                raise GraphError(f"{tie} but has a param_size of its own", node=node.name, key="param_size")
        if node.param_size:
            earlier.add(node.name)


def check_node(node: Node) -> None:
    """Raise `GraphError` unless the node's dtype, reads, shape and costs are possible."""
    for key, problem in _problems(node):
        raise GraphError(f"node '{node.name}': {problem}", node=node.name, key=key)


_SIZES = (
    "forward_flops", "forward_bytes", "jvp_flops", "vjp_flops", "param_vjp_flops", "param_size",
    "residual_bytes", "workspace_bytes", "activation_bytes", "cotangent_bytes",
)  # fmt: skip
_DIFFERENCES = ("taping_workspace_bytes", "vjp_workspace_bytes")


def _problems(node: Node) -> Iterator[tuple[str, str]]:
    """Yield each impossible field of a node, with the problem."""
    if node.dtype not in ITEMSIZE:
        yield "dtype", f"unknown dtype '{node.dtype}'{suggest(node.dtype, ITEMSIZE)}"
    if node.needs not in NEEDS:
        yield "needs", f"unknown needs '{node.needs}'{suggest(node.needs, NEEDS)}"
    if node.reads is not None:
        for word in node.reads:
            if word not in READS:
                yield "reads", f"unknown reads '{word}'{suggest(word, READS)}"
        if len(node.reads) != len(node.inputs):
            yield "reads", f"got reads of {len(node.reads)} inputs, expected one for each of {len(node.inputs)}"
        if node.needs not in ("input", "both"):
            yield "reads", f"reads says which inputs the derivative reads, but needs is '{node.needs}'"
    if any(d < 1 for d in node.output_shape):
        yield "output_shape", f"output shape {node.output_shape} has a dimension below 1"
    for key in (*_SIZES, *_DIFFERENCES):
        value, least = getattr(node, key), 0 if key in _SIZES else 1 - LARGEST
        if value is not None and not least <= value < LARGEST:
            yield key, f"{key} is {value}, expected {'0' if least == 0 else '-2^62'} … 2^62"
