"""The memory of each rank over a step: its stages' passes and messages, laid out by the clock of a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.base.compiled import compiled
from sim.graphs.node import Ints
from sim.parallel.pipeline import FORWARD, PARTS
from sim.parallel.simulate import PipelineTrace
from sim.parallel.stages import COMMUNICATION, GRADIENTS, HELD, Stage


@dataclass(frozen=True, eq=False)
class RankMemory:
    """The bytes by kind of what comes and goes on a rank after each change, and when these are; the peak's index."""

    times: NDArray[np.float64]
    levels: Ints
    peak_at: int

    @property
    def peak_bytes(self) -> int:
        return int(self.levels[self.peak_at].sum())

    def breakdown(self, at: int) -> dict[str, int]:
        """The bytes of each kind after change number `at`."""
        return dict(zip(HELD, self.levels[at].tolist(), strict=True))


class StageRows:
    """The rows of all parts of stages one after the other, as the compiled loop reads them.

    Rows of stage s and part q are ptr[q, s] … ptr[q, s] + count[q, s] - 1; they end at these `shares` of their pass.
    `messages` has the bytes of a stage's result on the way there and back, and 1 where the sender holds it anyway.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        profiles = [[stage.profiles[part] for stage in stages] for part in PARTS]
        flat = [profile for of_part in profiles for profile in of_part]
        self.count = np.array([[len(profile.seconds) for profile in of_part] for of_part in profiles])
        self.ptr = (np.cumsum(self.count) - self.count.ravel()).reshape(self.count.shape)
        self.taken = np.concatenate([profile.taken for profile in flat])
        self.freed = np.concatenate([profile.freed for profile in flat])
        self.shares = np.concatenate([_shares(profile.seconds) for profile in flat])
        lasting = [
            (first + row, owner, size)
            for first, profile in zip(self.ptr.ravel().tolist(), flat, strict=True)
            for row, owner, size in profile.gradients
        ]
        self.gradients = np.array(lasting, dtype=np.int64).reshape(-1, 3)
        self.gradient_ptr = np.searchsorted(self.gradients[:, 0], np.arange(len(self.taken) + 1))
        self.messages = np.array([(s.forward.bytes, s.back.bytes, s.forward.kept, s.back.kept) for s in stages])


def _shares(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shares of a pass at which its rows end."""
    whole, count = seconds.sum(), len(seconds)
    return np.cumsum(seconds) / whole if whole else np.arange(1, count + 1) / max(count, 1)


def memory_of(trace: PipelineTrace, rows: StageRows, rank: int) -> RankMemory:
    """The memory of a rank of a simulated pipeline whose stages have these rows.

    Rows of a pass take shares of its time as of its profile's seconds. Parameter gradients stay from the
    first VJP on. A message takes memory on the receiver from its start on, until the pass that reads it has
    it, and on the sender until its end, unless that holds it anyway.
    """
    schedule, run = trace.schedule, trace.run
    own = schedule.of_rank(rank)
    part, stage = schedule.part[own], schedule.stage[own]
    moments, changes = _messages(trace, rows, rank)
    count = 2 * int(rows.count[part, stage].sum()) + len(moments)
    times, levels = np.zeros(count), np.zeros((count, len(HELD)), dtype=np.int64)
    begun = np.zeros(int(rows.gradients[:, 1].max(initial=-1)) + 1, dtype=np.bool_)
    peak_at = _lay_out(
        rows.ptr[part, stage], rows.count[part, stage], run.starts[own], run.ends[own], rows.shares, rows.taken,
        rows.freed, rows.gradient_ptr, rows.gradients, moments, changes, begun, times, levels,
    )  # fmt: skip
    return RankMemory(times, levels, int(peak_at))


def _messages(trace: PipelineTrace, rows: StageRows, rank: int) -> tuple[NDArray[np.float64], Ints]:
    """When messages take and free memory on a rank, and how much, in order; what ends with a moment comes first."""
    schedule, sends = trace.schedule, trace.schedule.sends
    way = (schedule.part[sends.of] != FORWARD).astype(np.int64)
    message = rows.messages[schedule.stage[sends.of]]
    every = np.arange(len(way))
    size, kept = message[every, way], message[every, 2 + way]
    to, out = sends.target == rank, (sends.source == rank) & (kept == 0)
    begin = np.concatenate([trace.run.send_starts[to], trace.ready[out]])
    end = np.concatenate([trace.run.starts[sends.reader[to]], trace.arrivals[out]])
    size = np.concatenate([size[to], size[out]])
    there = end > begin
    moments = np.concatenate([end[there], begin[there]])
    changes = np.concatenate([-size[there], size[there]])
    order = np.lexsort((changes > 0, moments))
    return moments[order], changes[order]


@compiled
def _lay_out(
    first: Any, count: Any, starts: Any, ends: Any, shares: Any, taken: Any, freed: Any, gradient_ptr: Any,
    gradients: Any, moments: Any, changes: Any, begun: Any, times: Any, levels: Any,
) -> Any:  # fmt: skip
    """Write the moments of changes and the levels after them; return the place of the highest.

    At one moment messages that end come first, then rows, then messages that begin.
    """
    at, message, best, total, highest = 0, 0, 0, 0, 0
    for k in range(len(first) + 1):
        last = k == len(first)
        for change in range(1 if last else 2 * count[k]):  # a row takes at its start, and frees at its end
            row = 0 if last else first[k] + change // 2
            time = np.inf if last else starts[k]
            if change:
                time = min(starts[k] + shares[row - 1 + change % 2] * (ends[k] - starts[k]), ends[k])
            while message < len(moments) and (
                moments[message] < time or (moments[message] == time and changes[message] < 0)
            ):
                _begin(times, levels, at, moments[message])
                levels[at, COMMUNICATION] += changes[message]
                total += changes[message]
                if total > highest:
                    best, highest = at, total
                message += 1
                at += 1
            if last:
                break
            _begin(times, levels, at, time)
            for kind in range(levels.shape[1]):
                size = -freed[row, kind] if change % 2 else taken[row, kind]
                levels[at, kind] += size
                total += size
            for g in range(gradient_ptr[row], gradient_ptr[row + 1]):
                if not begun[gradients[g, 1]]:
                    begun[gradients[g, 1]] = True
                    levels[at, GRADIENTS] += gradients[g, 2]
                    total += gradients[g, 2]
            if total > highest:
                best, highest = at, total
            at += 1
    return best


@compiled
def _begin(times: Any, levels: Any, at: Any, time: Any) -> None:
    """Begin a change with the levels after the one before."""
    times[at] = time
    for kind in range(levels.shape[1] if at else 0):
        levels[at, kind] = levels[at - 1, kind]
