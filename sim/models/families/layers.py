"""Graphs listed by hand: each layer a known op with its sizes, or a name with its costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema

from sim.base.errors import GraphError, suggest
from sim.base.registry import Count, Problem, Size, problems_of
from sim.graphs.graph import Graph
from sim.graphs.node import (
    ITEMSIZE,
    GraphInput,
    LocalJacobian,
    Needs,
    Node,
    Reads,
    Seconds,
    Structure,
    check_names,
    sorted_nodes,
)
from sim.models.families import families
from sim.ops import GraphBuilder, Tensor, apply, ops
from sim.ops.core import Dtype, fail

AnyDtype = Literal["float64", "float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"]
_STRICT = ConfigDict(extra="forbid", strict=True)
_OWN_KEYS = ("name", "op", "inputs")


class InputTensor(BaseModel):
    """A graph input: a tensor that the caller owns."""

    model_config = _STRICT

    shape: Annotated[list[Count], Field(description="Sizes, the batch first.")]
    dtype: Annotated[AnyDtype, Field(description="Type of the scalars.")] = "float32"
    bytes: Annotated[Size | None, Field(description="Instead of what shape and dtype give.")] = None
    constant: Annotated[bool, Field(description="A float that nothing is differentiated by.")] = False


class JacobianCosts(BaseModel):
    """The local Jacobian: how it is stored, and the flops to form it."""

    model_config = _STRICT

    structure: Annotated[Structure, Field(description="How it is stored.")] = "dense"
    flops: Annotated[Size, Field(description="Flops to form it.")] = 0


class MeasuredSeconds(BaseModel):
    """Measured times that override the roofline."""

    model_config = _STRICT

    forward: Annotated[float, Field(ge=0, description="Seconds of one evaluation.")]
    jvp: Annotated[float, Field(ge=0, description="Seconds of one tangent.")]
    vjp: Annotated[float, Field(ge=0, description="Seconds of one cotangent.")]


class Costs(BaseModel):
    """The costs of a node; beside a known op they replace what its rule gives."""

    model_config = _STRICT

    output_shape: Annotated[list[Count] | None, Field(description="Sizes of the output, the batch first.")] = None
    dtype: Annotated[
        Dtype | None, Field(description="Type of the output's scalars; that of the inputs unless given.")
    ] = None
    forward_flops: Annotated[Size | None, Field(description="Work of one evaluation, in flops.")] = None
    forward_bytes: Annotated[Size | None, Field(description="Memory traffic of one evaluation, in bytes.")] = None
    jvp_flops: Annotated[
        Size | None, Field(description="Work of one tangent, in flops; the forward's unless given.")
    ] = None
    vjp_flops: Annotated[
        Size | None, Field(description="Work of one cotangent, in flops; the forward's unless given.")
    ] = None
    param_vjp_flops: Annotated[
        Size | None, Field(description="The share of a VJP that makes the gradient of the parameters, in flops.")
    ] = None
    param_size: Annotated[Size | None, Field(description="Parameters, in scalars.")] = None
    activation_bytes: Annotated[Size | None, Field(description="Memory of the output, in bytes.")] = None
    residual_bytes: Annotated[
        Size | None, Field(description="Memory of what a derivative needs beyond activations, in bytes.")
    ] = None
    workspace_bytes: Annotated[Size | None, Field(description="Memory that is live only while it runs, in bytes.")] = (
        None
    )
    needs: Annotated[Needs | None, Field(description="Activations that its derivative reads.")] = None
    reads: Annotated[list[Reads] | None, Field(description="For each input, when the derivative reads it.")] = None
    vjp_broadcasts: Annotated[
        bool | None, Field(description="Whether the cotangent of an input is a view of the output's.")
    ] = None
    jacobian: Annotated[
        JacobianCosts | None, Field(description="The local Jacobian: how it is stored, and the flops to form it.")
    ] = None
    seconds: Annotated[MeasuredSeconds | None, Field(description="Measured times, in place of the roofline's.")] = None

    def fields(self) -> dict[str, Any]:
        """Collect the costs that a person wrote, as fields of a `Node`."""
        values: dict[str, Any] = {k: getattr(self, k) for k in self.model_fields_set if getattr(self, k) is not None}
        if self.output_shape is not None:
            values["output_shape"] = tuple(self.output_shape)
        if self.reads is not None:
            values["reads"] = tuple(self.reads)
        elif self.needs is not None:
            values["reads"] = None
        if self.jacobian is not None:
            values["jacobian"] = LocalJacobian(self.jacobian.structure, self.jacobian.flops)
        if self.seconds is not None:
            values["seconds"] = Seconds(self.seconds.forward, self.seconds.jvp, self.seconds.vjp)
        return values


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer as listed: an op with parameters, costs, or both; inputs are `None` where it reads the one before."""

    name: str | None
    op: str | None
    inputs: tuple[str, ...] | None
    parameters: Mapping[str, Any]
    costs: Mapping[str, Any]


