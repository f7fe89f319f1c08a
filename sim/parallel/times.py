"""Durations of passes and sends: seconds of each stage for one micro-batch."""

from __future__ import annotations

from dataclasses import dataclass

from sim.base.errors import ParameterError
from sim.parallel.pipeline import Part


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of the parts of each rank's stages for one micro-batch, and of one send between ranks.

    A tuple has an entry a rank, or one for each stage where ranks have several.
    """

    forward: tuple[float, ...]
    input_vjp: tuple[float, ...]
    weight_vjp: tuple[float, ...]
    send: float = 0.0

    def of_stages(self, *, ranks: int, rank_of_stage: tuple[int, ...]) -> dict[Part, tuple[float, ...]]:
        """Seconds of each part by stage; a rank's time is shared evenly among its stages.

        Raises
        ------
        ParameterError
            If there are neither as many times as ranks nor as many as stages.
        """
        stages = len(rank_of_stage)
        share = ranks / stages
        by_stage: dict[Part, tuple[float, ...]] = {}
        for part in (Part.FORWARD, Part.INPUT_VJP, Part.WEIGHT_VJP):
            given: tuple[float, ...] = getattr(self, part)
            if len(given) == 1:
                by_stage[part] = (given[0] * share,) * stages
            elif len(given) == stages:
                by_stage[part] = given
            elif len(given) == ranks:
                by_stage[part] = tuple(given[rank] * share for rank in rank_of_stage)
            else:
                counts = str(ranks) if stages == ranks else f"{ranks} or {stages}"
                raise ParameterError(f"got {len(given)} times, expected 1 or {counts}", parameter=(part.value,))
        whole = zip(by_stage[Part.INPUT_VJP], by_stage[Part.WEIGHT_VJP], strict=True)
        by_stage[Part.VJP] = tuple(a + b for a, b in whole)
        return by_stage
