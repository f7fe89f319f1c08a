"""Shares of a transformer's layers on ranks that divide them by tensor, sequence, context and expert."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sim.base.errors import ParameterError
from sim.graphs.node import Collective, Node
from sim.ops import Tensor

Layer = Callable[..., Node]


@dataclass(frozen=True)
class Shards:
    """The numbers of ranks that divide a transformer's layers, and the shares that each has.

    `tensor` ranks divide heads, inner features and vocabulary: layers with divided outputs (q, k, v, up, head) are
    followed by one with divided inputs (out, down), whose outputs are summed over the ranks (Shoeybi et al. 2019,
    Megatron-LM, arXiv:1909.08053). With `sequence` what lies between is divided by tokens: a layer gathers its
    input while it runs and keeps its share alone, a sum is scattered, and a VJP gathers the input again while it
    computes its cotangent (Korthikanti et al. 2022, Reducing activation recomputation, arXiv:2205.05198, section 4).
    Cotangents are summed while the weights' gradients are computed, as in that program.

    `context` ranks divide the tokens of all layers; attention gathers keys and values of the whole sequence while
    it runs, forward and backward, and scatters the sum of their cotangents (Grattafiori et al. 2024, The Llama 3
    herd of models, arXiv:2407.21783, section 3.3.2).

    `expert` ranks, which are replicas of all else, divide the experts and exchange tokens, all with all, before and
    after them (Lepikhin et al. 2020, GShard, arXiv:2006.16668).
    """

    tensor: int = 1
    sequence: bool = False
    context: int = 1
    expert: int = 1

    def check(self, *, heads: int, kv_heads: int, inner: int, sequence: int, experts: int) -> None:
        """Raise ParameterError unless all that is divided has whole shares."""
        divided = [
            ("tensor", self.tensor, heads, "heads"),
            ("tensor", self.tensor, kv_heads, "heads of keys and values"),
            ("tensor", self.tensor, inner, "inner features"),
            ("context", self.context, sequence, "tokens"),
        ]
        if self.sequence:
            divided.append(("tensor", self.tensor, sequence // self.context, "tokens"))
        if self.expert > 1:
            divided.append(("expert", self.expert, experts, "experts"))
        for key, count, size, what in divided:
            if size % count or count > size:
                known = [d for d in range(1, min(size, 4096) + 1) if size % d == 0]
                shown = ", ".join(map(str, known[:8])) + (", …" if len(known) > 8 else "")
                allowed = f"expected one of {shown}" if size else "expected 1"
                raise ParameterError(
                    f"got {count}, by which {size} {what} cannot be divided; {allowed}", parameter=(key,)
                )

    def tokens(self, sequence: int) -> int:
        """The tokens of a sample that lie on one rank between layers."""
        return sequence // self.context // (self.tensor if self.sequence else 1)

    def divided(self, layer: Layer, name: str, x: Tensor, *, features: int, first: bool = True, **more: Any) -> Node:
        """A layer of which each rank has a share of the output's features.

        Of several that read the same input the `first` has the collectives of all.
        """
        whole = self._with_tokens(x, self.tensor) if self.sequence else x
        node = layer(name, whole, features=-(-features // self.tensor), **more)
        if self.tensor == 1:
            return node
        size = whole.size * x.itemsize
        if not self.sequence:
            return _collective(node, *([Collective("all_reduce", "tensor", "vjp", size, overlapped=True)] * first))
        gathers = (
            Collective("all_gather", "tensor", "forward", size),
            Collective("all_gather", "tensor", "vjp", size, overlapped=True),
            Collective("reduce_scatter", "tensor", "vjp", size, overlapped=True),
        )
        return replace(_collective(node, *(gathers if first else ())), workspace_bytes=size)

    def scattered(self, node: Node, itemsize: int) -> Node:
        """The node with its share of the output summed over ranks, and with `sequence` its tokens divided.

        In that case the whole is there while it runs.
        """
        if self.tensor == 1:
            return node
        size = math.prod(node.output_shape) * itemsize
        if not self.sequence:
            return _collective(node, Collective("all_reduce", "tensor", "forward", size))
        *lead, tokens, features = node.output_shape
        node = replace(node, output_shape=(*lead, tokens // self.tensor, features), workspace_bytes=size)
        return _collective(
            node,
            Collective("reduce_scatter", "tensor", "forward", size),
            Collective("all_gather", "tensor", "vjp", size),
        )

    def whole_sequence(self, x: Tensor) -> Tensor:
        """Keys or values as attention reads them: of all tokens."""
        return self._with_tokens(x, self.context)

    def attending(self, node: Node, *gathered: Tensor) -> Node:
        """An attention node that gathers keys, values or both, given whole, while it runs."""
        if self.context == 1:
            return node
        size = sum(x.size * x.itemsize for x in gathered)
        node = replace(node, workspace_bytes=size, vjp_workspace_bytes=2 * size)
        return _collective(
            node,
            Collective("all_gather", "context", "forward", size),
            Collective("all_gather", "context", "vjp", size),
            Collective("reduce_scatter", "context", "vjp", size),
        )

    def own_experts(self, x: Tensor) -> Tensor:
        """The tokens that all ranks send to the experts of one, as many as it sends."""
        batch, experts, places, features = x.shape
        return replace(x, shape=(batch * self.expert, experts // self.expert, places, features))

    def exchanged(self, node: Node, size: int) -> Node:
        """A node before or after which tokens of so many bytes go from all ranks to all."""
        if self.expert == 1:
            return node
        both = Collective("all_to_all", "expert", "forward", size), Collective("all_to_all", "expert", "vjp", size)
        return _collective(node, *both)

    @staticmethod
    def _with_tokens(x: Tensor, count: int) -> Tensor:
        *lead, tokens, features = x.shape
        return replace(x, shape=(*lead, tokens * count, features))


def _collective(node: Node, *more: Collective) -> Node:
    return replace(node, collectives=(*node.collectives, *more))


WHOLE = Shards()
