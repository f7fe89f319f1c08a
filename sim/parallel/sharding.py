"""The bytes that a rank holds throughout a step: parameters, gradients and optimizer state, replicated or in shards.

ZeRO divides among the replicas, at stage 1 the optimizer's state (with the main copy of parameters), at 2 the
gradients too, at 3 the parameters too (Rajbhandari, Rasley, Ruwase, He 2020, ZeRO, arXiv:1910.02054).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim.graphs.graph import Graph
from sim.graphs.node import ITEMSIZE, OPTIMIZER_STATES
from sim.parallel.stages import Stage
from sim.parallel.times import Transfer

Zero = Literal[0, 1, 2, 3]


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Dtypes of what is held for each parameter; `None`: that of the parameter, and no main copy."""

    gradients: str | None = None
    main: str | None = None
    optimizer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Link:
    """The connection of two ranks: bytes a second, and seconds until the first of them is there."""

    bytes_per_s: float
    latency_s: float = 0.0

    def transfer(self, count: int) -> Transfer:
        """A message of so many bytes."""
        return Transfer(count / self.bytes_per_s, self.latency_s)

    def ring(self, count: int, ranks: int) -> float:
        """Seconds of a ring's reduce-scatter, or all-gather, of so many bytes in all.

        Each of ranks - 1 rounds sends a share to the next rank (Thakur, Rabenseifner, Gropp 2005,
        Optimization of collective communication operations in MPICH).
        """
        return (ranks - 1) * (self.latency_s + count / ranks / self.bytes_per_s)


@dataclass(frozen=True, kw_only=True)
class Replicas:
    """The ranks that hold the same stages, and the stage of ZeRO at which they share what they hold."""

    count: int = 1
    zero: Zero = 0

    def share(self, size: int, *, at: int) -> int:
        """The bytes that a rank holds of `size`, which are divided from stage `at` on."""
        return -(-size // self.count) if self.zero >= at else size


def resident_bytes(graph: Graph, stages: list[Stage], replicas: Replicas, precision: Precision) -> dict[str, int]:
    """The bytes by kind that a rank with these stages holds from the first to the last moment.

    Gradients are among them only where they are preallocated or divided; else they come with the first VJP.
    """
    scalars, parameters = _parameters(graph, stages)

    def of(dtype: str | None) -> int:
        return parameters if dtype is None else scalars * ITEMSIZE[dtype]

    held = {
        "parameters": replicas.share(parameters, at=3),
        "optimizer": replicas.share(OPTIMIZER_STATES[graph.optimizer] * of(precision.optimizer), at=1),
        "inputs": sum(graph.input_bytes[p] for p in frozenset[int]().union(*(stage.inputs for stage in stages))),
    }
    if precision.main is not None:
        held["main"] = replicas.share(scalars * ITEMSIZE[precision.main], at=1)
    if graph.preallocated_gradients or replicas.zero >= 2:
        held["gradients"] = replicas.share(of(precision.gradients), at=2)
    return held


def collective_seconds(
    graph: Graph, stages: list[Stage], replicas: Replicas, precision: Precision, link: Link, micro_batches: int
) -> float:
    """Seconds of the collectives of a step among replicas, one after the other and after all else.

    Gradients are reduced and what was updated is gathered, which is an all-reduce; under ZeRO-3 parameters
    are gathered for each pass instead, and gradients reduced for each micro-batch.
    """
    if replicas.count == 1:
        return 0.0
    scalars, parameters = _parameters(graph, stages)
    gradients = parameters if precision.gradients is None else scalars * ITEMSIZE[precision.gradients]
    reduce, gather = link.ring(gradients, replicas.count), link.ring(parameters, replicas.count)
    if replicas.zero == 3:
        return micro_batches * (2 * gather + reduce)
    return (micro_batches if replicas.zero == 2 else 1) * reduce + gather


def _parameters(graph: Graph, stages: list[Stage]) -> tuple[int, int]:
    """The scalars and bytes of the parameters that stages use, each once."""
    owners = list(frozenset[int]().union(*(stage.owners for stage in stages)))
    c = graph.columns
    return int(c.param_size[owners].sum()), int(c.param_bytes[owners].sum())
