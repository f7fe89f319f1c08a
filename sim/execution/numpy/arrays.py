"""Inputs and parameters of the right shapes for a graph, made at random or checked.

The parameters of a node are one flat vector, its arrays one after another in C order: weight, then
bias; scale, then shift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from sim.base.errors import GraphError, NotApplicable
from sim.graphs.graph import Graph
from sim.graphs.node import GraphInput, Node
from sim.ops import rule_of
from sim.ops.rule import Array, At, Shape

DTYPES = frozenset({"float64", "float32", "float16", "int64", "int32", "int8", "uint8", "bool"})


def input_shapes(graph: Graph, node: Node) -> tuple[Shape, ...]:
    """The shape as which a node reads each of its inputs (of its producer, unless it views it as another)."""
    views = node.attributes.get("input_shapes")
    if views is not None:
        return tuple(tuple(s) for s in views)
    shapes = {i.name: i.shape for i in graph.inputs} | {n.name: n.output_shape for n in graph.nodes}
    return tuple(shapes[name] for name in node.inputs)


def parameter_shapes(graph: Graph, node: Node) -> tuple[Shape, ...]:
    """The shapes of a node's parameter arrays.

    Raises
    ------
    GraphError
        If they have another number of scalars than the node's `param_size`.
    """
    shapes = rule_of(node).parameters(At(node, input_shapes(graph, node)))
    size = sum(math.prod(s) for s in shapes)
    expected = 0 if node.tied_to else size
    if node.param_size != expected:
        raise GraphError(
            f"node '{node.name}': param_size is {node.param_size}, but its {node.op} has {expected} parameters"
        )
    return shapes


def parameters_for(graph: Graph, seed: int) -> dict[str, Array]:
    """Random parameters, a flat vector for each node that has some.

    Weights are normal with variance 1/fan-in, biases and shifts small, scales near 1.
    """
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for node in graph.nodes:
        if not node.param_size:
            continue
        parts = []
        for k, shape in enumerate(parameter_shapes(graph, node)):
            scale = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.1
            offset = 1.0 if rule_of(node).scales and k == 0 else 0.0
            parts.append(offset + scale * rng.standard_normal(math.prod(shape)))
        arrays[node.name] = np.concatenate(parts).astype(node.dtype)
    return arrays


def inputs_for(graph: Graph, seed: int) -> dict[str, Array]:
    """Random graph inputs: standard normal floats, and integers below what their readers allow."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for item in graph.inputs:
        if np.dtype(item.dtype).kind == "f":
            arrays[item.name] = rng.standard_normal(item.shape).astype(item.dtype)
        else:
            arrays[item.name] = rng.integers(0, _below(graph, item), item.shape).astype(item.dtype)
    return arrays


def _below(graph: Graph, item: GraphInput) -> int:
    limits = [2 if item.dtype == "bool" else 100]
    for node in graph.nodes:
        below = rule_of(node).below if item.name in node.inputs else None
        if below is not None:
            limits.append(below(At(node, input_shapes(graph, node))))
    return min(limits)


def checked(graph: Graph, inputs: Mapping[str, Array], parameters: Mapping[str, Array]) -> None:
    """Raise unless every array is there with the graph's shape and dtype.

    Raises
    ------
    GraphError
        Naming the array that is missing or does not fit.
    NotApplicable
        For an op without a rule, or a dtype that NumPy does not have.
    """
    sizes = {i.name: math.prod(i.shape) for i in graph.inputs} | {
        n.name: math.prod(n.output_shape) for n in graph.nodes
    }
    for node in graph.nodes:
        rule_of(node)
        for name, shape in zip(node.inputs, input_shapes(graph, node), strict=True):
            if math.prod(shape) != sizes[name]:
                raise NotApplicable(f"node '{node.name}' reads a part of '{name}' as a view, which NumPy is not given")
    requests = [("input", i.name, i.shape, i.dtype, inputs) for i in graph.inputs]
    requests += [("parameters of", n.name, (n.param_size,), n.dtype, parameters) for n in graph.nodes if n.param_size]
    for dtype in {i.dtype for i in graph.inputs} | {n.dtype for n in graph.nodes}:
        if dtype not in DTYPES:
            raise NotApplicable(f"NumPy has no {dtype}; give the graph one of {', '.join(sorted(DTYPES))}")
    for what, name, shape, dtype, arrays in requests:
        if name not in arrays:
            raise GraphError(f"{what} '{name}': missing, expected an array of shape {shape}")
        got = arrays[name]
        if got.shape != shape or got.dtype != np.dtype(dtype):
            raise GraphError(f"{what} '{name}': got {got.dtype} of shape {got.shape}, expected {dtype} of {shape}")
