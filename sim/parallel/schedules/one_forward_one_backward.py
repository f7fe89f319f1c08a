"""1F1B and its zero-bubble forms: forward passes and VJPs in turn, and the weights' part put off."""

from __future__ import annotations

import numpy as np

from sim.graphs.node import Ints
from sim.parallel.pipeline import FORWARD, INPUT_VJP, VJP, WEIGHT_VJP, PipelineSchedule, scheduled
from sim.parallel.schedules import Shape, pipeline_schedules


@pipeline_schedules.register("1f1b")
def one_forward_one_backward(shape: Shape) -> PipelineSchedule:
    """A forward pass and a VJP in turn, so that rank i holds p - i micro-batches at most.

    The bubble is that of `gpipe`, (p - 1)/(m + p - 1) (Harlap, Narayanan et al. 2018, PipeDream,
    arXiv:1806.03377; with a flush after each step: Narayanan et al. 2021, arXiv:2104.04473).
    """
    p, m = shape.ranks, shape.micro_batches
    orders = [in_turn(rank, m, ahead=p - 1 - rank, behind=None) for rank in range(p)]
    return scheduled(orders, stages=p, micro_batches=m)


@pipeline_schedules.register("zb_h1")
def zb_h1(shape: Shape) -> PipelineSchedule:
    """1F1B with VJPs split, the weights' part i micro-batches behind on rank i.

    The bubble shrinks from (p - 1)(F + B + W) to (p - 1)(F + B - W) seconds, and no rank holds more than the p
    micro-batches of 1F1B's first (Qi et al. 2023, arXiv:2401.10241, figure 2 and table 1).
    """
    p, m = shape.ranks, shape.micro_batches
    orders = [in_turn(rank, m, ahead=p - 1 - rank, behind=rank) for rank in range(p)]
    return scheduled(orders, stages=p, micro_batches=m)


@pipeline_schedules.register("zb_h2")
def zb_h2(shape: Shape) -> PipelineSchedule:
    """ZB-H1 with twice the forward passes ahead: no bubble if F = B = W and 2p - 1 micro-batches fit.

    The bubble is (p - 1)(F + B - 2W) seconds, at least 0 (Qi et al. 2023, arXiv:2401.10241, figure 3 and
    table 1). Ranks do not start and end together: a step overlaps the next one, and there is no barrier between.
    """
    p, m = shape.ranks, shape.micro_batches
    orders = [in_turn(rank, m, ahead=2 * (p - 1 - rank), behind=2 * rank) for rank in range(p)]
    return scheduled(orders, stages=p, micro_batches=m)


def in_turn(rank: int, micro_batches: int, *, ahead: int, behind: int | None) -> Ints:
    """`ahead` forward passes, then one forward pass and one VJP in turn, then what is left, as rows of a schedule.

    VJPs are split unless `behind` is None, their weights' parts so many micro-batches behind.
    """
    turns = np.arange(-ahead, micro_batches + (behind or 0))
    part = [FORWARD, VJP] if behind is None else [FORWARD, INPUT_VJP, WEIGHT_VJP]
    micro_batch = turns[:, None] - np.array([-ahead, 0, behind or 0])[: len(part)]
    rows = np.stack([np.broadcast_to(part, micro_batch.shape), np.full_like(micro_batch, rank), micro_batch], axis=-1)
    chosen: Ints = rows[(micro_batch >= 0) & (micro_batch < micro_batches)]
    return chosen