def parse(value: Any) -> Layer:
    """The layer that a person wrote.

    Raises
    ------
    ValueError
        With what was expected instead.
    """
    if isinstance(value, Layer):
        return value
    if not isinstance(value, dict):
        raise ValueError("a mapping such as {name: a, op: linear, inputs: [x], features: 32}")
    name, op, inputs = (value.get(key) for key in _OWN_KEYS)
    if name is not None and not (isinstance(name, str) and name):
        raise ValueError(f"a text as 'name' (found {name!r})")
    where = f"node '{name}': " if name else ""
    if isinstance(inputs, str):
        inputs = [inputs]
    if inputs is not None and not (isinstance(inputs, list | tuple) and all(isinstance(i, str) for i in inputs)):
        raise ValueError(f"{where}a list of names as 'inputs' (found {inputs!r})")
    if op is not None and (not isinstance(op, str) or (op not in ops and op != "flatten")):
        raise ValueError(f"{where}a known op, not '{op}'{suggest(str(op), [*ops, 'flatten'])}")
    rest = {k: v for k, v in value.items() if k not in _OWN_KEYS}
    if op == "flatten" and rest:
        raise ValueError(f"{where}flatten without costs or parameters, as it is a view (found {', '.join(rest)})")
    parameters, costs, wrong = _checked(op, rest)
    if wrong:
        key = ".".join(map(str, wrong[0].path))
        raise ValueError(f"{where}a valid {op or 'layer'} ({key + ': ' if key else ''}{wrong[0].message})")
    return Layer(name, op, tuple(inputs) if inputs is not None else None, parameters, costs)


def _checked(op: str | None, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[Problem]]:
    """The parameters of `op` and the costs among `values`, with what is wrong with either."""
    rule = ops[op] if op is not None and op in ops else None
    of_rule = list(rule.model.model_fields) if rule else []
    parameters = {k: v for k, v in values.items() if k in of_rule}
    costs = {k: v for k, v in values.items() if k not in of_rule and k in Costs.model_fields}
    keys = [*of_rule, *Costs.model_fields]
    wrong = [Problem((), f"unknown key '{k}'{suggest(str(k), keys)}") for k in values if k not in keys]
    if rule:
        wrong += rule.check(parameters)[1]
    try:
        return parameters, Costs.model_validate(costs).fields(), wrong
    except ValidationError as error:
        return parameters, {}, wrong + problems_of(error, Costs)


def _schema() -> dict[str, Any]:
    """The JSON Schema of one layer; which parameters belong to which op is checked when it is read."""
    parameters: dict[str, Any] = {}
    models: list[type[BaseModel]] = [*(ops[op].model for op in ops), Costs]
    for model in models:
        parameters |= {key: {"description": field.description} for key, field in model.model_fields.items()}
    own: dict[str, Any] = {
        "name": {"description": "Its name; layer1, layer2, … unless given.", "type": "string"},
        "op": {"description": "A known op, whose rule gives the costs.", "enum": [*sorted(ops), "flatten"]},
        "inputs": {
            "description": "The layers or graph inputs that it reads; the layer before unless given.",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        },
    }
    return {
        "type": "object",
        "properties": parameters | own,
        "additionalProperties": False,
    }


