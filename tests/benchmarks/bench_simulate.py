"""Actions a second of `simulate` against bare simpy timeouts in the same process: `python bench_simulate.py`.

The time of `simulate` is all of it: validation, durations, lives, the simpy run and the trace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import simpy

from sim.models.families.chain import chain
from sim.schedules.schedule import Schedule
from sim.simulation.device import PRESETS
from sim.simulation.simulate import simulate
from sim.strategies import load

ROUNDS = 5
LEAST_SINGLE = 0.5
"""Without copies: at least half as many actions a second as bare timeouts."""
LEAST_STREAMS = 0.1
"""With copies, where actions wake streams and wait for memory."""


def bare_timeouts(count: int) -> None:
    """The least that simpy can do for so many actions."""
    env = simpy.Environment()

    def process() -> Generator[simpy.Event, Any, None]:
        for _ in range(count):
            yield env.timeout(1.0)

    env.process(process())
    env.run()


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def ratio(make: Callable[[], Schedule]) -> tuple[int, float, float]:
    """(actions, seconds of simulate, its actions a second over those of bare timeouts), the fastest of a few rounds."""
    machine = PRESETS["h100-sxm"]
    many = len(make())
    simulate(make(), machine)  # compiles the kernels
    bare, ours = [], []
    for _ in range(ROUNDS):
        schedule = make()
        bare.append(seconds(lambda: bare_timeouts(many)))
        ours.append(seconds(lambda s=schedule: simulate(s, machine)))
    return many, min(ours), min(bare) / min(ours)


CASES: dict[str, tuple[Callable[[], Schedule], float]] = {}


def case(name: str, least: float, length: int, strategy: str, **parameters: Any) -> None:
    graph = chain(length=length, activation_bytes=1000, forward_flops=1000)
    CASES[name] = (lambda: load().call(strategy, graph, **parameters), least)


case("full store, 100,000 layers", LEAST_SINGLE, 100_000, "reverse_full")
case("binomial, 2,000 steps, 10 slots", LEAST_SINGLE, 2000, "reverse_checkpointed", schedule="binomial", slots=10)
case("offload, 20,000 layers, three streams", LEAST_STREAMS, 20_000, "reverse_offload", prefetch=4)


def test_simulate_keeps_up_with_bare_timeouts() -> None:
    for name, (make, least) in CASES.items():
        _, _, reached = ratio(make)
        assert reached >= least, name


if __name__ == "__main__":
    for label, (make, _) in CASES.items():
        actions, took, reached = ratio(make)
        print(f"{label}: {actions:,} actions in {took:.3f} s, {reached:.2f} of bare simpy timeouts")
