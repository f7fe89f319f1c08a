"""Durations of passes and sends, given for each rank or for each stage, and the work that a schedule is made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from sim.base.errors import ParameterError
from sim.parallel.pipeline import Part


class Transfer(NamedTuple):
    """A send: the seconds that it takes the link for, and those until it is there after that."""

    seconds: float
    latency: float


@dataclass(frozen=True)
class Clock:
    """Seconds of each part of each stage, and what each stage sends on (`forward`) and back takes."""

    parts: Mapping[Part, Sequence[float]]
    forward: Sequence[Transfer]
    back: Sequence[Transfer]


@dataclass(frozen=True)
class Work:
    """The seconds of stages, and what each holds of a micro-batch: `kept` by its forward pass, `left` between VJPs.

    `left` is what its weights' part still reads when its input's part has ended. The unit is bytes, or a stage's
    activations of one micro-batch if these are not known.
    """

    clock: Clock
    kept: Sequence[float]
    left: Sequence[float]


Works: TypeAlias = Callable[[Sequence[int]], Work]
"""The work of stages by the ranks that they are on."""


def even_work(homes: Sequence[int]) -> Work:
    """The work of stages whose parts all take a second, whose input's part frees nothing, and whose sends are free."""
    ones, free = (1.0,) * len(homes), (Transfer(0.0, 0.0),) * len(homes)
    return Work(Clock(dict.fromkeys(Part, ones) | {Part.VJP: (2.0,) * len(homes)}, free, free), ones, ones)


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of the parts of each rank's stages for one micro-batch, and of one send between ranks.

    A tuple has an entry a rank, or one for each stage where ranks have several. `freed` is the share of a
    stage's activations that the input's part of its VJP frees. That of a transformer layer is
    (2 + 5as/h)/(34 + 5as/h) (Qi et al. 2023, arXiv:2401.10241, table 1); with the 128 wide heads and 1024 tokens
    of the larger models there it is 42/74.
    """

    forward: tuple[float, ...]
    input_vjp: tuple[float, ...]
    weight_vjp: tuple[float, ...]
    send: float = 0.0
    freed: float = 42 / 74

    def clock(self, homes: Sequence[int]) -> Clock:
        """The durations of passes and sends of stages on these ranks; a rank's time is shared evenly among its stages.

        Raises
        ------
        ParameterError
            If there are neither as many times as ranks nor as many as stages.
        """
        ranks, stages = max(homes) + 1, len(homes)
        share = ranks / stages
        by_stage: dict[Part, tuple[float, ...]] = {}
        for part in (Part.FORWARD, Part.INPUT_VJP, Part.WEIGHT_VJP):
            given: tuple[float, ...] = getattr(self, part)
            if len(given) == 1:
                by_stage[part] = (given[0] * share,) * stages
            elif len(given) == stages:
                by_stage[part] = given
            elif len(given) == ranks:
                by_stage[part] = tuple(given[rank] * share for rank in homes)
            else:
                counts = str(ranks) if stages == ranks else f"{ranks} or {stages}"
                raise ParameterError(f"got {len(given)} times, expected 1 or {counts}", parameter=(part.value,))
        whole = zip(by_stage[Part.INPUT_VJP], by_stage[Part.WEIGHT_VJP], strict=True)
        by_stage[Part.VJP] = tuple(a + b for a, b in whole)
        return Clock(by_stage, (Transfer(self.send, 0.0),) * stages, (Transfer(self.send, 0.0),) * stages)

    def work(self, homes: Sequence[int]) -> Work:
        """The work of stages on these ranks, in activations of one micro-batch; raises as `clock` does."""
        return Work(self.clock(homes), (1.0,) * len(homes), (1.0 - self.freed,) * len(homes))
