"""The one-hot tangents and cotangents that sweeps start from."""

from __future__ import annotations

import numpy as np

from sim.base.errors import InvalidSchedule
from sim.execution.numpy.memory import Carried
from sim.graphs.graph import Graph
from sim.ops.rule import Array


class Seeds:
    """One-hot tangents and cotangents, each place taking up where its last sweep ended."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        m = len(graph.inputs)
        entering = [(p, graph.inputs[p]) for p in graph.variables]
        leaving = [s for s in graph.sinks.tolist() if graph.active[m + s]]
        self._inputs = _offsets([(p, _scalars(item.shape, graph.batch)) for p, item in entering])
        self._outputs = _offsets([(s, int(graph.columns.scalars[s])) for s in leaving])
        self.action = 0
        """The action of the schedule that is being done."""
        self._done: dict[str, tuple[int, int]] = {}  # what is seeded: tangents carried so far, of how many

    def columns(self, position: int) -> slice:
        """The columns, of the n_in, that belong to a graph input."""
        return self._inputs[position]

    def rows(self, sink: int) -> slice:
        """The rows, of the n_out, that belong to a sink."""
        return self._outputs[sink]

    def cotangents(self, sink: int, width: int) -> tuple[Array, Carried]:
        """The next `width` cotangents of the outputs at a sink: (width, *output_shape), alike for every sample."""
        node = self._graph.nodes[sink]
        start = self._advance(f"output '{node.name}'", width, self._graph.output_scalars)
        seed = self._one_hot(self._outputs[sink], start, width, node.output_shape, node.dtype)
        return seed, Carried(-1, start, width)

    def tangents(self, position: int, width: int) -> tuple[Array, Carried]:
        """The next `width` tangents of the inputs at a graph input: (width, *shape), alike for every sample."""
        item = self._graph.inputs[position]
        start = self._advance(f"input '{item.name}'", width, self._graph.input_scalars)
        seed = self._one_hot(self._inputs[position], start, width, item.shape, item.dtype)
        return seed, Carried(-1, start, width)

    def parameters(self, node: int, width: int, size: int, dtype: str, *, again: bool = False) -> tuple[Array, Carried]:
        """The next `width` tangents of a node's parameters, or `again` the last ones: (width, parameters)."""
        what = f"parameters of '{self._graph.nodes[node].name}'"
        start = max(0, self._done.get(what, (0, size))[0] - width) if again else self._advance(what, width, size)
        return np.eye(width, size, start, dtype=dtype), Carried(node, start, width)

    def check_finished(self) -> None:
        """Raise unless every place that was seeded at all has sent out all its tangents or cotangents.

        Raises
        ------
        InvalidSchedule
            If the schedule ends too early.
        """
        for what, (done, size) in self._done.items():
            if done < size:
                message = f"the schedule carries {done} of the {size} derivatives that start at {what}"
                raise InvalidSchedule(message, action=self.action)

    def _advance(self, what: str, width: int, size: int) -> int:
        start = self._done.get(what, (0, size))[0]
        if start + width > size:
            message = f"the schedule carries more than the {size} derivatives that start at {what}"
            raise InvalidSchedule(message, action=self.action)
        self._done[what] = start + width, size
        return start

    def _one_hot(self, own: slice, start: int, width: int, shape: tuple[int, ...], dtype: str) -> Array:
        scalars = own.stop - own.start
        rows = np.eye(width, scalars, start - own.start, dtype=dtype)
        if shape and shape[0] == self._graph.batch:
            return np.repeat(rows.reshape(width, 1, *shape[1:]), shape[0], axis=1)
        return rows.reshape(width, *shape)


def _offsets(sizes: list[tuple[int, int]]) -> dict[int, slice]:
    ends = np.cumsum([size for _, size in sizes]).tolist()
    return {place: slice(end - size, end) for (place, size), end in zip(sizes, ends, strict=True)}


def _scalars(shape: tuple[int, ...], batch: int) -> int:
    return int(np.prod(shape[1:] if shape and shape[0] == batch else shape, dtype=np.int64))
