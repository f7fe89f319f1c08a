"""Tables that a schedule's actions on a PyTorch module need at hand, with all that can be looked up beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

from sim.models.torch.program import Step
from sim.models.torch.recorded import value
from sim.schedules.values import ACTIVATION, COTANGENT, RESIDUAL, Numbers

Tensors = list[Any]


class Work:
    """The parts of running one node, looked up once: Python's share of a step is to be small.

    `activation`, `residual` and `cotangent` are numbers of values; `sources` the activations (number of
    the value) and residents (~k) that it reads, each with what stands for it where it is not there.
    """

    __slots__ = (
        "activation", "buffers", "cotangent", "joint", "node", "parameters", "residual", "sources", "step", "strides",
        "targets", "unread",
    )  # fmt: skip

    def __init__(self, step: Step, node: int, numbers: Numbers) -> None:
        self.step, self.joint, self.node = step, step.joint, node
        kinds = (ACTIVATION, RESIDUAL, COTANGENT)
        self.activation, self.residual, self.cotangent = (numbers.value(kind, node) for kind in kinds)
        pairs = zip(step.reads, step.read_tensors, strict=True)
        self.sources = [(numbers.value(ACTIVATION, r) if r >= 0 else r, [None] * many) for r, many in pairs]
        self.parameters, self.buffers = _picker(step.parameters), _picker(step.buffers)
        self.strides = [value(node).stride() for node in step.joint.cotangents]
        self.unread = [None] * len(step.joint.outputs)
        self.targets = [
            (numbers.value(COTANGENT, source) if source >= 0 else -1, source, k) for source, k in step.targets
        ]

    def slots(self, run: Run) -> Tensors:
        """The tensors that the node reads, `None` for those that are not in memory."""
        slots: Tensors = []
        values = run.values
        for key, missing in self.sources:
            slots += values.get(key, missing) if key >= 0 else run.residents[~key]
        slots += self.parameters(run.parameters)
        slots += self.buffers(run.buffers)
        return slots


def _picker(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """A function that takes the values under these names out of a mapping."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda given: [given[name] for name in names]


class Instruction(NamedTuple):
    """One action, ready to run: values to drop after it, and which of its own reads end with it."""

    opcode: int
    work: Work
    taping: bool
    again: bool
    frees: tuple[int, ...]
    last_residual: bool
    copied: tuple[int, int] = (-1, -1)


@dataclass(eq=False)
class Run:
    """One pass under way: values by number, gradients by parameter, and what recomputation restores."""

    parameters: Mapping[str, Any]
    buffers: Mapping[str, Any]
    residents: Sequence[Tensors]
    values: dict[int, Tensors] = field(default_factory=dict)
    gradients: dict[str, Any] = field(default_factory=dict)
    seeds: dict[int, Tensors] = field(default_factory=dict)
    random: dict[int, Any] = field(default_factory=dict)
    finished: bool = False
