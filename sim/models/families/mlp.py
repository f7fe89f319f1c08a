"""Multilayer perceptrons: linear layers with a pointwise activation between them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from sim.graphs.graph import Graph
from sim.graphs.size import excess
from sim.models.families import Batch, families
from sim.ops import ACTIVATIONS, GraphBuilder, Loss, add_loss, linear
from sim.ops.core import Bias, Dtype

LARGEST_WIDTH = 2**53


def _widths(value: Any) -> list[int]:
    if not isinstance(value, list | tuple):
        raise ValueError("a list of widths such as [784, {repeat: 2048, times: 30}, 10]")
    widths: list[int] = []
    for entry in value:
        width, times = entry, 1
        if isinstance(entry, dict):
            if set(entry) != {"repeat", "times"}:
                raise ValueError(f"{{repeat: width, times: count}} where an entry is a mapping (found {entry})")
            width, times = entry["repeat"], entry["times"]
        for number in (width, times):
            if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= LARGEST_WIDTH:
                raise ValueError(f"widths of at least 1 (found {number!r})")
        problem = excess(len(widths) + times)
        if problem is not None:
            raise ValueError(f"fewer widths: {problem}")
        widths += [width] * times
    if len(widths) < 2:
        raise ValueError("at least two widths, of the input and of the output")
    return widths


_WIDTH = {"type": "integer", "minimum": 1}
_REPEAT = {
    "type": "object",
    "properties": {
        "repeat": _WIDTH | {"description": "The width that is repeated."},
        "times": _WIDTH | {"description": "How many layers of that width."},
    },
    "required": ["repeat", "times"],
    "additionalProperties": False,
}
Widths = Annotated[
    list[int],
    PlainValidator(_widths),
    WithJsonSchema({"type": "array", "items": {"anyOf": [_WIDTH, _REPEAT]}, "minItems": 1}),
    Field(description="Sizes from input to output; {repeat: 2048, times: 30} stands for 30 equal ones."),
]


@families.register("mlp")
def mlp(
    *,
    widths: Widths,
    activation: Annotated[
        Literal["relu", "tanh", "sigmoid", "gelu", "silu", "none"],
        Field(description="Between the linear layers; none makes the network deep linear."),
    ] = "relu",
    batch: Batch = 1,
    dtype: Dtype = "float32",
    loss: Annotated[Loss, Field(description="Adds the scalar loss node; none leaves the outputs.")] = "none",
    bias: Bias = True,
    activate_output: Annotated[bool, Field(description="Whether an activation follows the last layer too.")] = False,
) -> Graph:
    """A multilayer perceptron: `layer1.linear`, `layer1.relu`, …, and a `loss` if one is given.

    The last linear layer has no activation unless `activate_output`. A loss is the mean (or the sum)
    over the batch.
    """
    builder = GraphBuilder()
    x = builder.input("x", (batch, widths[0]), dtype)
    last = len(widths) - 1
    for i, width in enumerate(widths[1:], start=1):
        x = builder.add(linear(f"layer{i}.linear", x, features=width, bias=bias))
        if activation != "none" and (i < last or activate_output):
            x = builder.add(ACTIVATIONS[activation](f"layer{i}.{activation}", x))
    add_loss(builder, x, loss)
    return builder.graph("mlp", batch=batch)
