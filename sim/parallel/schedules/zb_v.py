"""ZB-V: two stages a rank, laid out as a V, without a bubble in the memory of 1F1B."""

from __future__ import annotations

from sim.parallel.pipeline import Part, Pass, PipelineSchedule, scheduled
from sim.parallel.schedules import Shape, pipeline_schedules


@pipeline_schedules.register("zb_v")
def zb_v(shape: Shape) -> PipelineSchedule:
    """Stages i and 2p - 1 - i on rank i, VJPs split: no bubble if F = B = W, and p micro-batches a rank at most.

    The micro-batch comes back to the rank that it began on, so that the loss is near its first stage and
    every rank holds the same at its peak (Qi et al. 2023, arXiv:2401.10241, section 6; the order is the one
    for F = B = W, whatever the times are).
    """
    p, m = shape.ranks, shape.micro_batches
    return scheduled([_order(rank, p, m) for rank in range(p)], stages=2 * p, micro_batches=m)


def _order(rank: int, p: int, m: int) -> list[Pass]:
    """The passes of a rank; those of micro-batches beyond the last are left out."""
    down, up = rank, 2 * p - 1 - rank
    order: list[Pass] = []
    count: dict[tuple[Part, int], int] = {}

    def add(part: Part, stage: int) -> None:
        j = count.get((part, stage), 0)
        count[part, stage] = j + 1
        if j < m:
            order.append(Pass(part, stage, j))

    def vjp(stage: int) -> None:
        add(Part.INPUT_VJP, stage)
        add(Part.WEIGHT_VJP, stage)

    enough = max(m, 2 * p - 1)  # micro-batches with which every phase has its length
    for _ in range(2 * (p - rank) - 1):
        add(Part.FORWARD, down)
    for _ in range(rank):
        add(Part.FORWARD, up)
        add(Part.FORWARD, down)
    for _ in range(p - rank):
        add(Part.FORWARD, up)
        vjp(up)
    while count[Part.FORWARD, up] < enough:
        if count[Part.FORWARD, down] < enough:
            add(Part.FORWARD, down)
        vjp(down)
        add(Part.FORWARD, up)
        vjp(up)
    for _ in range(rank):
        add(Part.INPUT_VJP, down)
        add(Part.INPUT_VJP, up)
    for _ in range(p - rank):
        vjp(down)
    while count[Part.WEIGHT_VJP, up] < enough:
        add(Part.WEIGHT_VJP, up)
    while count[Part.WEIGHT_VJP, down] < enough:
        add(Part.WEIGHT_VJP, down)
    return order
