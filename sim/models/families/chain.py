"""The abstract chain of the automatic differentiation literature: L layers known by their costs alone.

A chain of a million layers is a few arrays; a `Node` is made only when somebody looks at one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PlainValidator, WithJsonSchema

from sim.base.errors import CountOverflow, GraphError
from sim.base.registry import Count
from sim.base.units import SIZE, TIME, Bytes, parse_bytes, parse_seconds, schema_of
from sim.graphs.columns import Columns
from sim.graphs.graph import Graph, NodeView
from sim.graphs.node import LARGEST, NEEDS, GraphInput, Ints, LocalJacobian, Needs, Node
from sim.graphs.node import Seconds as MeasuredSeconds
from sim.graphs.size import LAYER_BYTES, check_size
from sim.models.families import families

R = TypeVar("R")
SCALAR_BYTES = 8  # a float64
LARGEST_DIMENSION = 2**53


def _whole(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < LARGEST:
        raise ValueError("a whole number from 0 to 2^62, or a list of them")
    return int(value)


def _size(value: Any) -> int:
    return parse_bytes(value) if isinstance(value, str) else _whole(value)


def _costs(value: Any) -> int | list[int] | Ints:
    return _numbers(value, _whole)


def _sizes(value: Any) -> int | list[int] | Ints:
    return _numbers(value, _size)


def _seconds(value: Any) -> float | list[float]:
    if isinstance(value, list | tuple):
        return [_element(parse_seconds, v, i) for i, v in enumerate(value)]
    return parse_seconds(value)


def _numbers(value: Any, check: Callable[[Any], int]) -> int | list[int] | Ints:
    if isinstance(value, list | tuple):
        return [_element(check, v, i) for i, v in enumerate(value)]
    if not isinstance(value, np.ndarray):
        return check(value)
    if value.ndim != 1 or value.dtype.kind not in "iu" or not len(value):
        raise ValueError("a one-dimensional array of whole numbers")
    if not 0 <= int(value.min()) <= int(value.max()) < LARGEST:
        raise ValueError("an array of numbers from 0 to 2^62")
    return value.astype(np.int64)


def _element(check: Callable[[Any], R], value: Any, index: int) -> R:
    try:
        return check(value)
    except ValueError as error:
        raise ValueError(f"{error} (value {index + 1} of the list is {value!r})") from None


def _word(value: Any) -> Needs:
    if value not in NEEDS:
        raise ValueError(f"one of {', '.join(NEEDS)}, or a list of them")
    return cast(Needs, value)


def _needs(value: Any) -> Needs | list[Needs]:
    if isinstance(value, list | tuple):
        return [_element(_word, v, i) for i, v in enumerate(value)]
    return _word(value)


_NUMBER = {"type": "integer", "minimum": 0}
_WORD = {"enum": list(NEEDS)}
Costs = Annotated[
    int | Sequence[int] | Ints,
    PlainValidator(_costs),
    WithJsonSchema({"anyOf": [_NUMBER, {"type": "array", "items": _NUMBER}]}),
]
"""One whole number for all layers, or a list (or an int64 array) with one for each."""
_BYTES = schema_of(SIZE)
Sizes = Annotated[
    int | Sequence[int] | Ints,
    PlainValidator(_sizes),
    WithJsonSchema({"anyOf": [*_BYTES["anyOf"], {"type": "array", "items": _BYTES}]}),
]
"""The same of bytes, with units if one likes: `8 MB`."""
_TIME = schema_of(TIME)
Seconds = Annotated[
    float | Sequence[float],
    PlainValidator(_seconds),
    WithJsonSchema({"anyOf": [*_TIME["anyOf"], {"type": "array", "items": _TIME}]}),
]
"""A time for all layers, or a list with one for each: `0.5 s`."""
NeedsOfLayers = Annotated[
    Needs | Sequence[Needs],
    PlainValidator(_needs),
    WithJsonSchema({"anyOf": [_WORD, {"type": "array", "items": _WORD}]}),
]


@families.register("chain", runs_on=None)
def chain(
    *,
    length: Annotated[Count | None, Field(description="Layers, or time steps; not needed beside sizes.")] = None,
    sizes: Annotated[Costs | None, Field(description="State dimensions in scalars, from input to output.")] = None,
    forward_flops: Annotated[
        Costs | None,
        Field(description="Work of a layer in flops; that of a dense map with sizes, 1 without, unless given."),
    ] = None,
    jvp_flops: Annotated[
        Costs | None,
        Field(description="Work of one tangent in flops; with sizes that of a dense map, else the forward's."),
    ] = None,
    vjp_flops: Annotated[
        Costs | None,
        Field(description="Work of one cotangent in flops; with sizes that of a dense map, else the forward's."),
    ] = None,
    forward_seconds: Annotated[
        Seconds | None, Field(description="Measured time of a layer; without it that of the device's roofline.")
    ] = None,
    jvp_seconds: Annotated[
        Seconds | None, Field(description="Measured time of one tangent; the forward's unless given.")
    ] = None,
    vjp_seconds: Annotated[
        Seconds | None, Field(description="Measured time of one cotangent; the forward's unless given.")
    ] = None,
    activation_bytes: Annotated[
        Sizes | None, Field(description="Memory of a state; 8 bytes a scalar unless given.")
    ] = None,
    residual_bytes: Annotated[
        Sizes, Field(description="Memory of what a layer tapes for its JVP or VJP beside states.")
    ] = 0,
    workspace_bytes: Annotated[Sizes, Field(description="Memory that is live only while a layer runs.")] = 0,
    needs: Annotated[NeedsOfLayers, Field(description="States that a layer's derivative reads.")] = "input",
    jacobian_flops: Annotated[Costs, Field(description="Work to form a local Jacobian, in flops.")] = 0,
    input_bytes: Annotated[
        Bytes | None, Field(description="Memory of the input; that of a state unless given.")
    ] = None,
) -> Graph:
    """An abstract chain: each cost is one value for all layers, or a list with one for each layer.

    `sizes` are the L + 1 state dimensions n_0 … n_L. Layer i is then a dense map from n_{i-1} to n_i
    scalars, and forward, JVP and VJP cost 2·n_{i-1}·n_i flops unless given. Without `sizes` every
    state is one scalar, a forward costs 1 flop, and JVP and VJP cost what the forward does. A state
    takes 8 bytes a scalar unless `activation_bytes` says otherwise; the input takes 8·n_0, or without
    `sizes` what the first layer's output does, unless `input_bytes` says otherwise. Measured seconds
    override the roofline of a device.

    Every layer has a tape of `residual_bytes` (which may be 0) that its JVP and VJP read, so each VJP
    is preceded by an evaluation of its own layer, as in the checkpointing literature.

    Raises
    ------
    GraphError
        If a list does not have one value for each layer, or neither `length` nor `sizes` is given.
    CountOverflow
        If the bytes or flops of all layers together exceed 2^62.
    """
    layers = _length(length, sizes)
    if sizes is None:
        dims = _constant(1, layers + 1)
        work = dims[1:]
    else:
        dims = np.asarray(sizes, dtype=np.int64)
        if int(dims.min()) < 1 or int(dims.max()) > LARGEST_DIMENSION:
            raise GraphError(f"sizes: got {int(dims.min())} … {int(dims.max())}, expected 1 … 2^53", key="sizes")
        if float(dims[:-1].max()) * float(dims.max()) >= LARGEST / 2:
            raise CountOverflow("sizes: a layer would cost more than 2^62 flops", key="sizes")
        work = 2 * dims[:-1] * dims[1:]
    forward = _column("forward_flops", forward_flops, layers, work)
    tangent = work if sizes is not None else forward
    activation = _column("activation_bytes", activation_bytes, layers, SCALAR_BYTES * dims[1:])
    residual = _column("residual_bytes", residual_bytes, layers)
    workspace = _column("workspace_bytes", workspace_bytes, layers)
    if input_bytes is None:
        by_layer = activation_bytes is not None and sizes is None
        input_bytes = int(activation[0]) if by_layer else SCALAR_BYTES * int(dims[0])
    together = input_bytes + sum(float(c.sum(dtype=np.float64)) for c in (activation, residual, workspace))
    if together > LARGEST:
        raise CountOverflow(f"the chain's values take about {together:.3g} bytes together, more than 4 EiB")
    if activation.strides == (0,) and activation[0] == input_bytes:  # one value for all, the input included
        moved = _constant(2 * input_bytes, layers)
    else:
        moved = np.concatenate([[input_bytes], activation[:-1]]) + activation
    zeros, positions = _constant(0, layers), np.arange(layers + 1, dtype=np.int64)
    columns = Columns(
        activation_bytes=activation,
        scalars=dims[1:],
        forward_flops=forward,
        forward_bytes=moved,
        jvp_flops=_column("jvp_flops", jvp_flops, layers, tangent),
        vjp_flops=_column("vjp_flops", vjp_flops, layers, tangent),
        param_vjp_flops=zeros,
        param_size=zeros,
        param_bytes=zeros,
        residual_bytes=residual,
        needs=_needs_column(needs, layers),
        workspace_bytes=workspace,
        jacobian_structure=zeros,
        jacobian_flops=_column("jacobian_flops", jacobian_flops, layers),
        itemsize=_constant(SCALAR_BYTES, layers),
        vjp_broadcasts=np.zeros(layers, dtype=np.bool_),
        input_ptr=positions,
        input_index=positions[:-1],
        seconds=_times(layers, forward_seconds, jvp_seconds, vjp_seconds),
    )
    x = GraphInput("x", (int(dims[0]),), "float64", bytes=input_bytes)
    nodes = NodeView(layers, lambda i: _layer(columns, i), _name)
    return Graph(name="chain", nodes=nodes, inputs=(x,), columns=columns, batch=1, wrt="input")


def _name(i: int) -> str:
    return f"layer{i + 1}"


def _layer(columns: Columns, i: int) -> Node:
    return Node(
        name=_name(i),
        inputs=(_name(i - 1) if i else "x",),
        output_shape=(int(columns.scalars[i]),),
        op="step",
        dtype="float64",
        forward_flops=int(columns.forward_flops[i]),
        forward_bytes=int(columns.forward_bytes[i]),
        jvp_flops=int(columns.jvp_flops[i]),
        vjp_flops=int(columns.vjp_flops[i]),
        residual_bytes=int(columns.residual_bytes[i]),
        needs=NEEDS[int(columns.needs[i])],
        workspace_bytes=int(columns.workspace_bytes[i]),
        jacobian=LocalJacobian("dense", int(columns.jacobian_flops[i])),
        activation_bytes=int(columns.activation_bytes[i]),
        seconds=None if columns.seconds is None else MeasuredSeconds(*columns.seconds[i].tolist()),
    )


def _times(
    length: int, forward: float | Sequence[float] | None, jvp: Any = None, vjp: Any = None
) -> NDArray[np.float64] | None:
    """The seconds of each layer, (length, 3): forward, JVP and VJP; one row for all if all are alike."""
    if forward is None:
        if jvp is not None or vjp is not None:
            key = "vjp_seconds" if jvp is None else "jvp_seconds"
            raise GraphError(f"{key}: is for chains with forward_seconds", key=key)
        return None
    keys = ("forward_seconds", "jvp_seconds", "vjp_seconds")
    values = (forward, forward if jvp is None else jvp, forward if vjp is None else vjp)
    for key, value in zip(keys, values, strict=True):
        if not isinstance(value, float | int):
            _check_length(key, len(value), length)
    return np.stack([np.broadcast_to(np.asarray(value, dtype=np.float64), length) for value in values], axis=1)


def _length(length: int | None, sizes: int | Sequence[int] | Ints | None) -> int:
    if sizes is None:
        if length is None:
            raise GraphError("a chain needs 'length' (how many layers) or 'sizes' (length + 1 state dimensions)")
        check_size(length, key="length", node_bytes=LAYER_BYTES)
        return length
    if isinstance(sizes, int):
        raise GraphError(
            f"sizes: got {sizes}, expected a list of the state dimensions, one more than layers", key="sizes"
        )
    if len(sizes) < 2:
        raise GraphError(f"sizes: got {len(sizes)} values, expected at least 2 (an input and an output)", key="sizes")
    if length is not None and length != len(sizes) - 1:
        raise GraphError(
            f"sizes: got {len(sizes)} values, expected {length + 1} for a chain of length {length}", key="sizes"
        )
    return len(sizes) - 1


def _constant(value: int, length: int) -> Ints:
    """A read-only array of one value that takes the memory of one."""
    return np.broadcast_to(np.int64(value), length)


def _column(key: str, value: int | Sequence[int] | Ints | None, length: int, default: Ints | None = None) -> Ints:
    if value is None:
        assert default is not None
        return _checked_sum(key, default)
    if isinstance(value, int):
        return _checked_sum(key, _constant(value, length))
    _check_length(key, len(value), length)
    return _checked_sum(key, np.asarray(value, dtype=np.int64))


def _check_length(key: str, got: int, length: int) -> None:
    if got != length:
        raise GraphError(f"{key}: got {got} values, expected one value or {length}", key=key)


def _checked_sum(key: str, column: Ints) -> Ints:
    total = float(column.sum(dtype=np.float64))
    if total > LARGEST:
        what = "bytes, more than 4 EiB" if key.endswith("bytes") else "flops, more than 2^62"
        raise CountOverflow(f"{key}: all layers together would take about {total:.3g} {what}", key=key)
    return column


def _needs_column(needs: Needs | Sequence[Needs], length: int) -> Ints:
    if isinstance(needs, str):
        return _constant(NEEDS.index(needs), length)
    _check_length("needs", len(needs), length)
    return np.array([NEEDS.index(n) for n in needs], dtype=np.int64)
