"""Run a schedule on real tensors for an imported PyTorch module: the gradient that plain autograd gives.

A schedule becomes an order of the rows of the module's joint graph, which runs in its two halves: the same calls as
plain training makes, some of them more than once. What the schedule keeps is kept, what it drops is dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from sim.base.errors import GraphError, NotApplicable
from sim.execution.torch.halves import halves
from sim.models.torch.pieces import Backward
from sim.models.torch.program import Program
from sim.models.torch.rows import runs_through
from sim.schedules.actions import Copy, Forward, Vjp
from sim.schedules.replay import replay
from sim.schedules.schedule import Schedule


def rows_of(program: Program, schedule: Schedule) -> list[int]:
    """The rows of a program's joint graph in the order of a schedule.

    Rows that run once (they write, or read what is written) are left out where their node is evaluated again.

    Raises
    ------
    NotApplicable
        If the schedule is not one sweep of reverse mode on the device, after all of the forward.
    """
    if schedule.graph is not program.graph:
        raise NotApplicable("the schedule belongs to another graph than the module's")
    if schedule.loops:
        raise NotApplicable("the schedule sweeps several times; a module is run with all cotangents in one sweep")
    replay(schedule)
    joint, pieces = program.captured.joint, {piece.name: piece for piece in program.pieces.pieces}
    walk = Backward(joint, program.pieces.loose)
    rows: list[int] = []
    ran: set[int] = set()
    for row in schedule.rows.tolist():
        match schedule.table.action(row):
            case Forward(node=name):
                again = [r for r in pieces[name].forward if r not in ran or not joint.rows[r].once]
                rows += again
                ran.update(again)
            case Vjp(node=name):
                if joint.boundary not in ran:
                    rows += [*program.pieces.ending, joint.boundary]
                    ran.add(joint.boundary)
                try:
                    rows += walk.run(pieces[name])
                except GraphError as error:
                    raise NotApplicable(f"the schedule cannot be run in this order: {error}") from None
            case Copy():
                raise NotApplicable("the schedule copies between device and host; a module is run without copies")
            case action:
                raise NotApplicable(f"{action} cannot be run on a module; use reverse mode")
    if not runs_through(joint, rows):
        raise NotApplicable("the schedule leaves out a part of the step, or takes a derivative before its forward ends")
    return rows


class Runner:
    """A schedule of a program, ready to be run; `forward` and `backward` are its two halves.

    `state_bytes` are those of random states that it keeps to draw the same numbers again.

    Raises
    ------
    NotApplicable
        If the schedule is not one that `rows_of` gives an order for.
    """

    def __init__(self, program: Program, schedule: Schedule) -> None:
        self.captured = program.captured
        self.joint = program.captured.joint
        rows = rows_of(program, schedule)
        self.halves = halves(self.joint, rows)
        again = [self.joint.rows[r].state for r, times in Counter(rows).items() if times > 1]
        self.state_bytes = sum(self.joint.storages[self.joint.storage_of[s]].bytes for s in again if s is not None)
        described = zip(self.joint.returned, self.joint.descriptions, strict=False)
        self._updates = [k for k, (_, what) in enumerate(described) if type(what).__name__ == "InputMutationAOTOutput"]
        given = [k for k, n in enumerate(self.joint.returned) if isinstance(n, fx.Node) and n.op == "placeholder"]
        self._returned = sorted(set(range(len(self.joint.returned))) - set(self._updates) - set(given))

    def forward(self, named: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
        """(What the module returns, what is saved for the backward), with these tensors by name in place of its own.

        Buffers are updated as by one training step.
        """
        given = [named.get(self.captured.names[n], t) for n, t in self.captured.given.items()]
        detached = [t.detach() if isinstance(t, torch.Tensor) else t for t in given]
        results = list(_Run(self.halves.forward).boxed_run(detached))
        saved = results[len(self.joint.returned) :]
        place = {n.meta["desc"]: t for n, t in zip(self.captured.given, given, strict=True)}
        for k in self._updates:
            place[self.joint.descriptions[k].mutated_input].copy_(results[k])
        return [results[k] for k in self._returned], saved

    def backward(self, saved: list[Any], seeds: list[Any]) -> dict[str, Any]:
        """The gradients of parameters by name, for a cotangent of each result; empties both lists."""
        given = [*saved, *seeds]
        saved.clear()
        seeds.clear()
        names = {n.meta["desc"]: name for n, name in self.captured.names.items()}
        gradients = _Run(self.halves.backward).boxed_run(given)
        kinds = self.joint.descriptions[len(self.joint.returned) :]
        return {names[kind.grad_of]: g for kind, g in zip(kinds, gradients, strict=True) if g is not None}


class _Run(fx.Interpreter):  # type: ignore[misc]
    """A run of one of the two halves, which drops each tensor after its last reader; one without any, at once."""

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        return made if n.users or n.op == "output" else None


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
    """
    runner = Runner(program, schedule)
    with torch.no_grad():
        results, saved = runner.forward(dict([*module.named_parameters(), *module.named_buffers(), *inputs.items()]))
        if any(t.numel() != 1 for t in results):
            raise NotApplicable("the module does not end in a scalar; import it with a loss")
        seeds = [torch.ones_like(t) for t in results]
        return Execution(results, runner.backward(saved, seeds))
