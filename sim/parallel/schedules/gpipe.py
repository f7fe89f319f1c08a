"""GPipe: all forward passes, then all VJPs."""

from __future__ import annotations

from sim.parallel.pipeline import Part, Pass, PipelineSchedule, scheduled
from sim.parallel.schedules import Shape, pipeline_schedules


@pipeline_schedules.register("gpipe")
def gpipe(shape: Shape) -> PipelineSchedule:
    """All micro-batches forward, then all back, the last one first.

    The bubble is (p - 1)/(m + p - 1), and every rank holds all m micro-batches at once (Huang et al. 2019,
    GPipe, arXiv:1811.06965). Prefer `1f1b`, whose bubble is the same and which holds p at most.
    """
    p, m = shape.ranks, shape.micro_batches
    forward = [[Pass(Part.FORWARD, rank, j) for j in range(m)] for rank in range(p)]
    back = [[Pass(Part.VJP, rank, j) for j in reversed(range(m))] for rank in range(p)]
    return scheduled([f + b for f, b in zip(forward, back, strict=True)], stages=p, micro_batches=m)
