"""Decoder transformers in the style of GPT-2: pre-norm blocks, learned positions, a tied head."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sim import ops
from sim.base.errors import GraphError
from sim.base.registry import Count, Size
from sim.graphs.graph import Graph
from sim.graphs.size import check_size
from sim.models.families import families
from sim.ops import ACTIVATIONS, GraphBuilder, Loss, Tensor, add_loss
from sim.ops.core import Dtype

Attention = Literal["explicit", "flash"]
Activation = Literal["gelu", "relu", "silu", "tanh", "sigmoid"]
Norm = Literal["layer_norm", "rms_norm"]
NORMS = {"layer_norm": ops.layer_norm, "rms_norm": ops.rms_norm}


@families.register("transformer")
def transformer(
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
    memory and saves no flops.

    Raises
    ------
    GraphError
        If hidden cannot be divided among the heads.
    """
    if hidden % heads:
        raise GraphError(f"hidden {hidden} cannot be divided among {heads} heads", key="heads")
    check_size(12 * layers, key="layers")
    inner = max(1, int(mlp_ratio * hidden))
    builder = GraphBuilder()
    if vocab:
        ids = builder.input("ids", (batch, sequence), "int64")
        x = builder.add(ops.embedding("embedding", ids, entries=vocab, features=hidden, dtype=dtype))
        x = builder.add(ops.positions("positions", x))
    else:
        x = builder.input("x", (batch, sequence, hidden), dtype)
    normalize = NORMS[norm]
    for i in range(1, layers + 1):
        block = f"block{i}"
        y = builder.add(normalize(f"{block}.norm1", x))
        y = _attention(builder, f"{block}.attn", y, attention=attention, heads=heads, causal=causal, bias=bias)
        x = _join(builder, f"{block}.attn", x, y, rate=dropout)
        y = builder.add(normalize(f"{block}.norm2", x))
        y = builder.add(ops.linear(f"{block}.mlp.up", y, features=inner, bias=bias))
        y = builder.add(ACTIVATIONS[activation](f"{block}.mlp.{activation}", y))
        y = builder.add(ops.linear(f"{block}.mlp.down", y, features=hidden, bias=bias))
        x = _join(builder, f"{block}.mlp", x, y, rate=dropout)
    if vocab:
        x = builder.add(normalize("norm", x))
        x = builder.add(ops.linear("head", x, features=vocab, bias=False, tied_to="embedding" if tied else None))
    add_loss(builder, x, loss)
    return builder.graph("transformer", batch=batch)


def _attention(
    builder: GraphBuilder, prefix: str, x: Tensor, *, attention: Attention, heads: int, causal: bool, bias: bool
) -> Tensor:
    hidden = x.shape[-1]
    q, k, v = (builder.add(ops.linear(f"{prefix}.{which}", x, features=hidden, bias=bias)) for which in "qkv")
    if attention == "flash":
        y = builder.add(ops.flash_attention(f"{prefix}.flash", q, k, v, heads=heads, causal=causal))
    else:
        scores = builder.add(ops.attention_scores(f"{prefix}.scores", q, k, heads=heads))
        weights = builder.add(ops.softmax(f"{prefix}.softmax", scores, causal=causal))
        y = builder.add(ops.attention_context(f"{prefix}.context", weights, v))
    return builder.add(ops.linear(f"{prefix}.out", y, features=hidden, bias=bias))


def _join(builder: GraphBuilder, prefix: str, x: Tensor, y: Tensor, *, rate: float) -> Tensor:
    if rate:
        y = builder.add(ops.dropout(f"{prefix}.dropout", y, rate=rate))
    return builder.add(ops.add(f"{prefix}.add", x, y))
