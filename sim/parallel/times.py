"""Durations of passes and sends: given for each rank, or for each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sim.base.errors import ParameterError
from sim.parallel.pipeline import Part, Pass, PipelineSchedule


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

    def send(self, of: Pass) -> Transfer:
        """The send of a pass's result."""
        return (self.forward if of.part is Part.FORWARD else self.back)[of.stage]


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of the parts of each rank's stages for one micro-batch, and of one send between ranks.

    A tuple has an entry a rank, or one for each stage where ranks have several.
    """

    forward: tuple[float, ...]
    input_vjp: tuple[float, ...]
    weight_vjp: tuple[float, ...]
    send: float = 0.0

    def clock(self, schedule: PipelineSchedule) -> Clock:
        """The durations of passes and sends of a schedule; a rank's time is shared evenly among its stages.

        Raises
        ------
        ParameterError
            If there are neither as many times as ranks nor as many as stages.
        """
        ranks, stages = len(schedule.orders), schedule.stages
        share = ranks / stages
        homes = [schedule.rank_of[Pass(Part.FORWARD, stage, 0)] for stage in range(stages)]
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
