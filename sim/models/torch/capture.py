"""The operations of a PyTorch module, recorded on fake tensors: nothing is computed, no memory is taken.

Recorded are the calls that autograd sees (`aten.linear`, `aten.batch_norm`), each with the path of the
submodule that makes it. What cannot be recorded truthfully is refused: control flow on values, shapes
that depend on values, custom gradients, gradient hooks, writes into inputs or parameters.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.utils import _pytree as pytree

from sim.base.errors import GraphError
from sim.models.torch.recorded import ROOT, Captured, Op, part_of, storage, tensors_of, value, where
from sim.models.torch.writes import check_buffers, settle_writes


def capture(
    module: nn.Module,
    inputs: Mapping[str, Any],
    *,
    call: Callable[..., Any] | None = None,
    mode: FakeTensorMode | None = None,
) -> Captured:
    """The operations of `call(module, **inputs)` (by default the module itself), with a name for each input.

    Of a mapping or dataclass with a `loss` that alone is the result.
    `inputs` may be real or fake tensors; only shape, stride, dtype and device are read.

    Raises
    ------
    GraphError
        Naming the submodule, for whatever cannot be recorded truthfully.
    """
    mode = mode or _mode_of(module) or FakeTensorMode(allow_non_fake_inputs=True)
    parameters = dict(module.named_parameters())
    buffers = dict(module.named_buffers())
    _check_module(module, parameters)
    names = list(inputs)
    fakes = [
        [_fake(t, mode) for t in parameters.values()],
        [_fake(t, mode) for t in buffers.values()],
        [_fake(inputs[name], mode) for name in names],
    ]
    trail = _Trail(module)

    def run(parameter_values: list[Any], buffer_values: list[Any], input_values: list[Any]) -> list[Any]:
        state = dict(zip(parameters, parameter_values, strict=True)) | dict(zip(buffers, buffer_values, strict=True))
        swapped = _Swapped(module, state, trail)
        out = swapped(dict(zip(names, input_values, strict=True)), call)
        return list(pytree.tree_leaves(part_of(out, "loss")))

    with mode, trail.followed(), _refusing():
        try:
            traced = make_fx(run, pre_dispatch=True)(*fakes)
        except GraphError:
            raise
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise GraphError(
                f"{trail.where()} depends on the values of tensors ({_first_line(error)}), so it cannot be traced; "
                "replace control flow and shapes that depend on values"
            ) from None
        except Exception as error:
            raise GraphError(f"{trail.where()} raised {type(error).__name__}: {_first_line(error)}") from error
    return _captured(traced, trail, list(parameters), list(buffers), names, mode, module)


class _Swapped:
    """A call of a module with other tensors in place of its parameters and buffers."""

    def __init__(self, module: nn.Module, state: Mapping[str, Any], trail: _Trail) -> None:
        self.module, self.state, self.trail = module, state, trail

    def __call__(self, inputs: Mapping[str, Any], call: Callable[..., Any] | None) -> Any:
        from torch.nn.utils import stateless

        with stateless._reparametrize_module(self.module, dict(self.state), tie_weights=True, strict=False):
            return self.module(**inputs) if call is None else call(self.module, **inputs)


class _Trail:
    """The submodule that is running, and the recorded calls that it has made."""

    def __init__(self, module: nn.Module) -> None:
        self.names = {id(m): name for name, m in module.named_modules()}
        self.types = {name: type(m).__name__ for name, m in module.named_modules()}
        self.leaves = {name for name, m in module.named_modules() if not any(True for _ in m.children())}
        self.stack: list[tuple[str, int]] = []
        self.calls = 0
        self.last: tuple[str, ...] = ()
        self.marks: list[tuple[int, tuple[tuple[str, int], ...]]] = []

    def where(self) -> str:
        """The submodule that is running, as messages name it."""
        path = self.last[-1] if self.last else ""
        return f"module '{path}' ({self.types[path]})" if path else f"the model ({self.types['']})"

    def mark(self) -> None:
        """Credit the calls since the last mark to the submodules that are running now."""
        proxy = get_proxy_mode()
        if proxy is not None:
            self.marks.append((len(proxy.tracer.graph.nodes), tuple(self.stack)))

    @contextmanager
    def followed(self) -> Iterator[None]:
        def enter(module: nn.Module, _: Any) -> None:
            name = self.names.get(id(module))
            if name is not None:
                self.mark()
                self.calls += 1
                self.stack.append((name, self.calls))
                self.last = tuple(n for n, _ in self.stack)

        def leave(module: nn.Module, _: Any, __: Any) -> None:
            if self.stack and self.names.get(id(module)) == self.stack[-1][0]:
                self.mark()
                self.stack.pop()
                self.last = tuple(n for n, _ in self.stack)

        hooks = nn.modules.module
        handles = [hooks.register_module_forward_pre_hook(enter), hooks.register_module_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _refusing() -> Iterator[None]:
    """Refuse what a recording would lose: gradients written by hand, hooks on them, and two modes."""

    def refuse_function(cls: type, *_: Any, **__: Any) -> Any:
        raise GraphError(
            f"custom gradient {cls.__name__} (torch.autograd.Function): its backward cannot be traced, and "
            "differentiating its forward would give another gradient"
        )

    def refuse_hook(*_: Any, **__: Any) -> Any:
        raise GraphError("the forward registers a gradient hook on a tensor (register_hook), which would be lost")

    enter = torch.inference_mode.__enter__

    def refuse_inference(mode: Any) -> Any:
        if sys._getframe(1).f_globals.get("__name__", "").startswith("torch."):  # PyTorch's own use of it
            return enter(mode)
        raise GraphError("the forward enters torch.inference_mode, which cannot be traced; use torch.no_grad")

    def refuse_autocast(*_: Any) -> Any:
        raise GraphError("the forward enters autocast, which cannot be traced; convert tensors with .to(dtype)")

    with ExitStack() as stack:
        for owner, name, refusal in (
            (torch.autograd.Function, "apply", classmethod(refuse_function)),
            (torch.Tensor, "register_hook", refuse_hook),
            (torch.inference_mode, "__enter__", refuse_inference),
            (torch.autocast, "__enter__", refuse_autocast),
        ):
            stack.enter_context(mock.patch.object(owner, name, refusal))
        yield


def _check_module(module: nn.Module, parameters: Mapping[str, Any]) -> None:
    for name, submodule in module.named_modules():
        if submodule._backward_hooks or submodule._backward_pre_hooks:
            raise GraphError(f"module '{name or ROOT}' has backward hooks, which would be lost; remove them")
    for name, p in parameters.items():
        if p.layout != torch.strided or p.is_complex():
            raise GraphError(f"parameter '{name}' is {p.layout}, {p.dtype}; expected a dense real tensor")
    if torch.is_autocast_enabled():
        raise GraphError("autocast is on; trace and train without it, in the dtype of the parameters")


def _mode_of(module: nn.Module) -> FakeTensorMode | None:
    for t in module.parameters():
        mode = getattr(t, "fake_mode", None)
        if mode is not None:
            return mode
    return None


def _fake(t: Any, mode: FakeTensorMode) -> Any:
    """A fake stand-in of a tensor: a meta tensor is taken for one on the CPU; numbers stay as they are."""
    if not isinstance(t, torch.Tensor):
        return t
    if getattr(t, "fake_mode", None) is mode:
        return t
    device = "cpu" if t.device.type == "meta" else t.device
    with mode:
        fake = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device)
        return fake.requires_grad_(t.requires_grad)


def _captured(
    traced: Any, trail: _Trail, parameters: list[str], buffers: list[str], names: list[str],
    mode: FakeTensorMode, module: nn.Module,
) -> Captured:  # fmt: skip
    graph = traced.graph
    order = list(graph.nodes)
    stacks = _stacks(order, trail)
    placeholders = [n for n in order if n.op == "placeholder"]
    split = [len(parameters), len(parameters) + len(buffers)]
    by_kind = [
        dict(zip(placeholders[: split[0]], parameters, strict=True)),
        dict(zip(placeholders[split[0] : split[1]], buffers, strict=True)),
        dict(zip(placeholders[split[1] :], names, strict=True)),
    ]
    constants = {n: _attribute(traced, n.target) for n in order if n.op == "get_attr"}
    for n in constants:
        if any("lift_fresh" not in str(user.target) for user in n.users):
            raise GraphError(
                f"the model reads a tensor of {tuple(value(n).shape)} that is neither parameter nor buffer; "
                "register it as a buffer (register_buffer), because a recording would freeze its values"
            )
    owners = {storage(value(n)): n for n in [*placeholders, *constants] if isinstance(value(n), torch.Tensor)}
    renamed: dict[torch.fx.Node, torch.fx.Node] = {}
    ops: list[Op] = []
    grad = True
    for node, stack in zip(order, stacks, strict=True):
        if node.op != "call_function":
            continue
        for old, new in renamed.items():
            if old in node.all_input_nodes:
                node.replace_input_with(old, new)
        if node.target is torch._C._set_grad_enabled:
            grad = bool(node.args[0])
            continue
        if not isinstance(node.target, torch._ops.OpOverload) and node.target is not operator.getitem:
            raise GraphError(f"the model calls {getattr(node.target, '__name__', node.target)}, which is not supported")
        path = tuple(n for n, _ in stack)
        leaf = bool(path) and path[-1] in trail.leaves
        op = Op(node, path, stack[-1][1] if stack else 0, grad, leaf)
        settle_writes(op, ops, by_kind, renamed, owners)
        _find_alias(op, owners)
        ops.append(op)
    check_buffers(ops, by_kind[1])
    output = next(n for n in order if n.op == "output")
    outputs = [renamed.get(n, n) for n in pytree.tree_leaves(output.args[0])]
    containers = frozenset(
        name for name, m in module.named_modules() if isinstance(m, nn.Sequential | nn.ModuleList | nn.ModuleDict)
    )
    trainable = frozenset(name for name, p in module.named_parameters() if p.requires_grad)
    parameter_nodes, buffer_nodes, input_nodes = by_kind
    return Captured(
        _alive(ops, outputs), parameter_nodes, buffer_nodes, input_nodes, constants, outputs, mode, containers,
        trainable,
    )  # fmt: skip


def _stacks(order: Sequence[torch.fx.Node], trail: _Trail) -> list[tuple[tuple[str, int], ...]]:
    stacks: list[tuple[tuple[str, int], ...]] = []
    for stop, stack in trail.marks:
        stacks += [stack] * (stop - len(stacks))
    return stacks + [()] * (len(order) - len(stacks))


def _attribute(root: Any, target: str) -> Any:
    for part in target.split("."):
        root = getattr(root, part)
    return root


def _find_alias(op: Op, owners: dict[int, torch.fx.Node]) -> None:
    """Note whose storage the result shares; a result with memory of its own becomes an owner."""
    tensors = tensors_of(op.node)
    for t in tensors:
        if t.layout != torch.strided or t.is_complex():
            raise GraphError(
                f"{where(op)}: {op.node.target} makes a tensor of {t.layout}, {t.dtype}; that is not supported"
            )
    if _returns_input(op.node):
        op.aliases = owners.get(storage(value(op.node.args[0])))
        return
    shared = {owners[storage(t)] for t in tensors if storage(t) in owners}
    if op.node in shared:  # an in-place call that makes a new tensor now
        return
    if op.mutated and shared:  # an update of a buffer, which returns the buffer
        if op.node.users:
            raise GraphError(f"{where(op)} reads a buffer that it has updated with {op.node.target}")
        return
    if len(shared) == 1 and all(storage(t) in owners for t in tensors):
        op.aliases = shared.pop()
        return
    if shared and isinstance(op.node.target, torch._ops.OpOverload):
        raise GraphError(f"{where(op)}: {op.node.target} returns views beside new tensors; that is not supported")
    for t in tensors:
        owners[storage(t)] = op.node


def _returns_input(node: torch.fx.Node) -> bool:
    """Tell whether a call is a dropout that drops nothing: kernels return its input, the recording a copy of it."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or schema.name not in ("aten::dropout", "aten::feature_dropout", "aten::alpha_dropout"):
        return False
    return not node.args[1] or not node.args[2]


def _alive(ops: list[Op], outputs: Sequence[torch.fx.Node]) -> list[Op]:
    """The operations that an output or a buffer depends on."""
    needed = set(outputs)
    alive = []
    for op in reversed(ops):
        if op.node in needed or op.mutated:
            needed.update(op.node.all_input_nodes)
            alive.append(op)
    return alive[::-1]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
