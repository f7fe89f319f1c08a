"""GPipe: all forward passes, then all VJPs."""

from __future__ import annotations

import numpy as np

from sim.parallel.pipeline import FORWARD, VJP, PipelineSchedule, scheduled
from sim.parallel.schedules import Shape, pipeline_schedules


@pipeline_schedules.register("gpipe")
def gpipe(shape: Shape) -> PipelineSchedule:
    """All micro-batches forward, then all back, the last one first.

    The bubble is (p - 1)/(m + p - 1), and every rank holds all m micro-batches at once (Huang et al. 2019,
    GPipe, arXiv:1811.06965). Prefer `1f1b`, whose bubble is the same and which holds p at most.
    """
    p, m = shape.ranks, shape.micro_batches
    part, there = np.repeat([FORWARD, VJP], m), np.arange(m)
    micro_batch = np.concatenate([there, there[::-1]])
    rows = [np.stack([part, np.full_like(part, rank), micro_batch], axis=1) for rank in range(p)]
    return scheduled(rows, stages=p, micro_batches=m)
