"""The memory of each rank over a step: its stages' passes and messages, laid out by the clock of a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.graphs.node import Ints
from sim.parallel.pipeline import Part
from sim.parallel.simulate import PipelineTrace
from sim.parallel.stages import COMMUNICATION, GRADIENTS, HELD, Message, Stage


@dataclass(frozen=True, eq=False)
class RankMemory:
    """The bytes by kind of what comes and goes on a rank after each change, and when these are; the peak's index."""

    times: NDArray[np.float64]
    levels: Ints
    peak_at: int

    @property
    def peak_bytes(self) -> int:
        return int(self.levels[self.peak_at].sum())

    @property
    def breakdown(self) -> dict[str, int]:
        """The bytes of each kind at the peak."""
        return dict(zip(HELD, self.levels[self.peak_at].tolist(), strict=True))


def memory_of(trace: PipelineTrace, stages: Sequence[Stage], rank: int) -> RankMemory:
    """The memory of a rank of a simulated pipeline whose stages are these.

    Rows of a pass take shares of its time as of its profile's seconds. Parameter gradients stay from the
    first VJP on. A message takes memory on the receiver from its start on, until the pass that reads it has
    it, and on the sender until its end, unless that holds it anyway.
    """
    times: list[NDArray[np.float64]] = []
    changes: list[Ints] = []
    begun: set[int] = set()
    for timed in trace.ranks[rank]:
        part, stage, _ = timed.at
        profile = stages[stage].profiles[part]
        count = len(profile.seconds)
        if not count:
            continue
        whole = profile.seconds.sum()
        share = np.cumsum(profile.seconds) / whole if whole else np.arange(1, count + 1) / count
        edges = np.minimum(timed.start + np.concatenate([[0.0], share]) * (timed.end - timed.start), timed.end)
        change = np.zeros((2 * count, len(HELD)), dtype=np.int64)
        change[0::2], change[1::2] = profile.taken, -profile.freed
        for row, owner, size in profile.gradients:
            if owner not in begun:
                begun.add(owner)
                change[2 * row, GRADIENTS] += size
        times.append(np.stack([edges[:-1], edges[1:]], axis=1).ravel())
        changes.append(change)
    own = sum(map(len, times))
    order = np.arange(own)
    early, late = _messages(trace, stages, rank)
    # what ends with a moment is freed before what begins with it
    all_times = np.concatenate([*times, [t for t, _ in early], [t for t, _ in late]])
    rank_order = np.concatenate([order, np.full(len(early), -1), np.full(len(late), own)])
    message = np.zeros((len(early) + len(late), len(HELD)), dtype=np.int64)
    message[:, COMMUNICATION] = [size for _, size in early + late]
    sequence = np.lexsort((rank_order, all_times))
    levels = np.cumsum(np.concatenate([*changes, message])[sequence], axis=0)
    return RankMemory(all_times[sequence], levels, int(np.argmax(levels.sum(axis=1))))


def _messages(
    trace: PipelineTrace, stages: Sequence[Stage], rank: int
) -> tuple[list[tuple[float, int]], list[tuple[float, int]]]:
    """(time, bytes) of what messages free, and of what they take, on a rank."""
    starts = {t.at: t.start for t in trace.ranks[rank]}
    readers = {source: starts[p] for p in starts for source in trace.schedule.inputs(p)}
    freed, taken = [], []
    for send in trace.sends:
        message = message_of(stages, send.of.part, send.of.stage)
        if send.target == rank:
            begin, end = send.start, readers[send.of]
        elif send.source == rank and not message.kept:
            begin, end = send.ready, send.end
        else:
            continue
        if end > begin:
            taken.append((begin, message.bytes))
            freed.append((end, -message.bytes))
    return freed, taken


def message_of(stages: Sequence[Stage], part: Part, stage: int) -> Message:
    """The message of a stage at the end of a part."""
    return stages[stage].forward if part is Part.FORWARD else stages[stage].back
