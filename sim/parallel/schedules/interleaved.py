"""Interleaved 1F1B: several stages a rank, so that the pipeline fills in a fraction of the time."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sim.base.errors import ParameterError
from sim.base.registry import Count
from sim.parallel.pipeline import Part, Pass, PipelineSchedule, scheduled
from sim.parallel.schedules import Shape, pipeline_schedules


def check(shape: Shape) -> None:
    """Raise ParameterError unless the micro-batches make whole groups of one for each rank."""
    if shape.micro_batches % shape.ranks:
        expected = f"a multiple of the {shape.ranks} stages"
        raise ParameterError(f"got {shape.micro_batches} micro-batches, expected {expected}")


@pipeline_schedules.register("interleaved", requires=check)
def interleaved(
    shape: Shape, *, chunks: Annotated[Count, Field(ge=2, description="stages of each rank")] = 2
) -> PipelineSchedule:
    """1F1B over v·p stages, of which rank i has i, p + i, 2p + i, …, in groups of p micro-batches.

    The bubble is (p - 1)/v of a micro-batch's time, so (p - 1)/(v·m + p - 1) of the step, for v times the
    sends; rank 0 holds 1 + (p - 1)/(p·v) of what it holds under 1F1B (Narayanan et al. 2021,
    arXiv:2104.04473, section 2.2; Korthikanti et al. 2022, arXiv:2205.05198).

    Raises
    ------
    ParameterError
        If the number of micro-batches is not a multiple of the number of ranks.
    """
    check(shape)
    p, m, v = shape.ranks, shape.micro_batches, chunks
    orders = []
    for rank in range(p):
        forward = [Pass(Part.FORWARD, chunk * p + rank, j) for j, chunk in _groups(p, m, v)]
        back = [Pass(Part.VJP, (v - 1 - chunk) * p + rank, j) for j, chunk in _groups(p, m, v)]
        ahead = min(2 * (p - 1 - rank) + (v - 1) * p, m * v)
        order = forward[:ahead]
        for k, vjp in enumerate(back):
            order += [*forward[ahead + k : ahead + k + 1], vjp]
        orders.append(order)
    return scheduled(orders, stages=p * v, micro_batches=m)


def _groups(p: int, m: int, v: int) -> list[tuple[int, int]]:
    """(micro-batch, chunk) in the order of a rank: each chunk for p micro-batches, then the next p."""
    return [(first + k, chunk) for first in range(0, m, p) for chunk in range(v) for k in range(p)]
