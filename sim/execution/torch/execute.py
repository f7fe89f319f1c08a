"""Run a schedule on real tensors for an imported PyTorch module: the gradient that plain autograd gives.

Each node's forward and gradient are functions recorded from PyTorch's own autograd (`sim.models.torch`), so
the same kernels run in the same order. What the schedule keeps is kept, what it drops is dropped at
that moment. A node that is evaluated again draws the same random numbers and leaves buffers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sim.base.errors import GraphError, InvalidSchedule, NotApplicable
from sim.execution.torch.work import Instruction, Run, Tensors, Work
from sim.models.torch.joint import Joint
from sim.models.torch.program import Program, Step
from sim.models.torch.recorded import value
from sim.schedules.actions import Copy, Forward, Vjp
from sim.schedules.effects import FORWARD, VJP
from sim.schedules.lifetimes import ends
from sim.schedules.replay import replay
from sim.schedules.schedule import Schedule


class Runner:
    """A schedule of a program, compiled to instructions; `forward` and `backward` run its two halves.

    Raises
    ------
    NotApplicable
        If the schedule is not one of reverse mode, or takes a derivative before its forward is done.
    """

    def __init__(self, program: Program, schedule: Schedule) -> None:
        if schedule.graph is not program.graph:
            raise NotApplicable("the schedule belongs to another graph than the module's")
        if schedule.loops:
            raise NotApplicable("the schedule sweeps several times; a module is run with all cotangents in one sweep")
        replay(schedule)
        self.program = program
        self.n = len(program.steps)
        self.works = [Work(step, i, schedule.table.numbers) for i, step in enumerate(program.steps)]
        self.instructions = list(self._compiled(schedule))
        self.split = next((k for k, x in enumerate(self.instructions) if x.opcode == VJP), len(self.instructions))
        self.readers = _readers(program.steps)
        early = {x.work.node for x in self.instructions[: self.split]}
        late = sorted(set(program.graph.sinks.tolist()) - early)
        if late:
            raise NotApplicable(f"the schedule computes output '{program.steps[late[0]].name}' after its first VJP")

    def _compiled(self, schedule: Schedule) -> Any:
        table = schedule.table
        seen: set[int] = set()
        differentiated: set[int] = set()
        for row, end in zip(schedule.rows.tolist(), ends(table, schedule.rows, schedule.flags), strict=True):
            opcode, node, action, touches = (
                int(table.opcode[row]),
                int(table.node[row]),
                table.action(row),
                table.touches(row),
            )
            work, frees = self.works[node], tuple(end.freed)
            match action:
                case Forward():
                    saving = work.residual in touches and work.residual not in end.unsaved
                    yield Instruction(opcode, work, saving, node in seen, frees, False)
                    seen.add(node)
                case Vjp():
                    if node in differentiated:
                        raise NotApplicable(f"the schedule takes the VJP of '{action.node}' twice")
                    differentiated.add(node)
                    yield Instruction(opcode, work, False, False, frees, work.residual in end.freed)
                case Copy():
                    source, target = touches
                    yield Instruction(opcode, work, False, False, frees, False, (source, target))
                case _:
                    raise NotApplicable(f"{action} cannot be run on a module; use reverse mode")

    def start(self, parameters: Mapping[str, Any], buffers: Mapping[str, Any], inputs: Mapping[str, Any]) -> Run:
        """A pass on these tensors; parameters and inputs are read, buffers updated as the module would."""
        residents: list[Tensors] = []
        constants = self._constants(buffers, inputs)
        for name in self.program.residents:
            residents.append(constants[name] if name in constants else [_laid_out(self.program, name, inputs)])
        return Run(parameters, buffers, residents)

    def _constants(self, buffers: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Tensors]:
        pieces = self.program.pieces
        env: dict[Any, Any] = dict(self.program.captured.constants)
        for op in pieces.constant_ops:
            args, kwargs = torch.fx.map_arg((op.node.args, dict(op.node.kwargs)), env.__getitem__)
            env[op.node] = op.node.target(*args, **kwargs)
        first = len(self.program.residents) - len(pieces.constants)
        names = self.program.residents[first:]
        return {n: _flat(env[node]) for n, node in zip(names, pieces.constants, strict=True)}

    def forward(self, run: Run) -> list[Tensors]:
        """The outputs of the graph (its sinks, in order), after all actions before the first VJP."""
        sinks = self.program.graph.sinks.tolist()
        outputs: dict[int, Tensors] = {}
        for x in self.instructions[: self.split]:
            if x.opcode == FORWARD:
                made = self._forward(run, x)
                if x.work.node in sinks and x.work.node not in outputs:
                    outputs[x.work.node] = made
                del made
            else:
                self._copy(run, x)
            for v in x.frees:
                run.values.pop(v, None)
        return [outputs[s] for s in sinks]

    def backward(self, run: Run, seeds: list[Tensors]) -> dict[str, Any]:
        """The gradients of parameters by name, for a cotangent of each output; empties `seeds`."""
        if run.finished:
            raise InvalidSchedule(
                "the pass is over: its values are gone, a second backward needs a new forward", action=0
            )
        run.finished = True
        run.seeds = dict(zip(self.program.graph.sinks.tolist(), map(list, seeds), strict=True))
        seeds.clear()
        for x in self.instructions[self.split :]:
            if x.opcode == VJP:
                self._vjp(run, x)
            elif x.opcode == FORWARD:
                self._forward(run, x)
            else:
                self._copy(run, x)
            for v in x.frees:
                run.values.pop(v, None)
        return run.gradients

    def _forward(self, run: Run, x: Instruction) -> Tensors:
        work, joint = x.work, x.work.joint
        slots = work.slots(run)
        if x.again:
            for s in joint.written:
                slots[s] = slots[s].clone()
        function = joint.taping if x.taping else joint.plain
        made = self._randomly(run, x, function, slots) if joint.random else function([], slots)
        if not x.taping:
            run.values[work.activation] = made
            return made
        many = len(joint.outputs)
        run.values[work.activation], run.values[work.residual] = made[:many], made[many:]
        return run.values[work.activation]

    def _randomly(self, run: Run, x: Instruction, function: Any, slots: Tensors) -> Tensors:
        """Evaluate with the random numbers of the node's first evaluation."""
        devices = sorted({s.device for s in slots if s is not None and s.device.type != "cpu"}, key=str)
        if not x.again:
            run.random[x.work.node] = _random_state(devices)
            return function([], slots)  # type: ignore[no-any-return]
        now = _random_state(devices)
        _restore(run.random[x.work.node])
        made: Tensors = function([], slots)
        _restore(now)
        return made

    def _vjp(self, run: Run, x: Instruction) -> None:
        work, values = x.work, run.values
        cotangent = values.pop(work.cotangent, None)
        if work.node in run.seeds:
            seed = run.seeds.pop(work.node)
            cotangent = [None if s is None else s.clone() if work.joint.passed else s for s in seed]
            del seed
        if cotangent is None or all(c is None for c in cotangent):
            values.pop(work.residual, None)
            return
        residual = values.pop(work.residual, []) if x.last_residual else list(values.get(work.residual, ()))
        slots = work.slots(run)
        for c, stride in zip(cotangent, work.strides, strict=True):
            if c is None or c.stride() != stride:
                _complete(cotangent, work.joint, slots)
                break
        del c
        slots += values.get(work.activation) or work.unread
        residual += cotangent
        del cotangent
        gradients = work.joint.pullback(residual, slots)
        gradients.reverse()
        for key, source, k in work.targets:
            gradient = gradients.pop()
            if gradient is None:
                continue
            if source >= 0:
                self._add(values, key, source, k, gradient)
                continue
            name = work.step.parameters[k]
            if name in run.gradients:
                run.gradients[name].add_(gradient)
            else:
                run.gradients[name] = gradient

    def _add(self, values: dict[int, Tensors], key: int, source: int, k: int, gradient: Any) -> None:
        """Add to the cotangent of output k of a node, or make it."""
        held = values.get(key)
        if held is None:
            held = values[key] = list(self.works[source].unread)
        if held[k] is not None:
            held[k].add_(gradient)
        elif self.readers[source] > 1 and gradient.untyped_storage().nbytes() < gradient.nbytes:
            held[k] = gradient.contiguous()
        else:
            held[k] = gradient

    def _copy(self, run: Run, x: Instruction) -> None:
        """Copy a value to another tier; host memory is pinned where the value comes from a CUDA device."""
        source, target = x.copied
        home = next((p.device for p in run.parameters.values()), torch.device("cpu"))
        away = target >= 5 * self.n
        run.values[target] = [_to_host(t) if away else t.to(home, copy=True) for t in run.values[source]]


