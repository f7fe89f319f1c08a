"""Plans of a problem for many budgets in one search: each plan warms its neighbours.

The search goes down the front once (each plan is the start for the next smaller budget) and then improves all
budgets in stretches of doubling length, between which neighbours exchange plans. Every sequence that is met
is kept if none beats it in both peak and cost, so that the plans are monotone. Budgets are searched side by
side on threads, each from a stream of random numbers of its own, so that the outcome depends on the seed and
the number of rounds alone, and more rounds only go on from where fewer end. Effort is in seconds of two cores, by
counts of what the search walks over and what that takes, so that it ends in time, and at the same plans everywhere.
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
from threading import Lock
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from sim.base import searches
from sim.strategies.general.blocks import Short, joined, shortened
from sim.strategies.general.moves import Found, Pace, arrange, fit, search
from sim.strategies.general.problem import Problem, Rows
from sim.strategies.general.sequence import State, Words, load, measure, state_of

Order = Literal["free", "listed"]

WORK_PER_SECOND = 1.6e9
"""Nanoseconds of kernels that two cores get through in a second, as work is counted."""
STRETCHES = (16, 32, 64, 128, 256, 512)
"""Rounds of each stretch of a search; the last length stays."""
ARRANGEMENTS = 1000
"""Moves by which a new start gets its order."""
BESIDE = (-16, -4, -1, 0, 1, 4, 16)
"""The number of budgets away that the plans are from which a stretch may start."""
PIECE = 0.25
"""Seconds, about, between two looks at whether the search is to end."""
FEW = 24
"""Rows up to which a problem is small: searched again and again from new orders, for little time in all."""
LEAST_EFFORT = 0.1
"""Seconds of search of a small problem beside those for its rows."""
FIRST = 5000
"""Rounds times rows of the first piece of a search, after which its pace is known."""
OPENING = 0.5
"""Share of what is left of an effort that plans from other budgets may take at the start of a stretch."""
WARM, COLD = 0.01, 0.0003
ORDERINGS = 500
"""Moves at each step towards a smaller peak by order alone."""
FINE, AT_ONCE, ROWS_AT_ONCE = 240, 24, 50_000
"""Budgets of a whole front that only take over what was found beside them; how many are chosen at a time, and rows."""
ATTEMPTS, MOST_ATTEMPTS = 50_000, 500
"""Rounds times rows, and the most rounds, of each search for a smaller peak."""
AGAIN = 120
"""Rows of all searches for a smallest peak that follow the first: small problems get several."""
EACH_ROW, MOST_EFFORT = 0.01, 30.0
"""Seconds of search for each row that may run again, and in all, where no effort is given."""
REORDERING, DEEPENING, DESCENT, REFINING = 0.05, 0.25, 0.1, 0.15
"""Shares of an effort that go into the order, the smallest peak, the first plans and the plans between."""
AT_LEAST = 0.3
"""Seconds of each of these, if it takes that long."""
SHORT_SHARE, JOINED = 0.25, 0.5
"""Share of an effort for the short problem of equal blocks, and seconds for the whole where it has been planned."""
MIXES, ROWS_JOINED = 16, 20_000_000
"""Ways to share equal blocks between two neighbours of a short plan, and rows of all that are tried, about."""
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
        self._work = self._fit_work = self._fits = 0
        self._counting = Lock()
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

    @property
    def _small(self) -> bool:
        return len(self.problem.order) <= FEW

    @property
    def spent(self) -> float:
        """Seconds that the search took so far, as effort is counted."""
        return self._work / WORK_PER_SECOND

    @property
    def _fit_seconds(self) -> float:
        """Seconds of a repair, by those so far."""
        return self._fit_work / max(1, self._fits) / WORK_PER_SECOND

    def has_room(self, rows: Rows) -> bool:
        """Tell whether a sequence fits into the buffers of the search."""

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

    def join(self, short: Short, plans: Sequence[Plan]) -> None:
        """Offer what plans of a few equal blocks say about all of them; of large problems not of all those plans."""
        every = max(1, len(plans) * MIXES * len(self.problem.order) // ROWS_JOINED)
        for one in plans[::every]:
            for rows in joined(short, one.rows, mixes=MIXES):
                if self.has_room(rows):
                    self.offer(rows)
                if searches.ended():
                    break

    def within(self, budget: int) -> Plan | None:
        """The cheapest plan whose peak is at most `budget`."""
        at = bisect_right(self.plans, budget, key=lambda p: p.peak)
        return self.plans[at - 1] if at else None

    def reorder(self, rounds: int, *, effort: float = math.inf) -> Plan:
        """Anneal the order without running anything again: the plan with the smallest peak found."""
        end = self.spent + effort
        plan = self.offer(self.problem.order)
        step = max(1, (plan.peak - self.floor) // 8)
        random = self._stream(0)
        while step and plan.peak > self.floor and self.spent < end and not searches.ended():
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

    def descend(self, budgets: Iterable[int], *, effort: float = math.inf) -> None:
        """Plans for falling budgets, each from the one before and, until the effort is spent, from the order given."""
        end = self.spent + effort
        start = self.plans[-1].rows
        before = start
        for budget in budgets:
            if searches.ended():
                break
            tries = [before] if before is start or self.spent >= end else [before, start]
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
        done, number, opening, end = 0, 0, 0.0, self.spent + (math.inf if effort is None else effort)
        while done < rounds and self._searches and (self.spent + 2 * opening < end or not opening):
            if searches.ended():
                break
            began = self.spent
            if self._small:
                length, afresh = STRETCHES[0], number % 2 == 1
            else:
                length = STRETCHES[min(number, len(STRETCHES) - 1)]
                afresh = length > STRETCHES[1] and number % 2 == 0
            near = [self._near(k) for k in range(len(self._searches))]
            if sum(map(len, near)) * self._fit_seconds > OPENING * (end - began):
                near = [[] for _ in self._searches]

            def start(k: int, *, near: list[list[Rows]] = near, afresh: bool = afresh) -> Found:
                one = self._searches[k]
                return self._new_start(one) if afresh else self._best_start(one, near[k])

            self._stand(self._map(start, range(len(self._searches))))
            opening = self.spent - began
            self._stretch(length, min(length, rounds - done), end)
            done, number = done + length, number + 1

    def _stretch(self, length: int, rounds: int, end: float) -> None:
        """The first rounds of a stretch for all searches, in pieces of as many as fit into what is left."""
        begin, each = 0, 0.0
        while begin < rounds and self.spent < end and not searches.ended():
            left, before = end - self.spent, self.spent
            step = max(1, int(min(0.7 * left, PIECE) / each)) if begin else max(1, FIRST // len(self.problem.order))
            stop = min(rounds, begin + step)

            def run(one: _Search, *, begin: int = begin, stop: int = stop) -> Found:
                return self._run(one, one.found, length, begin, stop)[0]

            self._stand(self._map(run, self._searches))
            begin, each = stop, max(1e-6, self.spent - before) / (stop - begin)
        for one in self._searches:
            self.offer(one.found.best)

    def _stand(self, found: Sequence[Found]) -> None:
        for one, now in zip(self._searches, found, strict=True):
            one.found = now

    def refine(self, budgets: Iterable[int]) -> None:
        """Plans for budgets between those searched: from the plan above, repaired, and from that below, pruned."""

        def both(budget: int) -> list[Rows]:
            at = bisect_right(self.plans, budget, key=lambda p: p.peak)
            near = [p for p in self.plans[max(0, at - 1) : at + 1] if p.peak != budget]
            return [self._fitted(p.rows, budget)[0] for p in near]

        for rows in self._map(both, list(budgets)):
            for one in rows:
                self.offer(one)

    def fill(self, count: int, *, effort: float = math.inf) -> None:
        """Refine at so many budgets, or as many as fit into an effort, where the front falls most by then."""
        end, most = self.spent + effort, max(2, min(AT_ONCE, ROWS_AT_ONCE // len(self.problem.order)))
        for first in range(0, count, most):
            if self.spent >= end or searches.ended():
                break
            self.refine(self.between(min(most, count - first)))

    def deepen(self, *, effort: float = math.inf) -> None:
        """Search for the smallest peak.

        Small problems are searched again and again, from new orders too, as one search may stop short.
        """
        number, end = 1 << 20, self.spent + effort
        for repeat in range(1 + AGAIN // len(self.problem.order)):
            number = self._cut(number, end, afresh=repeat % 2 == 1)

    def _cut(self, number: int, end: float, *, afresh: bool) -> int:
        """Cut the stretch between the smallest peak found and what some row takes; `number` is of the next stream."""
        rounds = max(8, min(MOST_ATTEMPTS, ATTEMPTS // len(self.problem.order)))
        low = self.floor - 1  # too small, as far as the search can tell
        while self.spent < end and not searches.ended():
            width = self.plans[0].peak - low
            if width <= max(1, self.plans[0].peak // 400):
                break
            ends = [self.plans[0].rows, self.plans[-1].rows][: len(self.plans)]
            tries = [
                _Search(budget, self._standing(ends[0], budget), self._stream(number + k))
                for k, budget in enumerate(sorted({low + width // 3, low + width // 2, low + 2 * width // 3} - {low}))
            ]
            number += len(tries)
            share = (end - self.spent) / 8

            def attempt(one: _Search, *, starts: Sequence[Rows] = ends, share: float = share) -> Found:
                return self._attempt(one, starts, rounds, share, afresh=afresh)

            for one in self._map(attempt, tries):
                self.offer(one.best)
            low = max((t.budget for t in tries if t.budget < self.plans[0].peak), default=low)
        return number

    def _attempt(self, one: _Search, starts: Sequence[Rows], rounds: int, effort: float, *, afresh: bool) -> Found:
        """A search until the budget is kept, or for a number of rounds; from a new order or the best of the starts."""
        if afresh:
            found = self._new_start(one)
        else:
            tries = [self._fitted(rows, one.budget, effort) for rows in starts]
            found = self._standing(min(tries, key=lambda t: t[1])[0], one.budget)
        step, left, begin = max(1, 8 * rounds // MOST_ATTEMPTS), effort, 0
        while begin < rounds and found.best_overflow and left > 0 and not searches.ended():
            found, work = self._run(one, found, rounds, begin, min(begin + step, rounds))
            begin, left = begin + step, left - work / WORK_PER_SECOND
        return found

    def subdivide(self, count: int) -> None:
        """Search at more budgets too, where the front falls most."""
        for budget in self.between(count):
            best = self.within(budget)
            assert best is not None
            stream = self._stream(1 + len(self._searches))
            self._searches.append(_Search(budget, self._standing(best.rows, budget), stream))
        self._searches.sort(key=lambda s: -s.budget)

    def double(self) -> None:
        """Search twice for a single budget, from other random numbers: side by side as several are."""
        if len(self._searches) == 1:
            one = self._searches[0]
            self._searches.append(_Search(one.budget, one.found, self._stream(2)))

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
        beside = [k + step for step in BESIDE if 0 <= k + step < len(self._searches)]
        near = [self.within(self._searches[i].budget) for i in beside]
        rows = [plan.rows for plan in near if plan]
        different = {r.tobytes(): r for r in [self._searches[k].found.best, *rows, *map(first_runs, rows)]}
        return list(different.values())[1:]

    def _best_start(self, one: _Search, near: list[Rows]) -> Found:
        """The start that a search goes on from: where it stands, or a better one."""
        best = one.found
        for rows in near:
            if searches.ended():
                break
            found = self._standing(self._fitted(rows, one.budget)[0], one.budget)
            if (found.best_overflow, found.best_cost) < (best.best_overflow, best.best_cost):
                best = found
        return best

    def _new_start(self, one: _Search) -> Found:
        rows = self.problem.order
        if self.order_share:
            unit, moves = float(self.problem.value_bytes.max()), min(ARRANGEMENTS, 20 * len(rows))
            rows, _ = self._with_state(lambda s: arrange(s, rows, one.budget, unit, moves, self.movable, one.random))
        return self._standing(self._fitted(rows, one.budget)[0], one.budget)

    def _run(self, one: _Search, found: Found, length: int, begin: int, end: int) -> tuple[Found, int]:
        """Rounds of a stretch: (where the search stands then, the work that they took)."""
        pace = Pace(self.unit, WARM, COLD, length, self.order_share)

        def run(state: State) -> tuple[Found, int]:
            after = search(state, found, one.budget, pace, self.movable, one.random, begin, end)
            return Found(*after), int(state.now["work"][0])

        return self._with_state(run)

    def _fitted(self, rows: Rows, budget: int, effort: float = math.inf) -> tuple[Rows, float]:
        most = effort * WORK_PER_SECOND

        def fitted(state: State) -> tuple[Rows, float]:
            out = fit(state, rows, budget, self.unit, most)
            with self._counting:
                self._fits += 1
                self._fit_work += int(state.now["work"][0])
            return out

        return self._with_state(fitted)

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
            with self._counting:
                self._work += int(state.now["work"][0])
            state.now["work"] = 0
            self._states.put(state)

    def _map(self, call: Callable[[T], R], items: Sequence[T]) -> list[R]:
        if len(items) < 2 or self._workers < 2 or self._small:
            return [call(item) for item in items]
        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(call, items))


@searches.under_way()
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
    budget, or for an `effort` in seconds; without either, for 10 ms a row that may run again, at most half a minute.
    Equal blocks are planned once (`sim.strategies.general.blocks`), and their rows count once.
    `starts` are sequences that may be better than what is found. Interrupted (`sim.base.searches`) it returns the
    best so far.
    """
    planner = Planner(problem, order=order, seed=seed)
    short, usual = shortened(problem), effort_for(problem)
    if short is not None:
        usual = min(usual, effort_for(short.problem) + JOINED)
    seconds = math.inf if rounds is not None else usual if effort is None else effort
    for rows in starts:
        if planner.has_room(rows):
            planner.offer(rows)
    if short is not None and not searches.ended():
        part = min(effort_for(short.problem), SHORT_SHARE * seconds)
        planner.join(short, plan(short.problem, order=order, effort=part, seed=seed))
        seconds -= part
    before = min(seconds, usual)  # more effort only goes on from where less ends

    def share(of: float) -> float:
        return max(AT_LEAST, of * before)

    if order == "free":
        planner.reorder(orderings(problem), effort=share(REORDERING))
    limit = 2**62 if rounds is None else rounds
    if budgets is None:
        top = planner.plans[0].peak
        planner.deepen(effort=share(DEEPENING))
        low = planner.plans[0].peak
        count = max(4, min(96, 12_000 // len(problem.order)))
        planner.descend(_spread(top, low, count), effort=share(DESCENT))
        left = seconds - REFINING * before
        planner.improve(min(limit, STRETCHES[0]), effort=(left - planner.spent) / 2)
        planner.subdivide(count)
        planner.improve(limit - STRETCHES[0], effort=left - planner.spent)
        planner.fill(FINE, effort=share(REFINING))
    else:
        planner.descend(sorted(set(budgets), reverse=True), effort=share(DESCENT))
        planner.double()
        planner.improve(limit, effort=seconds - planner.spent)
    return planner.plans


def orderings(problem: Problem) -> int:
    """Moves at each step towards a smaller peak by order alone, unless somebody says how many."""
    return max(10, min(ORDERINGS, 200_000 // len(problem.order)))


def effort_for(problem: Problem) -> float:
    """Seconds of search unless somebody says how many: 10 ms for each row that may run again, half a minute at most.

    Small problems take a tenth of a second more.
    """
    least = LEAST_EFFORT if len(problem.order) <= FEW else 0.0
    return min(MOST_EFFORT, least + EACH_ROW * float((problem.must & ~problem.once).sum()))


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
