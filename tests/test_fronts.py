"""The Pareto marks of results: memory against work, with what is copied as a third price; and against time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from points import flops, point

from sim.experiment.fronts import with_fronts

costs = st.tuples(st.integers(1, 6), st.integers(1, 6), st.sampled_from([0, 0, 1, 3]))


@given(st.lists(costs, min_size=1, max_size=12))
def test_a_point_is_marked_unless_another_beats_it_in_memory_work_and_copies(
    wanted: list[tuple[int, int, int]],
) -> None:
    points = [
        point(peak_bytes=memory, flops=flops(work), copied_bytes={"device_to_host": copied})
        for memory, work, copied in wanted
    ]
    marked = [p.pareto["flops"] for p in with_fronts(points)]
    beaten = [any(o != p and all(a <= b for a, b in zip(o, p, strict=True)) for o in wanted) for p in wanted]
    assert marked == [not b for b in beaten]
