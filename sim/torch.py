"""Plans on PyTorch: a `backend` for `torch.compile` that trains within a budget, and `apply` for plans of files.

Imported with PyTorch alone: `import sim.torch`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from sim.base import json as positioned
from sim.base.errors import GraphError, NotApplicable, ParameterError, suggest
from sim.base.units import parse_bytes
from sim.execution.torch.execute import Runner
from sim.execution.torch.halves import halves
from sim.execution.torch.work import Run, Tensors
from sim.experiment.joint_plan import Minimize, Question, StepPlan, plan_step
from sim.models.torch.program import Program, program
from sim.models.torch.recorded import Captured, Op, tensors_of
from sim.models.torch.rows import joint_rows
from sim.schedules.plan import plan_of, read, schedule_of
from sim.simulation.device import Device
from sim.simulation.device import device as device_of

__all__ = ["Backend", "apply", "backend", "plan_of"]

M = TypeVar("M", bound=nn.Module)

STATE = "_sim_plan"
Inner = Literal["eager", "inductor"]


def backend(
    *,
    budget: int | str | None = None,
    max_overhead: float | str | None = None,
    plan: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    inner: Inner = "eager",
    reserve: int | str = 0,
    minimize: Minimize = "seconds",
    device: str | Mapping[str, Any] | Device | None = None,
    effort: float | None = None,
    seed: int = 0,
) -> Backend:
    """A backend for `torch.compile` under which a model trains by the best plan found.

    Exactly one of three says what is asked for: `budget`, the bytes that a step may take, or a share of what plain
    training takes (`"60%"`); `max_overhead`, the share of time that recomputation may add (`"5%"`), for the smallest
    peak; `plan`, one that was written before. Peaks count live tensors of the whole step: parameters, buffers and
    inputs, activations, results (also while the caller holds them), their cotangents and gradients. Not counted are
    the optimizer's state, what the caller computes outside the model and what kernels take inside: `reserve` is the
    part of the budget left to those.

    Plans minimise seconds, measured call by call on the device that the model is on, or those of the roofline of a
    `device`; `minimize="flops"` counts flops. `inner` runs the two halves: `"eager"` call by call, which gives the
    bits of plain training and the peak predicted; `"inductor"` compiled, where the peak is that before fusion.

    Dynamo guards what the plan was made for: another shape, dtype, mode or attribute of the model is traced and
    planned anew within the same budget (`torch._dynamo.config.recompile_limit` times at most). A new hook is
    guarded too, for which this sets `torch._dynamo.config.skip_nnmodule_hook_guards` to False.

    Raises
    ------
    ParameterError
        If an argument is wrong; at the first step in training, wrapped by Dynamo, if no plan keeps the budget.
    """
    asked = {"budget": budget, "max_overhead": max_overhead, "plan": plan}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        raise ParameterError(f"backend: got {got}, expected exactly one of budget, max_overhead and plan")
    if inner not in get_args(Inner):
        known = get_args(Inner)
        raise ParameterError(
            f"inner: got {inner!r}, expected {' or '.join(known)}{suggest(str(inner), known)}", parameter=("inner",)
        )
    if minimize not in get_args(Minimize):
        raise ParameterError(f"minimize: got {minimize!r}, expected seconds or flops", parameter=("minimize",))
    document = positioned.read(Path(plan)).data if isinstance(plan, str | os.PathLike) else plan
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    return Backend(
        Question(
            budget=None if budget is None else _budget(budget),
            max_overhead=None if max_overhead is None else _share("max_overhead", max_overhead),
            plan=document,
            reserve=_size("reserve", reserve),
            minimize=minimize,
            device=None if device is None else device_of(device),
            effort=effort,
            seed=seed,
        ),
        inner,
    )


class Backend:
    """A backend for `torch.compile`, for one model; `plans` are those of the graphs compiled so far, in order.

    A step is one graph. Where a part of the model cannot be traced (a graph break) there would be several,
    each of which knows nothing of the others' memory: that is refused, with the place of the break.
    """

    def __init__(self, question: Question, inner: Inner) -> None:
        self.question = question
        self.inner = inner
        self.plans: list[StepPlan] = []
        self._frame: int | None = None

    def __call__(self, module: Any, inputs: Sequence[Any]) -> Any:
        """The compiled form of a graph that Dynamo traced."""
        for given in inputs:
            if isinstance(given, torch.SymInt | torch.SymFloat):
                float(given)  # fixes the size: Dynamo then guards its value
        reason = getattr(module, "compile_subgraph_reason", None)

        def partition(joint: Any, _: Any, *, num_fwd_outputs: int, **__: Any) -> tuple[Any, Any]:
            self._check_whole(reason)
            rows = joint_rows(joint, num_fwd_outputs)
            plan = plan_step(rows, self.question)
            self.plans.append(plan)
            made = halves(rows, plan.rows)
            return made.forward, made.backward

        if self.inner == "inductor":
            return _inductor(module, inputs, partition)
        from torch._dynamo.backends.common import aot_autograd
        from torch._dynamo.backends.debugging import boxed_nop

        return aot_autograd(fw_compiler=boxed_nop, partition_fn=partition, keep_inference_input_mutations=True)(
            module, inputs
        )

    def _check_whole(self, reason: Any) -> None:
        """Raise `NotApplicable` if a graph is but a part of a step."""
        advice = "the budget is for the whole step, so trace it as one graph: torch.compile(…, fullgraph=True) says why"
        if reason is not None and reason.graph_break:
            stack = reason.user_stack or []
            place = f" at {stack[-1].filename}:{stack[-1].lineno}" if stack else ""
            raise NotApplicable(
                f"the model breaks into several graphs{place} ({reason.reason.splitlines()[0]}); {advice}"
            )
        compiled = torch._guards.CompileContext.current_compile_id()
        frame = None if compiled is None else compiled.frame_id
        if self._frame is not None and frame != self._frame:
            raise NotApplicable(f"a second function trains under this backend: {advice}; a second model has its own")
        self._frame = frame


def _inductor(module: Any, inputs: Sequence[Any], partition: Any) -> Any:
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.custom_graph_pass import CustomPartitionerFn

    class Partitioner(CustomPartitionerFn):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return partition(*args, **kwargs)

        def uuid(self) -> None:
            return None

    return compile_fx(module, list(inputs), config_patches={"custom_partitioner_fn": Partitioner()})


def _budget(budget: int | str) -> int | Fraction:
    if isinstance(budget, str) and budget.strip().endswith("%"):
        return _share("budget", budget)
    return _size("budget", budget)


def _size(name: str, given: int | str) -> int:
    try:
        return parse_bytes(given)
    except ValueError as error:
        also = " or a share such as 60%" if name == "budget" else ""
        raise ParameterError(f"{name}: got {given!r}, expected {error}{also}", parameter=(name,)) from None


def _share(name: str, given: float | str) -> Fraction:
    text = str(given).strip()
    try:
        share = Fraction(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = Fraction(-1)
    if share < 0:
        raise ParameterError(f"{name}: got {given!r}, expected a percentage such as 5%", parameter=(name,))
    return share


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
    """The outputs of the module: views of the graph's outputs, in the module's own structure."""
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
