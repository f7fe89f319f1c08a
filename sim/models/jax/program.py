"""A JAX function as a list of pieces: what each evaluates, and which values it reads.

The function's jaxpr is inlined (jit, remat; scans of static length are unrolled) and cut into pieces,
one for each equation that depends on the function's arguments. Three kinds of equations are no piece
of their own but evaluated inside every piece that reads them: views (reshapes that move no scalar),
what depends on parameters alone (a weight transposed or cast), and what depends on nothing (a mask of
iotas). Nothing is computed: values are abstract until `evaluate` is given arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim.base.errors import GraphError
from sim.graphs.node import FLOATS
from sim.graphs.size import NODE_BYTES, excess
from sim.models.factory import first_line
from sim.models.importers import extra
from sim.models.jax.flops import CALLS, CONTROL_FLOW, inner_programs, is_literal, is_view, opened

CUSTOM = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"})
"""Calls with a derivative of their own, which are pieces as a whole."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One equation whose values are numbers of the program; a read that is no `int` is a literal."""

    primitive: Any
    params: Mapping[str, Any]
    reads: tuple[Any, ...]
    writes: tuple[int, ...]
    scope: tuple[str, ...]

    @property
    def values(self) -> tuple[int, ...]:
        """The values that it reads."""
        return tuple(r for r in self.reads if isinstance(r, int))

    def run(self, env: dict[int, Any]) -> None:
        """Evaluate the equation on arrays or tracers, and put what it writes into `env`."""
        operands = [env[r] if isinstance(r, int) else r.val for r in self.reads]
        bound = self.primitive.get_bind_params(self.params)
        functions, params = bound if isinstance(bound, tuple) else ((), bound)  # a tuple before jax 0.7
        out = self.primitive.bind(*functions, *operands, **params)
        env.update(zip(self.writes, out if self.primitive.multiple_results else [out], strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """The equations that one node stands for, and the values they read and write.

    `activations` are arguments of the function or written by other pieces; `leaves` are parameters,
    `constants` known arrays.
    """

    name: str
    op: str
    steps: tuple[Step, ...]
    activations: tuple[int, ...]
    leaves: tuple[int, ...]
    constants: tuple[int, ...]

    @property
    def writes(self) -> tuple[int, ...]:
        return self.steps[-1].writes

    def evaluate(self, values: Mapping[int, Any]) -> tuple[Any, ...]:
        """Evaluate the piece: the values that it writes, from all that it reads."""
        env = dict(values)
        for step in self.steps:
            step.run(env)
        return tuple(env[v] for v in self.writes)


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A function of parameters and arguments as pieces in order.

    `active` holds the values that derivatives reach: floats that depend on a parameter or on an
    argument that is not constant. `tail` is what the outputs still need beyond the pieces.
    """

    avals: Mapping[int, Any]
    leaves: tuple[int, ...]
    arguments: tuple[int, ...]
    constants: Mapping[int, Any]
    pieces: tuple[Piece, ...]
    outputs: tuple[Any, ...]
    tail: tuple[Step, ...]
    active: frozenset[int]

    def evaluate(self, leaves: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        """The outputs, flat."""
        env = self.environment(leaves, arguments)
        for piece in self.pieces:
            env.update(zip(piece.writes, piece.evaluate(env), strict=True))
        return self.finish(env)

    def environment(self, leaves: Sequence[Any], arguments: Sequence[Any]) -> dict[int, Any]:
        """The values that are there before the first piece."""
        pairs = zip((*self.leaves, *self.arguments), (*leaves, *arguments), strict=True)
        return dict(self.constants) | dict(pairs)

    def finish(self, env: Mapping[int, Any]) -> list[Any]:
        """The outputs, once every piece has been evaluated."""
        env = dict(env)
        for step in self.tail:
            step.run(env)
        return [env[o] if isinstance(o, int) else o.val for o in self.outputs]


def program(closed: Any, *, leaves: int, constant: Collection[int] = ()) -> Program:
    """The program of a closed jaxpr whose first `leaves` inputs are parameters.

    `constant` numbers the arguments that nothing is differentiated by.

    Raises
    ------
    GraphError
        For control flow on values, or if no output depends on an argument.
    """
    flat = _Inlining()
    inputs = [flat.new(v.aval) for v in closed.jaxpr.invars]
    outputs = tuple(flat.inline(closed.jaxpr, closed.consts, inputs, ()))
    return _Cutting(flat, inputs[:leaves], inputs[leaves:], outputs, constant).program()


class _Inlining:
    """A collector of the equations of a jaxpr and of those inside it, with a fresh number for every value."""

    def __init__(self) -> None:
        self.avals: dict[int, Any] = {}
        self.constants: dict[int, Any] = {}
        self.steps: list[Step] = []

    def new(self, aval: Any) -> int:
        self.avals[len(self.avals)] = aval
        return len(self.avals) - 1

    def inline(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any], scope: tuple[str, ...]) -> list[Any]:
        """The numbers (or literals) of the outputs of a jaxpr that is given numbers (or literals)."""
        env: dict[Any, Any] = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            env[var] = self.new(var.aval)
            self.constants[env[var]] = const

        def read(atom: Any) -> Any:
            return atom if is_literal(atom) else env[atom]

        for eqn in jaxpr.eqns:
            name, operands = eqn.primitive.name, [read(v) for v in eqn.invars]
            inner = (*scope, *filter(None, str(eqn.source_info.name_stack).split("/")))
            if name in CONTROL_FLOW:
                at = f" in '{'.'.join(inner)}'" if inner else ""
                raise GraphError(
                    f"primitive '{name}'{at}: control flow cannot be imported, because {CONTROL_FLOW[name]}"
                )
            if name == "scan":
                unrolled = _unrolled(eqn, len(self.steps))
                out = self.inline(unrolled.jaxpr, unrolled.consts, operands, inner)
            elif name in CALLS - CUSTOM and inner_programs(eqn.params):
                body = inner_programs(eqn.params)[0]
                called = eqn.params.get("name", "")
                inner = (*inner, called) if called and not called.startswith(("_", "<")) else inner
                out = self.inline(opened(body), getattr(body, "consts", ()), operands, inner)
            else:
                out = [self.new(v.aval) for v in eqn.outvars]
                self.steps.append(Step(eqn.primitive, eqn.params, tuple(operands), tuple(out), inner))
            env.update(zip(eqn.outvars, out, strict=True))
        return [read(v) for v in jaxpr.outvars]


def _unrolled(eqn: Any, before: int) -> Any:
    """The closed jaxpr of a scan with its turns written out."""
    jax, core, lax = extra("jax", "jax", "jax.core", "jax.lax")
    p, body = eqn.params, eqn.params["jaxpr"]
    turns, n_consts, n_carry = p["length"], p["num_consts"], p["num_carry"]
    problem = excess(before + turns * len(body.jaxpr.eqns), node_bytes=2 * NODE_BYTES)  # an equation stands beside each
    if problem is not None:
        raise GraphError(f"a scan of {turns} turns with {len(body.jaxpr.eqns)} equations: {problem}")

    def run(*args: Any) -> list[Any]:
        consts, carry, xs = args[:n_consts], args[n_consts : n_consts + n_carry], args[n_consts + n_carry :]
        rows: list[Any] = [None] * turns
        for t in reversed(range(turns)) if p["reverse"] else range(turns):
            turn = [lax.index_in_dim(x, t, keepdims=False) for x in xs]
            out = core.eval_jaxpr(body.jaxpr, body.consts, *consts, *carry, *turn)
            carry, rows[t] = out[:n_carry], out[n_carry:]
        stacked = [lax.concatenate([lax.expand_dims(r, (0,)) for r in column], 0) for column in zip(*rows, strict=True)]
        return [*carry, *stacked]

    return jax.make_jaxpr(run)(*(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars))


class _Cutting:
    """A cutter of flat equations into pieces."""

    def __init__(
        self, flat: _Inlining, leaves: Sequence[int], arguments: Sequence[int], outputs: Sequence[Any],
        constant: Collection[int],
    ) -> None:  # fmt: skip
        self.flat, self.leaves, self.arguments, self.outputs = flat, tuple(leaves), tuple(arguments), tuple(outputs)
        self.steps = [part for step in _alive(flat.steps, self.outputs) for part in self._split(step)]
        self.maker: dict[int, int] = {v: i for i, step in enumerate(self.steps) for v in step.writes}
        self.names: dict[str, int] = {}
        self.dependent = set(self.arguments)  # values that depend on an argument of the function
        self.active = {v for v in self.leaves if self._is_float(v)}
        self.active |= {v for k, v in enumerate(self.arguments) if k not in constant and self._is_float(v)}
        self.own: list[bool] = []

    def program(self) -> Program:
        for step in self.steps:
            reads = step.values
            self.own.append(self.dependent.intersection(reads) != set() and not self._is_view(step))
            if self.dependent.intersection(reads):
                self.dependent.update(step.writes)
            if self.active.intersection(reads) and step.primitive.name != "stop_gradient":
                self.active.update(v for v in step.writes if self._is_float(v))
        self.active &= self._reached()
        pieces = [self._piece(i, step) for i, step in enumerate(self.steps) if self.own[i]]
        ends = [o for o in self.outputs if isinstance(o, int) and o in self.dependent]
        if not pieces or not ends:
            raise GraphError("no output of the function depends on an argument other than its parameters")
        tail, _ = self._closure(o for o in self.outputs if isinstance(o, int))
        return Program(
            self.flat.avals, self.leaves, self.arguments, self.flat.constants, tuple(pieces), self.outputs, tail,
            frozenset(self.active),
        )  # fmt: skip

    def _reached(self) -> set[int]:
        """The values that a cotangent of the outputs reaches."""
        values = {o for o in self.outputs if isinstance(o, int)}
        for step in reversed(self.steps):
            if self.active.intersection(step.writes) and values.intersection(step.writes):
                values.update(step.values)
        return values

    def _piece(self, i: int, step: Step) -> Piece:
        before, reads = self._closure(step.values)
        special = {*self.leaves, *self.flat.constants}
        op = _word(step)
        return Piece(
            name=self._unique(".".join(step.scope if step.scope[-1:] == (op,) else (*step.scope, op))),
            op=op,
            steps=(*before, step),
            activations=tuple(v for v in reads if v not in special),
            leaves=tuple(v for v in reads if v in self.leaves),
            constants=tuple(v for v in reads if v in self.flat.constants),
        )

    def _closure(self, values: Iterable[int]) -> tuple[tuple[Step, ...], tuple[int, ...]]:
        """The equations to evaluate before `values` are there, and the values that those start from."""
        closure: set[int] = set()
        starts: dict[int, None] = {}
        stack = list(values)[::-1]
        while stack:
            v = stack.pop()
            i = self.maker.get(v)
            if i is None or self.own[i]:
                starts[v] = None
            elif i not in closure:
                closure.add(i)
                stack += self.steps[i].values[::-1]
        return tuple(self.steps[i] for i in sorted(closure)), tuple(starts)

    def _split(self, step: Step) -> list[Step]:
        """A split as slices, so that every part lives by itself."""
        if step.primitive.name != "split" or not isinstance(step.reads[0], int):
            return [step]
        (lax,) = extra("jax", "jax.lax")
        shape, axis, at = self.flat.avals[step.reads[0]].shape, step.params["axis"], 0
        parts = []
        for size, write in zip(step.params["sizes"], step.writes, strict=True):
            start = [at if d == axis else 0 for d in range(len(shape))]
            limit = [at + int(size) if d == axis else n for d, n in enumerate(shape)]
            at += int(size)
            params = {"start_indices": tuple(start), "limit_indices": tuple(limit), "strides": None}
            parts.append(Step(lax.slice_p, params, step.reads, (write,), step.scope))
        return parts

    def _is_view(self, step: Step) -> bool:
        avals = self.flat.avals
        one = len(step.values) == 1
        return one and is_view(step.primitive.name, [avals[step.values[0]]], [avals[step.writes[0]]])

    def _is_float(self, value: int) -> bool:
        return str(self.flat.avals[value].dtype) in FLOATS

    def _unique(self, name: str) -> str:
        self.names[name] = number = self.names.get(name, 0) + 1
        return name if number == 1 else self._unique(f"{name}_{number}")


def _alive(steps: Sequence[Step], outputs: Iterable[Any]) -> list[Step]:
    """The equations that an output depends on."""
    live = {o for o in outputs if isinstance(o, int)}
    alive = []
    for step in reversed(steps):
        if live.intersection(step.writes):
            live.update(step.values)
            alive.append(step)
    return alive[::-1]


def _word(step: Step) -> str:
    """The name of the equation: the function's where it has a derivative of its own."""
    name = str(step.primitive.name)
    if name not in CUSTOM:
        return name
    body = inner_programs(step.params)
    info = getattr(opened(body[0]), "debug_info", None) if body else None
    called = step.params.get("name") or getattr(info, "func_name", None) or str(getattr(info, "func_src_info", ""))
    word = str(called).partition(" ")[0].rpartition(".")[2]
    return word if word.isidentifier() else name


def trace(function: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """The closed jaxpr of a function of abstract values, and the shape of what it returns.

    Raises
    ------
    GraphError
        If it depends on values, or raises.
    """
    jax, errors = extra("jax", "jax", "jax.errors")
    try:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    except GraphError:
        raise
    except (errors.ConcretizationTypeError, errors.NonConcreteBooleanIndexError) as error:
        raise GraphError(
            f"the function depends on the values of its arguments, so it cannot be traced ({first_line(error)}); "
            "replace control flow and shapes that depend on values"
        ) from None
    except Exception as error:
        raise GraphError(f"the function raised {type(error).__name__}: {first_line(error)}") from error
    return closed, shape
