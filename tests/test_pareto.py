"""Laws of dominance, the front and its landmarks."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from points import dominates

from sim.base.pareto import Point, front, knee, landmarks, representatives

numbers = st.integers(0, 12) | st.integers(2**53 - 2, 2**53 + 3) | st.sampled_from([0.5, 2.0**53, 1e300])
clouds = st.lists(st.tuples(numbers, numbers), max_size=40)


def slow_front(points: list[Point]) -> set[int]:
    """Every pair compared: the oracle of `front`."""
    return {i for i, b in enumerate(points) if not any(dominates(a, b) for a in points)}


@given(clouds)
def test_the_front_is_what_no_other_point_dominates(points: list[Point]) -> None:
    assert set(front(points)) == slow_front(points)
    assert len(front(points)) == len(slow_front(points))


@given(clouds)
def test_along_the_front_one_coordinate_rises_as_the_other_falls(points: list[Point]) -> None:
    along = [points[i] for i in front(points)]
    for a, b in pairwise(along):
        assert a == b or (a[0] < b[0] and a[1] > b[1])


@given(clouds)
def test_every_point_is_dominated_by_or_equal_to_a_front_point(points: list[Point]) -> None:
    along = [points[i] for i in front(points)]
    assert all(any(a == b or dominates(a, b) for a in along) for b in points)


@given(clouds, st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_change_the_front(points: list[Point], random: object) -> None:
    shuffled = points.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert [shuffled[i] for i in front(shuffled)] == [points[i] for i in front(points)]


def test_equal_points_are_all_on_the_front_in_the_order_given() -> None:
    assert front([(4, 4), (7, 1), (4, 4), (4, 4), (5, 4)]) == [0, 2, 3, 1]


def test_ints_that_float64_cannot_tell_apart_are_told_apart() -> None:
    big = 2**53
    assert float(big) == float(big + 1)
    assert front([(big + 1, 5), (big, 5)]) == [1]
    assert front([(10**30 + 1, 5), (10**30, 6)]) == [1, 0]
    assert front([(float(big), 5), (big + 1, 5)]) == [0]


def test_the_front_of_nothing_is_empty() -> None:
    assert front([]) == []
    assert landmarks([], [], count=3) == []


def test_a_coordinate_that_is_no_number_is_refused() -> None:
    with pytest.raises(AssertionError, match="NaN"):
        front([(1, float("nan"))])


def test_the_knee_is_the_corner_of_an_l_shaped_front() -> None:
    assert knee([(1, 1000), (2, 10), (1000, 9), (500, 500)]) == 1


def test_a_front_of_two_points_has_no_knee() -> None:
    assert knee([(1, 2), (2, 1), (2, 1), (3, 3)]) is None


@given(clouds, st.integers(0, 8), st.data())
def test_landmarks_are_different_front_points_and_at_most_as_many_as_asked(
    points: list[Point], count: int, data: st.DataObject
) -> None:
    groups = data.draw(st.lists(st.sampled_from("abc"), min_size=len(points), max_size=len(points)))
    chosen = landmarks(points, groups, count=count)
    assert len(chosen) <= count
    assert set(chosen) <= set(front(points))
    assert len({points[i] for i in chosen}) == len(chosen)


@given(clouds.filter(bool), st.data())
def test_landmarks_hold_both_ends_and_every_group_on_the_front(points: list[Point], data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.sampled_from("abc"), min_size=len(points), max_size=len(points)))
    along = front(points)
    chosen = landmarks(points, groups, count=len(points))
    assert {points[along[0]], points[along[-1]]} <= {points[i] for i in chosen}
    alone = {groups[i] for i in along if sum(points[j] == points[i] for j in along) == 1}
    assert alone <= {groups[i] for i in chosen}


@given(clouds, st.integers(0, 8), st.data())
def test_representatives_begin_with_the_landmarks_and_reach_every_group(
    points: list[Point], count: int, data: st.DataObject
) -> None:
    groups = data.draw(st.lists(st.sampled_from("abc"), min_size=len(points), max_size=len(points)))
    chosen = representatives(points, groups, count=count)
    assert len(set(chosen)) == len(chosen) <= count
    first = landmarks(points, groups, count=count)
    assert chosen[: len(first)] == first
    assert {groups[i] for i in representatives(points, groups, count=len(points))} == set(groups)


def test_a_dominated_group_is_represented_by_the_knee_of_its_own_front() -> None:
    points = [(1, 1), (2, 1000), (3, 10), (1000, 9), (500, 500)]
    assert representatives(points, "abbbb", count=9) == [0, 2]
