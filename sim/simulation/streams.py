"""The simpy processes of a schedule with copies, one a stream; the rules are those of `sim.simulation.simulate`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import simpy
from numpy.typing import NDArray

from sim.base.errors import Deadlock, OutOfMemory
from sim.graphs.node import Ints
from sim.schedules.lifetimes import COMPUTE, ENDS, Lives, lives
from sim.schedules.replay import Walk
from sim.schedules.schedule import Schedule
from sim.simulation.serial import NO_LIMIT, Events, Floats, Memory, Run, out_of_memory, segments_of


def run_streams(
    schedule: Schedule, walked: Walk, durations: Floats, streams: NDArray[np.int8], capacities: Sequence[int | None]
) -> Run:
    """The run of a schedule whose flat action k takes `durations[k]` on `streams[k]`.

    `walked` has its lives and the bytes of its actions; `capacities` has one entry a tier.

    Raises
    ------
    OutOfMemory
        If an action can never get the memory it needs, or what is resident exceeds the device's.
    """
    lives_of = lives(schedule, walked, streams)
    many = len(streams)
    used = np.unique(streams).tolist()
    segments = segments_of(schedule.flat)
    limits = [NO_LIMIT if c is None else c for c in capacities]
    limited = [c is not None for c in capacities]
    level = [schedule.graph.resident_bytes, 0, 0]
    if level[0] > limits[0]:  # what takes no bytes would not ask
        raise out_of_memory(schedule, 0, 0, need=0, level=level[0], capacity=limits[0])
    into = [target for _, target in ENDS]
    promised = _Promises(streams, lives_of.taken, capacities)

    env = simpy.Environment()
    peek, timeout = env.peek, env.timeout
    starts, ends = [0.0] * many, [0.0] * many
    log: list[int] = []  # k where flat action k starts, ~k where it ends
    marks = [0.0]
    idle: list[int] = []  # the next action of each stream that is free, in issue order
    head = [many] * len(ENDS)  # the first action of each stream that has not started
    wake: list[simpy.Event | None] = [None] * len(ENDS)
    stops = [s.stop for s in segments]
    ended, barrier = 0, stops[0]
    stream_of, seconds_of, taken = streams.tolist(), durations.tolist(), lives_of.taken.tolist()
    following, unmet, dependents = _following(streams).tolist(), lives_of.unmet.tolist(), lives_of.dependents.tolist()
    shares, share_bytes, share_tier = (
        lives_of.shares.tolist(),
        lives_of.share_bytes.tolist(),
        lives_of.share_tier.tolist(),
    )
    share_count, share_end = lives_of.share_count.tolist(), [many] * len(lives_of.share_count)

    def dispatch(now: float) -> None:
        """Start what can start at this instant, in issue order, once all that ends at it has ended."""
        if peek() == now:
            return
        idle.sort()
        for k in tuple(idle):
            if k >= barrier:
                return
            if unmet[k]:
                continue
            s = stream_of[k]
            take, tier = taken[k], into[s]
            if take and limited[tier] and level[tier] + take + promised.before(k, s, head) > limits[tier]:
                continue
            idle.remove(k)
            head[s] = following[k]
            level[tier] += take
            starts[k] = now
            log.append(k)
            waiting = wake[s]
            if waiting is not None:
                wake[s] = None
                waiting.succeed()
            if now + seconds_of[k] == now:
                return  # its end comes before any later start

    def stream(s: int, own: Ints) -> Events:
        nonlocal ended, barrier
        source, target = ENDS[s]
        now = 0.0
        columns = (
            own, durations[own], lives_of.freed_from[own], lives_of.freed_to[own], lives_of.dependent_ptr[own],
            lives_of.dependent_ptr[own + 1], lives_of.share_ptr[own], lives_of.share_ptr[own + 1],
        )  # fmt: skip
        for k, seconds, back_from, back_to, first, last, share, share_stop in zip(
            *(c.tolist() for c in columns), strict=True
        ):
            idle.append(k)
            dispatch(now)
            if head[s] == k:
                wake[s] = waiting = env.event()
                yield waiting
            yield timeout(seconds)
            ends[k] = now = env.now
            log.append(~k)
            for j in range(first, last):
                unmet[dependents[j]] -= 1
            level[source] -= back_from
            level[target] -= back_to
            for j in range(share, share_stop):
                life = shares[j]
                share_count[life] -= 1
                if not share_count[life]:
                    level[share_tier[life]] -= share_bytes[life]
                    share_end[life] = k
            ended += 1
            if ended == barrier:
                marks.append(now)
                barrier = stops[min(len(marks), len(stops)) - 1]
        dispatch(now)
        yield env.event()  # a process that returned would be one more event at this instant

    for s in used:
        own = np.flatnonzero(streams == s)
        head[s] = int(own[0])
        env.process(stream(s, own))
    env.run()
    if ended < many:
        raise _stuck(schedule, idle[0], stream_of, unmet, taken, level, limits)
    when = _waits(streams, lives_of, np.array(starts), np.array(ends), marks, [s.stop - s.start for s in segments])
    order, finished = np.array(log, dtype=np.int64), np.array(share_end, dtype=np.int64)
    memory = _memory(schedule.graph.resident_bytes, streams, lives_of, when[2], when[3], order, finished)
    assert [int(m.bytes[-1]) for m in memory] == level, "the ledger that was followed is that of the arrays"
    return Run(*when, segments, marks, memory)


class _Promises:
    """Bytes promised to actions issued earlier, on the other stream that allocates in the same tier."""

    def __init__(self, streams: NDArray[np.int8], taken: Ints, capacities: Sequence[int | None]) -> None:
        self._rival = [-1] * len(ENDS)
        self._asked: list[list[int]] = [[] for _ in ENDS]  # by stream: the bytes its actions before k ask for
        used = np.unique(streams).tolist()
        for s in used:
            for other in used:
                if other != s and ENDS[other][1] == ENDS[s][1] and capacities[ENDS[s][1]] is not None:
                    self._rival[s] = other
                    self._asked[other] = [0, *accumulate(np.where(streams == other, taken, 0).tolist())]

    def before(self, k: int, s: int, head: list[int]) -> int:
        """The promised bytes that action k of stream s has to leave; `head` is what streams do next."""
        rival = self._rival[s]
        if rival < 0 or head[rival] >= k:
            return 0
        asked = self._asked[rival]
        return asked[k] - asked[head[rival]]


def _following(streams: NDArray[np.int8]) -> Ints:
    """For each action the next one of its stream, or the number of actions."""
    following = np.full(len(streams), len(streams), dtype=np.int64)
    for s in range(len(ENDS)):
        own = np.flatnonzero(streams == s)
        following[own[:-1]] = own[1:]
    return following


def _stuck(
    schedule: Schedule, k: int, stream_of: list[int], unmet: list[int], taken: list[int], level: list[int],
    limits: list[int],
) -> OutOfMemory | Deadlock:  # fmt: skip
    """The error of the earliest action that has not started; all before it have ended."""
    tier = ENDS[stream_of[k]][1]
    if unmet[k] or level[tier] + taken[k] <= limits[tier]:
        number = schedule.flat.origin(k)
        return Deadlock(f"action {number}, {schedule.action(number)}, can never start, though it has its memory")
    return out_of_memory(schedule, k, tier, need=taken[k], level=level[tier], capacity=limits[tier])


def _waits(
    streams: NDArray[np.int8], lives_of: Lives, starts: Floats, ends: Floats, marks: list[float], lengths: list[int]
) -> tuple[Floats, Floats, Floats, Floats]:
    """The times at which each action was issued, ready, started and ended."""
    issued = np.repeat(np.array(marks[:-1]), lengths)
    for s in range(len(ENDS)):
        own = np.flatnonzero(streams == s)
        issued[own[1:]] = np.maximum(issued[own[1:]], ends[own[:-1]])
    computed = np.maximum.accumulate(np.where(streams == COMPUTE, np.arange(len(starts)), -1))
    copies = np.flatnonzero((streams != COMPUTE) & (computed >= 0))
    issued[copies] = np.maximum(issued[copies], ends[computed[copies]])
    ready = issued.copy()
    np.maximum.at(ready, lives_of.dependents, np.repeat(ends, np.diff(lives_of.dependent_ptr)))
    return issued, ready, starts, ends


def _memory(
    resident: int, streams: NDArray[np.int8], lives_of: Lives, starts: Floats, ends: Floats, log: Ints, share_end: Ints
) -> list[Memory]:
    """Bytes of each tier after each start and end that changed them; the last at one instant counts for plots."""
    begins = log >= 0
    k = np.where(begins, log, ~log)
    source, target = np.array(ENDS).T
    memory = []
    for tier in range(3):
        returned = np.where(source[streams] == tier, lives_of.freed_from, 0)
        returned += np.where(target[streams] == tier, lives_of.freed_to, 0)
        mine = lives_of.share_tier == tier
        np.add.at(returned, share_end[mine], lives_of.share_bytes[mine])
        change = np.where(begins, np.where(target[streams[k]] == tier, lives_of.taken[k], 0), -returned[k])
        moved = np.flatnonzero(change)
        times = np.concatenate([[0.0], np.where(begins, starts[k], ends[k])[moved]])
        levels = (resident if tier == 0 else 0) + np.concatenate([[0], np.cumsum(change[moved])])
        memory.append(Memory(times, levels))
    return memory
