"""Places for the names of points, such that no name covers another, a point or the frame.

A small search of its own rather than adjustText: that package moves texts by forces for a number of
rounds, does not promise that none overlap when it stops, and draws in pyplot, whose import alone
takes as long as a figure. Here a name is either placed without overlap or left out.

Coordinates are in one unit of length throughout (inches of the figure), the y axis pointing up.
A box is (left, bottom, right, top); a segment is (x0, y0, x1, y1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DISTANCES = (0.07, 0.13, 0.22, 0.34, 0.5, 0.7, 0.95, 1.25, 1.6)
DIRECTIONS = 24
PADDING = 0.025
ROUNDS = 4
# What a candidate costs, in inches of distance from its point that one would accept to avoid it.
COVERS_POINT, COVERS_LINE, LEADER_CROSSES_LINE, LEADER_CROSSES_LEADER, LEADER_NEAR_POINT = 0.6, 0.9, 0.06, 0.8, 0.3


def place(
    anchors: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    *,
    inside: tuple[float, float, float, float],
    points: Sequence[tuple[float, float]],
    segments: Sequence[tuple[float, float, float, float]],
    taken: Sequence[tuple[float, float, float, float]] = (),
    radius: float = 0.06,
    towards: tuple[float, float] = (-1.0, -1.0),
    patience: Sequence[float] | None = None,
) -> list[tuple[float, float] | None]:
    """The lower left corner of each name, or `None` for one that found no free place.

    Parameters
    ----------
    anchors, sizes
        The point that each name belongs to, and the width and height of the name; the most
        important first, which chooses first.
    inside
        The box that holds every name.
    points, segments
        Marks and lines that a name had better not cover; the anchors themselves are never covered.
    taken
        Boxes that no name may touch.
    towards
        The side of its point on which a name is preferred.
    patience
        For each name the cost, in inches, beyond which it is better left out; without limit by default.
    """
    if not anchors:
        return []
    own = np.asarray(anchors, dtype=np.float64)
    marks = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    lines = np.asarray(segments, dtype=np.float64).reshape(-1, 4)
    blocked = np.concatenate(
        [np.asarray(taken, dtype=np.float64).reshape(-1, 4), np.hstack([own - radius, own + radius])]
    )
    options = [
        _candidates(own[i], sizes[i], np.asarray(inside), blocked, marks, lines, radius, np.asarray(towards))
        for i in range(len(own))
    ]
    limits = patience if patience is not None else [math.inf] * len(own)
    chosen = np.full(len(own), -1)
    for _ in range(ROUNDS):
        before = chosen.copy()
        for i, (boxes, leaders, costs) in enumerate(options):
            others = [j for j in range(len(own)) if j != i and chosen[j] >= 0]
            total = costs.copy()
            if others and len(boxes):
                other_boxes = np.stack([options[j][0][chosen[j]] for j in others])
                other_leaders = np.stack([options[j][1][chosen[j]] for j in others])
                total[(_overlap(boxes, other_boxes) | _crosses(leaders, other_boxes)).any(axis=1)] = math.inf
                total[_crosses(other_leaders, boxes).any(axis=0)] = math.inf
                total += LEADER_CROSSES_LEADER * _meet(leaders, other_leaders).sum(axis=1)
            best = int(np.argmin(total)) if len(total) else -1
            chosen[i] = best if best >= 0 and total[best] < limits[i] else -1
        if (chosen == before).all():
            break
    return [
        (float(boxes[c, 0] + PADDING), float(boxes[c, 1] + PADDING)) if c >= 0 else None
        for (boxes, _, _), c in zip(options, chosen, strict=True)
    ]


def clearest(
    boxes: Sequence[tuple[float, float, float, float]],
    *,
    points: Sequence[tuple[float, float]],
    segments: Sequence[tuple[float, float, float, float]],
    radius: float = 0.06,
) -> int:
    """The first of the boxes that cover the least: points before lines."""
    where = np.asarray(boxes, dtype=np.float64)
    marks = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    lines = np.asarray(segments, dtype=np.float64).reshape(-1, 4)
    covered = _overlap(where, np.hstack([marks - radius, marks + radius])).sum(axis=1)
    return int(np.argmin(COVERS_POINT * covered + COVERS_LINE * _crosses(lines, where).sum(axis=0)))


def leader(anchor: tuple[float, float], box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """The segment from a point to the nearest place of its name's box."""
    left, bottom, right, top = box
    return (*anchor, min(max(anchor[0], left), right), min(max(anchor[1], bottom), top))


