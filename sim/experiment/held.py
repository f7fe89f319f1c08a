"""What the ranks of a pipeline hold over a step: bytes, or micro-batches where there is no graph."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.parallel.job import JobTrace
from sim.parallel.simulate import PipelineTrace

STRETCHES = 120


class Held(NamedTuple):
    """The most that a rank holds in each of equal stretches of the step, and when it is done with all of it."""

    most: list[int] | list[float]
    done: float


def over_time(trace: PipelineTrace, job: JobTrace | None) -> list[Held]:
    """What each rank holds, in stretches from 0 to the end of the last rank."""
    schedule, ranks = trace.schedule, range(trace.schedule.ranks)
    if job is None:
        share = schedule.stages / schedule.ranks
        starts = [trace.run.starts[schedule.of_rank(rank)] for rank in ranks]
        ends = [float(trace.run.ends[schedule.of_rank(rank)].max()) for rank in ranks]
        edges = np.linspace(0.0, max(ends), STRETCHES + 1)
        held = [_most(schedule.held(r) / share, starts[r], edges, ends[r]) for r in ranks]
        return [Held(h.tolist(), end) for h, end in zip(held, ends, strict=True)]
    edges = np.linspace(0.0, max(job.ends), STRETCHES + 1)
    found = []
    for rank, memory in enumerate(job.memory):
        resident = sum(job.resident[rank].values())
        most = _most(memory.levels.sum(axis=1), memory.times, edges)
        found.append(Held([int(level) + resident for level in most], job.ends[rank]))
    return found


def _most(
    levels: NDArray[np.float64], times: NDArray[np.float64], edges: NDArray[np.float64], end: float = np.inf
) -> NDArray[np.float64]:
    """The highest level between each two edges, of levels that hold from their times on until `end`; 0 before."""
    held = np.concatenate([[0.0], levels])
    before, until = (np.searchsorted(times, edges, side=side) for side in ("left", "right"))
    first = np.minimum(before + 1, until)  # the first level at an edge, or the one that holds there
    most = [held[a : max(b, a) + 1].max() for a, b in zip(first[:-1].tolist(), before[1:].tolist(), strict=True)]
    return np.where(edges[:-1] < end, most, 0.0)
