"""Plans on PyTorch modules: `apply(module, plan)` trains a module by the schedule of a plan.

Imported with PyTorch alone: `import sim.torch`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from sim.base.errors import GraphError, NotApplicable
from sim.execution.torch.execute import Runner
from sim.execution.torch.work import Run, Tensors
from sim.models.torch.program import Program, program
from sim.models.torch.recorded import Captured, Op, tensors_of
from sim.schedules.plan import plan_of, read, schedule_of

__all__ = ["apply", "plan_of"]

M = TypeVar("M", bound=nn.Module)

STATE = "_sim_plan"


def apply(module: M, plan: Mapping[str, Any] | str | os.PathLike[str]) -> M:
    """`module`, which from now on trains under `plan` (a mapping, or the path of a plan.json).

    Call it as before: `loss(module(x), y).backward()` gives the gradients of plain training, bit for bit
    where kernels are deterministic. The module keeps its parameters, names and state_dict. In eval mode
    and under `torch.no_grad()` it runs plainly. Inputs of new shapes are traced again; ones larger
    than the plan's are refused, because its memory would not be respected.

    Raises
    ------
    NotApplicable
        If the plan copies or sweeps several times; at the first call in training, if it was made for another model.
    DocumentError
        If the file holds something else.
    GraphError
        At the first call in training, for a module that cannot be traced.
    """
    if isinstance(plan, str | os.PathLike):
        plan = read(Path(plan))
    assert not isinstance(plan, str | os.PathLike)
    if "order" not in plan:
        raise NotApplicable(
            f"the plan ({plan.get('strategy', 'it copies or loops')}) is no single reverse sweep on the device; "
            "plan without --device, or with a scenario of checkpointing strategies alone"
        )
    base = type(module)
    if STATE in module.__dict__:
        base = base.__mro__[1]
    planned = type(base.__name__, (base,), {"forward": _forward, "__module__": base.__module__})
    module.__class__ = planned
    module.__dict__[STATE] = _Plan(plan)
    return module


def _forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    plain = super(type(self), self).forward
    state: _Plan = self.__dict__[STATE]
    if state.tracing or not (self.training and torch.is_grad_enabled()):
        return plain(*args, **kwargs)
    if state.signature is None:
        state.signature = inspect.signature(plain)
    return state.call(self, state.signature.bind(*args, **kwargs))


class _Plan:
    """A plan with the runners made for it, one for each layout of the inputs; copies of a module share it."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.plan = plan
        self.tracing = False
        self.signature: inspect.Signature | None = None
        self.runners: dict[Any, Runner] = {}

    def __deepcopy__(self, _: Any) -> _Plan:
        return self

    def call(self, module: nn.Module, bound: inspect.BoundArguments) -> Any:
        if torch.is_autocast_enabled():
            raise NotApplicable("autocast is on; a planned module runs in the dtype of its parameters")
        tensors = {k: v for k, v in bound.arguments.items() if isinstance(v, torch.Tensor)}
        for name, t in tensors.items():
            if t.requires_grad:
                raise NotApplicable(f"input '{name}' requires a gradient; a planned module gives those of parameters")
        others = {k: v for k, v in bound.arguments.items() if k not in tensors}
        if any(isinstance(v, torch.Tensor) for v in pytree.tree_leaves(others)):
            raise NotApplicable("a tensor inside a list, tuple or mapping is among the arguments; pass it by itself")
        training, parameters, buffers = _state(module)
        names = [n for n, p in parameters.items() if p.requires_grad]
        if not names:
            raise NotApplicable("no parameter of the module requires a gradient")
        layouts = tuple((k, tuple(t.shape), t.stride(), t.dtype, t.device) for k, t in tensors.items())
        runner = self._runner((layouts, training, tuple(names), repr(others)), module, bound, tensors)
        sweep = self._swept(runner, parameters, buffers, names, tensors)
        flat = _Outputs.apply(sweep, _Gradients.apply(sweep, *(parameters[n] for n in names)))
        return _returned(runner.program, flat)

    def _swept(
        self,
        runner: Runner,
        parameters: Mapping[str, Any],
        buffers: Mapping[str, Any],
        names: Sequence[str],
        given: Any,
    ) -> _Sweep:
        """Run the actions before the first VJP."""
        with torch.no_grad():
            run = runner.start(parameters, buffers, given)
            outputs = [[t.detach() for t in made] for made in runner.forward(run)]
        watched = [*parameters.values(), *(t for value in run.values.values() for t in value if t is not None)]
        return _Sweep(runner, run, names, outputs, [(t, t._version) for t in watched])

    def _runner(self, key: Any, module: nn.Module, bound: inspect.BoundArguments, given: Mapping[str, Any]) -> Runner:
        if key not in self.runners:
            self._check_size(given)
            self.runners[key] = self._traced(module, bound, given)
        return self.runners[key]

    def _check_size(self, given: Mapping[str, Any]) -> None:
        for name, t in given.items():
            planned = self.plan["inputs"].get(name)
            if planned is not None and t.numel() > _numel(planned["shape"]):
                raise NotApplicable(
                    f"input '{name}' is {tuple(t.shape)}, but the plan was made for {tuple(planned['shape'])}: "
                    "a larger input would take more memory than planned"
                )

    def _traced(self, module: nn.Module, bound: inspect.BoundArguments, given: Mapping[str, Any]) -> Runner:
        def call(module: nn.Module, **inputs: Any) -> Any:
            again = inspect.BoundArguments(bound.signature, bound.arguments | inputs)
            return module(*again.args, **again.kwargs)

        self.tracing = True
        try:
            traced = program(module, given, granularity=self.plan["granularity"], name=self.plan["model"], call=call)
        finally:
            self.tracing = False
        _check_outputs(traced)
        return Runner(traced, schedule_of(traced.graph, self.plan))


