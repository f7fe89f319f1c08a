"""The front of PyTorch's own compiler: a training step as one joint graph, traced by Dynamo and AOTAutograd.

Dynamo follows the Python code of a model and watches what it depends on; AOTAutograd differentiates what it
followed. `joint_through` is where a plan is put back, `capture` where a module becomes a graph without being run.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from sim.base.errors import GraphError
from sim.models.torch.rows import JointRows, joint_rows
from sim.models.torch.tensors import part_of

Partition = Callable[[fx.GraphModule, int], tuple[fx.GraphModule, fx.GraphModule]]
"""A function of a joint graph and the number of its forward's results that gives the two halves."""


@dataclass(frozen=True, eq=False)
class Captured:
    """A training step as a joint graph: `given` are the tensors that its placeholders stand for, `names` their names.

    Parameters and buffers have their names in the module, inputs those of the arguments; what is neither (a tensor
    that is a plain attribute) has none. Tangents are no part of it.
    """

    joint: JointRows
    given: dict[fx.Node, Any]
    names: dict[fx.Node, str]


class _Enough(Exception):
    """The signal that a joint graph is there, so that nothing needs to be compiled."""


def joint_through(module: fx.GraphModule, inputs: Sequence[Any], partition: Partition) -> Any:
    """The compiled form of a graph that Dynamo traced, run call by call in the halves that `partition` makes."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._dynamo.backends.debugging import boxed_nop

    def parted(joint: Any, _: Any, *, num_fwd_outputs: int, **__: Any) -> Any:
        return partition(joint, num_fwd_outputs)

    return aot_autograd(fw_compiler=boxed_nop, partition_fn=parted, keep_inference_input_mutations=True)(module, inputs)


def capture(module: nn.Module, inputs: Mapping[str, Any], call: Callable[..., Any] | None = None) -> Captured:
    """The training step of `call(module, inputs)`, by default the module itself on `inputs` by name.

    Of a mapping or dataclass with a `loss` that alone is the result. Real tensors are not changed, and of fake ones
    no value is read.

    Raises
    ------
    GraphError
        For what the compiler's front cannot follow, with its reason and the line.
    """
    made: list[Captured] = []

    def step(module: nn.Module, inputs: Mapping[str, Any]) -> Any:
        out = part_of(module(**inputs) if call is None else call(module, inputs), "loss")
        return [t for t in pytree.tree_leaves(out) if isinstance(t, torch.Tensor)]

    def backend(traced: fx.GraphModule, given: Sequence[Any]) -> Any:
        def keep(joint: fx.GraphModule, returned: int) -> Any:
            rows = joint_rows(joint, returned)
            primals = [n for n in joint.graph.find_nodes(op="placeholder") if hasattr(n.meta["desc"], "idx")]
            tensors = {n: given[n.meta["desc"].idx] for n in primals}
            named = {id(t): name for name, t in [*module.named_buffers(), *module.named_parameters(), *inputs.items()]}
            made.append(Captured(rows, tensors, {n: named.get(id(t), "") for n, t in tensors.items()}))
            raise _Enough

        joint_through(traced, given, keep)
        raise GraphError("nothing in the model needs a gradient: no parameter leads to what it returns")

    with _afresh(), torch.enable_grad():
        try:
            torch.compile(step, backend=backend, fullgraph=True, dynamic=False)(module, inputs)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            inner = error.inner_exception
            if isinstance(inner, GraphError):
                raise inner from None
            if not isinstance(inner, _Enough):
                raise GraphError(
                    f"the model cannot be differentiated: {type(inner).__name__}: {_first(inner)}"
                ) from error
        except torch._dynamo.exc.TorchDynamoException as error:
            raise GraphError(f"the model cannot be traced{_place(error)}: {_first(error)}") from error
        except GraphError:
            raise
        except Exception as error:
            raise GraphError(f"the model raised {type(error).__name__}: {_first(error)}") from error
    if not made:
        raise GraphError("the model computes nothing from its inputs")
    return made[-1]


@contextmanager
def _afresh() -> Iterator[None]:
    """A trace that depends on no earlier one and leaves none behind.

    What Dynamo logs and warns of while it follows the code, which is not run, is in its errors.
    """
    logger = logging.getLogger("torch._dynamo")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    torch._dynamo.reset()
    try:
        with warnings.catch_warnings(), torch._dynamo.config.patch(trace_autograd_ops=True):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch._dynamo.reset()
        logger.setLevel(before)


def _first(error: BaseException) -> str:
    """The first line of an error, with what Dynamo says of the case."""
    text = str(error).strip()
    lines = text.splitlines() or [type(error).__name__]
    case = re.search(r"got (\w+Error\(.*\))", text) or re.search(r"Developer debug context: (.+)", text)
    return (f"{lines[0]} ({case[1]})" if case else lines[0])[:300]


def _place(error: BaseException) -> str:
    stack = getattr(error, "real_stack", None) or []
    return f" at {stack[-1].filename}:{stack[-1].lineno}" if stack else ""