def _complete(cotangents: Tensors, joint: Joint, slots: Tensors) -> None:
    """Lay cotangents out as the gradient was recorded; zeros for outputs that nothing came back for."""
    for k, (node, output) in enumerate(zip(joint.cotangents, joint.outputs, strict=True)):
        expected = value(node)
        if cotangents[k] is None:
            device = value(output).device if slots[0] is None else slots[0].device
            cotangents[k] = torch.zeros(expected.shape, dtype=expected.dtype, device=device)
        if cotangents[k].stride() != expected.stride():
            laid_out = torch.empty_strided(
                expected.shape, expected.stride(), dtype=expected.dtype, device=cotangents[k].device
            )
            cotangents[k] = laid_out.copy_(cotangents[k])


def _to_host(t: Any) -> Any:
    if t.device.type != "cuda":
        return t.clone()
    host = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, pin_memory=True)
    return host.copy_(t)


def _readers(steps: Sequence[Step]) -> dict[int, int]:
    readers = dict.fromkeys(range(len(steps)), 0)
    for step in steps:
        for r in {r for r in step.reads if r >= 0}:
            readers[r] += 1
    return readers


def _flat(made: Any) -> Tensors:
    return list(made) if isinstance(made, list | tuple) else [made]


def _laid_out(program: Program, name: str, inputs: Mapping[str, Any]) -> Any:
    """An input as it was traced.

    Raises
    ------
    GraphError
        If it is missing, or of another shape or dtype.
    """
    node = next(n for n, other in program.captured.inputs.items() if other == name)
    expected, given = value(node), inputs.get(name)
    if given is None:
        raise GraphError(f"input '{name}' is missing")
    if given.shape != expected.shape or given.dtype != expected.dtype:
        raise GraphError(
            f"input '{name}' is {tuple(given.shape)}, {given.dtype}; the module was traced with "
            f"{tuple(expected.shape)}, {expected.dtype}"
        )
    if given.stride() == expected.stride():
        return given.detach()
    return torch.empty_strided(expected.shape, expected.stride(), dtype=given.dtype, device=given.device).copy_(given)


