"""ONNX models to graphs: `graph: {kind: onnx, file: model.onnx, batch: 8}`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import Field

from sim.base.errors import GraphError, suggest
from sim.base.registry import Count
from sim.graphs.graph import Graph
from sim.graphs.node import FLOATS, ITEMSIZE, Node
from sim.models.importers import importers
from sim.models.onnx import operators
from sim.models.onnx.call import Call, Constant, Operator
from sim.models.onnx.file import ModelFile, OnnxModel, OnnxNode, read
from sim.models.onnx.fused import fused
from sim.models.onnx.operators import CONTROL_FLOW, STATIC
from sim.ops import GraphBuilder, Loss, Tensor, add_loss
from sim.ops.core import Dtype, fail
from sim.ops.rule import Shape

_RENAMING = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast"})
"""Operators on a constant whose result is still that constant: a weight transposed is the same parameter."""


@importers.register("onnx")
def onnx(
    *,
    file: ModelFile,
    batch: Annotated[Count | None, Field(description="Samples; those of the file unless given.")] = None,
    dims: Annotated[dict[str, Count] | None, Field(description="Sizes of symbolic dimensions: {sequence: 128}")] = None,
    outputs: Annotated[
        list[str] | None,
        Field(min_length=1, description="Outputs to keep, or inner tensors; all outputs unless given."),
    ] = None,
    dtype: Annotated[Dtype | None, Field(description="Of every float, instead of what the file says.")] = None,
    training: Annotated[
        bool, Field(description="Batch statistics and dropout masks; if false, as at inference.")
    ] = True,
    loss: Annotated[Loss, Field(description="Adds the scalar loss node; none leaves the outputs.")] = "none",
) -> Graph:
    """A real network from an ONNX file, with what PyTorch would save of it.

    What does not depend on the model's inputs is a parameter or a constant, and no node: a parameter
    where an operator reads it as a weight and it holds more than one float. Views (reshapes, slices,
    splits) own no memory and are no nodes either. Shapes are inferred at the file's own batch, and the
    first dimension of everything that depends on an input is scaled to `batch`. With `cross_entropy`
    a softmax that ends the model is left out, because the loss contains it.

    Raises
    ------
    GraphError
        For a file that is no model, open dimensions, an unknown operator or control flow: with the node.
    """
    model = read(file, dims=dims or {}, batch=batch)
    return _Import(model, batch or model.batch, dtype, training).graph(outputs, loss)


@dataclass
class _Import:
    """The graph as far as it is built: what every tensor of the model stands for."""

    model: OnnxModel
    batch: int
    dtype: str | None
    training: bool
    builder: GraphBuilder = field(default_factory=GraphBuilder)
    tensors: dict[str, Tensor] = field(default_factory=dict)  # those that depend on the model's inputs
    made_of_shapes: set[str] = field(default_factory=set)
    counted: set[str] = field(default_factory=set)  # parameters that a node holds already
    names: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)  # what the nodes so far have made
    unmodelled: set[str] = field(default_factory=set)  # indices, masks and statistics beside an output

    def __post_init__(self) -> None:
        self.makers = {t: node for node in self.model.nodes for t in node.outputs if t}

    def graph(self, outputs: Sequence[str] | None, loss: Loss) -> Graph:
        sinks = [self._output(name) for name in outputs or self.model.outputs]
        if loss != "none":
            if len(sinks) > 1:
                names = ", ".join(sinks)
                raise GraphError(
                    f"loss: {loss} reads one output, and the model has {names}; name one under 'outputs'", key="loss"
                )
            self.names |= {"loss", "labels", "target"}
        if loss == "cross_entropy":
            sinks = [_logits(sinks[0], self.makers)]
        nodes = _needed(fused(self.model.nodes, self.model.tensors, outputs=sinks), sinks)
        read = {t for node in nodes for t in node.inputs}
        for name in self.model.inputs:
            if name in read:
                self._input(name)
        for node in nodes:
            self._node(node)
        ends = [self.tensors[name] for name in sinks if name in self.tensors]
        if not self.builder.nodes or not ends:
            raise GraphError(
                f"file: no node of this model depends on its inputs ({', '.join(self.model.inputs)})", key="file"
            )
        if loss != "none":
            _add_loss(self.builder, ends[0], loss)
        return self.builder.graph(self.model.name, batch=self.batch)

    def _output(self, name: str) -> str:
        """Check that the model makes a tensor."""
        if name not in self.makers:
            raise GraphError(
                f"outputs: the model makes no tensor '{name}'{suggest(name, self.model.outputs)}", key="outputs"
            )
        return name

    def _input(self, name: str) -> None:
        kind = self.model.tensors[name]
        shape = tuple(d for d in kind.shape if isinstance(d, int))
        if shape and self.batch != self.model.batch and shape[0] != self.model.batch:
            raise GraphError(
                f"batch: input '{name}' of shape {shape} does not start with the batch of the file, "
                f"{self.model.batch}, and cannot be scaled; leave 'batch' out",
                key="batch",
            )
        own = self._unique(name)
        self.tensors[name] = self.builder.input(own, self._scaled(shape, name), self._dtype(kind.dtype, name))

    def _node(self, node: OnnxNode) -> None:
        if node.op in CONTROL_FLOW:
            raise node.error(f"control flow cannot be imported, because {CONTROL_FLOW[node.op]}")
        for name in node.inputs:
            if name in self.makers and name not in self.passed:
                raise node.error(f"reads '{name}' before it is made; the nodes of a model must be in order")
            if name in self.unmodelled:
                raise node.error(f"reads '{name}', a further output of {self.makers[name]}, which has no rule")
        self.passed.update(node.outputs)
        if node.op in STATIC or not any(t in self.tensors for t in node.inputs):
            if node.op in STATIC or (any(t in self.made_of_shapes for t in node.inputs) and not self._is_weight(node)):
                self.made_of_shapes.update(node.outputs)
            return
        operator = operators.load().get(node.op)
        if operator is None:
            advice = "add a function for it in sim/models/onnx/operators/, decorated by operator"
            raise node.error(f"there is no rule for this operator; {advice}")
        shape, dtype = self.model.resolved(node.outputs[0], node)
        name = node.name or node.outputs[0]
        call = Call(
            name=self._unique(name),
            op=node.op,
            operands=tuple(self._operand(t, node) for t in node.inputs),
            shape=self._scaled(shape, name),
            dtype=self._dtype(dtype, name),
            attributes=node.attributes,
            opset=self.model.opset,
            training=self.training,
        )
        try:
            result = operator.make(call)
        except (LookupError, ValueError, TypeError, ArithmeticError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise node.error(f"its operands or attributes do not fit the operator ({what})") from None
        if result is None:
            self.names.discard(call.name)
            self._views(node, call)
        else:
            self.tensors[node.outputs[0]] = self.builder.add(self._finished(result, call, operator))
            self.unmodelled.update(filter(None, node.outputs[1:]))

    def _is_weight(self, node: OnnxNode) -> bool:
        """Tell whether a node only picks or rearranges a weight (rows of a table, say), by whatever shapes."""
        kind = self.model.tensors.get(node.inputs[0])
        several = kind is not None and kind.dtype in FLOATS and kind.shape not in ((), (1,))
        return several and node.inputs[0] not in self.made_of_shapes

    def _views(self, node: OnnxNode, call: Call) -> None:
        for output in filter(None, node.outputs):
            shape, _ = self.model.resolved(output, node)
            self.tensors[output] = replace(call.x, shape=self._scaled(shape, call.name))

    def _finished(self, draft: Node, call: Call, operator: Operator) -> Node:
        """The node with the shape of inference, and with those parameters that no other node holds."""
        trained = {c.name: c.size for c in operator.constants(call) if c.trainable}
        new = sum(size for name, size in trained.items() if name not in self.counted)
        self.counted |= trained.keys()
        if trained and not new and draft.reads:  # the gradient of another node's parameters reads what its own would
            draft = replace(draft, reads=tuple("always" if word == "parameters" else word for word in draft.reads))
        shapes = tuple(t.shape for t in call.data)
        return replace(
            draft,
            output_shape=call.shape,
            dtype=call.dtype,
            param_size=new,
            attributes={**draft.attributes, "input_shapes": shapes, **operator.execution(call, new)},
        )

    def _operand(self, name: str, node: OnnxNode) -> Tensor | Constant | None:
        if not name:
            return None
        if name in self.tensors:
            return self.tensors[name]
        shape, dtype = self.model.resolved(name, node)
        dtype = self._dtype(dtype, node.name) if dtype in FLOATS else dtype
        trainable = dtype in FLOATS and math.prod(shape) > 1 and name not in self.made_of_shapes
        return Constant(_origin(name, self.makers), shape, dtype, trainable)

    def _scaled(self, shape: Shape, name: str) -> Shape:
        """The shape with its first dimension, where there is one, at the batch that is asked for."""
        if not shape or self.batch == self.model.batch:
            return shape
        first, rest = divmod(shape[0] * self.batch, self.model.batch)
        if rest:
            raise GraphError(
                f"batch: node '{name}' has the shape {shape} at the file's batch of {self.model.batch}, "
                f"which cannot be scaled to {self.batch}",
                node=name,
                key="batch",
            )
        return (first, *shape[1:])

    def _dtype(self, dtype: str, name: str) -> str:
        if dtype not in ITEMSIZE:
            fail(name, f"tensors of {dtype} cannot be imported{suggest(dtype, ITEMSIZE)}")
        return self.dtype if self.dtype is not None and dtype in FLOATS else dtype

    def _unique(self, name: str) -> str:
        number, unique = 1, name
        while unique in self.names:
            number += 1
            unique = f"{name}_{number}"
        self.names.add(unique)
        return unique


def _needed(nodes: Sequence[OnnxNode], outputs: Sequence[str]) -> list[OnnxNode]:
    """The nodes that the outputs depend on, in the order of the model."""
    live, needed = set(outputs), []
    for node in reversed(nodes):
        if live.intersection(filter(None, node.outputs)):
            live.update(node.inputs)
            needed.append(node)
    return needed[::-1]


def _logits(output: str, makers: Mapping[str, OnnxNode]) -> str:
    """The input of a softmax that ends the model; the output itself where there is none."""
    tensor = output
    while tensor in makers and makers[tensor].op in ("Identity", "Reshape", "Flatten", "Squeeze"):
        tensor = makers[tensor].inputs[0]
    if tensor in makers and makers[tensor].op in ("Softmax", "LogSoftmax"):
        return makers[tensor].inputs[0]
    return output


def _origin(name: str, makers: Mapping[str, OnnxNode]) -> str:
    """The constant that a tensor of the model is, whatever it is called on the way."""
    while name in makers and makers[name].op in _RENAMING:
        name = makers[name].inputs[0]
    return name


def _add_loss(builder: GraphBuilder, x: Tensor, loss: Loss) -> None:
    """Classes lie in dimension 1 of images, in the last one of anything else; (batch, classes, 1, 1) is a view."""
    if x.size == x.shape[0] * (x.shape[1] if len(x.shape) > 1 else 1):
        x = x.flattened()
    add_loss(builder, x, loss, axis=1 if len(x.shape) > 3 else -1)
