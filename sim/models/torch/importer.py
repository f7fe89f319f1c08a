"""PyTorch modules to graphs: `graph: {kind: torch, factory: "module:function", inputs: {…}}`.

The module is built and traced on fake tensors, so that a model of billions of parameters takes
seconds and hardly any memory; one whose constructor reads values is built for real.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sim.base.errors import GraphError
from sim.base.registry import Count
from sim.graphs.graph import Graph
from sim.models.factory import Factory, NamedFactory, find, first_line
from sim.models.importers import extra, importers
from sim.models.torch import Granularity
from sim.ops import Loss

if TYPE_CHECKING:
    from sim.models.torch.program import Program

DTYPES = Literal["float32", "float64", "float16", "bfloat16", "int64", "int32", "bool"]


class Input(BaseModel):
    """One input of the module: its shape, and its dtype (`float32` unless given)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    shape: list[Count] = Field(description="Sizes, the batch first.")
    dtype: DTYPES = Field(default="float32", description="float32 unless given.")


Inputs = Annotated[
    dict[str, Input],
    Field(min_length=1, description="By the names of the forward's arguments: {x: {shape: [8, 3, 224, 224]}}."),
]


@importers.register("torch", user_code=True, runs_on="torch")
def torch(
    *,
    factory: Annotated[
        NamedFactory,
        Field(description="module:function that returns the nn.Module; looked for beside the scenario file first."),
    ],
    inputs: Inputs,
    granularity: Annotated[
        Granularity, Field(description="What a node is: an operation, a leaf module, or an element of a container.")
    ] = "modules",
    loss: Annotated[Loss, Field(description="Adds the scalar loss node; none if the model returns a loss.")] = "none",
    arguments: Annotated[dict[str, Any] | None, Field(description="Keyword arguments of the factory.")] = None,
) -> Graph:
    """A PyTorch module, with what its autograd really saves. Imports and calls the factory.

    Raises
    ------
    GraphError
        For a factory that is not there or raises, and for a module that cannot be traced: with the
        submodule and the reason.
    """
    return load(factory, inputs, granularity=granularity, loss=loss, arguments=arguments).graph


def load(
    factory: Factory | str,
    inputs: Mapping[str, Input],
    *,
    granularity: Granularity = "modules",
    loss: Loss = "none",
    arguments: Mapping[str, Any] | None = None,
) -> Program:
    """The module that a factory makes, as a program: its graph with the functions of every node."""
    (pytorch,) = extra("torch", "torch")
    from torch._subclasses.fake_tensor import FakeTensorMode

    from sim.models.torch.program import program

    make = find(factory)
    mode: Any = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with mode:
            module = make(**(arguments or {}))
    except GraphError:  # it may read values, of which fake tensors have none
        mode = nullcontext()
        module = make(**(arguments or {}))
    if not isinstance(module, pytorch.nn.Module):
        raise GraphError(f"factory: {factory} returned {type(module).__name__}, expected an nn.Module", key="factory")
    with mode:
        tensors = {k: pytorch.empty(i.shape, dtype=getattr(pytorch, i.dtype)) for k, i in inputs.items()}
        if loss == "cross_entropy" and "labels" not in tensors:
            tensors["labels"] = _labels(pytorch, module, tensors)
        elif loss == "mse" and "target" not in tensors:
            tensors["target"] = pytorch.empty_like(_result(module, tensors), requires_grad=False)
    return program(module.train(), tensors, granularity=granularity, loss=loss, name=str(factory).partition(":")[2])


def from_module(
    module: Any, example_inputs: Any, *, granularity: Granularity = "modules", loss: Loss = "none"
) -> Graph:
    """The graph of a module on inputs like these: a mapping by the forward's arguments, a tuple of them, or one tensor.

    Tensors are looked at for shape, stride, dtype and device alone; they and the module may be on the
    device `meta` or fake. `cross_entropy` reads one more input, `labels`, and `mse` `target`.

    Raises
    ------
    GraphError
        For a module that cannot be traced truthfully, with the submodule and the reason.
    """
    extra("torch", "torch")
    from sim.models.torch.program import program

    if not isinstance(example_inputs, Mapping):
        arguments = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
        example_inputs = inspect.signature(module.forward).bind(*arguments).arguments
    return program(module, example_inputs, granularity=granularity, loss=loss).graph


def _result(module: Any, tensors: Mapping[str, Any]) -> Any:
    try:
        return module(**tensors)
    except Exception as error:
        raise GraphError(f"the model raised {type(error).__name__}: {first_line(error)}") from error


def _labels(pytorch: Any, module: Any, tensors: Mapping[str, Any]) -> Any:
    """A label for each prediction of the module, whose classes lie along the last dimension."""
    from sim.models.torch.tensors import part_of

    out = part_of(_result(module, tensors), "logits")
    shape = getattr(out, "shape", None)
    if shape is None or len(shape) < 2:
        raise GraphError(
            "loss: cross_entropy reads one tensor (batch, …, classes), which the model does not return", key="loss"
        )
    return pytorch.empty(shape[:-1], dtype=pytorch.int64)
