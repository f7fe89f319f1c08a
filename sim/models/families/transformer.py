"""Decoder transformers in the style of GPT-2: pre-norm blocks, learned positions, a tied head."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from sim import ops
from sim.base.errors import GraphError, ParameterError
from sim.base.registry import Count, Size
from sim.graphs.graph import Graph
from sim.graphs.node import ITEMSIZE, Node
from sim.graphs.size import check_size
from sim.models.families import families
from sim.ops import ACTIVATIONS, GraphBuilder, Loss, Tensor, add_loss
from sim.ops.core import Dtype

Attention = Literal["explicit", "flash"]
Activation = Literal["gelu", "relu", "silu", "tanh", "sigmoid"]
Norm = Literal["layer_norm", "rms_norm"]
NORMS = {"layer_norm": ops.layer_norm, "rms_norm": ops.rms_norm}


@dataclass(frozen=True)
class Shards:
    """Tensor parallelism: `count` ranks divide heads, inner features and vocabulary, and with `sequence` tokens too.

    Layers with divided outputs (q, k, v, up, head) are followed by one with divided inputs (out, down), whose
    outputs are summed over the ranks (Shoeybi et al. 2019, Megatron-LM, arXiv:1909.08053). With `sequence` what
    lies between is divided by tokens: a layer gathers its input while it runs and keeps its share alone, and a sum
    is scattered (Korthikanti et al. 2022, Reducing activation recomputation, arXiv:2205.05198, section 4).
    """

    count: int = 1
    sequence: bool = False

    def check(self, *, heads: int, inner: int, sequence: int) -> None:
        """Raise ParameterError unless all that is divided has whole shares."""
        for what, size in (("heads", heads), ("inner features", inner), *([("tokens", sequence)] * self.sequence)):
            if size % self.count:
                message = f"got {self.count}, by which {size} {what} cannot be divided"
                raise ParameterError(message, parameter=("tensor",))

    def tokens(self, sequence: int) -> int:
        """The tokens of a sample that lie on one rank between layers."""
        return sequence // self.count if self.sequence else sequence

    def divided(self, name: str, x: Tensor, *, features: int, **more: Any) -> Node:
        """A linear layer of which each rank has a share of the output's features."""
        batch, tokens, hidden = x.shape
        whole = replace(x, shape=(batch, tokens * self.count, hidden)) if self.sequence else x
        node = ops.linear(name, whole, features=-(-features // self.count), **more)
        return replace(node, workspace_bytes=whole.size * x.itemsize) if self.sequence else node

    def summed(self, name: str, x: Tensor, *, features: int, bias: bool) -> Node:
        """A linear layer of which each rank has a share of the input's features."""
        node = ops.linear(name, x, features=features, bias=bias)
        return self.scattered(node, x.itemsize)

    def scattered(self, node: Node, itemsize: int) -> Node:
        """The node with its sum over ranks divided by tokens; the whole is there while it runs."""
        if not self.sequence:
            return node
        batch, tokens, features = node.output_shape
        shape = (batch, tokens // self.count, features)
        return replace(node, output_shape=shape, workspace_bytes=math.prod(node.output_shape) * itemsize)


WHOLE = Shards()


@families.register("transformer")
def transformer(
    shards: Shards = WHOLE,
    *,
    layers: Annotated[Count, Field(description="Decoder blocks.")],
    hidden: Annotated[Count, Field(description="Features of a token.")],
    heads: Count,
    sequence: Annotated[Count, Field(description="Tokens of a sample.")],
    mlp_ratio: Annotated[float, Field(gt=0, le=1024, description="Inner width of the MLP by hidden.")] = 4,
    vocab: Annotated[
        Size, Field(description="Entries of the embedding; 0 leaves blocks alone, reading hidden states.")
    ] = 0,
    batch: Count = 1,
    attention: Annotated[
        Attention, Field(description="explicit keeps a sequence² tensor of each head, flash none.")
    ] = "explicit",
    causal: bool = True,
    activation: Activation = "gelu",
    norm: Norm = "layer_norm",
    bias: Annotated[bool, Field(description="Of the linear layers in the blocks.")] = True,
    dropout: Annotated[float, Field(ge=0, lt=1, description="On each residual branch; 0 for none.")] = 0,
    attention_dropout: Annotated[float, Field(ge=0, lt=1, description="After an explicit softmax; 0 for none.")] = 0,
    tied: Annotated[bool, Field(description="Whether the head uses the embedding's weights.")] = True,
    dtype: Dtype = "float32",
    loss: Annotated[Loss, Field(description="Adds the scalar loss node; none leaves the logits.")] = "none",
) -> Graph:
    """A decoder-only transformer of pre-norm blocks (Radford et al. 2019, GPT-2).

    Source: Radford, Wu, Child, Luan, Amodei & Sutskever 2019, Language models are unsupervised multitask
    learners. With h = `hidden`, S = `sequence`, T = batch·S tokens and `mlp_ratio` 4, a block costs
    24·T·h² + 4·T·S·h flops in matrix products. With explicit attention, layer norms and GELU its
    derivative keeps 16·T·h scalars, the softmax output (batch·heads·S² scalars) and 16·T bytes of
    statistics: the inputs of both norms, their outputs, q, k, v, the attention's output, and the MLP's
    inner layer before and after GELU (4·T·h each). With flash attention the softmax output gives way
    to the log-sum-exp of each row.

    With `vocab` the graph reads int64 token `ids`, adds learned positions, and ends in a norm and a
    head without bias. A tied head has no parameters: its share of the gradient is counted in flops,
    and in memory as the embedding's.

    q, k and v are three linear layers; one fused layer costs and keeps the same. Splitting into heads
    is a view; the copies that PyTorch makes of such views are not counted. A causal mask takes no
    memory and saves no flops. Of several `shards` the graph is that of one rank.

    Raises
    ------
    GraphError
        If hidden cannot be divided among the heads.
    ParameterError
        If heads, inner features or tokens cannot be divided among the shards.
    """
    if hidden % heads:
        raise GraphError(f"hidden {hidden} cannot be divided among {heads} heads", key="heads")
    check_size(12 * layers, key="layers")
    inner = max(1, int(mlp_ratio * hidden))
    shards.check(heads=heads, inner=inner, sequence=sequence)
    builder = GraphBuilder()
    if vocab:
        ids = builder.input("ids", (batch, sequence), "int64")
        share = -(-vocab // shards.count)
        embedding = ops.embedding("embedding", ids, entries=share, features=hidden, dtype=dtype)
        x = builder.add(shards.scattered(embedding, ITEMSIZE[dtype]))
        x = builder.add(ops.positions("positions", x, entries=sequence))
    else:
        x = builder.input("x", (batch, shards.tokens(sequence), hidden), dtype)
    normalize = NORMS[norm]
    for i in range(1, layers + 1):
        block = f"block{i}"
        y = builder.add(normalize(f"{block}.norm1", x))
        y = _attention(
            builder, f"{block}.attn", y, shards=shards, attention=attention, heads=heads // shards.count,
            causal=causal, bias=bias, rate=attention_dropout,
        )  # fmt: skip
        x = _join(builder, f"{block}.attn", x, y, rate=dropout)
        y = builder.add(normalize(f"{block}.norm2", x))
        y = builder.add(shards.divided(f"{block}.mlp.up", y, features=inner, bias=bias))
        y = builder.add(ACTIVATIONS[activation](f"{block}.mlp.{activation}", y))
        y = builder.add(shards.summed(f"{block}.mlp.down", y, features=hidden, bias=bias))
        x = _join(builder, f"{block}.mlp", x, y, rate=dropout)
    if vocab:
        x = builder.add(normalize("norm", x))
        tied_to = "embedding" if tied else None
        x = builder.add(shards.divided("head", x, features=vocab, bias=False, tied_to=tied_to))
    add_loss(builder, x, loss)
    return builder.graph("transformer", batch=batch)


def _attention(
    builder: GraphBuilder, prefix: str, x: Tensor, *, shards: Shards, attention: Attention, heads: int, causal: bool,
    bias: bool, rate: float,
) -> Tensor:  # fmt: skip
    hidden = x.shape[-1]
    q, k, v = (builder.add(shards.divided(f"{prefix}.{which}", x, features=hidden, bias=bias)) for which in "qkv")
    if attention == "flash":
        y = builder.add(ops.flash_attention(f"{prefix}.flash", q, k, v, heads=heads, causal=causal))
    else:
        scores = builder.add(ops.attention_scores(f"{prefix}.scores", q, k, heads=heads))
        weights = builder.add(ops.softmax(f"{prefix}.softmax", scores, causal=causal))
        if rate:
            weights = builder.add(ops.dropout(f"{prefix}.softmax_dropout", weights, rate=rate))
        y = builder.add(ops.attention_context(f"{prefix}.context", weights, v))
    return builder.add(shards.summed(f"{prefix}.out", y, features=hidden, bias=bias))


def _join(builder: GraphBuilder, prefix: str, x: Tensor, y: Tensor, *, rate: float) -> Tensor:
    if rate:
        y = builder.add(ops.dropout(f"{prefix}.dropout", y, rate=rate))
    return builder.add(ops.add(f"{prefix}.add", x, y))
