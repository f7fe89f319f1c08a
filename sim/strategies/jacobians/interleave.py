"""The order of evaluations and steps of one bracketing that has the least peak, parts interleaved at will.

A step is one action on a Jacobian: an element's own formed or swept, tangents pushed through one
element, adjoints pulled through one, a product. The search is a shortest path over what has been
done, where the length of a path is its peak; it is exact, and exponential in the worst case.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import NamedTuple

from sim.graphs.node import STRUCTURES
from sim.schedules.actions import product_cost
from sim.strategies.jacobians.matrix_chain import DENSE, Bracketing, Elements
from sim.strategies.jacobians.search import ChainMemory, Search

MOST_STATES = 100_000


class Step(NamedTuple):
    """Step number `number` of a part (in the order of `Bracketing.parts`), and what it reads and makes.

    `element` is the one whose derivative is taken, -1 for a product; `inputs` are earlier steps whose
    Jacobians it uses up; `made_bytes` the Jacobian that it makes.
    """

    part: int
    number: int
    element: int
    inputs: tuple[int, ...]
    made_bytes: int


class Move(NamedTuple):
    """Evaluate `element`, or if that is -1 do step `step`."""

    element: int
    step: int


def steps_of(elements: Elements, memory: ChainMemory, tree: Bracketing) -> list[Step]:
    """The steps of a bracketing, each after those that it needs."""
    sizes = Search(elements, memory)
    steps: list[Step] = []
    last: dict[tuple[int, int], tuple[int, int]] = {}  # part: its last step, and its structure
    for k, part in enumerate(tree.parts()):
        i, j = part.first, part.last
        before = tuple(last[p.first, p.last] for p in (part.left, part.right) if p is not None)
        if part.how == "multiply":
            (left, left_kind), (right, right_kind) = before
            names = STRUCTURES[left_kind], STRUCTURES[right_kind]
            kind = STRUCTURES.index(product_cost(1, 1, 1, *names, elements.batch)[1])
            steps.append(Step(k, 0, -1, (left, right), sizes.jacobian_bytes(i, j + 1, kind)))
        else:
            begin = part.right.last + 1 if part.right else i
            end = part.left.first if part.left else j + 1
            forward = part.how != "adjoint"
            kind = int(elements.structure[i]) if part.how == "form" else DENSE
            inputs = tuple(step for step, _ in before)
            for number, e in enumerate(range(begin, end) if forward else range(end - 1, begin - 1, -1)):
                cuts = (i, e + 1) if forward else (e, j + 1)
                steps.append(Step(k, number, e, inputs, sizes.jacobian_bytes(*cuts, kind)))
                inputs = (len(steps) - 1,)
        last[i, j] = (len(steps) - 1, kind)
    return steps


def best_order(
    elements: Elements, memory: ChainMemory, tree: Bracketing, *, most_states: int = MOST_STATES
) -> tuple[int, list[Move]] | None:
    """The least peak (working bytes) of a bracketing and an order that has it; `None` if the search is too long."""
    steps = steps_of(elements, memory, tree)
    ledger = _Ledger(steps, memory)
    goal = ((1 << len(steps)) - 1, len(elements))
    order = count()
    queue = [(0, next(order), (0, 0))]
    reached: dict[tuple[int, int], tuple[int, tuple[int, int], Move]] = {}
    finished: set[tuple[int, int]] = set()
    while queue:
        peak, _, state = heapq.heappop(queue)
        if state == goal:
            return peak, _path(reached, goal)
        if state in finished:
            continue
        finished.add(state)
        if len(finished) > most_states:
            return None
        held = ledger.held(*state)
        for move, more, following in ledger.moves(*state):
            highest = max(peak, held + more)
            if following not in reached or highest < reached[following][0]:
                reached[following] = (highest, state, move)
                heapq.heappush(queue, (highest, next(order), following))
    raise AssertionError("a bracketing has an order")


def _path(reached: dict[tuple[int, int], tuple[int, tuple[int, int], Move]], goal: tuple[int, int]) -> list[Move]:
    moves: list[Move] = []
    state = goal
    while state != (0, 0):
        _, state, move = reached[state]
        moves.append(move)
    return moves[::-1]


class _Ledger:
    """Bytes held after some steps (a bit set) and evaluations (how many elements), and what may come next."""

    def __init__(self, steps: list[Step], memory: ChainMemory) -> None:
        self._steps = steps
        self._activation, self._residual = memory.activation.tolist(), memory.residual.tolist()
        self._workspace = memory.workspace.tolist()
        self._needs = [sum(1 << s for s in step.inputs) for step in steps]
        self._user = [-1] * len(steps)
        derivative = {step.element: 1 << s for s, step in enumerate(steps) if step.element >= 0}
        for s, step in enumerate(steps):
            for used in step.inputs:
                self._user[used] = s
        elements = len(self._residual)
        # bits of the derivatives that read the activation at each cut
        self._readers = [
            (derivative[c] if c < elements and memory.reads_input[c] else 0)
            | (derivative[c - 1] if c > 0 and memory.reads_output[c - 1] else 0)
            for c in range(elements + 1)
        ]
        self._derivative = [derivative[e] for e in range(elements)]

    def held(self, done: int, evaluated: int) -> int:
        elements = len(self._residual)
        total = 0
        for c in range(evaluated + 1):
            if self._readers[c] & ~done or (c == evaluated and c < elements):
                total += self._activation[c]
        for e in range(evaluated):
            if not self._derivative[e] & done:
                total += self._residual[e]
        for s, step in enumerate(self._steps):
            if done >> s & 1 and (self._user[s] < 0 or not done >> self._user[s] & 1):
                total += step.made_bytes
        return total

    def moves(self, done: int, evaluated: int) -> list[tuple[Move, int, tuple[int, int]]]:
        """(move, bytes beyond what is held while it runs, state after it)."""
        moves = []
        if evaluated < len(self._residual):
            more = self._activation[evaluated + 1] + self._residual[evaluated] + self._workspace[evaluated]
            moves.append((Move(evaluated, -1), more, (done, evaluated + 1)))
        for s, step in enumerate(self._steps):
            if done >> s & 1 or self._needs[s] & ~done or step.element >= evaluated:
                continue
            more = step.made_bytes + (self._workspace[step.element] if step.element >= 0 else 0)
            moves.append((Move(-1, s), more, (done | 1 << s, evaluated)))
        return moves
