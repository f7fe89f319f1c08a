"""The mixed schedule keeps a checkpoint or a residual in each unit; executed, it costs what is published."""

from __future__ import annotations

from functools import cache

import pytest
from checkpoint_schedules import EndReverse, Forward, MixedCheckpointSchedule
from hypothesis import given
from hypothesis import strategies as st
from planner_oracles import persistent_cost

from sim.base.errors import CountOverflow, NotApplicable
from sim.models.families.chain import chain
from sim.schedules.replay import Cost, replay
from sim.strategies import load
from sim.strategies.checkpointing.mixed import forward_count, mixed_plan


def executed(length: int, slots: int) -> Cost:
    graph = chain(length=length, activation_bytes=1, input_bytes=0)
    return replay(load().call("reverse_checkpointed", graph, schedule="mixed", slots=slots))


@pytest.mark.parametrize(
    ("length", "slots", "forwards"), [(2, 1, 2), (5, 2, 8), (10, 3, 19), (50, 5, 138), (100, 10, 237)]
)
def test_forwards_equal_the_published_table(length: int, slots: int, forwards: int) -> None:
    """Maddison, Journal of Computational Science 82, 102405 (2024)."""
    cost = executed(length, slots)
    assert (cost.actions["forward"], cost.actions["vjp"]) == (forwards, length)
    assert forward_count(length, slots) == forwards


@pytest.mark.slow
@given(length=st.integers(1, 60), slots=st.integers(1, 12))
def test_never_more_forwards_than_the_library_executes(length: int, slots: int) -> None:
    library = 0
    for action in MixedCheckpointSchedule(length, slots):
        if isinstance(action, Forward):
            library += action.n1 - action.n0
        elif isinstance(action, EndReverse):
            break
    assert executed(length, slots).actions["forward"] <= library


def fewest(length: int, slots: int) -> int:
    """The least forwards over all valid schedules: a search over what the units hold, with no recurrence.

    A state is (steps whose adjoint is left, where the forward stands, the checkpoints, the residuals);
    the last step's residual is used at once and takes no unit.
    """
    start = (length, 0, frozenset[int](), frozenset[int]())
    best, frontier, forwards = {start: 0}, [start], 0
    while frontier:
        following = []
        todo = list(frontier)
        while todo:
            state = todo.pop()
            if best[state] != forwards:
                continue
            left, at, kept, taped = state
            if left == 0:
                return forwards
            moves = [(0, (left, at, kept | {at}, taped))] if at < left else []
            moves += [(0, (left, at, kept - {c}, taped)) for c in kept]
            moves += [(0, (left, c, kept, taped)) for c in kept if c < left]
            if left - 1 in taped:
                moves.append((0, (left - 1, left - 1, kept, taped - {left - 1})))
            if at < left:
                moves.append((1, (left, at + 1, kept, taped)))
                moves.append((1, (left, at + 1, kept, taped | {at})))
            if at == left - 1:
                moves.append((1, (left - 1, left, kept, taped)))
            for price, after in moves:
                used = len(after[2]) + len(after[3])
                if used > slots or best.get(after, 10**9) <= forwards + price:
                    continue
                best[after] = forwards + price
                (following if price else todo).append(after)
        frontier, forwards = following, forwards + 1
    raise AssertionError("no schedule found")


@cache
def plain(length: int, slots: int) -> int:
    """The recurrence, as its paper writes it."""
    slots = min(slots, length - 1)
    if length <= slots + 1:
        return length
    if slots == 1:
        return length * (length + 1) // 2 - 1
    keep_residual = 1 + plain(length - 1, slots - 1)
    return min(keep_residual, *(i + plain(i, slots) + plain(length - i, slots - 1) for i in range(2, length)))


@pytest.mark.parametrize(("length", "slots"), [(n, s) for n in range(2, 8) for s in range(1, 4)])
def test_no_schedule_at_all_has_fewer_forwards(length: int, slots: int) -> None:
    assert executed(length, slots).actions["forward"] == fewest(length, slots)


@given(length=st.integers(1, 40), slots=st.integers(1, 10))
def test_the_compiled_program_equals_its_plain_twin(length: int, slots: int) -> None:
    assert forward_count(length, slots) == plain(length, slots)


@given(length=st.integers(2, 60), slots=st.integers(1, 10))
def test_units_bound_the_memory(length: int, slots: int) -> None:
    """Beside the units there are only the input and the output of the step at work."""
    assert executed(length, slots).peak_breakdown["activation"] <= slots + 2


def test_units_for_all_steps_need_no_search() -> None:
    plan = mixed_plan(1_000_000, 2_000_000)
    assert plan[:2].tolist() == [0, 1]
    assert plan[-2:].tolist() == [~1, ~0]
    assert len(plan) == 2_000_000


def test_a_plan_too_large_is_refused() -> None:
    with pytest.raises(NotApplicable, match="too many"):
        mixed_plan(10_000_000, 3)
    with pytest.raises(CountOverflow, match="more than"):
        mixed_plan(100_000, 1)


@pytest.mark.parametrize("length", range(2, 13))
def test_the_published_program_for_chains_finds_the_mixed_schedule(length: int) -> None:
    """With states and tapes of one unit it costs at memory M what a mixed schedule does with M - 4 units.

    Beaumont et al. 2019 count the input, the cotangent and the stage at work besides what is stored.
    """
    unit = {"forward": [1] * length, "adjoint": [0] * length, "sizes": [1] * (length + 1), "tapes": [1] * length}
    for units in range(1, length + 2):
        assert persistent_cost(**unit, memory=units + 4) == forward_count(length, units)
    assert persistent_cost(**unit, memory=4) == float("inf")
