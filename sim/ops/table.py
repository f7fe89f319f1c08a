"""The table of rules: op -> how it is evaluated and differentiated on NumPy arrays.

A new op is one entry; what it must give is said in `sim.ops.rule`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from sim.base.errors import NotApplicable, suggest
from sim.graphs.node import Node
from sim.ops import attention, dense, images
from sim.ops.imported import IMPORTED
from sim.ops.rule import Array, At, Rule, bilinear, linear, pointwise, selfadjoint, total


def _present(dx: Any) -> list[Array]:
    return [d for d in dx if d is not None]


def _joined_tangents(at: At, dx: Any) -> Array:
    width, dtype = len(_present(dx)[0]), at.node.dtype
    parts = [np.zeros((width, *s), dtype) if d is None else d for d, s in zip(dx, at.shapes, strict=True)]
    return np.concatenate(parts, axis=at["axis"] + 1)


def _parted(at: At, g: Array) -> list[Array]:
    return np.split(g, np.cumsum([s[at["axis"]] for s in at.shapes])[:-1].tolist(), axis=at["axis"] + 1)


def _transposed(at: At, b: Array) -> Array:
    """b as it enters the product: (…, k, n), whichever way it is stored."""
    return np.swapaxes(b, -1, -2) if at["transpose_b"] else b


def _mask(at: At) -> tuple[Array, Array]:
    """Dropout with the mask of this node and seed: a recomputation draws the same one."""
    mask = np.random.default_rng(at.seed).random(at.shapes[0]) >= at["rate"]
    return at.x[0] * mask / (1 - at["rate"]), mask


def _channel_means(at: At, x: Array) -> Array:
    return np.asarray(x.reshape(*x.shape[:2], -1).mean(axis=-1))


def _from_channel_means(at: At, g: Array) -> Array:
    shape = at.shapes[0]
    count = np.prod(shape[2:], dtype=np.int64)
    return np.broadcast_to((g / count).reshape(*g.shape[:2], *[1] * (len(shape) - 2)), (len(g), *shape[1:]))


_RULES: dict[str, Rule] = {
    "relu":    pointwise(lambda x: np.maximum(x, 0),              lambda at: at.y > 0),
    "tanh":    pointwise(np.tanh,                                 lambda at: 1 - at.y * at.y),
    "sigmoid": pointwise(lambda x: 1 / (1 + np.exp(-x)),          lambda at: at.y * (1 - at.y)),
    "gelu":    pointwise(lambda x: x * dense.normal_distribution(x), dense.gelu_derivative),
    "silu":    pointwise(lambda x: x / (1 + np.exp(-x)),          dense.silu_derivative),

    "mul":     bilinear(lambda at, a, b: a * b, lambda at, g, b: g * b, lambda at, g, a: g * a),
    "matmul":  bilinear(
        lambda at, a, b: a @ _transposed(at, b),
        lambda at, g, b: g @ np.swapaxes(_transposed(at, b), -1, -2),
        lambda at, g, a: _transposed(at, np.swapaxes(a, -1, -2) @ g),
    ),
    "attention_scores":  attention.scores,
    "attention_context": attention.context,
    "flash_attention":   attention.fused,

    "add": Rule(
        forward=lambda at: (total(at.x), None),
        jvp=lambda at, dx: total(_present(dx)),
        vjp=lambda at, g: (g,) * len(at.shapes),
    ),
    "concat": Rule(
        forward=lambda at: (np.concatenate(at.x, axis=at["axis"]), None),
        jvp=_joined_tangents,
        vjp=_parted,
    ),
    "dropout": selfadjoint(_mask, lambda at, v: v * at.residual / (1 - at["rate"])),
    "softmax": selfadjoint(
        lambda at: (dense.masked_softmax(at.x[0], causal=at["causal"]), None),
        lambda at, v: dense.softmax_derivative(at.y, v),
    ),

    "linear":           dense.linear_layer,
    "embedding":        dense.embedding,
    "positions":        dense.positions,
    "layer_norm":       dense.normalization(channel=-1, centred=True),
    "rms_norm":         dense.normalization(channel=-1, centred=False),
    "batch_norm":       dense.normalization(channel=1, centred=True),
    "conv2d":           images.convolution,
    "conv_transpose2d": images.transposed_convolution,

    "max_pool2d":          images.max_pool,
    "avg_pool2d":          images.separable(images.mean_matrix),
    "adaptive_avg_pool2d": images.separable(images.adaptive_matrix),
    "upsample":            images.separable(images.repeat_matrix),
    "global_avg_pool":     linear(_channel_means, _from_channel_means),

    "cross_entropy": Rule(
        forward=dense.cross_entropy_forward,
        jvp=lambda at, dx: dense.shares(dense.cross_entropy_slope(at) * dx[0]),
        vjp=lambda at, g: (dense.against(g, dense.cross_entropy_slope(at)), None),
        reduces=True,
    ),
    "mse": Rule(
        forward=lambda at: (((at.x[0] - at.x[1]) ** 2).mean(), None),
        jvp=lambda at, dx: dense.shares(dense.mse_slope(at) * dense.difference(dx)),
        vjp=lambda at, g: (dense.against(g, dense.mse_slope(at)), dense.against(-g, dense.mse_slope(at))),
        reduces=True,
    ),
    "sum": Rule(
        forward=lambda at: (at.x[0].sum(), None),
        jvp=lambda at, dx: dense.shares(dx[0]),
        vjp=lambda at, g: (dense.spread(at, g),),
        reduces=True,
    ),
    "mean": Rule(
        forward=lambda at: (at.x[0].mean(), None),
        jvp=lambda at, dx: dense.shares(dx[0]) / at.size,
        vjp=lambda at, g: (dense.spread(at, g / at.size),),
        reduces=True,
    ),
}  # fmt: skip

RULES: Mapping[str, Rule] = MappingProxyType(_RULES)


def rule_of(node: Node) -> Rule:
    """The rule of a node's op, or the one that its importer names.

    Raises
    ------
    NotApplicable
        If there is none, as for the abstract layers of a chain; with the importer's reason if it gave one.
    """
    why = node.attributes.get("refused")
    if why is not None:
        raise NotApplicable(f"node '{node.name}' ({node.op}) cannot be executed: {why}")
    name = node.attributes.get("rule", node.op)
    found = RULES.get(name) or IMPORTED.get(name)
    if found is None:
        raise NotApplicable(f"node '{node.name}' cannot be executed: op '{name}' has no rule{suggest(name, RULES)}")
    return found
