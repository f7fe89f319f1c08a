"""Plans on PyTorch: a `backend` for `torch.compile` that trains within a budget, and `apply` for plans of files.

Imported with PyTorch alone: `import sim.torch`.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import nn

from sim.base import json as positioned
from sim.base.errors import NotApplicable, ParameterError, SimError, suggest
from sim.base.units import parse_bytes
from sim.execution.torch.halves import halves
from sim.experiment.joint_plan import JOINT_GRAPH, Minimize, Question, StepPlan, plan_step, same_graph
from sim.models.torch.front import joint_through
from sim.models.torch.rows import joint_rows
from sim.schedules.plan import plan_of, read
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
    document = _document(plan) if isinstance(plan, str | os.PathLike) else plan
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
        torch._dynamo.config.skip_nnmodule_hook_guards = False  # else a hook added later would be ignored
        self._frame: int | None = None

    def __call__(self, module: Any, inputs: Sequence[Any]) -> Any:
        """The compiled form of a graph that Dynamo traced."""
        for given in inputs:
            if isinstance(given, torch.SymInt | torch.SymFloat):
                float(given)  # fixes the size: Dynamo then guards its value
        reason = getattr(module, "compile_subgraph_reason", None)

        def partition(joint: Any, returned: int) -> tuple[Any, Any]:
            self._check_whole(reason)
            rows = joint_rows(joint, returned, redrawn=self.inner == "eager")
            known = next((p for p in self.plans if same_graph(p.joint, rows)), None)
            plan = plan_step(rows, self.question) if known is None else replace(known, joint=rows)
            self.plans.append(plan)
            made = halves(rows, plan.rows)
            return made.forward, made.backward

        if self.inner == "inductor":
            return _inductor(module, inputs, partition)
        return joint_through(module, inputs, partition)

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
            return partition(args[0], kwargs["num_fwd_outputs"])

        def uuid(self) -> None:
            return None

    # a plan is part of what is compiled, so that inductor's cache of graphs on disk would not apply
    patches = {"custom_partitioner_fn": Partitioner(), "fx_graph_cache": False}
    return compile_fx(module, list(inputs), config_patches=patches)


def _document(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """What a file of a plan holds: one of a step, or one of `sim plan`."""
    data = positioned.read(Path(path)).data
    return data if isinstance(data, dict) and data.get("kind") == JOINT_GRAPH else read(Path(path))


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
    """`module`, which from now on trains within the memory of `plan` (a mapping, or the path of a plan.json).

    A plan that `backend` made (`StepPlan.write`) is followed call by call. Of a plan of `sim plan` the step keeps the
    working bytes; which calls run again is planned anew, in flops, for the calls that the step really makes, which are
    finer than the plan's nodes. Only where that cannot be, because the plan's loss needs no memory for the cotangents
    of results (a sum or a mean) and the caller's does, results and cotangents come on top.

    Call the module as before: it keeps its class, parameters, names and state_dict, and gradients are those of plain
    training, as under `backend`. In eval mode and under `torch.no_grad()` it runs plainly. Larger inputs than those of
    the plan are refused, because its memory would not be respected.

    Raises
    ------
    NotApplicable
        If the plan copies, sweeps several times or was made for another model; at the first call in training, for
        other dtypes and larger inputs.
    DocumentError
        If the file holds something else.
    """
    if isinstance(plan, str | os.PathLike):
        plan = _document(plan)
    if plan.get("kind") != JOINT_GRAPH:
        _check_sweep(module, plan)
    base = type(module)
    if STATE in module.__dict__:
        base = base.__mro__[1]
    module.__class__ = type(base.__name__, (base,), {"forward": _forward, "__module__": base.__module__})
    module.__dict__[STATE] = _Planned(base, plan)
    return module


def _forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    planned: _Planned = self.__dict__[STATE]
    if torch.compiler.is_compiling() or not (self.training and torch.is_grad_enabled()):
        return planned.plain(self, *args, **kwargs)
    planned.check_size(inspect.signature(planned.plain).bind(self, *args, **kwargs).arguments)
    try:
        return planned.compiled(self, *args, **kwargs)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        if isinstance(error.inner_exception, SimError):
            raise error.inner_exception from None
        raise


class _Planned:
    """A class's forward, plain and under a plan; copies of a module share it, each guarded by its own parameters."""

    def __init__(self, base: type[nn.Module], plan: Mapping[str, Any]) -> None:
        self.plain = base.forward
        self.inputs = {} if plan.get("kind") == JOINT_GRAPH else plan["inputs"]
        if plan.get("kind") == JOINT_GRAPH:
            question = Question(plan=plan)
        else:
            question = Question(working=plan["working_bytes"], minimize="flops")
        self.backend = Backend(question, "eager")
        self.compiled = torch.compile(self.plain, backend=self.backend, fullgraph=True)

    def __deepcopy__(self, _: Any) -> _Planned:
        return self

    def __reduce__(self) -> Any:
        raise NotApplicable("a planned module cannot be pickled; save its state_dict")

    def check_size(self, given: Mapping[str, Any]) -> None:
        for name, planned in self.inputs.items():
            t = given.get(name)
            if isinstance(t, torch.Tensor) and t.numel() > math.prod(planned["shape"]):
                raise NotApplicable(
                    f"input '{name}' is {tuple(t.shape)}, but the plan was made for {tuple(planned['shape'])}: "
                    "a larger input would take more memory than planned"
                )


def _check_sweep(module: nn.Module, plan: Mapping[str, Any]) -> None:
    """Raise `NotApplicable` unless a plan is one sweep on the device, for a model of these parts."""
    if "order" not in plan:
        raise NotApplicable(
            f"the plan ({plan.get('strategy', 'it copies or loops')}) is no single reverse sweep on the device; "
            "plan without --device, or with a scenario of checkpointing strategies alone"
        )
    parts = {name.rpartition(".")[0] for name, _ in module.named_parameters()} - {""}
    nodes = list(plan["nodes"])
    covered = {p for p in parts if any(f"{p}.".startswith(f"{n}.") or n.startswith(f"{p}.") for n in nodes)}
    if covered != parts:
        raise NotApplicable(
            f"the plan was made for another model ({plan['model']}): "
            f"none of its nodes is in {', '.join(sorted(parts - covered)[:3])}"
        )
    names = {name for name, _ in module.named_modules()}
    elsewhere = [n for n in nodes if n not in names and n.rpartition(".")[0] not in names]
    if elsewhere:
        raise NotApplicable(
            f"the plan was made for another model ({plan['model']}): there is no {', '.join(elsewhere[:3])} here"
        )
