"""Small JAX models with random parameters: (loss, params, arguments)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Model = tuple[Any, Any, tuple[Any, ...]]


def shapes_of(tree: Any) -> Any:
    """The same tree with shapes in place of arrays."""
    return jax.tree_util.tree_map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


def _arrays(seed: int, **shapes: Sequence[int]) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {n: jnp.asarray(random.normal(size=s, scale=s[0] ** -0.5), dtype="float32") for n, s in shapes.items()}


def mlp(*, widths: Sequence[int], batch: int) -> Model:
    """Dense layers with relu between them and a mean squared error against nothing."""
    layers = len(widths) - 1
    params = [_arrays(k, w=widths[k : k + 2], b=widths[k + 1 : k + 2]) for k in range(layers)]

    def loss(params: Any, x: Any) -> Any:
        for k, layer in enumerate(params):
            x = x @ layer["w"] + layer["b"]
            x = jax.nn.relu(x) if k < layers - 1 else x
        return (x**2).mean()

    return loss, params, (_arrays(99, x=(batch, widths[0]))["x"],)


def cnn(*, batch: int, size: int) -> Model:
    """Two convolutions (the second with a stride of 2), relu, a mean over the image and a linear layer."""
    params = _arrays(0, k1=(3, 3, 3, 4), k2=(3, 3, 4, 8), w=(8, 5))

    def convolved(x: Any, k: Any, stride: int) -> Any:
        return jax.lax.conv_general_dilated(x, k, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def loss(p: Any, x: Any) -> Any:
        x = jax.nn.relu(convolved(x, p["k1"], 1))
        x = jax.nn.relu(convolved(x, p["k2"], 2))
        return jnp.sin(x.mean((1, 2)) @ p["w"]).sum()

    return loss, params, (_arrays(1, x=(batch, size, size, 3))["x"],)


def attention_block(*, batch: int, sequence: int, hidden: int, heads: int) -> Model:
    """A pre-norm transformer block with causal softmax attention, a gelu MLP of 4 widths and a mean square."""
    h = hidden
    params = _arrays(
        0, q=(h, h), k=(h, h), v=(h, h), o=(h, h), up=(h, 4 * h), down=(4 * h, h), b_up=(4 * h,), b_down=(h,),
        scale1=(h,), shift1=(h,), scale2=(h,), shift2=(h,),
    )  # fmt: skip

    def norm(x: Any, scale: Any, shift: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + shift

    def attention(p: Any, x: Any) -> Any:
        q, k, v = ((x @ p[name]).reshape(batch, sequence, heads, -1) for name in "qkv")
        scores = jnp.einsum("bshd,bthd->bhst", q, k) / math.sqrt(h // heads)
        causal = jnp.tril(jnp.ones((sequence, sequence), dtype=bool))
        weights = jax.nn.softmax(jnp.where(causal, scores, -1e9))
        return jnp.einsum("bhst,bthd->bshd", weights, v).reshape(x.shape) @ p["o"]

    def loss(p: Any, x: Any) -> Any:
        x = x + attention(p, norm(x, p["scale1"], p["shift1"]))
        inner = jax.nn.gelu(norm(x, p["scale2"], p["shift2"]) @ p["up"] + p["b_up"])
        return ((x + inner @ p["down"] + p["b_down"]) ** 2).mean()

    return loss, params, (_arrays(1, x=(batch, sequence, hidden))["x"],)


def choices(*, batch: int, width: int) -> Model:
    """Operations whose derivative reads some of what they read: choices by values, picked entries, gates."""
    params = [_arrays(k, w=(width, width)) for k in range(4)]

    def loss(params: Any, x: Any) -> Any:
        gate = jnp.sin(x)  # made from an argument alone: it has no derivative
        for layer in params:
            x = (x @ layer["w"]) * gate
            x = jnp.where(x > 0.1, x, jnp.sin(x))
            x = jnp.take_along_axis(x, jnp.argsort(x, axis=-1), axis=-1)
        return (x**2).mean()

    return loss, params, (_arrays(1, x=(batch, width))["x"],)