def _candidates(
    anchor: Floats,
    size: tuple[float, float],
    inside: Floats,
    blocked: Floats,
    marks: Floats,
    lines: Floats,
    radius: float,
    towards: Floats,
) -> tuple[Floats, Floats, Floats]:
    """Padded boxes around one anchor, their leaders, and what each costs: (n, 4), (n, 4), (n,)."""
    angle = np.arange(DIRECTIONS) * (2 * math.pi / DIRECTIONS)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    half = np.asarray(size) / 2 + PADDING
    distance = np.repeat(DISTANCES, DIRECTIONS)
    direction = np.tile(direction, (len(DISTANCES), 1))
    # A name beside its point sits level with it, one above or below is centred: the box slides along the ellipse.
    centre = anchor + direction * distance[:, None] + np.clip(direction * 1.4, -1, 1) * half
    boxes = np.hstack([centre - half, centre + half])
    keep = (boxes[:, :2] >= inside[:2]).all(axis=1) & (boxes[:, 2:] <= inside[2:]).all(axis=1)
    keep &= ~_overlap(boxes, blocked).any(axis=1)
    boxes, distance, direction = boxes[keep], distance[keep], direction[keep]
    leaders = np.hstack([np.broadcast_to(anchor, (len(boxes), 2)), np.clip(anchor, boxes[:, :2], boxes[:, 2:])])
    costs = distance - 0.05 * (direction @ towards)
    squares = np.hstack([marks - radius * 0.8, marks + radius * 0.8])
    costs += COVERS_POINT * _overlap(boxes, squares).sum(axis=1)
    costs += COVERS_LINE * _crosses(lines, boxes).sum(axis=0)
    shortened = leaders.copy()
    shortened[:, :2] += 0.3 * (leaders[:, 2:] - leaders[:, :2])
    costs += LEADER_CROSSES_LINE * _meet(shortened, lines).sum(axis=1)
    others = blocked[(np.abs((blocked[:, :2] + blocked[:, 2:]) / 2 - anchor) > 1e-9).any(axis=1)]
    costs += LEADER_NEAR_POINT * _crosses(leaders, others).sum(axis=1)
    return boxes, leaders, costs


def _overlap(a: Floats, b: Floats) -> NDArray[np.bool_]:
    """Mark the boxes of `a` that overlap each of `b`: shape (len(a), len(b))."""
    a = a[:, None, :]
    return np.asarray((a[..., :2] < b[:, 2:]).all(axis=2) & (b[:, :2] < a[..., 2:]).all(axis=2))


def _crosses(segments: Floats, boxes: Floats) -> NDArray[np.bool_]:
    """Mark the segments that pass through each of the boxes (slab method): shape (len(segments), len(boxes))."""
    start = segments[:, None, :2]
    step = segments[:, None, 2:] - start
    step = np.where(step == 0, 1e-12, step)
    first, second = (boxes[:, :2] - start) / step, (boxes[:, 2:] - start) / step
    enter = np.minimum(first, second).max(axis=2)
    leave = np.maximum(first, second).min(axis=2)
    return np.asarray((enter < leave) & (enter < 1) & (leave > 0))


def _meet(a: Floats, b: Floats) -> NDArray[np.bool_]:
    """Mark the segments of `a` that cross each of `b`: shape (len(a), len(b))."""

    def side(p: Floats, q: Floats, r: Floats) -> Floats:
        return np.asarray(
            (q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1]) - (q[..., 1] - p[..., 1]) * (r[..., 0] - p[..., 0])
        )

    p, q = a[:, None, :2], a[:, None, 2:]
    r, s = b[None, :, :2], b[None, :, 2:]
    return np.asarray((side(p, q, r) * side(p, q, s) < 0) & (side(r, s, p) * side(r, s, q) < 0))