@families.register("layers")
def layers(
    *,
    inputs: Annotated[dict[str, InputTensor], Field(min_length=1, description="Graph inputs: x: {shape: [64, 10]}")],
    layers: Annotated[
        list[Annotated[Layer, PlainValidator(parse), WithJsonSchema(_schema())]],
        Field(min_length=1, description="Nodes, each by a known op and its sizes or by its costs."),
    ],
    batch: Annotated[
        Count | None, Field(description="Samples; the first dimension that all inputs share, unless given.")
    ] = None,
) -> Graph:
    """A graph listed by hand, in any order: `{name: a, op: linear, inputs: [x], features: 32}`.

    A layer without `inputs` reads the one before it, the first one the only graph input that can be
    differentiated. A known `op` gives the costs, from the sizes of what it reads; costs given beside
    it replace those. Without an `op` the costs stand for themselves: flops not given are 0 (those of
    JVP and VJP the forward's), and the output is `output_shape`, or as many scalars a sample as
    `activation_bytes` holds. `op: flatten` makes (batch, features) of what it reads: a view, no node.

    Raises
    ------
    GraphError
        Naming the node, for a cycle, an unknown input or a shape that does not fit.
    """
    builder = GraphBuilder()
    builder.inputs = [GraphInput(n, tuple(i.shape), i.dtype, i.bytes, i.constant) for n, i in inputs.items()]
    samples = batch or _shared_batch(builder.inputs)
    tensors = {i.name: Tensor(i.name, i.shape, i.dtype) for i in builder.inputs}
    for name, read, layer in _in_order(layers, builder.inputs):
        operands = [tensors[i] for i in read]
        if layer.op == "flatten":
            tensors[name] = _flattened(name, operands)
            continue
        if layer.op is None:
            node = _by_costs(name, operands, layer.costs, samples)
        else:
            node = apply(layer.op, name, operands, **layer.parameters)
            if layer.costs.get("output_shape", node.output_shape) != node.output_shape:
                shape = layer.costs["output_shape"]
                fail(name, f"{layer.op} gives a shape of {node.output_shape}, not {shape}", key="output_shape")
            node = replace(node, **layer.costs)
        tensors[name] = builder.add(node)
    if not builder.nodes:
        raise GraphError("'layers' make no node; flattening alone computes nothing", key="layers")
    return builder.graph("layers", batch=samples)


def _shared_batch(inputs: Sequence[GraphInput]) -> int:
    first = {i.shape[0] if i.shape else 1 for i in inputs}
    return first.pop() if len(first) == 1 else 1


def _in_order(layers: Sequence[Layer], inputs: Sequence[GraphInput]) -> list[tuple[str, tuple[str, ...], Layer]]:
    """Name, inputs and layer of each entry, every layer after what it reads."""
    listed: dict[str, Layer] = {}
    stand_ins: list[Node] = []
    entering = [x.name for x in inputs if x.differentiable] or [x.name for x in inputs]
    before = entering[0]
    for i, layer in enumerate(layers):
        name = layer.name or f"layer{i + 1}"
        if i == 0 and layer.inputs is None and len(entering) > 1:
            names = ", ".join(entering)
            fail(name, f"name its 'inputs', as there are several graph inputs ({names})")
        read = (before,) if layer.inputs is None else layer.inputs
        stand_ins.append(Node(name=name, inputs=read, output_shape=()))
        listed[name] = layer
        before = name
    check_names(stand_ins, inputs)
    return [(n.name, n.inputs, listed[n.name]) for n in sorted_nodes(stand_ins, inputs)]


def _flattened(name: str, operands: Sequence[Tensor]) -> Tensor:
    if len(operands) != 1 or not operands[0].shape:
        fail(name, "flatten reads one tensor with a batch dimension")
    return operands[0].flattened()


def _by_costs(name: str, operands: Sequence[Tensor], costs: Mapping[str, Any], batch: int) -> Node:
    floats = [x.dtype for x in operands if x.dtype.startswith(("float", "bfloat"))]
    dtype = str(costs.get("dtype", floats[0] if floats else "float32"))
    shape = costs.get("output_shape")
    if shape is None:
        if "activation_bytes" not in costs:
            fail(name, "give an 'op', an 'output_shape' or 'activation_bytes'")
        scalars = max(1, -(costs["activation_bytes"] // -(ITEMSIZE[dtype] * batch)))
        shape = (batch, scalars)
    fields = {k: v for k, v in costs.items() if k not in ("dtype", "output_shape")}
    return Node(name=name, inputs=tuple(x.name for x in operands), output_shape=shape, dtype=dtype, **fields)
