"""The registry of ops, and what cost rules are made with: tensors to read, nodes to write, a builder of graphs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, NoReturn, ParamSpec

from pydantic import Field, PlainValidator, WithJsonSchema

from sim.base.errors import GraphError, NotApplicable, ParameterError, suggest
from sim.base.registry import Count, Entry, Registry
from sim.graphs.graph import Graph
from sim.graphs.node import FLOATS, ITEMSIZE, LARGEST, GraphInput, LocalJacobian, Needs, Node, Reads, Wrt
from sim.ops.rule import Rule, Shape

DENSE = LocalJacobian("dense")
CONSTANT = LocalJacobian("constant")
"""Of a linear map: its weight, one block for all samples."""
FACTORS: tuple[Reads, ...] = ("others", "others")
"""The reads of the derivative of a product of two activations: for the one factor the other."""
Dtype = Annotated[
    Literal["float64", "float32", "float16", "bfloat16"],
    Field(description="Type of the scalars, which gives their bytes."),
]
P = ParamSpec("P")


@dataclass(frozen=True, slots=True, kw_only=True)
class Op(Entry[Node]):
    """All that is known of one op: its cost rule with the parameters that it takes, and its array rule.

    The cost rule (`function`) is `(name, *tensors, parameters) -> Node`; its keyword parameters are the
    keys of a layer in YAML. `indices` is the position of the input that holds integers, if one does;
    all others are floats of one dtype.
    """

    arrays: Rule
    indices: int | None = None

    @property
    def arity(self) -> tuple[int, int | None]:
        """The least and the largest number (`None`: any) of inputs that the op reads."""
        kinds = [p.kind for p in inspect.signature(self.function).parameters.values()]
        fixed = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) - 1
        return fixed, None if inspect.Parameter.VAR_POSITIONAL in kinds else fixed


class Ops(Registry[Node]):
    """Ops by name."""

    def __init__(self) -> None:
        super().__init__("op")

    def __getitem__(self, name: str) -> Op:
        entry = super().__getitem__(name)
        assert isinstance(entry, Op)
        return entry

    def define(
        self, name: str, *, arrays: Rule, indices: int | None = None
    ) -> Callable[[Callable[P, Node]], Callable[P, Node]]:
        """Decorator: register the cost rule of an op, with its array rule."""

        def decorate(cost: Callable[P, Node]) -> Callable[P, Node]:
            self.register(name)(cost)
            entry = self._entries[name]
            facts = {f.name: getattr(entry, f.name) for f in fields(entry)}
            self._entries[name] = Op(**facts, arrays=arrays, indices=indices)
            return cost

        return decorate


ops = Ops()


@dataclass(frozen=True, slots=True)
class Tensor:
    """An activation as an op reads it: who makes it, and the shape it is read as.

    The shape may be another than the producer's, with as many scalars: flattening is a view, which
    owns no memory and therefore is no node.
    """

    name: str
    shape: Shape
    dtype: str = "float32"

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return ITEMSIZE[self.dtype]

    def flattened(self) -> Tensor:
        """The same values as (batch, features)."""
        return replace(self, shape=(self.shape[0], math.prod(self.shape[1:])))


def fail(name: str, problem: str, *, key: str | None = None) -> NoReturn:
    """Raise the `GraphError` of a node, at one of its parameters if `key` names it."""
    raise GraphError(f"node '{name}': {problem}", node=name, key=key)


def check_rank(name: str, x: Tensor, *, at_least: int, what: str) -> None:
    if len(x.shape) < at_least:
        fail(name, f"got an input of shape {x.shape}, expected {what}")


def make_node(
    op: str,
    name: str,
    inputs: Sequence[Tensor],
    shape: Shape,
    *,
    forward_flops: int,
    jvp_flops: int | None = None,
    vjp_flops: int | None = None,
    param_vjp_flops: int = 0,
    param_size: int = 0,
    residual_bytes: int | None = None,
    needs: Needs = "input",
    reads: tuple[Reads, ...] | None = None,
    jacobian: LocalJacobian = DENSE,
    vjp_broadcasts: bool = False,
    tied_to: str | None = None,
    dtype: str | None = None,
    **attributes: Any,
) -> Node:
    """A node that reads `inputs`; its attributes say how to execute it.

    `input_shapes` is always among the attributes: the shape as which each input is read.
    """
    if math.prod(shape) * 8 >= LARGEST:
        fail(name, f"its output of shape {shape} would take more than 4 EiB")
    return Node(
        name=name,
        op=op,
        inputs=tuple(x.name for x in inputs),
        output_shape=shape,
        dtype=inputs[0].dtype if dtype is None else dtype,
        forward_flops=forward_flops,
        jvp_flops=jvp_flops,
        vjp_flops=vjp_flops,
        param_vjp_flops=param_vjp_flops,
        param_size=param_size,
        residual_bytes=residual_bytes,
        needs=needs,
        reads=reads,
        jacobian=jacobian,
        vjp_broadcasts=vjp_broadcasts,
        tied_to=tied_to,
        attributes={"input_shapes": tuple(x.shape for x in inputs), **attributes},
    )


def pair(value: Any) -> tuple[int, int]:
    """(height, width) of a number that stands for both, or of two numbers."""
    both = (value, value) if isinstance(value, int) else tuple(value)
    return int(both[0]), int(both[1])


def _pair_of(lowest: int) -> PlainValidator:
    def check(value: Any) -> tuple[int, int]:
        both = value if isinstance(value, list | tuple) else [value, value]
        if len(both) != 2 or any(isinstance(v, bool) or not isinstance(v, int) or v < lowest for v in both):
            raise ValueError(f"a whole number of at least {lowest}, or two of them: [height, width]")
        return both[0], both[1]

    return PlainValidator(check)


def _pair_schema(lowest: int) -> WithJsonSchema:
    one = {"type": "integer", "minimum": lowest}
    return WithJsonSchema({"anyOf": [one, {"type": "array", "items": one, "minItems": 2, "maxItems": 2}]})


Pair = Annotated[int | tuple[int, int], _pair_of(1), _pair_schema(1)]
"""A number of at least 1 for height and width alike, or one for each."""
Margin = Annotated[int | tuple[int, int], _pair_of(0), _pair_schema(0)]
"""A number of at least 0 for height and width alike, or one for each."""

# Parameters that several ops have, each with what it means.
Axis = Annotated[int, Field(description="The dimension, counted from the end if negative.")]
Bias = Annotated[bool, Field(description="Whether a bias is added.")]
Causal = Annotated[bool, Field(description="Whether a token sees only itself and those before it.")]
Channels = Annotated[Count, Field(description="Channels of the output.")]
Dilation = Annotated[Pair, Field(description="Distance between the elements of the kernel.")]
Entries = Annotated[Count, Field(description="Rows of the table.")]
Features = Annotated[Count, Field(description="Features of the output.")]
Groups = Annotated[Count, Field(description="Groups of channels that are convolved apart.")]
Heads = Annotated[Count, Field(description="Heads of queries, among which their features are divided.")]
Kernel = Annotated[Pair, Field(description="Height and width of the window.")]
Padding = Annotated[Margin, Field(description="Zeros added on each side.")]
Stride = Annotated[Pair, Field(description="Step of the window.")]
PoolStride = Annotated[Pair | None, Field(description="Step of the window; its size unless given.")]
TiedTo = Annotated[str | None, Field(description="A node whose weights it uses, transposed.")]
TopK = Annotated[Count, Field(description="Experts that a token goes to.")]
TransposeB = Annotated[bool, Field(description="Whether the second factor enters transposed.")]


def apply(op: str, name: str, inputs: Sequence[Tensor], **parameters: Any) -> Node:
    """The node that the rule of `op` makes of `inputs` and of parameters as a person wrote them.

    Raises
    ------
    GraphError
        Naming the node, for an unknown op, a wrong number of inputs, impossible parameters or shapes.
    """
    try:
        entry = ops[op]
        least, most = entry.arity
        if len(inputs) < least or (most is not None and len(inputs) > most):
            expected = f"{least}" if most == least else f"at least {least}"
            fail(name, f"{op} reads {expected} input{'' if expected == '1' else 's'}, got {len(inputs)}")
        _check_dtypes(entry, name, inputs)
        return ops.call(op, name, *inputs, **parameters)
    except ParameterError as error:
        key = next(map(str, error.parameter), None)
        raise GraphError(f"node '{name}': {error}", node=name, key=key) from None


def _check_dtypes(op: Op, name: str, inputs: Sequence[Tensor]) -> None:
    for i, x in enumerate(inputs):
        if (x.dtype in FLOATS) == (i == op.indices):
            kind = "integers" if i == op.indices else "floats"
            fail(name, f"{op.name} reads {kind}, but '{x.name}' is {x.dtype}")
    dtypes = {x.name: x.dtype for i, x in enumerate(inputs) if i != op.indices}
    if len(set(dtypes.values())) > 1:
        fail(name, f"{op.name} reads one dtype, got {', '.join(f'{n}: {d}' for n, d in dtypes.items())}")


def rule_of(node: Node) -> Rule:
    """The array rule of a node: the one that its importer gives, or that of its op.

    Raises
    ------
    NotApplicable
        If there is none, as for the abstract layers of a chain; with the importer's reason if it gave one.
    """
    why = node.attributes.get("refused")
    if why is not None:
        raise NotApplicable(f"node '{node.name}' ({node.op}) cannot be executed: {why}")
    rule: Rule | None = node.attributes.get("rule") or (ops[node.op].arrays if node.op in ops else None)
    if rule is None:
        raise NotApplicable(f"node '{node.name}' cannot be executed: op '{node.op}' has no rule{suggest(node.op, ops)}")
    return rule


class GraphBuilder:
    """Collects graph inputs and nodes; each `add` gives the tensor that later ops read."""

    def __init__(self) -> None:
        self.inputs: list[GraphInput] = []
        self.nodes: list[Node] = []

    def input(self, name: str, shape: Shape, dtype: str, *, constant: bool = False) -> Tensor:
        self.inputs.append(GraphInput(name, shape, dtype, constant=constant))
        return Tensor(name, shape, dtype)

    def add(self, node: Node) -> Tensor:
        self.nodes.append(node)
        return Tensor(node.name, node.output_shape, node.dtype)

    def graph(self, name: str, *, batch: int, wrt: Wrt | None = None) -> Graph:
        return Graph.from_nodes(self.nodes, self.inputs, name=name, batch=batch, wrt=wrt)
