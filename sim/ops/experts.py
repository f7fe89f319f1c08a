"""Mixtures of experts: tokens sent to the experts with their largest gates, a weight for each expert, and back.

Each sample has a fixed number of places with each expert, as in GShard (Lepikhin et al. 2020, arXiv:2006.16668);
a token that finds none is left out there. Places are given by choice, then by token. Gates are (batch, sequence,
experts), tokens of experts (batch, experts, places, features). The choice is locally constant, so that a
derivative sees it through the gates' values alone; the loss that evens out the choice is not part of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from sim.graphs.node import Node
from sim.ops.core import CONSTANT, Features, Tensor, TopK, check_rank, fail, make_node, ops
from sim.ops.rule import Array, At, Rule, samplewise, total

Capacity = Annotated[
    float, Field(gt=0, le=1024, description="Places with an expert by those it needs if all are chosen evenly.")
]


def places(tokens: int, *, experts: int, top_k: int, capacity: float) -> int:
    """The places that a sample of so many tokens has with each expert."""
    return max(1, math.ceil(capacity * tokens * top_k / experts))


def _routes(at: At, gates: Array) -> tuple[Array, Array, Array, Array]:
    """(sample, expert, place, token) of every choice that finds a place."""
    tokens, experts = gates.shape[1:]
    chosen = np.argsort(-gates, axis=-1, kind="stable")[..., : at["top_k"]]
    chosen = np.swapaxes(chosen, 1, 2).reshape(len(gates), -1)
    hits = chosen[..., None] == np.arange(experts)
    place = (np.cumsum(hits, axis=1) * hits).sum(axis=-1) - 1
    sample, number = np.nonzero(place < at["places"])
    return sample, chosen[sample, number], place[sample, number], number % tokens


def _dispatch(at: At, x: Array) -> Array:
    """Tokens of any leading width, each at its place."""
    sample, expert, place, token = _routes(at, at.x[1])
    out = np.zeros((*x.shape[:-3], *at.node.output_shape), dtype=x.dtype)
    out[..., sample, expert, place, :] = x[..., sample, token, :]
    return out


def _dispatch_vjp(at: At, g: Array) -> tuple[Array, Array]:
    sample, expert, place, token = _routes(at, at.x[1])
    to_tokens = np.zeros((len(g), *at.shapes[0]), dtype=g.dtype)
    where: Any = (slice(None), sample, token)
    np.add.at(to_tokens, where, g[:, sample, expert, place])
    return to_tokens, np.zeros((len(g), *at.shapes[1]), dtype=g.dtype)


def _dispatch_jvp(at: At, dx: Sequence[Any]) -> Array:
    if dx[0] is None:
        return np.zeros((len(dx[1]), *at.node.output_shape), dtype=dx[1].dtype)
    return _dispatch(at, dx[0])


@ops.define(
    "expert_dispatch",
    arrays=Rule(forward=lambda at: (_dispatch(at, at.x[0]), None), jvp=_dispatch_jvp, vjp=_dispatch_vjp),
)
def expert_dispatch(name: str, x: Tensor, gates: Tensor, *, top_k: TopK = 2, capacity: Capacity = 1.0) -> Node:
    """Each token at a place with its `top_k` experts: copies, a comparison for each gate, and a sum backward.

    The derivative reads the gates, of which it finds the places again, and not the tokens.
    """
    check_rank(name, x, at_least=3, what="(batch, sequence, features)")
    batch, tokens, features = x.shape
    experts = _experts(name, gates, (batch, tokens), top_k)
    count = places(tokens, experts=experts, top_k=top_k, capacity=capacity)
    return make_node(
        "expert_dispatch", name, [x, gates], (batch, experts, count, features),
        forward_flops=gates.size, jvp_flops=0, vjp_flops=batch * tokens * top_k * features, reads=("never", "always"),
        top_k=top_k, places=count,
    )  # fmt: skip


def _combine(at: At, y: Array, gates: Array) -> Array:
    """Σ gate·y over the experts of each token, of any leading width of either."""
    sample, expert, place, token = _routes(at, at.x[1])
    terms = y[..., sample, expert, place, :] * gates[..., sample, token, expert, None]
    out = np.zeros((*terms.shape[:-2], *at.node.output_shape), dtype=terms.dtype)
    where: Any = (..., sample, token, slice(None))
    np.add.at(out, where, terms)
    return out


def _combine_jvp(at: At, dx: Sequence[Any]) -> Array:
    y, gates = at.x
    terms = [] if dx[0] is None else [_combine(at, dx[0], gates)]
    return total(terms + ([] if dx[1] is None else [_combine(at, y, dx[1])]))


def _combine_vjp(at: At, g: Array) -> tuple[Array, Array]:
    y, gates = at.x
    sample, expert, place, token = _routes(at, gates)
    own = g[:, sample, token]
    to_experts = np.zeros((len(g), *at.shapes[0]), dtype=g.dtype)
    to_experts[:, sample, expert, place] = own * gates[sample, token, expert, None]
    to_gates = np.zeros((len(g), *at.shapes[1]), dtype=g.dtype)
    to_gates[:, sample, token, expert] = (own * y[sample, expert, place]).sum(axis=-1)
    return to_experts, to_gates


@ops.define(
    "expert_combine",
    arrays=Rule(forward=lambda at: (_combine(at, at.x[0], at.x[1]), None), jvp=_combine_jvp, vjp=_combine_vjp),
)
def expert_combine(name: str, y: Tensor, gates: Tensor, *, top_k: TopK = 2) -> Node:
    """Σ gate·y over the experts of each token: 2 flops a scalar and expert, 4 per tangent, 3 per cotangent."""
    check_rank(name, y, at_least=4, what="(batch, experts, places, features)")
    batch, _, count, features = y.shape
    tokens = gates.shape[1] if len(gates.shape) == 3 else 0
    experts = _experts(name, gates, (batch, tokens), top_k)
    if y.shape[1] != experts:
        fail(name, f"got the tokens of {y.shape[1]} experts, expected those of {experts}, which have gates")
    work = batch * tokens * top_k * features
    return make_node(
        "expert_combine", name, [y, gates], (batch, tokens, features),
        forward_flops=2 * work, jvp_flops=4 * work, vjp_flops=3 * work, top_k=top_k, places=count,
    )  # fmt: skip


def _experts(name: str, gates: Tensor, tokens: tuple[int, int], top_k: int) -> int:
    """The number of experts that have gates."""
    if len(gates.shape) != 3 or gates.shape[:2] != tokens:
        fail(name, f"got gates of shape {gates.shape}, expected ({tokens[0]}, {tokens[1]}, experts)")
    if top_k > gates.shape[-1]:
        fail(name, f"got {top_k} experts a token, expected at most the {gates.shape[-1]} there are", key="top_k")
    return gates.shape[-1]


@ops.define(
    "expert_linear",
    arrays=Rule(
        forward=lambda at: (np.einsum("beci,eoi->beco", at.x[0], at.p[0], optimize=True), None),
        jvp=lambda at, dx: samplewise(lambda t: np.einsum("beci,eoi->beco", t, at.p[0], optimize=True), dx[0]),
        vjp=lambda at, g: (samplewise(lambda c: np.einsum("beco,eoi->beci", c, at.p[0], optimize=True), g),),
        parameters=lambda at: ((at.shapes[0][1], at.node.output_shape[-1], at.shapes[0][-1]),),
        parameter_jvp=lambda at, dp: np.einsum("beci,weoi->wbeco", at.x[0], dp[0], optimize=True),
        parameter_vjp=lambda at, g: (np.einsum("wbeco,beci->weoi", g, at.x[0], optimize=True),),
    ),
)
def expert_linear(name: str, x: Tensor, *, features: Features) -> Node:
    """y = x·Wᵀ with a weight of each expert: 2·B·in·out flops, as many per JVP, VJP and weight gradient.

    x is (batch, experts, places, features); places that no token has are multiplied too.
    """
    check_rank(name, x, at_least=4, what="(batch, experts, places, features)")
    work = 2 * x.size * features
    return make_node(
        "expert_linear", name, [x], (*x.shape[:-1], features),
        forward_flops=work, jvp_flops=work, vjp_flops=work, param_vjp_flops=work,
        param_size=x.shape[1] * x.shape[-1] * features,
        reads=("parameters",), jacobian=CONSTANT,
    )  # fmt: skip
