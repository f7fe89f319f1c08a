"""Plans of a problem for many budgets in one search: each plan warms its neighbours.

The search goes down the front once (each plan is the start for the next smaller budget) and then improves all
budgets in stretches of doubling length, between which neighbours exchange plans. Every sequence that is met
is kept if none beats it in both peak and cost, so that the plans are monotone. Budgets are searched side by
side on threads, each from a stream of random numbers of its own, so that the outcome depends on the seed and
the number of rounds alone, and more rounds only go on from where fewer end.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from queue import SimpleQueue
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from sim.strategies.general.moves import Found, Pace, arrange, fit, search
from sim.strategies.general.problem import Problem, Rows
from sim.strategies.general.sequence import State, Words, load, measure, state_of

Order = Literal["free", "listed"]

WORK_PER_SECOND = 5e8
"""Touches and positions that two cores walk over in a second: `effort` is counted in them, not in time."""
STRETCHES = (16, 32, 64, 128, 256, 512)
"""Rounds of each stretch of a search; the last length stays."""
ARRANGEMENTS = 1000
"""Moves by which a new start gets its order."""
WARM, COLD = 0.01, 0.0003
ORDERINGS = 500
"""Moves at each step towards a smaller peak by order alone."""
FINE = 240
"""Budgets of a whole front that only take over what was found beside them."""
ATTEMPTS, MOST_ATTEMPTS = 50_000, 500
"""Rounds times rows, and the most rounds, of each search for a smaller peak."""
AGAIN = 120
"""Rows of all searches for a smallest peak that follow the first: small problems get several."""
T = TypeVar("T")
R = TypeVar("R")


class Plan(NamedTuple):
    """A sequence of rows with its exact peak bytes and cost."""

    peak: int
    cost: int
    rows: Rows


@dataclass
class _Search:
    """The search for one budget: where it stands and its random numbers."""

    budget: int
    found: Found
    random: Words


class Planner:
    """The plans found so far for one problem, and ways to find more; `plans` rise in peak and fall in cost."""

    def __init__(self, problem: Problem, *, order: Order = "free", seed: int = 0) -> None:
        self.problem = problem
        self.order: Order = order
        self.seed = seed
        self.plans: list[Plan] = []
        self.movable = movable_rows(problem) if order == "free" else np.zeros(0, dtype=np.int32)
        again = problem.must & ~problem.once
        self.unit = max(1.0, float(problem.cost[again].sum(dtype=np.float64)))
        self._searches: list[_Search] = []
        self._workers = min(2, os.cpu_count() or 1)
        self._states: SimpleQueue[State] = SimpleQueue()
        for _ in range(self._workers):
            self._states.put(state_of(problem, listed=order == "listed"))
        self._work = 0
        self.offer(problem.order)

    @property
    def order_share(self) -> float:
        """The share of moves that change the order."""
        if self.order == "listed":
            return 0.0
        return 0.5 if len(self.movable) or not self.problem.once.any() else 0.05

    @property
    def floor(self) -> int:
        """Bytes that some row takes by itself: no peak is smaller."""
        return int(self.problem.alone[self.problem.must].max())

    def has_room(self, rows: Rows) -> bool:
        """Whether a sequence fits into the buffers of the search."""

        def fits(state: State) -> bool:
            touches = int(np.diff(self.problem.ptr)[rows].sum())
            return len(rows) < len(state.places) and touches <= len(state.touches)

        return self._with_state(fits)

    def offer(self, rows: Rows) -> Plan:
        """Keep a sequence if no plan beats it."""
        peak, cost, kept = self._with_state(lambda s: _measured(s, rows))
        plan = Plan(peak, cost, kept)
        at = bisect_right(self.plans, peak, key=lambda p: p.peak)
        if not at or self.plans[at - 1].cost > cost:
            if at and self.plans[at - 1].peak == peak:
                at -= 1
            end = at
            while end < len(self.plans) and self.plans[end].cost >= cost:
                end += 1
            self.plans[at:end] = [plan]
        return plan

    def within(self, budget: int) -> Plan | None:
        """The cheapest plan whose peak is at most `budget`."""
        at = bisect_right(self.plans, budget, key=lambda p: p.peak)
        return self.plans[at - 1] if at else None

    def reorder(self, rounds: int) -> Plan:
        """Anneal the order without running anything again: the plan with the smallest peak found."""
        plan = self.offer(self.problem.order)
        step = max(1, (plan.peak - self.floor) // 8)
        random = self._stream(0)
        while step and plan.peak > self.floor:
            budget = max(self.floor, plan.peak - step)
            unit = float(self.problem.value_bytes.max())
            rows, left = self._with_state(
                lambda s, p=plan, b=budget, u=unit: arrange(s, p.rows, b, u, rounds, self.movable, random)  # type: ignore[misc]
            )
            found = self.offer(rows)
            if found.peak < plan.peak:
                plan = found
            if left:
                step //= 2
        return plan

    def descend(self, budgets: Iterable[int]) -> None:
        """Plans for falling budgets, each from the one before and from the order given."""
        start = self.plans[-1].rows
        before = start
        for budget in budgets:
            tries = [before] if before is start else [before, start]
            done = self._map(lambda rows, b=budget: self._fitted(rows, b), tries)  # type: ignore[misc]
            for rows, _ in done:
                self.offer(rows)
            fitting = [rows for rows, left in done if not left]
            cheapest = self.within(budget)
            if fitting and cheapest:
                before = cheapest.rows
            best = cheapest.rows if cheapest else min(done, key=lambda d: d[1])[0]
            self._searches.append(_Search(budget, self._standing(best, budget), self._stream(1 + len(self._searches))))

    def improve(self, rounds: int, *, effort: float | None = None) -> None:
        """Search on at every budget for a number of rounds, or as many as fit into an effort in seconds.

        Every second stretch of the longer ones starts from a new order, as the order decides more than all else.
        """
        done, number, before = 0, 0, self._work
        while done < rounds:
            length = STRETCHES[min(number, len(STRETCHES) - 1)]
            count = min(length, rounds - done)
            afresh = length > STRETCHES[1] and number % 2 == 0
            near = [self._near(k) for k in range(len(self._searches))]

            def stretch(k: int, *, near: list[list[Rows]] = near, pace: int = length, end: int = count) -> Found:
                one = self._searches[k]
                start = self._new_start(one) if afresh else self._best_start(one, near[k])  # noqa: B023
                return self._with_state(lambda s: self._run(s, one, start, 0, end, pace))

            for one, found in zip(self._searches, self._map(stretch, range(len(self._searches))), strict=True):
                one.found = found
                self.offer(found.best)
            if effort is not None and not done:
                each = max(1, self._work - before) / count
                rounds = count + max(0, int((effort * WORK_PER_SECOND - self._work) / each))
            done, number = done + count, number + 1

    def refine(self, budgets: Iterable[int]) -> None:
        """Plans for budgets between those searched: from the plan above, repaired, and from that below, pruned."""

        def both(budget: int) -> list[Rows]:
            at = bisect_right(self.plans, budget, key=lambda p: p.peak)
            near = [p for p in self.plans[max(0, at - 1) : at + 1] if p.peak != budget]
            return [self._fitted(p.rows, budget)[0] for p in near]

        for rows in self._map(both, list(budgets)):
            for one in rows:
                self.offer(one)

    def deepen(self) -> None:
        """Search for the smallest peak.

        Small problems are searched again and again, from new orders too, as one search may stop short.
        """
        number = 1 << 20
        for repeat in range(1 + AGAIN // len(self.problem.order)):
            number = self._cut(number, afresh=repeat % 2 == 1)

    def _cut(self, number: int, *, afresh: bool) -> int:
        """Cut the stretch between the smallest peak found and what some row takes; `number` is of the next stream."""
        rounds = max(8, min(MOST_ATTEMPTS, ATTEMPTS // len(self.problem.order)))
        low = self.floor - 1  # too small, as far as the search can tell
        while (width := self.plans[0].peak - low) > max(1, self.plans[0].peak // 400):
            ends = self.plans[-1].rows, self.plans[0].rows
            tries = [
                _Search(budget, self._standing(ends[1], budget), self._stream(number + k))
                for k, budget in enumerate(sorted({low + width // 3, low + width // 2, low + 2 * width // 3} - {low}))
            ]
            number += len(tries)
            found = self._map(lambda one, e=ends: self._attempt(one, e, rounds, afresh=afresh), tries)  # type: ignore[misc]
            for one in found:
                self.offer(one.best)
            low = max((t.budget for t in tries if t.budget < self.plans[0].peak), default=low)
        return number

    def _attempt(self, one: _Search, starts: Sequence[Rows], rounds: int, *, afresh: bool) -> Found:
        """A search until the budget is kept, or for a number of rounds; from a new order or the best of the starts."""
        if afresh:
            found = self._new_start(one)
        else:
            tries = [self._fitted(rows, one.budget) for rows in starts]
            found = self._standing(min(tries, key=lambda t: t[1])[0], one.budget)
        for begin in range(0, rounds, 8):
            if not found.best_overflow:
                break
            end = min(begin + 8, rounds)
            found = self._with_state(lambda s, f=found, b=begin, e=end: self._run(s, one, f, b, e, rounds))  # type: ignore[misc]
        return found

    def subdivide(self, count: int) -> None:
        """Search at more budgets too, where the front falls most."""
        for budget in self.between(count):
            best = self.within(budget)
            assert best is not None
            stream = self._stream(1 + len(self._searches))
            self._searches.append(_Search(budget, self._standing(best.rows, budget), stream))
        self._searches.sort(key=lambda s: -s.budget)

    def between(self, count: int) -> list[int]:
        """Budgets between the plans, each in the middle of where the front falls most over the widest stretch.

        Costs count by the logarithm of what is run again.
        """
        floor = 0.003 * self.unit + self.plans[-1].cost - self.problem.base_cost
        corners = [(p.peak, math.log(p.cost - self.problem.base_cost + floor)) for p in self.plans]
        areas = [(a[1] - b[1]) * (b[0] - a[0]) if b[0] - a[0] > 1 else 0.0 for a, b in pairwise(corners)]
        out: list[int] = []
        while len(out) < count and areas and max(areas) > 0:
            at = int(np.argmax(areas))
            (low, dear), (high, cheap) = corners[at : at + 2]
            middle = (low + high) // 2
            out.append(middle)
            corners.insert(at + 1, (middle, (dear + cheap) / 2))
            halves = [(dear - cheap) / 2 * (b - a) if b - a > 1 else 0.0 for a, b in ((low, middle), (middle, high))]
            areas[at : at + 1] = halves
        return out

    def _near(self, k: int) -> list[Rows]:
        """Starts for a search: the plans of its neighbours, and the orders of those and of its own best plan."""
        near = [self.within(one.budget) for one in self._searches[max(0, k - 1) : k + 2]]
        rows = [plan.rows for plan in near if plan]
        return rows + [first_runs(r) for r in rows]

    def _best_start(self, one: _Search, near: list[Rows]) -> Found:
        """Where a search goes on: from where it stands, or from a better start."""
        best = one.found
        for rows in near:
            found = self._standing(self._fitted(rows, one.budget)[0], one.budget)
            if (found.best_overflow, found.best_cost) < (best.best_overflow, best.best_cost):
                best = found
        return best

    def _new_start(self, one: _Search) -> Found:
        rows = self.problem.order
        if self.order_share:
            unit = float(self.problem.value_bytes.max())
            rows, _ = self._with_state(
                lambda s: arrange(s, rows, one.budget, unit, ARRANGEMENTS, self.movable, one.random)
            )
        return self._standing(self._fitted(rows, one.budget)[0], one.budget)

    def _run(self, state: State, one: _Search, start: Found, begin: int, end: int, length: int) -> Found:
        pace = Pace(self.unit, WARM, COLD, length, self.order_share)
        return Found(*search(state, start, one.budget, pace, self.movable, one.random, begin, end))

    def _fitted(self, rows: Rows, budget: int) -> tuple[Rows, float]:
        return self._with_state(lambda s: fit(s, rows, budget, self.unit))

    def _standing(self, rows: Rows, budget: int) -> Found:
        def found(state: State) -> Found:
            state.rows["weight"] = 1.0
            load(state, rows)
            left = float(measure(state, budget))
            cost = float(state.now["cost"][0])
            return Found(rows, rows, cost, cost, left, left)

        return self._with_state(found)

    def _stream(self, number: int) -> Words:
        word = np.random.SeedSequence([self.seed, number]).generate_state(1, dtype=np.uint64)
        return np.maximum(word, np.uint64(1))

    def _with_state(self, use: Callable[[State], R]) -> R:
        state = self._states.get()
        try:
            return use(state)
        finally:
            self._work += int(state.now["work"][0])
            state.now["work"] = 0
            self._states.put(state)

    def _map(self, call: Callable[[T], R], items: Sequence[T]) -> list[R]:
        if len(items) < 2 or self._workers < 2:
            return [call(item) for item in items]
        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(call, items))


def plan(
    problem: Problem,
    budgets: Sequence[int] | None = None,
    *,
    order: Order = "free",
    rounds: int | None = None,
    effort: float | None = None,
    seed: int = 0,
    starts: Iterable[Rows] = (),
) -> list[Plan]:
    """The plans that none beats, rising in peak and falling in cost; for each of `budgets` the best is among them.

    Without budgets they are spread over the whole front. The search goes on for a number of `rounds` for each
    budget, or for an `effort` in seconds of two cores (counted in steps, so that it is the same everywhere);
    without either, for 10 ms a row that may run again. `starts` are sequences that may be better than what is found.
    """
    planner = Planner(problem, order=order, seed=seed)
    for rows in starts:
        if planner.has_room(rows):
            planner.offer(rows)
    if order == "free":
        planner.reorder(orderings(problem))
    if rounds is None and effort is None:
        effort = effort_for(problem)
    limit = 2**62 if rounds is None else rounds
    if budgets is None:
        top = planner.plans[0].peak
        planner.deepen()
        low = planner.plans[0].peak
        count = max(4, min(96, 12_000 // len(problem.order)))
        planner.descend(_spread(top, low, count))
        planner.improve(min(limit, STRETCHES[0]))
        planner.subdivide(count)
        planner.improve(limit - STRETCHES[0], effort=effort)
        planner.refine(planner.between(FINE))
    else:
        planner.descend(sorted(set(budgets), reverse=True))
        planner.improve(limit, effort=effort)
    return planner.plans


def orderings(problem: Problem) -> int:
    """Moves at each step towards a smaller peak by order alone, unless somebody says how many."""
    return max(10, min(ORDERINGS, 200_000 // len(problem.order)))


def effort_for(problem: Problem) -> float:
    """Seconds of search unless somebody says how many: 10 ms for each row that may run again."""
    return min(30.0, 0.01 * float((problem.must & ~problem.once).sum()))


def _spread(top: int, low: int, count: int) -> list[int]:
    """Falling budgets from below `top` to `low`: half of them evenly, the others closing in on both ends."""
    even, near = np.linspace(0.0, 1.0, count // 2 + 1)[1:], 0.5 ** np.linspace(2.0, 10.0, count // 4)
    shares = np.concatenate([even, near, 1.0 - near])
    return sorted({top - max(1, round((top - low) * share)) for share in shares.tolist()}, reverse=True)


def _measured(state: State, rows: Rows) -> tuple[int, int, Rows]:
    load(state, rows)
    measure(state, 2**62)
    start = int(state.now["start"][0])
    return int(state.now["peak"][0]), int(state.now["cost"][0]), state.places["row"][start:-1].astype(np.int32)


def first_runs(rows: Rows) -> Rows:
    """The order of a sequence alone: the first run of each row."""
    _, first = np.unique(rows, return_index=True)
    return rows[np.sort(first)]


def movable_rows(problem: Problem) -> Rows:
    """Rows that run once and have more than one place among those that do."""
    order, before = problem.order.tolist(), problem.predecessors()
    once = [row for row in order if problem.once[row]]
    place = {row: k for k, row in enumerate(once)}
    comparable = np.ones(len(once), dtype=np.int64)
    for rows, towards in ((order, before), (order[::-1], _reversed(before))):
        reached: dict[int, int] = {}
        for row in rows:
            bits = 0
            for r in towards[row]:
                bits |= reached[r] | (1 << place[r] if r in place else 0)
            reached[row] = bits
            if row in place:
                comparable[place[row]] += bits.bit_count()
    return np.array(once, dtype=np.int32)[comparable < len(once)]


def _reversed(before: list[list[int]]) -> list[list[int]]:
    after: list[list[int]] = [[] for _ in before]
    for row, rows in enumerate(before):
        for r in rows:
            after[r].append(row)
    return after
