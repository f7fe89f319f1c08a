"""What replicas share: the bytes that a rank holds throughout a step, and the collectives of parameters and gradients.

ZeRO divides among the replicas, at stage 1 the optimizer's state (with the main copy of parameters), at 2 the
gradients too, at 3 the parameters too (Rajbhandari, Rasley, Ruwase, He 2020, ZeRO, arXiv:1910.02054). Experts that
are divided among replicas have fewer of them, as many as hold the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from sim.graphs.graph import Graph
from sim.graphs.node import ITEMSIZE, OPTIMIZER_STATES
from sim.parallel.links import Channel
from sim.parallel.stages import Gathers, inputs_of, owners_of

Zero = Literal[0, 1, 2, 3]
EXPERTS = ("expert_linear",)
"""Ops whose parameters are those of experts."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Dtypes of what is held for each parameter, and in which gradients are reduced.

    `None`: that in which the graph computes, no main copy, and that of gradients.
    """

    parameters: str | None = None
    gradients: str | None = None
    main: str | None = None
    optimizer: str | None = None
    communication: str | None = None


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """The ranks that hold the same stages, and the stage of ZeRO at which they share what they hold.

    Of `count` replicas `expert` have different experts. ZeRO gathers units of `blocks`, `prefetch` of them ahead,
    and keeps them from the first pass on unless they `reshard`.
    """

    count: int = 1
    zero: Zero = 0
    expert: int = 1
    blocks: int = 1
    prefetch: int = 1
    reshard: bool = True

    def share(self, size: int, *, at: int, experts: bool = False) -> int:
        """The bytes that a rank holds of `size`, which are divided from stage `at` on."""
        return -(-size // (self.count // self.expert if experts else self.count)) if self.zero >= at else size


def resident_bytes(
    graph: Graph, spans: Iterable[tuple[int, int]], replicas: Replicas, precision: Precision
) -> dict[str, int]:
    """The bytes by kind that a rank with stages of these nodes (start, stop) holds from the first to the last moment.

    Gradients are among them only where they are preallocated or divided; else they come with the first VJP.
    """
    spans = list(spans)
    owners = frozenset[int]().union(*(owners_of(graph, *span) for span in spans))
    inputs = frozenset[int]().union(*(inputs_of(graph, *span) for span in spans))
    held = {"parameters": 0, "optimizer": 0, "inputs": sum(graph.input_bytes[p] for p in inputs)}
    if precision.main is not None:
        held["main"] = 0
    divided = graph.preallocated_gradients or replicas.zero >= 2
    if divided:
        held["gradients"] = 0
    for experts, (scalars, parameters) in enumerate(_parameters(graph, owners, apart=replicas.expert > 1)):

        def share(scalars: int, parameters: int, dtype: str | None, *, at: int, experts: bool = bool(experts)) -> int:
            size = parameters if dtype is None else scalars * ITEMSIZE[dtype]
            return replicas.share(size, at=at, experts=experts)

        held["parameters"] += share(scalars, parameters, precision.parameters, at=3)
        if replicas.zero == 3 and not replicas.reshard:
            held["parameters"] += parameters
        states = OPTIMIZER_STATES[graph.optimizer]
        held["optimizer"] += share(states * scalars, states * parameters, precision.optimizer, at=1)
        if precision.main is not None:
            held["main"] += share(scalars, parameters, precision.main, at=1)
        if divided:
            held["gradients"] += share(scalars, parameters, precision.gradients, at=2)
    return held


@dataclass(frozen=True, eq=False)
class Sharing:
    """The collectives of a graph's parameters and gradients among replicas, on channels of `data` and of `experts`."""

    graph: Graph
    replicas: Replicas
    precision: Precision
    channels: Mapping[str, Channel]

    def gathers(self) -> Gathers:
        """What is gathered and reduced while stages run."""
        of = self.replicas
        return Gathers(
            zero=of.zero, blocks=of.blocks, prefetch=of.prefetch, reshard=of.reshard, gather_s=self.gather_seconds,
            reduce_s=self.reduce_seconds,
        )  # fmt: skip

    def gather_seconds(self, owners: Iterable[int]) -> float:
        """Seconds to gather the parameters of some nodes."""
        sizes = [size for _, size in _parameters(self.graph, owners, apart=self.replicas.expert > 1)]
        return self._seconds("all_gather", sizes)

    def reduce_seconds(self, owners: Iterable[int]) -> float:
        """Seconds to reduce the gradients of some nodes, to all replicas or to those that hold a share."""
        parts = _parameters(self.graph, owners, apart=self.replicas.expert > 1)
        dtype = self.precision.communication or self.precision.gradients
        sizes = [size if dtype is None else scalars * ITEMSIZE[dtype] for scalars, size in parts]
        return self._seconds("reduce_scatter" if self.replicas.zero else "all_reduce", sizes)

    def _seconds(self, kind: str, sizes: list[int]) -> float:
        channels = (self.channels["data"], self.channels["experts"])
        return sum(channel.seconds(kind, size) for channel, size in zip(channels, sizes, strict=False) if size)


def _parameters(graph: Graph, owners: Iterable[int], *, apart: bool) -> list[tuple[int, int]]:
    """The scalars and bytes of the parameters of some nodes; those of experts `apart`, after the others."""
    c, every = graph.columns, sorted(owners)
    experts = [k for k in every if graph.nodes[k].op in EXPERTS] if apart else []
    groups = [sorted(set(every) - set(experts)), experts] if apart else [every]
    return [(int(c.param_size[group].sum()), int(c.param_bytes[group].sum())) for group in groups]
