"""A program evaluated so that its gradient keeps chosen activations and residuals, each under a name.

An activation is named where a piece writes it. A residual appears only inside the derivative of its
piece; such a piece is given a rule for its derivative that is JAX's own, with the residual named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sim.execution.jax.regions import Region
from sim.models.importers import extra
from sim.models.jax.costs import sources
from sim.models.jax.program import Piece, Program


def residual_name(node: str) -> str:
    """The name of what a node's derivative keeps beyond activations."""
    return f"{node} (residual)"


def evaluate(
    program: Program, names: Sequence[str], differentiated: Sequence[bool], root: Region, inputs: Sequence[Any]
) -> list[Any]:
    """The outputs, flat, of parameters and arguments, flat; their gradient saves what the root region keeps.

    `names` are those of the pieces, which the regions number; `differentiated` says whether the plan
    has a VJP of them.
    """
    readers = _readers(program)

    def of_region(region: Region, env: dict[int, Any]) -> None:
        """Evaluate a region under `jax.checkpoint`, and put what later pieces read into `env`."""
        pieces = program.pieces[region.start : region.stop]
        writes = [v for piece in pieces for v in piece.writes]
        reads = list(dict.fromkeys(v for piece in pieces for v in _reads(piece) if v in env))
        outputs = [v for v in writes if readers[v] >= region.stop]

        def run(given: Sequence[Any]) -> list[Any]:
            inside = dict(zip(reads, given, strict=True))
            at = region.start
            for inner in (*region.inner, None):
                for k in range(at, region.stop if inner is None else inner.start):
                    piece = program.pieces[k]
                    moves = differentiated[k] and bool(program.active.intersection(piece.writes))
                    values = _named(piece, names[k], inside, differentiated=moves)
                    inside.update(zip(piece.writes, values, strict=True))
                if inner is not None:
                    of_region(inner, inside)
                    at = inner.stop
            return [inside[v] for v in outputs]

        values = _checkpointed(run, _saved(region, names))([env[v] for v in reads])
        env.update(zip(outputs, values, strict=True))

    env = program.environment(inputs[: len(program.leaves)], inputs[len(program.leaves) :])
    of_region(root, env)
    return program.finish(env)


def _checkpointed(function: Callable[..., list[Any]], saved: Sequence[str]) -> Callable[..., list[Any]]:
    (jax,) = extra("jax", "jax")
    policy = jax.checkpoint_policies.save_only_these_names(*saved)
    return jax.checkpoint(function, policy=policy)  # type: ignore[no-any-return]


def _saved(region: Region, names: Sequence[str]) -> list[str]:
    residuals = [residual_name(names[i]) for i in sorted(region.residuals)]
    return [names[i] for i in sorted(region.activations)] + residuals


def _reads(piece: Piece) -> tuple[int, ...]:
    return (*piece.activations, *piece.leaves, *piece.constants)


def _readers(program: Program) -> dict[int, int]:
    """For each value that pieces write, the last piece that reads it; beyond the last for an output, else -1."""
    last = {v: -1 for piece in program.pieces for v in piece.writes}
    last |= {v: k for k, piece in enumerate(program.pieces) for v in _reads(piece) if v in last}
    ends = [v for step in program.tail for v in step.values] + [o for o in program.outputs if isinstance(o, int)]
    return last | {v: len(program.pieces) for v in ends if v in last}


def _named(piece: Piece, name: str, env: dict[int, Any], *, differentiated: bool) -> Sequence[Any]:
    """The outputs of a piece, under its name, with a derivative whose residuals are named."""
    reads = _reads(piece)
    values_read = [env[v] for v in reads]

    def function(*values: Any) -> list[Any]:
        return list(piece.evaluate(dict(zip(reads, values, strict=True))))

    if not differentiated:
        return _all_named(function(*values_read), name)
    if any(step.primitive.name.startswith("custom_vjp") for step in piece.steps):
        return _with_named_vjp(function, name)(*values_read)  # type: ignore[no-any-return]
    return _with_named_jvp(function, name)(*values_read)  # type: ignore[no-any-return]


