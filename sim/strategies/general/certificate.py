"""A certificate for any problem: what no plan of a class can cost less than, for every memory at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Literal, NamedTuple

import numpy as np

from sim.base import searches
from sim.graphs.node import Ints
from sim.strategies.general.moments import Order, Rows, contracted, moments_of, rows_of
from sim.strategies.general.peaks import smallest_peak
from sim.strategies.general.problem import Problem
from sim.strategies.general.relaxation import Line, Relaxation, relaxation_of

Level = Literal["none", "fast", "proof"]


class Effort(NamedTuple):
    """The effort put into the relaxation; no clock, so that a bound is the same on every machine."""

    columns: int  # of the relaxation, about: the fewer rows there are, the more moments
    budgets: int  # memories for which lines are sought
    rounds: int  # of cuts for each of them
    cuts: int  # in a round
    iterations: int  # of the simplex method, in all

    def moments(self, rows: Rows) -> int:
        """The number of moments of a problem to look at."""
        return min(60, max(12, self.columns // int(rows.again.sum() + 1)))


EFFORTS = {
    "fast": Effort(columns=3_000, budgets=24, rounds=10, cuts=1000, iterations=15_000),
    "proof": Effort(columns=6_000, budgets=96, rounds=15, cuts=1000, iterations=200_000),
}


@dataclass(frozen=True)
class Bound:
    """A bound that no plan of a class costs less than: a maximum of lines in memory, each proven in whole numbers.

    `smallest_peak` are working bytes below which there is no plan. `word` are pairs of working bytes and a
    cost of recomputation that branch and bound found nothing below: the solver's word, in floating point.
    """

    base_cost: int
    smallest_peak: int
    order: Order
    forwards_first: bool = False
    lines: tuple[Line, ...] = ()
    word: tuple[tuple[int, int], ...] = ()

    def recomputed(self, working_bytes: int) -> int:
        """The least cost beyond one run of each row, with at most these working bytes."""
        lines = (line for line in self.lines if line.until is None or working_bytes <= line.until)
        return max([0, *(line.at(working_bytes) for line in lines)])

    def at(self, working_bytes: Ints) -> Ints:
        """The least cost for each of the working bytes."""
        return np.array([self.base_cost + self.recomputed(m) for m in working_bytes.tolist()], dtype=np.int64)

    def word_at(self, working_bytes: int) -> int:
        """The same with the solver's word, where it has one for at least as much memory."""
        said = [cost for m, cost in self.word if m >= working_bytes]
        return self.base_cost + max([self.recomputed(working_bytes), *said])


def available() -> bool:
    """Tell whether the solver of linear programs is installed: HiGHS, the extra `bound`."""
    return find_spec("highspy") is not None


def certificate(
    problem: Problem, working_bytes: Ints, *, order: Order = "free", forwards_first: bool = False, level: Level = "fast"
) -> Bound:
    """The bound of a problem, as high as `level` allows at the working bytes given.

    It holds for all plans whose rows first run in any order (`order="listed"`: those that may run once in the
    order given; on problems where all may run again, all first runs). Without HiGHS (the extra `bound`) it
    is one run of each row, and the smallest peak.
    """
    rows = rows_of(problem, order, forwards_first=forwards_first)
    bound = Bound(problem.base_cost, smallest_peak(rows), order, forwards_first)
    if level == "none" or searches.ended() or not available() or not rows.cost[rows.again].any():
        return bound
    from sim.strategies.general.program import Program

    effort = EFFORTS[level]
    program = Program(_relaxation(rows, effort.moments(rows)))
    lines: list[Line] = []
    left = effort.iterations
    for budget in _budgets(working_bytes[working_bytes >= bound.smallest_peak], effort.budgets):
        lines += program.lines(budget, rounds=effort.rounds, cuts=effort.cuts, iterations=left)
        left = effort.iterations - program.iterations
        if left <= 0:
            break
    return replace(bound, lines=tuple(dict.fromkeys(lines)))


def with_word(problem: Problem, bound: Bound, working_bytes: int, *, seconds: float) -> Bound:
    """The bound with what branch and bound finds for one memory, in about so many seconds: the solver's word."""
    from sim.strategies.general.program import Program

    rows = rows_of(problem, bound.order, forwards_first=bound.forwards_first)
    effort = EFFORTS["fast"]
    program = Program(_relaxation(rows, effort.moments(rows)))
    lines = program.lines(working_bytes, rounds=30, cuts=effort.cuts, iterations=EFFORTS["proof"].iterations)
    cost = max(0, math.ceil(program.branch_and_bound(seconds=seconds) * (1 - 1e-6)))
    return replace(bound, lines=(*bound.lines, *lines), word=(*bound.word, (working_bytes, cost)))


def _relaxation(rows: Rows, most: int) -> Relaxation:
    moments = moments_of(rows, most)
    return relaxation_of(contracted(rows, moments), moments)


def _budgets(working_bytes: Ints, most: int) -> list[int]:
    """At most `most` of the memories to find lines for, closer together the smaller they are; every eighth first."""
    given = np.unique(working_bytes)
    if len(given) > most:
        shares = np.append(np.geomspace(0.02, 1.0, most - 1), 0.0)
        wanted = given[0] + (given[-1] - given[0]) * shares
        given = given[np.unique(np.searchsorted(given, wanted).clip(0, len(given) - 1))]
    falling = [int(m) for m in given[::-1].tolist()]
    return list(dict.fromkeys([*falling[::8], *falling[-1:], *falling[::4], *falling[::2], *falling]))
