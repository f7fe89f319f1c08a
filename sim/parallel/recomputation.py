"""Recomputation by stage: the fewest first blocks of each rank that have to be evaluated again for it to fit."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TypeAlias

import numpy as np

from sim.graphs.node import Ints
from sim.parallel.pipeline import INPUT_VJP, PARTS, VJP, WEIGHT_VJP, PipelineSchedule
from sim.parallel.stages import Recompute, Stage

PATHS: tuple[tuple[Recompute, Recompute], ...] = (("selective", "none"), ("block", "none"), ("block", "selective"))
"""The recomputation of a rank's first blocks, and of its others."""
Layout: TypeAlias = Callable[[int, tuple[Recompute, ...]], Stage]
"""The stage of a number with the recomputation of each of its blocks."""


def fastest(
    lay_out: Layout, blocks: Sequence[int], schedule: PipelineSchedule, limits: Sequence[int]
) -> list[tuple[Recompute, ...]]:
    """The recomputation of the `blocks` of each stage with which each rank works least within its limit.

    Of each of `PATHS` the fewest first blocks are taken with which what comes and goes on the rank fits, messages left
    out, and of these the one with the least seconds; where none fits, the smallest. No pass that takes less makes a
    step longer, so that ranks are planned one by one. First blocks are held longest: their VJPs come last.
    """
    hows: list[tuple[Recompute, ...]] = [()] * schedule.stages
    for rank in range(schedule.ranks):
        own = np.unique(schedule.stage[schedule.of_rank(rank)]).tolist()
        for k, how in zip(own, _of_rank(lay_out, blocks, schedule, rank, own, limits[rank]), strict=True):
            hows[k] = how
    return hows


def _of_rank(
    lay_out: Layout, blocks: Sequence[int], schedule: PipelineSchedule, rank: int, own: Sequence[int], limit: int
) -> list[tuple[Recompute, ...]]:
    edges = [0, *accumulate(blocks[k] for k in own)]
    passes = schedule.of_rank(rank)
    counts = Counter(zip(schedule.part[passes].tolist(), schedule.stage[passes].tolist(), strict=True))

    def stages(hows: Sequence[tuple[Recompute, ...]]) -> dict[int, Stage]:
        return {k: lay_out(k, how) for k, how in zip(own, hows, strict=True)}

    def peak(hows: Sequence[tuple[Recompute, ...]]) -> int:
        return moving_peak(schedule, rank, stages(hows))[1]

    def seconds(hows: Sequence[tuple[Recompute, ...]]) -> float:
        laid_out = stages(hows)
        return sum(counts[part, k] * laid_out[k].seconds(PARTS[part]) for part, k in counts)

    def choices() -> Iterator[list[tuple[Recompute, ...]]]:
        for first, others in PATHS:

            def of(count: int, first: Recompute = first, others: Recompute = others) -> list[tuple[Recompute, ...]]:
                modes = (first,) * count + (others,) * (edges[-1] - count)
                return [modes[a:b] for a, b in pairwise(edges)]

            yield of(bisect_left(range(edges[-1]), True, key=lambda count: peak(of(count)) <= limit))

    found = [(hows, peak(hows), seconds(hows)) for hows in choices()]
    fitting = [choice for choice in found if choice[1] <= limit]
    return min(fitting, key=lambda choice: choice[2])[0] if fitting else min(found, key=lambda choice: choice[1])[0]


def moving_peak(schedule: PipelineSchedule, rank: int, stages: dict[int, Stage]) -> tuple[int, int]:
    """The peak of what comes and goes on a rank, messages left out: without lasting gradients, and with them."""
    part, stage = schedule.part[schedule.of_rank(rank)], schedule.stage[schedule.of_rank(rank)]
    profiles = {(q, k): made.profiles[name] for k, made in stages.items() for q, name in enumerate(PARTS)}
    net, inner = np.zeros((2, len(PARTS), schedule.stages), dtype=np.int64)
    for at, profile in profiles.items():
        net[at] = (profile.taken - profile.freed).sum()
        inner[at] = _peak(profile.taken, profile.freed)
    changes = net[part, stage]
    peak = np.cumsum(changes) - changes + inner[part, stage]
    gradients, begun = np.zeros_like(peak), set[int]()
    for k in stages:
        for number in (VJP, INPUT_VJP, WEIGHT_VJP):
            first = np.flatnonzero((stage == k) & (part == number))[:1].tolist()
            for _, owner, size in profiles[number, k].gradients if first else ():
                if owner not in begun:
                    begun.add(owner)
                    gradients[first[0] + 1 :] += size
    return int(peak.max()), int((peak + gradients).max())


def _peak(taken: Ints, freed: Ints) -> int:
    """The most that the rows of a pass hold, beside what was there before."""
    if not len(taken):
        return 0
    takes, frees = taken.sum(axis=1), freed.sum(axis=1)
    return int((np.cumsum(takes) - np.cumsum(frees) + frees).max())