def _all_named(values: Sequence[Any], name: str) -> list[Any]:
    (checkpointing,) = extra("jax", "jax.ad_checkpoint")
    return [checkpointing.checkpoint_name(v, name) for v in values]


def _with_named_jvp(function: Callable[..., list[Any]], name: str) -> Any:
    """The function with JAX's own linearization of it, in which outputs and residuals are named."""
    jax, derivatives = extra("jax", "jax", "jax.custom_derivatives")

    planned = jax.custom_jvp(lambda *arguments: _all_named(function(*arguments), name))

    def rule(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        moving = [k for k, t in enumerate(tangents) if not isinstance(t, derivatives.SymbolicZero)]
        outputs, push = _taken_apart(jax.linearize, function, primals, moving, name)
        return outputs, push(*(tangents[k] for k in moving))

    planned.defjvp(rule, symbolic_zeros=True)
    return planned


def _with_named_vjp(function: Callable[..., list[Any]], name: str) -> Any:
    """The function with JAX's own VJP of it, in which outputs and residuals are named."""
    jax, numpy = extra("jax", "jax", "jax.numpy")

    planned = jax.custom_vjp(lambda *arguments: _all_named(function(*arguments), name))

    def moving(arguments: Sequence[Any]) -> list[int]:
        return [k for k, v in enumerate(arguments) if numpy.issubdtype(numpy.result_type(v), numpy.floating)]

    def forward(*arguments: Any) -> Any:
        outputs, pull = _taken_apart(jax.vjp, function, arguments, moving(arguments), name)
        return outputs, (pull, arguments)

    def backward(residuals: Any, cotangents: Any) -> Any:
        pull, arguments = residuals
        cotangents_of = dict(zip(moving(arguments), pull(cotangents), strict=True))
        return tuple(cotangents_of.get(k) for k in range(len(arguments)))

    planned.defvjp(forward, backward)
    return planned


def _taken_apart(
    derive: Callable[..., Any], function: Callable[..., list[Any]], arguments: Sequence[Any],
    moving: Sequence[int], name: str,
) -> tuple[list[Any], Any]:  # fmt: skip
    """The outputs of `derive` (`jax.linearize` or `jax.vjp`) of the function by its `moving` arguments, named.

    A residual that is the output, or a view of an argument, has its name already; one that depends
    on nothing is left without.
    """
    jax, core, checkpointing = extra("jax", "jax", "jax.core", "jax.ad_checkpoint")

    def derived(*values: Any) -> Any:
        def of_moving(*xs: Any) -> list[Any]:
            merged = dict(enumerate(values)) | dict(zip(moving, xs, strict=True))
            return function(*(merged[k] for k in range(len(values))))

        return derive(of_moving, *(values[k] for k in moving))

    closed, (out_shape, derivative) = jax.make_jaxpr(derived, return_shape=True)(*arguments)
    flat = core.eval_jaxpr(closed.jaxpr, closed.consts, *arguments)
    count = len(out_shape)
    outputs, residuals = _all_named(flat[:count], name), flat[count:]
    variables = closed.jaxpr.outvars
    names: dict[Any, Any] = {v: ("given", k) for k, v in enumerate(closed.jaxpr.invars)}
    for k, v in enumerate(variables[:count]):
        if not hasattr(v, "val"):
            names.setdefault(v, ("output", k))
    for k, source in enumerate(sources(closed.jaxpr, variables[count:], names)):
        if source is None:
            continue
        if isinstance(source, tuple):
            kind, which = source
            base = arguments[which] if kind == "given" else outputs[which]
            residuals[k] = base.reshape(residuals[k].shape)
        else:
            residuals[k] = checkpointing.checkpoint_name(residuals[k], residual_name(name))
    return outputs, jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(derivative), residuals)
