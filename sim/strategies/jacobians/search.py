"""The front of (peak bytes, flops) over all orders and modes of a chain of Jacobians.

What is searched: every bracketing; each element's Jacobian formed, or by tangents, or by adjoints;
each step a product of two Jacobians, tangents pushed through later elements or adjoints pulled
through earlier ones; which part of a product comes first; and the primal evaluated before all
products, or each element just before its Jacobian. Parts are computed one after the other, never
interleaved. Memory is counted as replay does: activations and residuals from their forward to the
last derivative that reads them, Jacobians from their making to their product.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, product
from typing import NamedTuple

import numpy as np

from sim.graphs.node import STRUCTURES, Ints
from sim.schedules.actions import product_cost
from sim.strategies.jacobians.matrix_chain import DENSE, Bracketing, Elements, How


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainMemory:
    """Bytes of a chain of L elements: of the activation at each of its L + 1 cuts (0 for the input and whatever
    is resident), and of each element its residual, its workspace and which of its two activations it reads."""

    activation: Ints
    residual: Ints
    workspace: Ints
    reads_input: Ints
    reads_output: Ints
    itemsize: Ints  # of the scalars of each cut's Jacobians by earlier ones


class Point(NamedTuple):
    """The cost of one order for a part of the chain; `kind` is the structure of its Jacobian."""

    peak: int
    flops: int
    kind: int
    how: How
    split: int
    left: Point | None
    right: Point | None
    left_first: bool


class Context(NamedTuple):
    """The rest of the chain as a part sees it: whether it still reads the activations at the part's ends,
    and whether the part's elements have been evaluated already."""

    start: bool
    stop: bool
    evaluated: bool


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """A bracketing and the working bytes and flops (without the primal's) that it takes.

    `interleaved`: each element is evaluated just before its Jacobian; if not, all are evaluated first.
    """

    peak_bytes: int
    flops: int
    tree: Bracketing
    interleaved: bool