def _random_state(devices: Sequence[Any]) -> dict[Any, Any]:
    return {None: torch.get_rng_state()} | {d: torch.cuda.get_rng_state(d) for d in devices}


def _restore(state: Mapping[Any, Any]) -> None:
    for device, numbers in state.items():
        if device is None:
            torch.set_rng_state(numbers)
        else:
            torch.cuda.set_rng_state(numbers, device)


@dataclass(frozen=True, eq=False)
class Execution:
    """The results of a schedule for a module: its outputs, and the gradients of its parameters by name."""

    outputs: list[Any]
    gradients: dict[str, Any]


def execute(program: Program, schedule: Schedule, module: torch.nn.Module, inputs: Mapping[str, Any]) -> Execution:
    """Outputs and parameter gradients of a module by a schedule; the graph has to end in one scalar (a loss).

    Buffers of the module (running averages) are updated as by one training step.

    Raises
    ------
    NotApplicable
        For schedules that are not of reverse mode, and graphs that do not end in a scalar.
    GraphError
        For inputs of other shapes than the module was traced with.
    """
    runner = Runner(program, schedule)
    with torch.no_grad():
        run = runner.start(dict(module.named_parameters()), dict(module.named_buffers()), inputs)
        outputs = runner.forward(run)
        if any(t.numel() != 1 for made in outputs for t in made):
            raise NotApplicable("the module does not end in a scalar; import it with a loss")
        results = [t.clone() for made in outputs for t in made]
        del outputs
        seeds = [[torch.ones_like(results[k])] for k in range(len(results))]
        return Execution(results, runner.backward(run, seeds))
