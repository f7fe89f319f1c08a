"""Decoder transformers of pre-norm blocks in the styles of GPT-2, Llama and Mixtral, whole or one rank's share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from sim import ops
from sim.base.errors import GraphError
from sim.base.registry import Count, Size
from sim.graphs.graph import Graph
from sim.graphs.node import ITEMSIZE
from sim.graphs.size import check_size
from sim.models.families import Batch, families
from sim.models.shards import WHOLE, Layer, Shards
from sim.ops import ACTIVATIONS, GraphBuilder, Loss, Tensor, add_loss
from sim.ops.core import Causal, Dtype
from sim.ops.experts import Capacity

Attention = Literal["explicit", "flash"]
Activation = Literal["gelu", "relu", "silu", "tanh", "sigmoid"]
Norm = Literal["layer_norm", "rms_norm"]
Positions = Literal["learned", "rope", "none"]
NORMS = {"layer_norm": ops.layer_norm, "rms_norm": ops.rms_norm}


@dataclass(frozen=True, kw_only=True)
class _Block:
    """What all blocks share: the share of one rank, and the sizes and choices of attention and MLP."""

    shards: Shards
    heads: int
    kv_heads: int
    inner: int
    attention: Attention
    causal: bool
    activation: Activation
    gated: bool
    bias: bool
    rope: bool
    attention_dropout: float
    experts: int
    top_k: int
    capacity: float

    def attend(self, builder: GraphBuilder, prefix: str, x: Tensor) -> Tensor:
        """Attention of x with itself."""
        shards, hidden, size = self.shards, x.shape[-1], x.shape[-1] // self.heads
        heads, kv_heads = self.heads // shards.tensor, self.kv_heads // shards.tensor
        widths = {"q": hidden, "k": self.kv_heads * size, "v": self.kv_heads * size}
        q, k, v = (
            builder.add(
                shards.divided(
                    ops.linear, f"{prefix}.{name}", x, features=width, bias=self.bias, first=name == "q"
                )
            )
            for name, width in widths.items()
        )  # fmt: skip
        if self.rope:
            q = builder.add(ops.rope(f"{prefix}.q_rope", q, heads=heads))
            k = builder.add(ops.rope(f"{prefix}.k_rope", k, heads=kv_heads))
        k, v = shards.whole_sequence(k), shards.whole_sequence(v)
        if self.attention == "flash":
            node = ops.flash_attention(
                f"{prefix}.flash", q, k, v, heads=heads, kv_heads=kv_heads, causal=self.causal
            )  # fmt: skip
            y = builder.add(shards.attending(node, k, v))
        else:
            node = ops.attention_scores(f"{prefix}.scores", q, k, heads=heads, kv_heads=kv_heads)
            weights = builder.add(ops.softmax(
                f"{prefix}.softmax", builder.add(shards.attending(node, k)), causal=self.causal
            ))  # fmt: skip
            if self.attention_dropout:
                weights = builder.add(
                    ops.dropout(f"{prefix}.softmax_dropout", weights, rate=self.attention_dropout)
                )  # fmt: skip
            node = ops.attention_context(f"{prefix}.context", weights, v, kv_heads=kv_heads)
            y = builder.add(shards.attending(node, v))
        out = ops.linear(f"{prefix}.out", y, features=hidden, bias=self.bias)
        return builder.add(shards.scattered(out, x.itemsize))

    def transform(self, builder: GraphBuilder, prefix: str, x: Tensor) -> Tensor:
        """The MLP of each token."""
        y = self._inner(builder, prefix, x, ops.linear, bias=self.bias)
        down = ops.linear(f"{prefix}.down", y, features=x.shape[-1], bias=self.bias)
        return builder.add(self.shards.scattered(down, x.itemsize))

    def mix(self, builder: GraphBuilder, prefix: str, x: Tensor) -> Tensor:
        """The MLPs of the experts that each token goes to, weighed by their gates."""
        shards = self.shards
        gates = builder.add(ops.linear(f"{prefix}.router", x, features=self.experts, bias=False))
        gates = builder.add(ops.softmax(f"{prefix}.gates", gates))
        sent = ops.expert_dispatch(f"{prefix}.dispatch", x, gates, top_k=self.top_k, capacity=self.capacity)
        tokens = builder.add(shards.exchanged(sent, _bytes(sent.output_shape, x)))
        y = self._inner(builder, prefix, shards.own_experts(tokens), ops.expert_linear)
        down = ops.expert_linear(f"{prefix}.down", y, features=x.shape[-1])
        y = builder.add(shards.scattered(down, x.itemsize))
        node = ops.expert_combine(f"{prefix}.combine", replace(y, shape=tokens.shape), gates, top_k=self.top_k)
        return builder.add(shards.exchanged(node, _bytes(tokens.shape, x)))

    def _inner(self, builder: GraphBuilder, prefix: str, x: Tensor, layer: Layer, **more: bool) -> Tensor:
        """The inner layer of an MLP after its activation."""
        name = f"{prefix}.{self.activation}"
        first = builder.add(self.shards.divided(
            layer, f"{prefix}.{'gate' if self.gated else 'up'}", x, features=self.inner, **more
        ))  # fmt: skip
        if not self.gated:
            return builder.add(ACTIVATIONS[self.activation](name, first))
        up = builder.add(self.shards.divided(layer, f"{prefix}.up", x, features=self.inner, first=False, **more))
        return builder.add(ops.mul(f"{prefix}.mul", builder.add(ACTIVATIONS[self.activation](name, first)), up))


def _bytes(shape: tuple[int, ...], like: Tensor) -> int:
    return math.prod(shape) * like.itemsize


@families.register("transformer")
def transformer(
    shards: Shards = WHOLE,
    *,
    layers: Annotated[Count, Field(description="Decoder blocks.")],
    hidden: Annotated[Count, Field(description="Features of a token.")],
    heads: Annotated[Count, Field(description="Heads of queries, among which hidden is divided.")],
    kv_heads: Annotated[
        Count | None, Field(description="Heads of keys and values, each for a group of `heads`; as many unless given.")
    ] = None,
    sequence: Annotated[Count, Field(description="Tokens of a sample.")],
    mlp_ratio: Annotated[float, Field(gt=0, le=1024, description="Inner width of the MLP by hidden.")] = 4,
    gated: Annotated[
        bool, Field(description="Whether the activation multiplies a second inner layer (SwiGLU is gated silu).")
    ] = False,
    experts: Annotated[Size, Field(description="MLPs of a block, of which each token goes to some; 0 for one.")] = 0,
    top_k: Annotated[Count, Field(description="Experts that a token goes to.")] = 2,
    capacity: Capacity = 1.0,
    vocab: Annotated[
        Size, Field(description="Entries of the embedding; 0 leaves blocks alone, reading hidden states.")
    ] = 0,
    positions: Annotated[
        Positions, Field(description="A learned row for each place, turns of queries and keys, or none.")
    ] = "learned",
    batch: Batch = 1,
    attention: Annotated[
        Attention, Field(description="explicit keeps a sequence² tensor of each head, flash none.")
    ] = "explicit",
    causal: Causal = True,
    activation: Annotated[Activation, Field(description="Between the two layers of the MLP.")] = "gelu",
    norm: Annotated[Norm, Field(description="Before attention and before the MLP.")] = "layer_norm",
    bias: Annotated[bool, Field(description="Of the linear layers in the blocks.")] = True,
    dropout: Annotated[float, Field(ge=0, lt=1, description="On each residual branch; 0 for none.")] = 0,
    attention_dropout: Annotated[float, Field(ge=0, lt=1, description="After an explicit softmax; 0 for none.")] = 0,
    tied: Annotated[bool, Field(description="Whether the head uses the embedding's weights.")] = True,
    dtype: Dtype = "float32",
    loss: Annotated[Loss, Field(description="Adds the scalar loss node; none leaves the logits.")] = "none",
) -> Graph:
    """A decoder-only transformer of pre-norm blocks (Radford et al. 2019, GPT-2; Grattafiori et al. 2024, Llama 3).

    Source: Radford, Wu, Child, Luan, Amodei & Sutskever 2019, Language models are unsupervised multitask
    learners. With h = `hidden`, S = `sequence`, T = batch·S tokens and `mlp_ratio` 4, a block costs
    24·T·h² + 4·T·S·h flops in matrix products. With explicit attention, layer norms and GELU its
    derivative keeps 16·T·h scalars, the softmax output (batch·heads·S² scalars) and 16·T bytes of
    statistics: the inputs of both norms, their outputs, q, k, v, the attention's output, and the MLP's
    inner layer before and after GELU (4·T·h each). With flash attention the softmax output gives way
    to the log-sum-exp of each row.

    A `gated` MLP (Shazeer 2020, GLU variants improve transformer, arXiv:2002.05202) has three layers and keeps
    four inner ones. With `experts` a router's softmax chooses `top_k` of them for each token, and `capacity`
    says how many tokens of a sample each has place for.

    With `vocab` the graph reads int64 token `ids`, adds learned positions, and ends in a norm and a
    head without bias. A tied head has no parameters: its share of the gradient is counted in flops,
    and in memory as the embedding's. Positions of `rope` are in queries and keys.

    q, k and v are three linear layers; one fused layer costs and keeps the same. Splitting into heads
    is a view; the copies that PyTorch makes of such views are not counted. A causal mask takes no
    memory and saves no flops. Of several `shards` the graph is that of one rank; the sums of three scalars a token
    among ranks that divide the classes of a cross entropy are not counted.

    Raises
    ------
    GraphError
        If hidden cannot be divided among the heads, or these among the heads of keys and values.
    ParameterError
        If heads, inner features, tokens or experts cannot be divided among the shards.
    """
    if hidden % heads:
        raise GraphError(f"hidden {hidden} cannot be divided among {heads} heads", key="heads")
    kv_heads = heads if kv_heads is None else kv_heads
    if heads % kv_heads:
        message = f"{heads} heads cannot be divided among {kv_heads} heads of keys and values"
        raise GraphError(message, key="kv_heads")
    if experts and top_k > experts:
        raise GraphError(f"got {top_k} experts a token, expected at most the {experts} there are", key="top_k")
    check_size(12 * layers, key="layers")  # the fewest that a layer has
    inner = max(1, int(mlp_ratio * hidden))
    shards.check(heads=heads, kv_heads=kv_heads, inner=inner, sequence=sequence, experts=experts)
    blocks = _Block(
        shards=shards, heads=heads, kv_heads=kv_heads, inner=inner, attention=attention, causal=causal,
        activation=activation, gated=gated, bias=bias, rope=positions == "rope", attention_dropout=attention_dropout,
        experts=experts, top_k=top_k, capacity=capacity,
    )  # fmt: skip
    builder = GraphBuilder()
    if vocab:
        ids = builder.input("ids", (batch, sequence // shards.context), "int64")
        share = -(-vocab // shards.tensor)
        embedding = ops.embedding("embedding", ids, entries=share, features=hidden, dtype=dtype)
        x = builder.add(shards.scattered(embedding, ITEMSIZE[dtype]))
        if positions == "learned":
            x = builder.add(ops.positions("positions", x, entries=sequence))
    else:
        x = builder.input("x", (batch, shards.tokens(sequence), hidden), dtype)
    normalize = NORMS[norm]
    for i in range(1, layers + 1):
        block = f"block{i}"
        y = builder.add(normalize(f"{block}.norm1", x))
        x = _join(builder, f"{block}.attn", x, blocks.attend(builder, f"{block}.attn", y), rate=dropout)
        y = builder.add(normalize(f"{block}.norm2", x))
        if experts:
            x = _join(builder, f"{block}.moe", x, blocks.mix(builder, f"{block}.moe", y), rate=dropout)
        else:
            x = _join(builder, f"{block}.mlp", x, blocks.transform(builder, f"{block}.mlp", y), rate=dropout)
    if vocab:
        x = builder.add(normalize("norm", x))
        tied_to = "embedding" if tied else None
        x = builder.add(shards.divided(ops.linear, "head", x, features=vocab, bias=False, tied_to=tied_to))
    add_loss(builder, x, loss)
    return builder.graph("transformer", batch=batch)


def _join(builder: GraphBuilder, prefix: str, x: Tensor, y: Tensor, *, rate: float) -> Tensor:
    if rate:
        y = builder.add(ops.dropout(f"{prefix}.dropout", y, rate=rate))
    return builder.add(ops.add(f"{prefix}.add", x, y))
