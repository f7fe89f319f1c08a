"""Flops of JAX primitives: one table, by explicit formulas; a multiply-add is 2 flops.

To teach the importer a primitive, add a line to `FLOPS`: a function `(inputs, outputs, params) -> flops`
of the abstract values (`.shape`, `.size`) that the equation reads and writes and of its parameters.
Derivatives need no table: JAX is asked for its own derivative program, which is counted by this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sim.base.errors import GraphError

Rule = Callable[[Sequence[Any], Sequence[Any], Mapping[str, Any]], int]

CALLS = frozenset(
    {
        "pjit", "jit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call",
        "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_lin",
    }
)  # fmt: skip
"""Primitives that only run a program of their own."""

VIEWS = frozenset({"reshape", "squeeze", "expand_dims", "broadcast_in_dim", "copy", "copy_p", "name"})
"""Primitives that move no scalar where the size stays."""

CONTROL_FLOW: Mapping[str, str] = {
    "while": "how often it runs depends on values; use lax.scan, or fori_loop with bounds that are Python numbers",
    "cond": "which branch runs depends on values; use jnp.where",
}
"""Primitives that are refused, and why."""


def dot_general(inputs: Sequence[Any], outputs: Sequence[Any], params: Mapping[str, Any]) -> int:
    """2 flops for each output scalar and each scalar of the contracted dimensions."""
    (contracted, _), _ = params["dimension_numbers"]
    return 2 * _size(outputs[0]) * int(math.prod(inputs[0].shape[d] for d in contracted))


def convolution(inputs: Sequence[Any], outputs: Sequence[Any], params: Mapping[str, Any]) -> int:
    """2 flops for each output scalar and each weight it is made of, or each input scalar and weight it meets.

    The smaller of the two: the second does not count the zeros that a transposed convolution, or the
    VJP of one with a stride, puts between scalars. A convolution's JVP, VJP and weight gradient then
    have the flops of its forward.
    """
    image, weight = inputs[:2]
    features, depth, *window = (weight.shape[d] for d in params["dimension_numbers"].rhs_spec)
    groups = params["feature_group_count"] * params["batch_group_count"]
    by_output = _size(outputs[0]) * depth * math.prod(window)
    by_input = _size(image) * (features // groups) * math.prod(window)
    return int(2 * min(by_output, by_input))


def _size(value: Any) -> int:
    return int(math.prod(value.shape))


def _written(inputs: Sequence[Any], outputs: Sequence[Any], params: Mapping[str, Any]) -> int:
    return sum(_size(o) for o in outputs)


def _read(inputs: Sequence[Any], outputs: Sequence[Any], params: Mapping[str, Any]) -> int:
    return _size(inputs[0])


def _reduced(inputs: Sequence[Any], outputs: Sequence[Any], params: Mapping[str, Any]) -> int:
    return 0 if _size(inputs[0]) == _size(outputs[0]) else _size(inputs[0])


def _nothing(inputs: Sequence[Any], outputs: Sequence[Any], params: Mapping[str, Any]) -> int:
    return 0


def _windows(inputs: Sequence[Any], outputs: Sequence[Any], params: Mapping[str, Any]) -> int:
    return _size(outputs[0]) * int(math.prod(params["window_dimensions"]))


def _scattered_windows(inputs: Sequence[Any], outputs: Sequence[Any], params: Mapping[str, Any]) -> int:
    return _size(inputs[0]) * int(math.prod(params["window_dimensions"]))


def _scattered(inputs: Sequence[Any], outputs: Sequence[Any], params: Mapping[str, Any]) -> int:
    return _size(inputs[2])


def _sorted(inputs: Sequence[Any], outputs: Sequence[Any], params: Mapping[str, Any]) -> int:
    shape = inputs[0].shape
    length = shape[params.get("dimension", -1)] if shape else 1
    return _size(inputs[0]) * max(1, math.ceil(math.log2(length)))


def _added(inputs: Sequence[Any], outputs: Sequence[Any], params: Mapping[str, Any]) -> int:
    return (len(inputs) - 1) * _size(outputs[0])


def _cholesky(inputs: Sequence[Any], outputs: Sequence[Any], params: Mapping[str, Any]) -> int:
    return _size(inputs[0]) * int(inputs[0].shape[-1]) // 3


def _triangular_solve(inputs: Sequence[Any], outputs: Sequence[Any], params: Mapping[str, Any]) -> int:
    return _size(inputs[1]) * int(inputs[0].shape[-1])


def _all(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


FLOPS: dict[str, Rule] = {
    "dot_general": dot_general,
    "conv_general_dilated": convolution,
    # one flop for each scalar written, transcendental or not
    **_all(
        _written,
        "abs acos acosh add and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz conj cos cosh "
        "digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac integer_pow is_finite "
        "le lgamma log log1p logistic lt max min mul mulhi ne neg nextafter not or polygamma population_count pow "
        "random_bits random_gamma regularized_incomplete_beta rem round rsqrt shift_left shift_right_arithmetic "
        "shift_right_logical sign sin sinh sqrt square sub tan tanh threefry2x32 xor zeta",
    ),
    "add_any": _added,
    # one flop for each scalar read; a reduction of dimensions of size 1 is a reshape
    **_all(_read, "argmax argmin cumlogsumexp cummax cummin cumprod cumsum"),
    **_all(_reduced, "reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum reduce_xor"),
    # one flop for each scalar of each window
    **_all(_windows, "reduce_window_max reduce_window_min reduce_window_sum"),
    **_all(_scattered_windows, "select_and_scatter_add select_and_gather_add"),
    # one flop for each scalar added in
    **_all(
        _scattered, "scatter-add scatter_add scatter-mul scatter_mul scatter-max scatter_max scatter-min scatter_min"
    ),
    # comparisons of a merge sort
    **_all(_sorted, "sort top_k"),
    "cholesky": _cholesky,
    "triangular_solve": _triangular_solve,
    # scalars moved, named or converted; random keys
    **_all(
        _nothing,
        "bitcast_convert_type broadcast broadcast_in_dim concatenate convert_element_type copy copy_p device_put "
        "dynamic_slice dynamic_update_slice empty expand_dims full gather imag iota name optimization_barrier pad real "
        "random_clone random_fold_in random_seed random_split random_unwrap random_wrap reduce_precision reshape rev "
        "scatter select_n sharding_constraint slice split squeeze stop_gradient transpose unstack",
    ),
}


def flops_of(primitive: str, inputs: Sequence[Any], outputs: Sequence[Any], params: Mapping[str, Any]) -> int:
    """Flops of one equation, programs inside it included.

    Raises
    ------
    GraphError
        For a primitive without a rule, naming it.
    """
    if primitive in CALLS:
        return sum(program_flops(inner) for inner in inner_programs(params)[:1])
    if primitive == "scan":
        return int(params["length"]) * program_flops(params["jaxpr"])
    if primitive in CONTROL_FLOW:
        raise GraphError(f"primitive '{primitive}': control flow cannot be imported, because {CONTROL_FLOW[primitive]}")
    if primitive not in FLOPS:
        raise GraphError(
            f"primitive '{primitive}' has no rule; add a line for it to FLOPS in sim/models/jax/flops.py, "
            f"or before importing: sim.models.jax.flops.FLOPS['{primitive}'] = "
            "lambda inputs, outputs, params: flops"
        )
    return int(FLOPS[primitive](inputs, outputs, params))


def inner_programs(params: Mapping[str, Any]) -> list[Any]:
    """The programs among an equation's parameters, the one that computes its outputs first."""
    keys = ("call_jaxpr", "jaxpr", "fun_jaxpr")
    return [params[key] for key in keys if key in params and hasattr(opened(params[key]), "eqns")]


def opened(program: Any) -> Any:
    """The program without its constants."""
    return getattr(program, "jaxpr", program)


def is_literal(atom: Any) -> bool:
    """Tell whether what an equation reads is a number written into it."""
    return hasattr(atom, "val")


def is_view(primitive: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> bool:
    """Tell whether an equation of one array moves no scalar; XLA makes a bitcast of it."""
    return primitive in VIEWS and _size(inputs[0]) == _size(outputs[0])


def program_flops(program: Any) -> int:
    """Flops of a jaxpr, without what no output depends on."""
    jaxpr = opened(program)
    live = {v for v in jaxpr.outvars if not is_literal(v)}
    total = 0
    for eqn in reversed(jaxpr.eqns):
        if live.intersection(eqn.outvars):
            live.update(v for v in eqn.invars if not is_literal(v))
            total += flops_of(
                eqn.primitive.name, [v.aval for v in eqn.invars], [v.aval for v in eqn.outvars], eqn.params
            )
    return total
