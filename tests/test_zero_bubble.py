"""The searched zero-bubble schedule: published bubbles, its memory limit, and what no schedule takes less than."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipelines import SCHEDULES, any_times, even, made

from sim.base.errors import ParameterError
from sim.parallel.pipeline import PipelineSchedule
from sim.parallel.schedules import Shape
from sim.parallel.simulate import simulate
from sim.parallel.times import Times, Work


def searched(ranks: int, micro_batches: int, times: Times, *, memory: float) -> PipelineSchedule:
    shape = Shape(ranks=ranks, micro_batches=micro_batches, work=times.work)
    return SCHEDULES.call("zero_bubble", shape, memory=memory)


@pytest.mark.parametrize(
    ("micro_batches", "times", "memory", "bubble"),
    [
        (24, (18.522, 18.086, 9.337, 0.601), 1.0, 0.1585),
        (24, (18.522, 18.086, 9.337, 0.601), 2.0, 0.0433),
        (64, (18.546, 18.097, 9.321, 0.762), 1.0, 0.0674),
        (64, (18.546, 18.097, 9.321, 0.762), 2.0, 0.0026),
    ],
)
def test_bubbles_are_those_of_the_zero_bubble_paper(
    micro_batches: int, times: tuple[float, float, float, float], memory: float, bubble: float
) -> None:
    """Qi et al. 2023, arXiv:2401.10241, table 5: ZB-1p and ZB-2p of 1.5 B parameters on 8 ranks."""
    schedule = searched(8, micro_batches, even(*times), memory=memory)
    assert round(simulate(schedule, even(*times).clock(schedule.homes)).bubble, 4) == bubble
    assert max(schedule.in_flight()) <= memory * 8


@given(
    data=st.data(),
    p=st.integers(1, 5),
    m=st.integers(1, 9),
    memory=st.floats(1.0, 3.0),
    kept=st.lists(st.integers(0, 9), min_size=5, max_size=5),
    left=st.lists(st.integers(0, 12), min_size=5, max_size=5),
)
def test_no_rank_holds_more_than_the_limit(
    data: st.DataObject, p: int, m: int, memory: float, kept: list[int], left: list[int]
) -> None:
    """Whatever stages keep, and where the input's part leaves more than there was: rank by rank, pass by pass."""
    clock = data.draw(any_times(p)).clock(range(p))
    schedule = SCHEDULES.call(
        "zero_bubble", Shape(ranks=p, micro_batches=m, work=lambda _: Work(clock, kept[:p], left[:p])), memory=memory
    )
    of_ranks = [(p - rank) * kept[rank] + max(0, left[rank] - kept[rank]) for rank in range(p)]
    for rank, order in enumerate(schedule.orders):
        held = 0
        for part, stage, _ in order:
            change = {"forward": kept[stage], "input_vjp": left[stage] - kept[stage], "weight_vjp": -left[stage]}
            held += change[part]
            assert held <= memory * max(of_ranks) + 1e-6, rank
        assert held == 0


@given(data=st.data(), p=st.integers(1, 5), m=st.integers(1, 9))
def test_it_is_no_slower_than_the_schedules_that_fit_beside_it(data: st.DataObject, p: int, m: int) -> None:
    times = data.draw(any_times(p))
    clock = times.clock(range(p))
    for memory, rivals in ((1.0, ["zb_h1"]), (2.0, ["zb_h1", "zb_h2"])):
        seconds = simulate(searched(p, m, times, memory=memory), clock).seconds
        assert seconds <= min(simulate(made(name, p, m), clock).seconds for name in rivals)


@given(p=st.integers(1, 5), m=st.integers(1, 9), parts=st.tuples(*[st.integers(0, 9)] * 4), memory=st.floats(1.0, 4.0))
def test_no_order_takes_less_than_the_way_there_and_back(
    p: int, m: int, parts: tuple[int, int, int, int], memory: float
) -> None:
    """The last rank waits for the first micro-batch, does all, and the first rank waits for the last VJP.

    Of equal stages, each with forward passes of f seconds and VJPs of b + w, and sends of c.
    """
    f, b, w, c = map(float, parts)
    times = even(f, b, w, c)
    schedule = searched(p, m, times, memory=memory)
    seconds = simulate(schedule, times.clock(schedule.homes)).seconds
    assert seconds >= max(m * (f + b + w), (p - 1) * (f + b + 2 * c) + m * (f + b) + w) - 1e-9


def test_a_search_comes_out_the_same_again() -> None:
    times = even(18.522, 18.086, 9.337, 0.601)
    assert searched(8, 24, times, memory=1.5).orders == searched(8, 24, times, memory=1.5).orders


def test_less_than_the_memory_of_1f1b_is_refused() -> None:
    with pytest.raises(ParameterError, match="at least 1"):
        made("zero_bubble", 2, 2, memory=0.5)


def test_what_would_take_minutes_to_search_is_refused() -> None:
    with pytest.raises(ParameterError, match="makes 1200000 passes, expected at most 1000000"):
        made("zero_bubble", 4, 100_000)
