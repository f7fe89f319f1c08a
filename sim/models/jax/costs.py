"""Costs of one piece of a JAX function, and the residuals of its derivative, as JAX itself reports them.

`jax.vjp` of a piece says which values it keeps for the backward program. Those that the piece reads
or writes are activations (`needs`), any other is its residual: the mask of a relu, 1 − y of a tanh,
the reciprocal of a division. The backward and the tangent program are counted like the forward one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim.base.errors import GraphError
from sim.graphs.node import NEEDS, Needs, Reads
from sim.models.importers import extra
from sim.models.jax.flops import flops_of, is_literal, is_view, program_flops
from sim.models.jax.program import Piece, Program


@dataclass(frozen=True, slots=True)
class Costs:
    """Flops of a piece and what JAX keeps for its derivative, in the terms of `sim.graphs.node.Node`.

    `reads` says of each of the piece's activations when the derivative reads it; `residual_bytes` is
    `None` where nothing but activations is kept.
    """

    forward_flops: int
    jvp_flops: int
    vjp_flops: int
    param_vjp_flops: int
    needs: Needs
    reads: tuple[Reads, ...]
    residual_bytes: int | None


class Pricing:
    """The costs of the pieces of a program; equal pieces are asked about once."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._costs: dict[Any, Costs] = {}

    def costs(self, piece: Piece) -> Costs:
        """Price a piece.

        Raises
        ------
        GraphError
            Naming the piece, for a primitive without a rule or a derivative.
        """
        try:
            key = self._key(piece)
            hash(key)
        except TypeError:
            return self._priced(piece)
        if key not in self._costs:
            self._costs[key] = self._priced(piece)
        return self._costs[key]

    def _key(self, piece: Piece) -> Any:
        """A key that is equal for pieces that do the same to values of the same shapes in the same roles."""
        numbers: dict[int, int] = {}

        def described(atom: Any) -> Any:
            if not isinstance(atom, int):
                return ("literal", str(atom))
            aval = self.program.avals[atom]
            role = (atom in self.program.arguments, atom in piece.leaves, atom in self.program.active)
            return (numbers.setdefault(atom, len(numbers)), aval.shape, str(aval.dtype), role)

        return tuple(
            (s.primitive.name, tuple(sorted(s.params.items())), tuple(map(described, (*s.reads, *s.writes))))
            for s in piece.steps
        )

    def _priced(self, piece: Piece) -> Costs:
        try:
            forward = sum(
                flops_of(
                    s.primitive.name, [self._aval(r) for r in s.reads], [self.program.avals[w] for w in s.writes],
                    s.params,
                )
                for s in piece.steps
            )  # fmt: skip
            active = self.program.active
            data = [v for v in piece.activations if v in active]
            weights = [v for v in piece.leaves if v in active]
            if not (data or weights) or not active.intersection(piece.writes):
                return Costs(forward, 0, 0, 0, "none", (), None)
            return self._differentiated(piece, forward, data, weights)
        except GraphError as error:
            raise GraphError(f"node '{piece.name}': {error}", node=piece.name) from None

    def _aval(self, atom: Any) -> Any:
        return self.program.avals[atom] if isinstance(atom, int) else atom.aval

    def _differentiated(self, piece: Piece, forward: int, data: Sequence[int], weights: Sequence[int]) -> Costs:
        taped = self._linearized(piece, [*data, *weights])
        by_all = max(0, taped.flops - forward) + taped.backward_flops
        by_data = by_all
        if not data:
            by_data = 0
        elif weights:
            part = self._linearized(piece, data)
            by_data = min(by_all, max(0, part.flops - forward) + part.backward_flops)
        needs, residual = self._needs(piece, taped.kept)
        reads = self._reads(piece, taped.kept, data, weights)
        tangent = self._tangent_flops(piece, data, forward)
        return Costs(forward, tangent, by_data, by_all - by_data, needs, reads, residual)

    def _structs(self, values: Sequence[int]) -> list[Any]:
        (jax,) = extra("jax", "jax")
        avals = [self.program.avals[v] for v in values]
        return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]

    def _linearized(self, piece: Piece, by: Sequence[int]) -> _Linearized:
        """The program that evaluates the piece and keeps what its VJP by the values `by` needs, and the VJP's flops."""
        (jax,) = extra("jax", "jax")
        others = [v for v in (*piece.activations, *piece.leaves, *piece.constants) if v not in by]
        active = [k for k, v in enumerate(piece.writes) if v in self.program.active]

        def forward(xs: Any, rest: Any) -> Any:
            def of_active(*values: Any) -> Any:
                out = piece.evaluate(dict(zip(others, rest, strict=True)) | dict(zip(by, values, strict=True)))
                return [out[k] for k in active]

            out, pull = jax.vjp(of_active, *xs)
            return xs, out, pull

        closed, (_, out, pull) = jax.make_jaxpr(forward, return_shape=True)(self._structs(by), self._structs(others))
        backward = jax.make_jaxpr(lambda pull, cotangents: pull(cotangents))(pull, out)
        residuals = closed.jaxpr.outvars[len(by) + len(out) :]
        names: dict[Any, int] = dict(zip(closed.jaxpr.invars, (*by, *others), strict=True))
        results = closed.jaxpr.outvars[len(by) : len(by) + len(out)]
        for var, k in zip(results, active, strict=True):
            if not is_literal(var):
                names.setdefault(var, piece.writes[k])
        pairs = zip(sources(closed.jaxpr, residuals, names), residuals, strict=True)
        by_source = {source: v.aval for source, v in pairs if source is not None}
        return _Linearized(program_flops(closed), program_flops(backward), by_source)

    def _tangent_flops(self, piece: Piece, data: Sequence[int], forward: int) -> int:
        (jax,) = extra("jax", "jax")
        if not data or any(s.primitive.name.startswith("custom_vjp") for s in piece.steps):
            return 0 if not data else forward  # a function with a VJP of its own has no JVP
        others = [v for v in (*piece.activations, *piece.leaves, *piece.constants) if v not in data]

        def tangents(xs: Any, dxs: Any, rest: Any) -> Any:
            def function(*values: Any) -> Any:
                return piece.evaluate(dict(zip(others, rest, strict=True)) | dict(zip(data, values, strict=True)))

            return jax.jvp(function, tuple(xs), tuple(dxs))

        structs = self._structs(data)
        return max(0, program_flops(jax.make_jaxpr(tangents)(structs, structs, self._structs(others))) - forward)

    def _needs(self, piece: Piece, kept: Mapping[Any, Any]) -> tuple[Needs, int | None]:
        """Sort the residuals of JAX into activations that are read, and bytes of everything else."""
        inputs, output = (any(v in kept for v in values) for values in (piece.activations, piece.writes))
        residual = [aval for v, aval in kept.items() if not isinstance(v, int)]
        size = sum(math.prod(a.shape) * a.dtype.itemsize for a in residual)
        return NEEDS[inputs * NEEDS.index("input") + output * NEEDS.index("output")], size or None

    def _reads(
        self, piece: Piece, kept: Mapping[Any, Any], data: Sequence[int], weights: Sequence[int]
    ) -> tuple[Reads, ...]:
        """Say when the derivative reads each activation, from what is kept for each of its variables alone."""
        by = [*([v] for v in data), *([list(weights)] if weights else [])]
        if len(by) == 1 or not any(v in kept for v in piece.activations):
            return tuple("always" if v in kept else "never" for v in piece.activations)
        kept_for = [(group, self._linearized(piece, group).kept) for group in by]

        def when(v: int) -> Reads:
            readers = [group for group, residuals in kept_for if v in residuals]
            if [v] in readers or (weights in readers and len(readers) > 1):
                return "always"
            if not readers:
                return "always" if v in kept else "never"
            return "parameters" if weights in readers else "others"

        return tuple(when(v) for v in piece.activations)


@dataclass(frozen=True, slots=True)
class _Linearized:
    """A linearized piece; `kept` has the abstract values of what it keeps, by number where the program has one."""

    flops: int
    backward_flops: int
    kept: Mapping[Any, Any]


def sources(jaxpr: Any, kept: Sequence[Any], names: Mapping[Any, Any]) -> list[Any]:
    """For each kept variable of a jaxpr what it is: a name where it is a view of a named variable, else a variable.

    `None` for what depends on no input, such as the zeros of a mask, which XLA folds instead of keeping.
    """
    makers = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
    varying: dict[Any, bool] = {}

    def varies(atom: Any) -> bool:
        if is_literal(atom) or atom in jaxpr.constvars:
            return False
        if atom not in varying:
            varying[atom] = atom not in makers or any(varies(v) for v in makers[atom].invars)
        return varying[atom]

    def viewed(eqn: Any) -> bool:
        one = not is_literal(eqn.invars[0])
        return one and is_view(eqn.primitive.name, [eqn.invars[0].aval], [eqn.outvars[0].aval])

    def source(var: Any) -> Any:
        while var not in names and var in makers and viewed(makers[var]):
            var = makers[var].invars[0]
        return names.get(var, var)

    return [source(v) if varies(v) else None for v in kept]
