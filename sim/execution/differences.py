"""Errors of a derivative: off another one, and from central differences along random directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sim.execution.numpy.execute import Execution, execute
from sim.graphs.graph import Graph
from sim.graphs.node import FLOATS
from sim.ops.rule import Array
from sim.schedules.schedule import Builder, Schedule

STEPS = (1e-7, 1e-10)
"""Of central differences in float64, of which the closer one counts.

The first rounds a smooth slope by some 1e-8 of it. Networks of thousands of kinks (ReLU, maxima) that
amplify a change on its way need the second, which rounds by 1e-5 and crosses hardly any of them.
"""

Derivative = Mapping[str, Array]


def derivative(result: Execution) -> Derivative:
    """The derivative that an execution made: gradients by node, or the Jacobian under the name `jacobian`."""
    return result.gradients if result.jacobian is None else {"jacobian": result.jacobian}


def distance(a: Derivative, b: Derivative) -> float:
    """The largest difference of any entry, over the largest entry of `b`; infinite where one is not finite."""
    if a.keys() != b.keys():
        return math.inf
    scale = max((_largest(b[name]) for name in b), default=0.0)
    off = max((_largest(a[name].astype(np.float64) - b[name]) for name in b), default=0.0)
    if not math.isfinite(scale) or not math.isfinite(off):
        return math.inf
    return off / scale if scale else off


def _largest(array: Array) -> float:
    return float(np.abs(array).max(initial=0.0))


@dataclass(frozen=True)
class Slopes:
    """Directions in the space of what is differentiated by, and the slopes along each: (steps, n_out)."""

    graph: Graph
    directions: tuple[Mapping[str, Array], ...]
    found: tuple[Array, ...]

    def error(self, got: Derivative) -> float:
        """The largest difference between a derivative along a direction and the slope there.

        Of the slopes with different steps the closest counts. It is relative to √Σ(entry · direction)²,
        the size of the slope along directions like these; the slope itself may happen to be near 0.
        """
        return self._off(got, self.found)

    def apart(self, got: Derivative, other: Derivative) -> float:
        """The largest difference between two derivatives along a direction, relative in the same way."""
        return self._off(got, tuple(self._along(other, along)[0][None] for along in self.directions))

    def _off(self, got: Derivative, slopes: Sequence[Array]) -> float:
        worst = 0.0
        for along, expected in zip(self.directions, slopes, strict=True):
            value, size = self._along(got, along)
            if not (np.isfinite(value).all() and np.isfinite(size).all()):
                return math.inf
            scale = max(float(size.max()), np.finfo(np.float64).tiny)
            worst = max(worst, float(np.abs(value - expected).max(axis=1).min()) / scale)
        return worst

    def _along(self, got: Derivative, along: Mapping[str, Array]) -> tuple[Array, Array]:
        """(derivative along a direction, √Σ of the squares of its terms), each of shape (n_out,)."""
        if self.graph.wrt == "parameters":
            terms = [got[name].astype(np.float64) * v for name, v in along.items()]
        else:
            batch = self.graph.batch
            v = np.concatenate([a.reshape(batch, -1) for a in along.values()], axis=1)
            jacobian = got["jacobian"].astype(np.float64) * v[:, None, :]
            terms = [jacobian.transpose(1, 0, 2).reshape(jacobian.shape[1], -1)]
        value = np.sum([t.sum(axis=1) for t in terms], axis=0)
        return value, np.sqrt(np.sum([(t * t).sum(axis=1) for t in terms], axis=0))


def slopes(
    graph: Graph, inputs: Mapping[str, Array], parameters: Mapping[str, Array], *, directions: int, seed: int
) -> Slopes:
    """Slopes of the summed outputs by central differences in float64, along directions as large as what they move."""
    wide = in_float64(graph)
    schedule = _evaluation(wide)
    x, p = widened(inputs), widened(parameters)

    def at(shifted: Mapping[str, Array]) -> Array:
        here = (x, shifted) if graph.wrt == "parameters" else ({**x, **shifted}, p)
        return _summed(wide, execute(schedule, *here).outputs)

    moved = p if graph.wrt == "parameters" else {graph.inputs[k].name: x[graph.inputs[k].name] for k in graph.variables}
    return central(graph, moved, at, directions=directions, seed=seed)


def central(
    graph: Graph,
    moved: Mapping[str, Array],
    at: Callable[[Mapping[str, Array]], Array],
    *,
    directions: int,
    seed: int,
) -> Slopes:
    """Slopes of `at(moved)`, which has the shape (n_out,), by central differences along random directions."""
    rng = np.random.default_rng(seed)
    lines, values = [], []
    for _ in range(directions):
        along = {name: rng.standard_normal(a.shape) * _size(a) for name, a in moved.items()}

        def moved_by(h: float, along: Mapping[str, Array] = along) -> Array:
            return at({name: moved[name] + h * v for name, v in along.items()})

        lines.append(along)
        values.append(np.stack([(moved_by(h) - moved_by(-h)) / (2 * h) for h in STEPS]))
    return Slopes(graph, tuple(lines), tuple(values))


def in_float64(graph: Graph) -> Graph:
    """The same graph with every floating value in float64."""
    nodes = [replace(n, dtype="float64") if n.dtype in FLOATS else n for n in graph.nodes]
    inputs = [replace(i, dtype="float64") if i.dtype in FLOATS else i for i in graph.inputs]
    return Graph.from_nodes(nodes, inputs, name=graph.name, batch=graph.batch).configured(wrt=graph.wrt)


def _evaluation(graph: Graph) -> Schedule:
    builder = Builder(graph)
    builder.forward(range(len(graph)))
    return builder.build()


def _summed(graph: Graph, outputs: Mapping[str, Array]) -> Array:
    """The active outputs, each summed over the batch: shape (n_out,)."""
    m, parts = len(graph.inputs), []
    for sink in graph.sinks.tolist():
        node = graph.nodes[sink]
        if graph.active[m + sink]:
            samples = graph.batch if node.output_shape[:1] == (graph.batch,) else 1
            parts.append(outputs[node.name].reshape(samples, -1).sum(axis=0))
    return np.concatenate(parts)


def widened(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The same arrays with every floating one in float64."""
    return {name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in arrays.items()}


def _size(array: Array) -> float:
    return float(np.sqrt(np.mean(array * array))) or 1.0
