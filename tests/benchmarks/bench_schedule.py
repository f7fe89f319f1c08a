"""Building and replaying binomial schedules, against the fastest library that makes such schedules.

Run `python tests/benchmarks/bench_schedule.py`; each line is a ratio within this run.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable

from checkpoint_schedules import EndReverse, MultistageCheckpointSchedule

import sim

STEPS, SLOTS = 10_000, 10
LONG, LONG_SLOTS = 1_000_000, 20


def best_of(times: int, run: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def ours(length: int, slots: int) -> int:
    graph = sim.chain(length=length, activation_bytes=1)
    schedule = sim.schedule(graph, "reverse_checkpointed", schedule="binomial", slots=slots)
    return sim.replay(schedule).actions["forward"]


def peer() -> None:
    for action in MultistageCheckpointSchedule(STEPS, snapshots_in_ram=SLOTS, snapshots_on_disk=0):
        if isinstance(action, EndReverse):
            break


def long_chain() -> None:
    """In a process of its own, so that its peak memory is its own: seconds and MB of a million steps."""
    ours(1000, LONG_SLOTS)  # loads the compiled kernels
    start = time.perf_counter()
    forwards = ours(LONG, LONG_SLOTS)
    seconds = time.perf_counter() - start
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 * 1.048576
    print(f"{LONG:,} steps, {LONG_SLOTS} slots: {forwards:,} forwards in {seconds:.2f} s, {megabytes:.0f} MB at most")


def main() -> None:
    ours(STEPS, SLOTS)  # loads the compiled kernels
    mine = best_of(10, lambda: ours(STEPS, SLOTS))
    theirs = best_of(1, peer)
    remembered = best_of(3, peer)  # the library remembers each (steps, slots) that it has solved
    print(
        f"binomial, {STEPS:,} steps, {SLOTS} slots: graph, schedule and replay in {mine * 1e3:.1f} ms; "
        f"checkpoint_schedules iterates it in {theirs * 1e3:.0f} ms ({theirs / mine:.0f} times as long), "
        f"and again, from its memory, in {remembered * 1e3:.0f} ms ({remembered / mine:.0f} times)"
    )
    subprocess.run([sys.executable, __file__, "long"], check=True)


if __name__ == "__main__":
    long_chain() if sys.argv[1:] == ["long"] else main()
