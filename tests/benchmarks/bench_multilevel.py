"""Checkpoints on disk for 3,000 steps, against checkpoint_schedules on the same instance (-s prints the ratios)."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from checkpoint_schedules import Copy, DiskRevolve, EndReverse, Forward, HRevolve, Move, StorageType

from sim.models.families.chain import chain
from sim.schedules.replay import replay
from sim.strategies import load

STEPS, SLOTS = 3000, 10


def seconds(work: Callable[[], object]) -> tuple[float, object]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def library_cost(schedule: object) -> float:
    """Evaluations, and 2 for each write to disk and each read from it, as executed."""
    cost = 0.0
    for action in schedule:  # type: ignore[attr-defined]
        if isinstance(action, Forward):
            cost += action.n1 - action.n0 + 2 * (action.write_ics and action.storage == StorageType.DISK)
        elif isinstance(action, Copy | Move):
            cost += 2 * (action.from_storage == StorageType.DISK)
        elif isinstance(action, EndReverse):
            break
    return cost


@pytest.mark.parametrize(
    ("theirs", "parameters"),
    [
        (lambda: HRevolve(STEPS, SLOTS, SLOTS), {"schedule": "multilevel", "host_slots": SLOTS}),
        (lambda: DiskRevolve(STEPS, SLOTS), {"schedule": "disk", "tier": "host"}),
    ],
    ids=["HRevolve", "DiskRevolve"],
)
def test_planning_two_levels_is_50_times_faster_and_no_dearer(
    theirs: Callable[[], object], parameters: dict[str, object], request: pytest.FixtureRequest
) -> None:
    graph = chain(length=STEPS, activation_bytes=1)
    strategies = load()

    def ours() -> object:
        return replay(strategies.call("reverse_checkpointed", graph, slots=SLOTS, **parameters))

    ours()  # compiles the kernels, or loads them
    own_s, cost = min((seconds(ours) for _ in range(3)), key=lambda timed: timed[0])
    library_s, library = seconds(lambda: library_cost(theirs()))
    executed = cost.actions["forward"] + 2 * cost.actions["copy"]  # type: ignore[attr-defined]
    print(
        f"\n{request.node.callspec.id}: {STEPS} steps, {SLOTS} slots: library {library_s:.2f} s, cost {library:,.0f}; "
        f"planned and replayed here in {own_s:.3f} s, cost {executed:,}; ratio {library_s / own_s:.0f}"
    )
    assert executed <= library  # type: ignore[operator]
    assert library_s / own_s >= 50