@dataclass(frozen=True, eq=False)
class Search:
    """The dynamic program over parts i … j of a chain, each with its front.

    With `tolerance` ε, points whose flops another with no higher peak meets within a factor
    (1 + ε)^(1/L) are left out, so that its flops are at most (1 + ε) times the least. With `only`,
    this bracketing alone is searched: which parts come first, and when elements are evaluated.
    """

    elements: Elements
    memory: ChainMemory
    tape: int | None = None
    tolerance: float = 0.0
    only: Bracketing | None = None
    _fronts: dict[tuple[int, int, Context], tuple[Point, ...]] = field(default_factory=dict)

    def front(self) -> list[FrontPoint]:
        """The points that no other beats, by rising peak."""
        last = len(self.elements) - 1
        for part in self.only.parts() if self.only else ():  # from the leaves up, so that nothing recurses deep
            for context in product((False, True), repeat=3):
                self._part(part.first, part.last, Context(*context))
        primal = self._advance(0, last, keep=False)
        points = [(p.peak, p.flops, p, True) for p in self._part(0, last, Context(False, False, False))]
        points += [(max(p.peak, primal), p.flops, p, False) for p in self._part(0, last, Context(False, False, True))]
        front: list[FrontPoint] = []
        for peak, flops, point, interleaved in sorted(points, key=lambda x: (x[0], x[1], not x[3])):
            if not front or flops < front[-1].flops:
                front.append(FrontPoint(peak, flops, _tree(point, 0, last), interleaved))
        return front

    @cached_property
    def _only_splits(self) -> dict[tuple[int, int], tuple[How, int]]:
        """The way in which `only` has each of its parts, and the place where it splits them."""
        return {
            (p.first, p.last): (p.how, p.right.last if p.right else p.left.first - 1 if p.left else p.first)
            for p in (self.only.parts() if self.only else ())
        }

    @cached_property
    def _ratio(self) -> float:
        return float((1 + self.tolerance) ** (1 / len(self.elements)))

    @cached_property
    def _lists(self) -> _Lists:
        e, m = self.elements, self.memory
        return _Lists(
            e.sizes.tolist(), m.activation.tolist(), m.residual.tolist(), m.workspace.tolist(),
            m.reads_input.astype(bool).tolist(), m.reads_output.astype(bool).tolist(), m.itemsize.tolist(),
            *(list(accumulate(c.tolist(), initial=0)) for c in (m.residual, _inner(m), e.tangent, e.adjoint, e.tape)),
        )  # fmt: skip

    def _part(self, i: int, j: int, context: Context) -> tuple[Point, ...]:
        if i == 0:
            context = context._replace(start=False)  # the input is the caller's
        if j == len(self.elements) - 1:
            context = context._replace(stop=False)
        key = (i, j, context)
        if key not in self._fronts:
            self._fronts[key] = self._thinned(self._leaves(i, context) if i == j else self._splits(i, j, context))
        return self._fronts[key]

    def _thinned(self, points: Iterable[Point]) -> tuple[Point, ...]:
        front: list[Point] = []
        least: dict[int, int] = {}
        for p in sorted(points, key=lambda p: (p.peak, p.flops)):
            # without a tolerance integers alone: a float is wrong from 2^53 on
            if p.kind not in least or (p.flops * self._ratio if self.tolerance else p.flops) < least[p.kind]:
                front.append(p)
                least[p.kind] = p.flops
        return tuple(front)

    def jacobian_bytes(self, i: int, cut: int, kind: int = DENSE) -> int:
        """Bytes of the Jacobian of a cut by cut i; that of the whole chain is written into the result."""
        x = self._lists
        if i == 0 and cut == len(self.elements):
            return 0
        p, q, batch = x.sizes[cut], x.sizes[i], self.elements.batch
        scalars = {"dense": batch * p * q, "diagonal": batch * p, "constant": p * q}[STRUCTURES[kind]]
        return scalars * x.itemsize[cut]

    def _waiting(self, i: int, j: int, context: Context, *, inner_start: bool) -> int:
        """Bytes that elements i … j, evaluated, hold for their derivatives; the cut at the other part left out."""
        x = self._lists
        inner = x.inner[j + 1] - x.inner[i + 1]  # cuts i + 1 … j
        total = x.residuals[j + 1] - x.residuals[i] + inner
        if inner_start:  # the other part lies before: its cut i is counted there
            return total + x.activation[j + 1] * (x.reads_output[j] or context.stop)
        return total + x.activation[i] * (x.reads_input[i] or context.start)

    def _advance(self, i: int, j: int, *, keep: bool) -> int:
        """The peak of evaluating i … j and keeping what their derivatives will read, and the activation before them."""
        x = self._lists
        start = x.activation[i] * (x.reads_input[i] or keep)
        peak = 0
        for e in range(i, j + 1):
            held = x.residuals[e + 1] - x.residuals[i] + x.activation[e] + x.activation[e + 1] + x.workspace[e]
            if e > i:
                held += start + x.inner[e] - x.inner[i + 1]  # cuts i + 1 … e - 1
            peak = max(peak, held)
        return peak

    def _leaves(self, e: int, context: Context) -> Iterator[Point]:
        x, own = self._lists, self.elements
        ends = x.residual[e] + x.workspace[e]
        during = ends + x.activation[e] * (x.reads_input[e] or context.start)
        during += x.activation[e + 1] * (x.reads_output[e] or context.stop)
        before = 0 if context.evaluated else ends + x.activation[e] + x.activation[e + 1]
        modes: list[tuple[How, int, int]] = [("form", int(own.form[e]), int(own.structure[e]))]
        modes.append(("tangent", x.sizes[e] * int(own.tangent[e]), DENSE))
        if self.tape is None or own.tape[e] <= self.tape:
            modes.append(("adjoint", x.sizes[e + 1] * int(own.adjoint[e]), DENSE))
        for how, flops, kind in modes:
            if self.only is None or how == self._only_splits[e, e][0]:
                peak = max(before, during + self.jacobian_bytes(e, e + 1, kind))
                yield Point(peak, flops, kind, how, e, None, None, False)

    def _splits(self, i: int, j: int, context: Context) -> Iterator[Point]:
        steps = {"multiply": self._products, "tangent": self._tangents, "adjoint": self._adjoints}
        if self.only is not None:
            how, k = self._only_splits[i, j]
            yield from steps[how](i, k, j, context)
            return
        for k in range(i, j):
            for step in steps.values():
                yield from step(i, k, j, context)

    def _products(self, i: int, k: int, j: int, context: Context) -> Iterator[Point]:
        x = self._lists
        ends = x.activation[i] * context.start + x.activation[j + 1] * context.stop
        p, q, r = x.sizes[j + 1], x.sizes[k + 1], x.sizes[i]
        for left_first in (False, True):
            if left_first:
                before = 0 if context.evaluated else self._advance(i, k, keep=context.start)
                waiting = self._waiting(i, k, context, inner_start=False)
                first = self._part(k + 1, j, Context(x.reads_output[k], context.stop, context.evaluated))
                second = self._part(i, k, Context(context.start, False, True))
                kept = x.activation[j + 1] * context.stop
                cuts = (k + 1, j + 1)
            else:
                before = 0
                waiting = self._waiting(k + 1, j, context, inner_start=True) if context.evaluated else 0
                reads = x.reads_input[k + 1] or not context.evaluated
                first = self._part(i, k, Context(context.start, reads, context.evaluated))
                second = self._part(k + 1, j, Context(False, context.stop, context.evaluated))
                kept = x.activation[i] * context.start
                cuts = (i, k + 1)
            for a in first:
                begun = max(before, a.peak + waiting)
                between = kept + self.jacobian_bytes(*cuts, a.kind)
                for b in second:
                    left, right = (a, b) if left_first else (b, a)
                    flops, kind = _product(p, q, r, left.kind, right.kind, self.elements.batch)
                    product = self.jacobian_bytes(k + 1, j + 1, left.kind) + self.jacobian_bytes(i, k + 1, right.kind)
                    product += self.jacobian_bytes(i, j + 1, kind) + ends
                    peak = max(begun, between + b.peak, product)
                    yield Point(peak, a.flops + b.flops + flops, kind, "multiply", k, left, right, left_first)

    def _tangents(self, i: int, k: int, j: int, context: Context) -> Iterator[Point]:
        x = self._lists
        entering, pushing = self._push(i, k + 1, j, context), 0
        for e in range(k + 2, j + 1):
            pushing = max(pushing, self._push(i, e, j, context) + self.jacobian_bytes(i, e))
        waiting = self._waiting(k + 1, j, context, inner_start=True) if context.evaluated else 0
        flops = x.sizes[i] * (x.tangents[j + 1] - x.tangents[k + 1])
        reads = x.reads_input[k + 1] or not context.evaluated
        for a in self._part(i, k, Context(context.start, reads, context.evaluated)):
            peak = max(a.peak + waiting, entering + self.jacobian_bytes(i, k + 1, a.kind), pushing)
            yield Point(peak, a.flops + flops, DENSE, "tangent", k, None, a, False)

    def _push(self, i: int, e: int, j: int, context: Context) -> int:
        """The peak of (evaluating and) pushing tangents of cut i through e ≤ j, without the Jacobian that comes in."""
        x = self._lists
        read_later = context.stop if e == j else x.reads_input[e + 1] or not context.evaluated
        own = x.activation[i] * context.start + x.residual[e] + x.workspace[e]
        peak = own + x.activation[e] * x.reads_input[e] + x.activation[e + 1] * (x.reads_output[e] or read_later)
        peak += self.jacobian_bytes(i, e + 1)
        if not context.evaluated:
            return max(peak, own + x.activation[e] + x.activation[e + 1])
        if e < j:  # residuals of e + 1 … j, cuts e + 2 … j + 1
            peak += x.residuals[j + 1] - x.residuals[e + 1] + x.inner[j + 1] - x.inner[e + 2]
            peak += x.activation[j + 1] * (x.reads_output[j] or context.stop)
        return peak

    def _adjoints(self, i: int, k: int, j: int, context: Context) -> Iterator[Point]:
        x = self._lists
        if self.tape is not None and x.tapes[k + 1] - x.tapes[i] > self.tape:
            return
        stop = x.activation[j + 1] * context.stop
        pulling, entering = 0, 0
        for e in range(k, i - 1, -1):
            before = x.reads_input[e] or (context.start if e == i else x.reads_output[e - 1])
            around = stop + x.residuals[e + 1] - x.residuals[i] + x.workspace[e]
            around += x.activation[e + 1] * x.reads_output[e] + x.activation[e] * before
            if e > i:
                around += x.inner[e] - x.inner[i + 1]  # cuts i + 1 … e - 1
                around += x.activation[i] * (x.reads_input[i] or context.start)
            around += self.jacobian_bytes(e, j + 1)
            if e == k:
                entering = around
            else:
                pulling = max(pulling, around + self.jacobian_bytes(e + 1, j + 1))
        first = 0 if context.evaluated else self._advance(i, k, keep=context.start)
        waiting = self._waiting(i, k, context, inner_start=False)
        flops = x.sizes[j + 1] * (x.adjoints[k + 1] - x.adjoints[i])
        for b in self._part(k + 1, j, Context(x.reads_output[k], context.stop, context.evaluated)):
            came = self.jacobian_bytes(k + 1, j + 1, b.kind)
            peak = max(first, b.peak + waiting, came + entering, pulling)
            yield Point(peak, b.flops + flops, DENSE, "adjoint", k, b, None, True)