def _state(module: nn.Module) -> tuple[tuple[bool, ...], dict[str, Any], dict[str, Any]]:
    """Training modes, parameters and buffers of a module's submodules by name, in one quick walk."""
    training: list[bool] = []
    parameters: dict[str, Any] = {}
    buffers: dict[str, Any] = {}
    seen, seen_parameters, seen_buffers = set[int](), set[int](), set[int]()
    stack = [("", module)]
    while stack:
        prefix, part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        training.append(part.training)
        for table, tensors, listed in (
            (parameters, part._parameters, seen_parameters),
            (buffers, part._buffers, seen_buffers),
        ):
            for key, t in tensors.items():
                if t is not None and id(t) not in listed:
                    listed.add(id(t))
                    table[prefix + key] = t
        stack += [(f"{prefix}{name}.", m) for name, m in reversed(part._modules.items()) if m is not None]
    return tuple(training), parameters, buffers


def _numel(shape: Sequence[int]) -> int:
    numel = 1
    for d in shape:
        numel *= d
    return numel


@dataclass(eq=False)
class _Sweep:
    """One pass through the module, between its forward and its backward."""

    runner: Runner
    run: Run | None
    names: Sequence[str]
    outputs: list[Tensors]
    versions: list[tuple[Any, int]]
    seeds: list[Tensors] = field(default_factory=list)


class _Gradients(torch.autograd.Function):  # type: ignore[misc]
    """A token that requires a gradient; its backward runs the schedule from the first VJP on."""

    @staticmethod
    def forward(ctx: Any, sweep: _Sweep, *parameters: Any) -> Any:
        ctx.sweep = sweep
        return torch.zeros((), device=parameters[0].device)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, _: Any) -> Any:
        sweep: _Sweep = ctx.sweep
        run, sweep.run = sweep.run, None
        assert run is not None
        gradients = sweep.runner.backward(run, sweep.seeds)
        return (None, *(gradients.pop(n, None) for n in sweep.names))


class _Outputs(torch.autograd.Function):  # type: ignore[misc]
    """The graph's outputs; its backward only notes their cotangents.

    The token between the two lets autograd forget the cotangents before the schedule begins, so that
    each is freed when the schedule says.
    """

    @staticmethod
    def forward(ctx: Any, sweep: _Sweep, _: Any) -> Any:
        flat = tuple(t for made in sweep.outputs for t in made)
        ctx.sweep, ctx.widths = sweep, [len(made) for made in sweep.outputs]
        sweep.outputs = []
        ctx.mark_non_differentiable(*(t for t in flat if not t.is_floating_point()))
        ctx.set_materialize_grads(False)
        return flat

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *cotangents: Any) -> Any:
        sweep: _Sweep = ctx.sweep
        if sweep.run is None:
            raise NotApplicable("a planned module frees what backward reads; a second backward needs a new forward")
        if any(t._version != version for t, version in sweep.versions):
            raise NotApplicable("a parameter or a result of the module was changed in place before backward")
        sweep.versions = []
        start = 0
        for width in ctx.widths:
            sweep.seeds.append(list(cotangents[start : start + width]))
            start += width
        device = next((t.device for t in cotangents if t is not None), None)
        return None, torch.zeros((), device=device)


def _returned(traced: Program, flat: Sequence[Any]) -> Any:
    """What the module returns: views of the graph's outputs, in the module's own structure."""
    captured = traced.captured
    env: dict[Any, Any] = {}
    rest = iter(flat)
    for sink in traced.graph.sinks.tolist():
        for node in traced.pieces.pieces[sink].outputs:
            env[node] = next(rest)
    for op in _views_returned(captured):
        args, kwargs = torch.fx.map_arg((op.node.args, dict(op.node.kwargs)), env.__getitem__)
        env[op.node] = op.node.target(*args, **kwargs)
    leaves = [env[n] if isinstance(n, torch.fx.Node) else n for n in captured.outputs]
    return pytree.tree_unflatten(leaves, captured.output_spec)


def _views_returned(captured: Captured) -> list[Op]:
    """The views, in order, between the graph's outputs and what the module returns."""
    ends = {n for n in captured.outputs if isinstance(n, torch.fx.Node)}
    views = []
    for op in reversed(captured.ops):
        if op.node in ends and op.aliases is not None:
            ends.update(op.node.all_input_nodes)
            views.append(op)
    return views[::-1]


def _check_outputs(traced: Program) -> None:
    """Raise `GraphError` unless the module returns final results only.

    Raises
    ------
    GraphError
        If it returns something that it reads again, an input or a constant.
    """
    sinks = [n for s in traced.graph.sinks.tolist() for n in traced.pieces.pieces[s].outputs]
    views = {op.node for op in traced.captured.ops if op.aliases is not None}
    start = {n for n in traced.captured.outputs if isinstance(n, torch.fx.Node)} - views
    start |= {n for op in _views_returned(traced.captured) for n in op.node.all_input_nodes} - views
    for node in start.difference(sinks):
        raise GraphError(
            f"the module returns {node.name}, which it reads again or did not compute; that is not supported"
        )
    if any(len(tensors_of(n)) != 1 for n in sinks):
        raise GraphError("the module returns several results of one operation; that is not supported")
