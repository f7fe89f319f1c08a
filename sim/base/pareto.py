"""The points of a two-sided trade-off that are worth having: the front and its landmarks.

Both coordinates are minimised. Points are pairs of Python numbers, and every comparison is Python's
own, which is exact between ints of any size and floats. That is why the few lines below are here:
the array libraries for this (moocore, paretoset, pymoo) work in float64, where flops beyond 2^53
that differ by one become equal and a dominated point would be reported as a front point.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TypeAlias

Number: TypeAlias = int | float
Point: TypeAlias = tuple[Number, Number]


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point dominates, along the front: first coordinate rising.

    Equal points do not dominate one another, so all copies of a front point are on the front, in
    the order in which they were given. Takes O(n log n) comparisons.

    >>> front([(3, 1), (2, 2), (3, 2), (1, 5), (2, 2)])
    [3, 1, 4, 0]
    """
    assert all(x == x and y == y for x, y in points), "a coordinate is NaN"
    indices: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: points[i]):
        if not indices or points[i][1] < points[indices[-1]][1] or points[i] == points[indices[-1]]:
            indices.append(i)
    return indices


def knee(points: Sequence[Point]) -> int | None:
    """The index of the front point where giving a little of one coordinate stops buying much of the other.

    It is the point farthest below the straight line between the two ends of the front, with both
    axes logarithmic where all their values are positive (a factor of two counts alike in flops and
    in bytes). `None` for a front of fewer than three different points.
    """
    along = front(points)
    if len({points[i] for i in along}) < 3:
        return None
    xs, ys = (_scaled([points[i][axis] for i in along]) for axis in (0, 1))
    sums = [x + y for x, y in zip(xs, ys, strict=True)]
    return along[min(range(1, len(along) - 1), key=sums.__getitem__)]


def landmarks(points: Sequence[Point], groups: Sequence[Hashable], *, count: int) -> list[int]:
    """At most `count` indices of points that stand for all: what to name on a chart, what to draw in detail.

    In order of importance: the two ends of the front, its knee, then for each group (a strategy, a
    sweep) that is not yet there its front point nearest to the knee (or to the middle), and lastly
    both ends of each group's share of the front. Only front points are chosen, none twice.
    """
    along = front(points)
    if not along:
        return []
    middle = knee(points)
    centre = along.index(middle) if middle is not None else len(along) // 2
    members: dict[Hashable, list[int]] = {}
    for place, i in enumerate(along):
        members.setdefault(groups[i], []).append(place)
    order = [0, len(along) - 1] + ([centre] if middle is not None else [])
    present = {groups[along[place]] for place in order}
    order += [
        min(places, key=lambda p: (abs(p - centre), p)) for group, places in members.items() if group not in present
    ]
    order += [end for places in members.values() for end in (places[0], places[-1])]
    seen: dict[Point, int] = {}
    for place in order:
        seen.setdefault(points[along[place]], along[place])
    return list(seen.values())[:count]


def representatives(points: Sequence[Point], groups: Sequence[Hashable], *, count: int) -> list[int]:
    """At most `count` indices: the landmarks, then the best of every group that has none on the front.

    The best of such a group is the knee of its own front, or the end with the least first coordinate.
    """
    chosen = landmarks(points, groups, count=count)
    present = {groups[i] for i in chosen}
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    for group, indices in members.items():
        if group not in present:
            own = [points[i] for i in indices]
            middle = knee(own)
            chosen.append(indices[front(own)[0] if middle is None else middle])
    return chosen[:count]


def _scaled(values: Sequence[Number]) -> list[float]:
    """The values on [0, 1]: their logarithms if all are positive, else the values."""
    scale = [math.log(v) for v in values] if min(values) > 0 else [float(v) for v in values]
    low, high = min(scale), max(scale)
    return [(s - low) / (high - low) if high > low else 0.0 for s in scale]