class _Lists(NamedTuple):
    """The columns as Python integers, with running sums (`residuals[e]`: of the elements before e)."""

    sizes: list[int]
    activation: list[int]
    residual: list[int]
    workspace: list[int]
    reads_input: list[bool]
    reads_output: list[bool]
    itemsize: list[int]
    residuals: list[int]
    inner: list[int]  # inner[c]: activations at cuts before c that a derivative reads
    tangents: list[int]
    adjoints: list[int]
    tapes: list[int]


def _inner(m: ChainMemory) -> Ints:
    """The activation at each cut if a derivative on either side reads it."""
    read = np.zeros(len(m.activation), dtype=np.bool_)
    read[:-1] |= m.reads_input > 0
    read[1:] |= m.reads_output > 0
    return m.activation * read


def _product(p: int, q: int, r: int, left: int, right: int, batch: int) -> tuple[int, int]:
    flops, structure = product_cost(p, q, r, STRUCTURES[left], STRUCTURES[right], batch)
    return flops, STRUCTURES.index(structure)


def _tree(point: Point, i: int, j: int) -> Bracketing:
    left = None if point.left is None else _tree(point.left, point.split + 1, j)
    right = None if point.right is None else _tree(point.right, i, point.split)
    return Bracketing(i, j, point.how, left, right, point.left_first)
