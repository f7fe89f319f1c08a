"""Orders in which the Jacobians of a chain of elements are multiplied, and what they cost.

Element i (0-based) maps size n_i to n_{i+1}. A `Bracketing` is the tree of a product: how to get
the Jacobian of elements i … j, down to single elements. Costs are flops for the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sim.base.compiled import compiled
from sim.base.errors import CountOverflow
from sim.graphs.node import LARGEST, Ints

How = Literal["form", "tangent", "adjoint", "multiply"]
DENSE, DIAGONAL, CONSTANT = range(3)  # as sim.graphs.node.STRUCTURES
FORM, TANGENT, ADJOINT, MULTIPLY = range(4)
NEVER = np.iinfo(np.int64).max // 4


@dataclass(frozen=True, slots=True)
class Bracketing:
    """An order in which the Jacobian of elements first … last is computed.

    `form`, `tangent` or `adjoint` without parts: the element's own Jacobian, formed, or by n_i JVPs
    or n_{i+1} VJPs. `multiply`: `left` (later elements) times `right`. `tangent` with `right`: JVPs
    of the elements after `right` are applied to its columns; `adjoint` with `left`: VJPs of the
    elements before `left` are applied to its rows. `left_first` says which part is computed first.

    As text, Fi is an element's Jacobian formed, → one step by tangents, ← one by adjoints, · a product.

    >>> print(Bracketing(0, 2, "adjoint", left=Bracketing(1, 2, "tangent", right=Bracketing(1, 1, "form"))))
    ((F3→F2)←F1)
    """

    first: int
    last: int
    how: How
    left: Bracketing | None = None
    right: Bracketing | None = None
    left_first: bool = False

    def __str__(self) -> str:
        done: dict[int, str] = {}
        for part in self.parts():
            left, right = (None if x is None else done.pop(id(x)) for x in (part.left, part.right))
            done[id(part)] = part._text(left, right)
        return done[id(self)]

    def _text(self, left: str | None, right: str | None) -> str:
        if left is not None and right is not None:
            return f"({left}·{right})"
        names = [f"F{i + 1}" for i in range(self.first, self.last + 1)]
        if right is not None and self.right is not None:
            names = names[self.right.last + 1 - self.first :]
            return "".join(f"({name}→" for name in reversed(names)) + right + ")" * len(names)
        if left is not None and self.left is not None:
            names = names[: self.left.first - self.first]
            return "(" * len(names) + left + "".join(f"←{name})" for name in reversed(names))
        return {"tangent": f"{names[0]}→", "adjoint": f"←{names[0]}"}.get(self.how, names[0])

    def parts(self) -> Iterator[Bracketing]:
        """Every part in the order of computation, this one last."""
        stack: list[tuple[Bracketing, bool]] = [(self, False)]
        while stack:
            part, ready = stack.pop()
            if ready or (part.left is None and part.right is None):
                yield part
                continue
            stack.append((part, True))
            order = (part.right, part.left) if part.left_first else (part.left, part.right)
            stack += [(x, False) for x in order if x is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Elements:
    """A chain of L elements: L + 1 sizes, and for each element its costs (flops for the whole batch).

    `tangent` and `adjoint` are for one tangent or adjoint, `form` to form the local Jacobian,
    `structure` its kind (dense, diagonal, constant), `tape` the bytes that adjoints need.
    """

    sizes: Ints
    tangent: Ints
    adjoint: Ints
    form: Ints
    structure: Ints
    tape: Ints
    batch: int = 1

    def __len__(self) -> int:
        return len(self.tangent)


def in_order(length: int, *, forward: bool) -> Bracketing:
    """The product taken from the first element on (forward) or from the last (reverse).

    >>> print(in_order(3, forward=True), in_order(3, forward=False))
    (F3·(F2·F1)) ((F3·F2)·F1)
    """
    leaves = [Bracketing(i, i, "form") for i in range(length)]
    if forward:
        tree = leaves[0]
        for leaf in leaves[1:]:
            tree = Bracketing(0, leaf.last, "multiply", leaf, tree)
        return tree
    tree = leaves[-1]
    for leaf in leaves[-2::-1]:
        tree = Bracketing(leaf.first, length - 1, "multiply", tree, leaf)
    return tree


def best_product(elements: Elements) -> tuple[int, Bracketing]:
    """The cheapest order of products: c(j,i) = min_k c(j,k+1) + c(k,i) + product(j,k,i).

    A dense product costs 2·n_{j+1}·n_{k+1}·n_i for each sample. The forming of local Jacobians is paid
    in every order. Godbole 1973, On efficient computation of matrix chain products, IEEE Trans. Comput. C-22(9),
    doi:10.1109/TC.1973.5009182; Griewank & Naumann 2003, Accumulating Jacobians as chained sparse matrix
    products, Math. Program. 95, doi:10.1007/s10107-002-0329-7.
    """
    _check_flops(elements, elements.form)
    own = np.stack([elements.form, np.full(len(elements), NEVER), np.full(len(elements), NEVER)])
    return _solve(elements, own, np.zeros(len(elements) + 1, dtype=np.int64), elements.form * 0, limit=-1)


def best_matrix_free(elements: Elements, *, tape: int | None = None) -> tuple[int, Bracketing]:
    """The cheapest mix of products, tangent sweeps and adjoint sweeps.

    Naumann 2024, Matrix-free Jacobian chaining, arXiv:2406.11862.
    Adjoints through elements i … k are allowed only if their tapes fit `tape` bytes together.
    """
    _check_flops(elements, elements.tangent, elements.adjoint)
    n = elements.sizes
    limit = sum(elements.tape.tolist()) if tape is None else min(tape, LARGEST)
    adjoint = np.where(elements.tape <= limit, n[1:] * elements.adjoint, NEVER)
    own = np.stack([np.full(len(elements), NEVER), n[:-1] * elements.tangent, adjoint])
    tangents = np.concatenate([[0], np.cumsum(elements.tangent)])
    return _solve(elements, own, tangents, elements.adjoint, limit=limit)


def _solve(elements: Elements, own: Ints, tangents: Ints, adjoint: Ints, *, limit: int) -> tuple[int, Bracketing]:
    e, length = elements, len(elements)
    adjoints = np.concatenate([[0], np.cumsum(adjoint)])
    tapes = np.concatenate([[0], np.cumsum(e.tape)])
    cost, how, split = _order(e.sizes, e.structure, own, tangents, adjoints, tapes, limit, e.batch)

    return int(cost[0, length - 1]), _tree(how, split)


def _check_flops(elements: Elements, *columns: Ints) -> None:
    """Raise CountOverflow if products and what costs as the columns say could leave 64-bit integers."""
    widest = max(elements.sizes.tolist())
    each = 2 * widest**3 * elements.batch + widest * sum(sum(column.tolist()) for column in columns)
    if each * len(elements) > NEVER:
        raise CountOverflow(
            f"orders of products are planned up to 2^61 flops; those of this chain could take {each:.3g}"
        )


def _tree(how: NDArray[np.int8], split: NDArray[np.int32]) -> Bracketing:
    """The bracketing that a dynamic program chose; a long chain may be as deep as it is long."""
    built: dict[tuple[int, int], Bracketing] = {}
    stack = [(0, len(how) - 1, False)]
    while stack:
        i, j, ready = stack.pop()
        kind, k = int(how[i, j]), int(split[i, j])
        if i == j:
            built[i, j] = Bracketing(i, i, ("form", "tangent", "adjoint")[kind])
        elif not ready:
            stack.append((i, j, True))
            stack += [(i, k, False)] * (kind != ADJOINT) + [(k + 1, j, False)] * (kind != TANGENT)
        elif kind == TANGENT:
            built[i, j] = Bracketing(i, j, "tangent", right=built[i, k])
        elif kind == ADJOINT:
            built[i, j] = Bracketing(i, j, "adjoint", left=built[k + 1, j])
        else:
            built[i, j] = Bracketing(i, j, "multiply", built[k + 1, j], built[i, k])
    return built[0, len(how) - 1]


@compiled
def _order(
    sizes: Ints, structure: Ints, own: Ints, tangents: Ints, adjoints: Ints, tapes: Ints, limit: int, batch: int
) -> tuple[Ints, NDArray[np.int8], NDArray[np.int32]]:
    """The dynamic program over ranges i … j; `limit` < 0 leaves products alone."""
    length = len(structure)
    cost = np.zeros((length, length), dtype=np.int64)
    how = np.zeros((length, length), dtype=np.int8)
    split = np.zeros((length, length), dtype=np.int32)
    kind = np.zeros((length, length), dtype=np.int8)
    for i in range(length):
        kind[i, i] = structure[i]
        cost[i, i] = own[0, i]
        for mode in range(1, 3):
            if own[mode, i] < cost[i, i]:
                cost[i, i], how[i, i] = own[mode, i], mode
        if how[i, i] != FORM:
            kind[i, i] = DENSE
    for span in range(1, length):
        for i in range(length - span):
            j = i + span
            best = NEVER
            for k in range(i, j):
                left, right = kind[k + 1, j], kind[i, k]
                p, q, r = sizes[j + 1], sizes[k + 1], sizes[i]
                if left == DIAGONAL and right == DIAGONAL:
                    product, result = batch * p, DIAGONAL
                elif left == DIAGONAL or right == DIAGONAL:
                    product, result = batch * p * r, DENSE
                elif left == CONSTANT and right == CONSTANT:
                    product, result = 2 * p * q * r, CONSTANT
                else:
                    product, result = 2 * p * q * r * batch, DENSE
                c = cost[k + 1, j] + cost[i, k] + product
                if c < best:
                    best, how[i, j], split[i, j], kind[i, j] = c, MULTIPLY, k, result
                if limit >= 0:
                    c = cost[i, k] + r * (tangents[j + 1] - tangents[k + 1])
                    if c < best:
                        best, how[i, j], split[i, j], kind[i, j] = c, TANGENT, k, DENSE
                    if tapes[k + 1] - tapes[i] <= limit:
                        c = cost[k + 1, j] + p * (adjoints[k + 1] - adjoints[i])
                        if c < best:
                            best, how[i, j], split[i, j], kind[i, j] = c, ADJOINT, k, DENSE
            cost[i, j] = best
    return cost, how, split
