"""The relaxation as a linear program in HiGHS: rounds of cuts, exact lines from its duals, branch and bound.

Any y ≥ 0 proves a bound: if A x ≥ b holds for every plan's 0-1 columns x, then c x = y A x + (c - y A) x
≥ y b + Σ min(0, c - y A), the sum over columns. The duals that a solver returns in floating point are
rounded, and the right side is evaluated in whole numbers, so that no tolerance of the solver enters. Cuts
do not depend on memory, and b does so linearly: one y bounds the cost for every memory, by a line. Rounding cuts
(`sim.strategies.general.rounding`) hold for a budget and what is below it, and so does a line that they are part of.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.strategies.general.cuts import violated_cuts
from sim.strategies.general.relaxation import Line, Relaxation, Terms
from sim.strategies.general.rounding import rounding_cuts

Floats = NDArray[np.float64]
TOLERANCE = 2e-3
"""Cuts violated by less are not worth a round."""
PATIENCE, STALLED = 3, 2e-3
"""Rounds end when so many have raised the bound by less than this share of it."""
FINE = 40
"""Bits of a byte's price beyond those of other duals."""


class Block(NamedTuple):
    """Rows as the solver holds them, divided by `unit`; they hold for budgets up to `until`, if it is given."""

    terms: Terms
    unit: float
    in_bytes: bool
    until: int | None


class Program:
    """A relaxation with the cuts found so far, as the solver holds it; costs and bytes are scaled to be about 1."""

    def __init__(self, relaxation: Relaxation) -> None:
        self.relaxation = relaxation
        self.blocks: list[Block] = []
        self.cost_unit = max(1.0, float(relaxation.cost.max(initial=0)))
        self.byte_unit = max(1.0, float(np.abs(relaxation.memory.factor).max(initial=0)))
        self.iterations = 0
        self._solver = _solver()
        n, nothing = len(relaxation.cost), np.zeros(0, dtype=np.int32)
        starts = np.zeros(n + 1, dtype=np.int32)
        self._solver.addCols(
            n, relaxation.cost / self.cost_unit, np.zeros(n), np.ones(n), 0, starts, nothing, np.zeros(0)
        )
        self._add(relaxation.memory, in_bytes=True)
        self._add(relaxation.logic)

    def _add(self, terms: Terms, *, in_bytes: bool = False, until: int | None = None) -> None:
        unit = self.byte_unit if in_bytes else 1.0
        if len(terms):
            self._solver.addRows(
                len(terms), terms.least / unit, np.full(len(terms), math.inf), len(terms.column),
                terms.ptr.astype(np.int32), terms.column.astype(np.int32), terms.factor / unit,
            )  # fmt: skip
            self.blocks.append(Block(terms, unit, in_bytes, until))

    def lines(self, working_bytes: int, *, rounds: int, cuts: int, iterations: int) -> list[Line]:
        """Lines that are as high as the relaxation at these working bytes, for any memory and for no more than these.

        Each of the two is sought in so many rounds of cuts; path cuts are kept for the next budget.
        """
        stop = self.iterations + iterations
        self._set_budget(working_bytes)
        found = [self._rounds(rounds, cuts, stop)]
        paths, basis = len(self.blocks), self._solver.getBasis()
        found.append(self._rounds(rounds, cuts, stop, whole_within=working_bytes))
        self._forget_rounding(paths, basis)
        return found

    def _rounds(self, rounds: int, cuts: int, stop: int, whole_within: int | None = None) -> Line:
        import highspy

        heights: list[float] = []
        for k in range(rounds):
            if k or whole_within is None:
                self._solver.setOptionValue("simplex_iteration_limit", max(1, stop - self.iterations))
                self._solver.run()
                self.iterations += max(0, self._solver.getInfo().simplex_iteration_count)
            heights.append(self._solver.getObjectiveValue())
            stalls = k >= PATIENCE and heights[k] - heights[k - PATIENCE] < STALLED * heights[k]
            if self._solver.getModelStatus() != highspy.HighsModelStatus.kOptimal or k == rounds - 1 or stalls:
                break
            x = np.array(self._solver.getSolution().col_value)
            paths = violated_cuts(self.relaxation, x, tolerance=TOLERANCE, most=cuts)
            self._add(paths)
            if whole_within is not None:
                whole = rounding_cuts(self.relaxation.memory, x, whole_within, tolerance=TOLERANCE)
                self._add(whole, in_bytes=True, until=whole_within)
                if len(whole):
                    continue
            if not len(paths):
                break
        return self._line(np.array(self._solver.getSolution().row_dual))

    def _forget_rounding(self, paths: int, basis: Any) -> None:
        """Take out the rounding cuts among the blocks after the first `paths`, and start again from a basis before."""
        import highspy

        ends = np.cumsum([0, *(len(block.terms) for block in self.blocks)])
        kept = [block.until is None for block in self.blocks]
        gone = np.flatnonzero(np.repeat(~np.array(kept), np.diff(ends))).astype(np.int32)
        if not len(gone):
            return
        self._solver.deleteRows(len(gone), gone)
        self.blocks = [block for block, keep in zip(self.blocks, kept, strict=True) if keep]
        new = self._solver.getNumRow() - len(basis.row_status)
        basis.row_status = [*basis.row_status, *[highspy.HighsBasisStatus.kBasic] * new]
        self._solver.setBasis(basis)

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
            self._solver.changeRowBounds(row, least, math.inf)

    def _line(self, duals: Floats) -> Line:
        """The line that duals prove, in whole numbers."""
        cost = self.relaxation.cost
        ends = np.cumsum([0, *(len(block.terms) for block in self.blocks)])
        y = np.maximum(duals, 0.0) * self.cost_unit
        y /= np.repeat([block.unit for block in self.blocks], np.diff(ends))
        weight = cost.astype(np.float64)
        for block, first in zip(self.blocks, ends[:-1].tolist(), strict=True):
            t = block.terms
            row = np.repeat(np.arange(first, first + len(t)), np.diff(t.ptr))
            weight += np.bincount(t.column, weights=np.abs(t.factor) * y[row], minlength=len(cost))
        bits = max(0, min(60 - math.frexp(float(weight.max(initial=1)))[1], 40))
        reduced, proven, slope, until = cost << bits, 0, 0, None
        for block, first in zip(self.blocks, ends[:-1].tolist(), strict=True):
            t, prices = block.terms, y[first : first + len(block.terms)]
            if not block.in_bytes:
                whole = np.rint(prices * 2.0**bits).astype(np.int64)
                np.subtract.at(reduced, t.column, t.factor * np.repeat(whole, np.diff(t.ptr)))
                proven += sum(b * w for b, w in zip(t.least.tolist(), whole.tolist(), strict=True)) << FINE
                continue
            for i in np.flatnonzero(prices).tolist():
                price = round(float(prices[i]) * 2.0 ** (bits + FINE))
                span = slice(int(t.ptr[i]), int(t.ptr[i + 1]))
                parts = [-f * price >> FINE for f in t.factor[span].tolist()]
                np.add.at(reduced, t.column[span], np.array(parts, dtype=np.int64))
                proven += int(t.least[i]) * price
                if block.until is None:
                    slope += price
                else:
                    until = block.until if until is None else min(until, block.until)
        proven += sum(min(0, d) for d in reduced.tolist()) << FINE
        return Line(proven, slope, bits + FINE, until)


def _solver() -> Any:
    import highspy

    solver: Any = highspy.Highs.__base__()  # type: ignore[misc]  # itself it prints a banner as it sets up callbacks
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    return solver
