"""The relaxation as a linear program in HiGHS: rounds of path cuts, exact lines from its duals, branch and bound.

Any y ≥ 0 proves a bound: if A x ≥ b holds for every plan's 0-1 columns x, then c x = y A x + (c - y A) x
≥ y b + Σ min(0, c - y A), the sum over columns. The duals that a solver returns in floating point are
rounded, and the right side is evaluated in whole numbers, so that no tolerance of the solver enters. Cuts
do not depend on memory, and b does so linearly: one y bounds the cost for every memory, by a line.
"""

from __future__ import annotations

import math
from typing import Any

import highspy
import numpy as np
from numpy.typing import NDArray

from sim.strategies.general.certificate import Line
from sim.strategies.general.cuts import violated_cuts
from sim.strategies.general.relaxation import Relaxation, Terms

Floats = NDArray[np.float64]
TOLERANCE = 2e-3
"""Cuts violated by less are not worth a round."""
FINE = 40
"""Bits of a byte's price beyond those of other duals."""


class Program:
    """A relaxation with the cuts found so far, as the solver holds it; costs and bytes are scaled to be about 100."""

    def __init__(self, relaxation: Relaxation) -> None:
        self.relaxation = relaxation
        self.terms: list[Terms] = [relaxation.memory, relaxation.logic]
        self.cost_unit = max(1.0, float(relaxation.cost.max(initial=0)))
        self.byte_unit = max(1.0, float(np.abs(relaxation.memory.factor).max(initial=0)))
        self.iterations = 0
        self._budget = 0
        self._solver = _solver()
        n, nothing = len(relaxation.cost), np.zeros(0, dtype=np.int32)
        starts = np.zeros(n + 1, dtype=np.int32)
        self._solver.addCols(
            n, relaxation.cost / self.cost_unit, np.zeros(n), np.ones(n), 0, starts, nothing, np.zeros(0)
        )
        self._add(relaxation.memory, self.byte_unit)
        self._add(relaxation.logic)

    def _add(self, terms: Terms, unit: float = 1.0) -> None:
        self._solver.addRows(
            len(terms), terms.least / unit, np.full(len(terms), highspy.kHighsInf), len(terms.column),
            terms.ptr.astype(np.int32), terms.column.astype(np.int32), terms.factor / unit,
        )  # fmt: skip

    def line(self, working_bytes: int, *, rounds: int, cuts: int, iterations: int) -> Line:
        """A line that is as high as the relaxation at these working bytes, after so many rounds of cuts."""
        self._set_budget(working_bytes)
        best, stop = Line(0, 0, 0), self.iterations + iterations
        for _ in range(rounds):
            self._solver.setOptionValue("simplex_iteration_limit", max(1, stop - self.iterations))
            self._solver.run()
            self.iterations += max(0, self._solver.getInfo().simplex_iteration_count)
            solution = self._solver.getSolution()
            if solution.dual_valid:
                best = max(best, self._line(np.array(solution.row_dual)), key=lambda line: line.at(working_bytes))
            if self._solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
                break
            found = violated_cuts(self.relaxation, np.array(solution.col_value), tolerance=TOLERANCE, most=cuts)
            if not len(found):
                break
            self._add(found)
            self.terms.append(found)
        return best

    def branch_and_bound(self, *, seconds: float) -> float:
        """The cost that HiGHS finds no whole-numbered columns below, at the working bytes of the last line."""
        n, solver = len(self.relaxation.cost), _solver()
        solver.passModel(self._solver.getLp())  # without the last solution, which it may take for a plan
        solver.changeColsIntegrality(n, np.arange(n, dtype=np.int32), np.ones(n, dtype=np.uint8))
        solver.setOptionValue("time_limit", float(seconds))
        solver.setOptionValue("mip_rel_gap", 0.002)
        solver.run()
        bound = float(solver.getInfo().mip_dual_bound)
        return bound * self.cost_unit if math.isfinite(bound) else 0.0

    def _set_budget(self, working_bytes: int) -> None:
        memory = self.relaxation.memory
        for row, least in enumerate(((memory.least - working_bytes) / self.byte_unit).tolist()):
            self._solver.changeRowBounds(row, least, highspy.kHighsInf)

    def _line(self, duals: Floats) -> Line:
        """The line that duals prove, in whole numbers."""
        stages, cost = len(self.relaxation.memory), self.relaxation.cost
        y = np.maximum(duals[stages:], 0.0) * self.cost_unit
        prices = np.maximum(duals[:stages], 0.0) * self.cost_unit / self.byte_unit
        column = np.concatenate([t.column for t in self.terms[1:]])
        factor = np.concatenate([t.factor for t in self.terms[1:]])
        least = np.concatenate([t.least for t in self.terms[1:]])
        row = np.repeat(np.arange(len(y)), np.concatenate([np.diff(t.ptr) for t in self.terms[1:]]))
        weight = np.bincount(column, weights=np.abs(factor) * y[row], minlength=len(cost)) + cost
        bits = max(0, min(60 - math.frexp(float(weight.max(initial=1)))[1], 40))
        whole = np.rint(y * 2.0**bits).astype(np.int64)
        reduced = cost << bits
        np.subtract.at(reduced, column, factor * whole[row])
        memory = self.relaxation.memory
        price = [int(p) for p in np.rint(prices * 2.0 ** (bits + FINE)).tolist()]
        left = reduced.tolist()
        of_row = np.repeat(np.arange(stages), np.diff(memory.ptr)).tolist()
        for g, j, f in zip(of_row, memory.column.tolist(), memory.factor.tolist(), strict=True):
            left[j] += -f * price[g] >> FINE
        proven = sum(b * w for b, w in zip(least.tolist(), whole.tolist(), strict=True)) + sum(min(0, d) for d in left)
        fixed = sum(b * p for b, p in zip(memory.least.tolist(), price, strict=True))
        return Line((proven << FINE) + fixed, sum(price), bits + FINE)


def _solver() -> Any:
    solver: Any = highspy.Highs.__base__()  # type: ignore[misc]  # itself it prints a banner as it sets up callbacks
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    return solver
