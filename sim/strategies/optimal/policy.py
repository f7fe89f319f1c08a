"""The fineness and the length of the search. No choice changes what is optimal, some change when it gives up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The choices that balance time and memory, as measured; points and cells are of memory, for each state.

    >>> Policy().shortest_refined
    24
    """

    dense_work: int = 10**10
    dense_bytes: int = 4 * 10**8
    """The work that looking at every memory, in units that divide all sizes, may take instead of cells."""

    fewest_cells: int = 128
    most_cells: int = 512
    cells_per_stage: int = 5
    cell_bytes: int = 5 * 10**8
    """Cells that memory is cut into where an envelope is searched without bounds on a grid, and what they take."""

    most_breakpoints: int = 100_000_000
    """Breakpoints kept for all states together: 1.6 GB."""

    shortest_refined: int = 24
    most_alike: float = 0.5
    """Stages from which bounds on a grid come first, unless no more than this share of their pairs are different."""

    points_per_stage: int = 21
    """Points of the first grid for each stage, with what an exact search of the rest takes."""

    most_points: int = 160_000_000
    most_inside_points: int = 330_000_000
    """Points of a grid for all states together, with bounds from inside and outside, and from inside alone: 1.3 GB."""

    few_points: int = 2_000_000
    little_less: float = 0.7
    """The rest is searched when fewer points are left, or not much fewer than on the grid before."""

    samples: int = 300
    samples_alone: int = 400
    """Plans traced on a grid: where a search follows, and where they are all that there will be."""

    shortest_tiled: int = 150
    tiles: int = 16
    """Stages from which tiles of states are bounded at the same time, and how many there are along s and t."""
