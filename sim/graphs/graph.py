"""Graphs of layers: what each node costs, what its derivative reads, and how the nodes hang together.

A reader builds a `Graph` from `Node`s here (families and importers do it for them), asks it for its
columns, and finds its steps and articulation points. Costs are integers: a multiply-add counts as
2 flops, sizes are bytes. A graph is stored as NumPy columns, so that a chain of a million layers
costs a few arrays; `graph.nodes[i]` makes a `Node` when a person wants to look at one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.base.errors import CountOverflow, GraphError
from sim.graphs.columns import ALWAYS, ITSELF, OTHERS, PARAMETERS, Columns, columns_of, per_sample
from sim.graphs.node import (
    LARGEST,
    NEEDS,
    OPTIMIZER_STATES,
    GraphInput,
    Ints,
    Node,
    Optimizer,
    Wrt,
    check_names,
    check_node,
    check_ties,
    numbers_of,
    sorted_nodes,
)


class NodeView(Sequence[Node]):
    """The nodes of a graph, made one at a time from its columns."""

    def __init__(self, length: int, make: Callable[[int], Node], name: Callable[[int], str]) -> None:
        self._length = length
        self._make = make
        self._name = name

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(index)
        return self._make(index % self._length)

    def __iter__(self) -> Iterator[Node]:
        return (self._make(i) for i in range(self._length))

    def names(self) -> Iterator[str]:
        """The names of the nodes, without making any."""
        return map(self._name, range(self._length))


@dataclass(frozen=True, eq=False)
class Graph:
    """A validated list of nodes in topological order, with what is differentiated and what is resident.

    Build one with `Graph.from_nodes` (any DAG) or a family; `configured` changes `wrt`, the optimizer
    or whether gradients are preallocated. Two graphs are equal only if they are the same object.

    The nodes of a *plain* graph are computations without derivatives (the forward and backward operations
    of a compiler's graph, say): nothing is differentiated. `outputs` are nodes of a plain graph whose
    activations are in memory at the end; those of others are there as long as they are read.
    """

    name: str
    nodes: Sequence[Node]
    inputs: tuple[GraphInput, ...]
    columns: Columns
    batch: int = 1
    wrt: Wrt = "input"
    optimizer: Optimizer = "none"
    preallocated_gradients: bool = False
    plain: bool = False
    outputs: tuple[int, ...] = ()

    @staticmethod
    def from_nodes(
        nodes: Sequence[Node],
        inputs: Sequence[GraphInput],
        *,
        name: str = "graph",
        batch: int = 1,
        wrt: Wrt | None = None,
        plain: bool = False,
        outputs: Sequence[str] = (),
    ) -> Graph:
        """The graph of `nodes`, sorted topologically (the given order is kept where it is one already).

        Without `wrt`, parameters are differentiated if there are any, the input if not. In a `plain` graph
        nothing is, nodes need no inputs, and `outputs` names those that remain in memory.

        Raises
        ------
        GraphError
            For an empty graph, repeated names, unknown inputs or outputs, a cycle, or an impossible size.
        """
        if not nodes:
            raise GraphError("a graph needs at least one node")
        check_names(nodes, inputs, may_read_nothing=plain)
        ordered = sorted_nodes(nodes, inputs)
        for node in ordered:
            check_node(node)
        check_ties(ordered)
        columns = columns_of(ordered, inputs, batch)
        has_parameters = bool(columns.param_size.any())
        if outputs and not plain:
            raise GraphError("outputs: nodes remain in memory in plain graphs alone", key="outputs")
        graph = Graph(
            name=name,
            nodes=tuple(ordered),
            inputs=tuple(inputs),
            columns=columns,
            batch=batch,
            wrt="parameters" if has_parameters else "input",
            plain=plain,
            outputs=numbers_of(outputs, ordered),
        )
        return graph if wrt is None else graph.configured(wrt=wrt)

    def configured(
        self,
        *,
        wrt: Wrt | None = None,
        optimizer: Optimizer | None = None,
        preallocated_gradients: bool | None = None,
    ) -> Graph:
        """The same graph with another question asked of it.

        Raises
        ------
        GraphError
            If there is nothing to differentiate: a plain graph, no parameters, or no input of a floating dtype.
        """
        if self.plain and wrt is not None:
            raise GraphError(
                f"wrt: got {wrt}, but this is a plain graph, whose computations have no derivatives; leave wrt out",
                key="wrt",
            )
        changed = replace(
            self,
            wrt=self.wrt if wrt is None else wrt,
            optimizer=self.optimizer if optimizer is None else optimizer,
            preallocated_gradients=(
                self.preallocated_gradients if preallocated_gradients is None else preallocated_gradients
            ),
        )
        if not (self.plain or changed.active.any()):
            what = (
                "the graph has no parameters"
                if changed.wrt == "parameters"
                else "no output depends on an input of a floating dtype ("
                + ", ".join(f"{i.name}: {i.dtype}" for i in self.inputs)
                + ")"
            )
            raise GraphError(f"wrt: {changed.wrt} asks for nothing, because {what}", key="wrt")
        return changed

    def __len__(self) -> int:
        return len(self.columns.activation_bytes)

    def __repr__(self) -> str:
        return f"Graph({self.name!r}, {len(self)} nodes, wrt={self.wrt!r})"

    @property
    def is_chain(self) -> bool:
        """Tell whether every node reads exactly the one before it (the first: the only graph input)."""
        c = self.columns
        return (
            len(self.inputs) == 1
            and len(c.input_index) == len(self)
            and bool(np.array_equal(c.input_index, np.arange(len(self))))
        )

    @cached_property
    def names(self) -> list[str]:
        """The name at each position (graph inputs first)."""
        nodes = self.nodes.names() if isinstance(self.nodes, NodeView) else (node.name for node in self.nodes)
        return [*(i.name for i in self.inputs), *nodes]

    @cached_property
    def consumer_counts(self) -> NDArray[np.int32]:
        """Count the nodes that read each position (graph inputs first)."""
        return np.bincount(self.columns.input_index, minlength=len(self.inputs) + len(self)).astype(np.int32)

    @cached_property
    def sinks(self) -> Ints:
        """The nodes that nobody reads: the outputs of the graph."""
        return np.flatnonzero(self.consumer_counts[len(self.inputs) :] == 0)

    @cached_property
    def variables(self) -> tuple[int, ...]:
        """The graph inputs that the output can be differentiated by: of a floating dtype, and read by a node."""
        if self.plain:
            return ()
        return tuple(p for p, i in enumerate(self.inputs) if i.differentiable and self.consumer_counts[p])

    @cached_property
    def gradient_of(self) -> NDArray[np.int32]:
        """For each node, the node to whose parameter gradient its VJP adds: itself, the one it is tied to, or -1."""
        owner = np.where(self.columns.param_size > 0, np.arange(len(self), dtype=np.int32), np.int32(-1))
        for node, other in self.columns.tied:
            owner[node] = other
        return owner

    @cached_property
    def active(self) -> NDArray[np.bool_]:
        """For each position, whether what is differentiated reaches it.

        With `wrt="parameters"` a node with parameters is active itself. Only active nodes have
        JVPs, VJPs, tangents and cotangents; in a plain graph none is.
        """
        m, c = len(self.inputs), self.columns
        active = np.zeros(m + len(self), dtype=np.bool_)
        if self.plain:
            return active
        if self.wrt == "input":
            active[list(self.variables)] = True
        else:
            active[m:] = self.gradient_of >= 0
        if self.is_chain:
            active[m:] = np.logical_or.accumulate(active)[m:]
            return active
        ptr, index = c.input_ptr.tolist(), c.input_index
        for i in range(len(self)):
            if not active[m + i]:
                active[m + i] = active[index[ptr[i] : ptr[i + 1]]].any()
        return active

    @cached_property
    def reads_active(self) -> NDArray[np.bool_]:
        """For each node, whether an input of it is active: whether its VJP makes a cotangent."""
        if self.is_chain:
            return self.active[:-1]
        return np.bincount(self._readers, weights=self.active[self.columns.input_index], minlength=len(self)) > 0

    @cached_property
    def derivative_reads(self) -> NDArray[np.bool_]:
        """For each edge of `columns.input_index`, whether the JVP and the VJP of its reader read it."""
        m, c = len(self.inputs), self.columns
        own = self.active[m:] & ((c.needs & NEEDS.index("input")) > 0)
        if self.is_chain and c.reads is None:
            return own
        reader = self._readers
        used: NDArray[np.bool_] = own[reader]
        if c.reads is None:
            return used
        itself = self.active[c.input_index]
        reached = np.bincount(reader, weights=itself, minlength=len(self))
        trained = (self.gradient_of >= 0) & (self.wrt == "parameters")
        met = ALWAYS + OTHERS * (reached[reader] > itself) + PARAMETERS * trained[reader] + ITSELF * itself
        used &= (c.reads & met) > 0
        return used

    @cached_property
    def input_scalars(self) -> int:
        """n_in: the scalars of one sample of the variables."""
        return sum(per_sample(self.inputs[p].shape, self.batch) for p in self.variables)

    @cached_property
    def output_scalars(self) -> int:
        """n_out: the scalars of one sample of all active outputs."""
        m = len(self.inputs)
        return int(sum(int(self.columns.scalars[s]) for s in self.sinks if self.active[m + s]))

    @cached_property
    def parameter_count(self) -> int:
        return int(self.columns.param_size.sum())

    @cached_property
    def input_bytes(self) -> tuple[int, ...]:
        return tuple(i.total_bytes for i in self.inputs)

    @property
    def cotangent_bytes(self) -> Ints:
        """Bytes of one cotangent of each position: those of its activation, less where it is a broadcast view.

        Nodes that give them have their own.
        """
        m, c = len(self.inputs), self.columns
        own = c.activation_bytes
        if c.cotangent_bytes is not None:
            own = np.where(c.cotangent_bytes < 0, own, c.cotangent_bytes)
        out = np.concatenate([np.array(self.input_bytes, dtype=np.int64), own])
        for i in np.flatnonzero(c.vjp_broadcasts)[::-1].tolist():
            for p in c.input_index[c.input_ptr[i] : c.input_ptr[i + 1]].tolist():
                if self.consumer_counts[p] == 1:
                    out[p] = min(out[p], out[m + i])
        return out

    @cached_property
    def result_bytes(self) -> int:
        """Bytes of the derivative, where they are resident from the start.

        With `wrt="input"` the Jacobian: one row of input bytes for each of the n_out cotangents. With
        `wrt="parameters"` gradients are working memory of the schedule unless preallocated.
        """
        if self.wrt == "parameters":
            return 0
        return sum(self.input_bytes[p] for p in self.variables) * self.output_scalars

    @cached_property
    def gradient_bytes(self) -> Ints:
        """Bytes of each node's parameter gradient: n_out rows of its parameters."""
        if self.output_scalars * float(self.columns.param_bytes.sum()) > LARGEST:
            raise CountOverflow("the gradients take more than 4 EiB; there are too many outputs or parameters")
        return self.columns.param_bytes * self.output_scalars

    @cached_property
    def resident_bytes(self) -> int:
        """Bytes that no schedule can change: graph inputs, parameters, optimizer state, the result."""
        parameters = int(self.columns.param_bytes.sum())
        gradients = int(self.gradient_bytes.sum()) if self.preallocated_gradients and self.wrt == "parameters" else 0
        total = (
            sum(self.input_bytes) + parameters * (1 + OPTIMIZER_STATES[self.optimizer]) + self.result_bytes + gradients
        )
        if total > LARGEST:
            raise CountOverflow(f"resident memory would be {total} bytes, more than 4 EiB")
        return total

    def check_counts(self) -> None:
        """Raise CountOverflow where what every schedule holds is more than the ledger can count."""
        assert self.resident_bytes >= 0
        if self.wrt == "parameters":
            assert (self.gradient_bytes >= 0).all()

    @cached_property
    def forward_flops(self) -> int:
        """F: flops of evaluating every node once."""
        return sum(self.columns.forward_flops.tolist())

    @property
    def _readers(self) -> Ints:
        """The node that each edge of `columns.input_index` leads to."""
        return np.repeat(np.arange(len(self)), np.diff(self.columns.input_ptr))

    @property
    def _last_readers(self) -> Ints:
        """For each node, the last node that reads it; -1 where there is none."""
        m, c = len(self.inputs), self.columns
        last = np.full(len(self), -1, dtype=np.int64)
        from_node = c.input_index >= m
        np.maximum.at(last, c.input_index[from_node] - m, self._readers[from_node])
        return last

    @cached_property
    def crossing_counts(self) -> Ints:
        """For p = 0 … n, how many activations made before node p are read by nodes p … n-1.

        Graph inputs are resident and do not count, except at p = 0, where the count is 1 by
        convention (the input takes one slot).
        """
        n, last = len(self), self._last_readers
        change = np.zeros(n + 2, dtype=np.int64)
        read = np.flatnonzero(last >= 0)
        np.add.at(change, read + 1, 1)
        np.add.at(change, last[read] + 1, -1)
        counts = np.cumsum(change)[: n + 1]
        counts[0] = counts[n] = 1
        return counts

    @cached_property
    def step_starts(self) -> Ints:
        """The starts of the steps of checkpointing: 0 = p_0 < p_1 < … < p_m = n, as node numbers.

        Cuts go where a single activation crosses: everywhere in a chain, between the blocks of a
        residual network. What lies between two of them and holds more than an eighth of the nodes (a
        U-Net, whose skips span all of it) is cut again where the fewest activations cross, and so on. A
        skip that crosses a cut stays alive as long as a recomputation reads it.
        """
        n = len(self)
        if self.is_chain:
            return np.arange(n + 1, dtype=np.int64)
        return np.array([0, *_ends(self.crossing_counts, 0, n, max(1, n // 8))], dtype=np.int64)

    @cached_property
    def articulation_points(self) -> Ints:
        """The cuts p (0 and n included) that a single activation crosses, the output of node p-1.

        Every path from the inputs to the outputs goes through that activation, unless it starts at
        a graph input that is read later on (labels, a mask).
        """
        n = len(self)
        cuts = np.arange(1, n)
        single = (self.crossing_counts[1:n] == 1) & (self._last_readers[cuts - 1] >= cuts)
        return np.concatenate([[0], cuts[single], [n]]).astype(np.int64)


def _ends(counts: Ints, start: int, stop: int, longest: int) -> Iterator[int]:
    """Yield the ends of the steps of nodes start … stop-1, none longer than `longest` if it can be cut."""
    if stop - start <= longest:
        yield stop
        return
    inner = counts[start + 1 : stop]
    cuts = [start, *(start + 1 + np.flatnonzero(inner == inner.min())).tolist(), stop]
    for left, right in itertools.pairwise(cuts):
        yield from _ends(counts, left, right, longest)
