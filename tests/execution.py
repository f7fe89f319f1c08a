"""What the tests of execution share: strategies to run, finite differences, and the ledger to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.base.errors import NotApplicable
from sim.execution.numpy.arrays import inputs_for, parameters_for
from sim.execution.numpy.execute import Execution, execute, unrolled
from sim.graphs.graph import Graph
from sim.schedules.replay import walk
from sim.schedules.schedule import Builder, Schedule
from sim.strategies import load

Arrays = Mapping[str, NDArray[Any]]

CASES: list[tuple[str, dict[str, Any]]] = [
    ("reverse_full", {"chunk": 1}),
    ("reverse_full", {"chunk": 2}),
    ("reverse_full", {"chunk": 1000}),
    ("reverse_checkpointed", {"schedule": "uniform", "segments": 3}),
    ("reverse_checkpointed", {"schedule": "uniform", "segments": 2, "chunk": 2}),
    ("reverse_checkpointed", {"schedule": "sqrt"}),
    ("reverse_checkpointed", {"schedule": "periodic", "every": 2, "chunk": 1}),
    ("reverse_checkpointed", {"schedule": "binomial", "slots": 1}),
    ("reverse_checkpointed", {"schedule": "binomial", "slots": 2, "chunk": 1}),
    ("reverse_checkpointed", {"schedule": "binomial", "slots": 3}),
    ("reverse_checkpointed", {"schedule": "mixed", "slots": 2}),
    ("reverse_checkpointed", {"schedule": "mixed", "slots": 4, "chunk": 2}),
    ("reverse_checkpointed", {"schedule": "multilevel", "slots": 1, "host_slots": 1}),
    ("reverse_checkpointed", {"schedule": "multilevel", "slots": 1, "host_slots": 1, "disk_slots": 2}),
    ("reverse_offload", {"prefetch": 1}),
    ("reverse_offload", {"prefetch": 3}),
    ("forward_recompute", {"chunk": 1}),
    ("forward_recompute", {"chunk": 4}),
    ("forward_recompute", {"chunk": 1000}),
    ("forward_cached", {"chunk": 3}),
    ("forward_cached", {"chunk": 1000}),
    ("jacobian_chain", {"order": "forward"}),
    ("jacobian_chain", {"order": "reverse"}),
    ("jacobian_chain", {"order": "optimal"}),
    ("jacobian_chain", {"order": "optimal_matrix_free"}),
    ("jacobian_chain", {"order": "optimal_matrix_free", "tape": 0}),
]
"""Strategies with chunks that divide the number of tangents or cotangents, that leave a rest, and that are too wide."""


def strategies_of_derivatives() -> list[str]:
    """The strategies that are not for plain graphs alone."""
    return [name for name in load() if load().accepted[name] != "plain"]


def cases() -> list[tuple[str, dict[str, Any]]]:
    """`CASES`, and each strategy, schedule or order of derivatives not among them with 2 for all it requires."""
    found = list(CASES)
    for name in strategies_of_derivatives():
        entry = load()[name]
        key, registry = entry.variants or ("", {"": entry})
        ran = {p.get(key, "") for n, p in CASES if n == name}
        for variant in set(registry) - ran:
            required = {k: 2 for k, field in registry[variant].model.model_fields.items() if field.is_required()}
            found.append((name, required | ({key: variant} if key else {})))
    return found


def schedules_of(graph: Graph) -> Iterator[tuple[str, Schedule]]:
    """Every case that applies to a graph."""
    for name, parameters in cases():
        try:
            yield f"{name} {parameters}", load().call(name, graph, **parameters)
        except NotApplicable:
            continue


def derivative(result: Execution) -> dict[str, NDArray[Any]]:
    """Gradients by node, or the Jacobian under the name of the input."""
    return result.gradients if result.jacobian is None else {"jacobian": result.jacobian}


def held_and_counted(schedule: Schedule, result: Execution) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Device bytes held and counted at each action as it happened.

    The ledger is taken twice: of the flat schedule, whose loops have at most three turns, and of the
    schedule with every turn written out. Both must say the same.
    """
    flat = walk(schedule, bytes_of_actions=True).record.during
    order, _ = unrolled(schedule)
    written_out = Schedule(schedule.graph, schedule.table, schedule.rows[order], schedule.widths[order])
    full = walk(written_out, bytes_of_actions=True).record.during
    np.testing.assert_array_equal(flat[result.flat], full)
    return result.live_bytes[:, 0], full


def check_bytes(label: str, schedule: Schedule, result: Execution) -> None:
    """Fail, naming the first action, where what is held is not what replay counts."""
    held, counted = held_and_counted(schedule, result)
    for k in np.flatnonzero(held != counted):
        action = schedule.action(int(result.actions[k]))
        raise AssertionError(f"{label}: at {action} (moment {k}) {held[k]} bytes are held, {counted[k]} counted")


def outputs_of(graph: Graph, inputs: Arrays, parameters: Arrays, seed: int = 0) -> dict[str, NDArray[Any]]:
    """The outputs of one evaluation of every node."""
    builder = Builder(graph)
    builder.forward(range(len(graph)))
    return execute(builder.build(), inputs, parameters, seed=seed).outputs


def rows_of(graph: Graph, outputs: Arrays) -> NDArray[Any]:
    """The active outputs side by side: (batch, n_out); one that sums over the batch has all in the first row."""
    sinks = [graph.nodes[s] for s in graph.sinks.tolist() if graph.active[len(graph.inputs) + s]]
    rows = []
    for s in sinks:
        per_sample = s.output_shape[:1] == (graph.batch,)
        row = outputs[s.name].reshape(graph.batch if per_sample else 1, -1)
        rows.append(np.pad(row, ((0, graph.batch - len(row)), (0, 0))))
    return np.concatenate(rows, axis=1)


def finite_differences(
    function: Callable[[Arrays, Arrays], NDArray[Any]], graph: Graph, inputs: Arrays, parameters: Arrays
) -> dict[str, NDArray[Any]]:
    """The derivative by central differences of step 1e-6, in the shapes of `derivative`.

    `function` maps inputs and parameters to (rows, n_out); only the sum over the rows matters, because
    a change of one sample moves no other.
    """
    h = 1e-6

    def difference(array: NDArray[Any], place: Any) -> NDArray[Any]:
        kept = array[place]
        array[place] = kept + h
        above = function(inputs, parameters)
        array[place] = kept - h
        below = function(inputs, parameters)
        array[place] = kept
        return (above - below) / (2 * h)

    if graph.wrt == "parameters":
        return {
            name: np.stack([difference(p, k).sum(axis=0) for k in range(len(p))], axis=1)
            for name, p in parameters.items()
        }
    blocks = []
    for item in graph.inputs:
        if item.differentiable and any(item.name in node.inputs for node in graph.nodes):
            x = inputs[item.name].reshape(graph.batch, -1)
            block = np.zeros((graph.batch, graph.output_scalars, x.shape[1]))
            for b, k in np.ndindex(*x.shape):
                block[b, :, k] = difference(x, (b, k)).sum(axis=0)
            blocks.append(block)
    return {"jacobian": np.concatenate(blocks, axis=2)}


def check_against_differences(graph: Graph, got: Arrays, expected: Arrays) -> None:
    """Fail where a derivative is more than a millionth off central differences."""
    assert got.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-6, atol=2e-9, err_msg=f"{graph.name}: {name}")


def check_direction(graph: Graph, got: Arrays, inputs: Arrays, parameters: Arrays, seed: int) -> None:
    """Fail where the derivative in a random direction of all parameters, or of the input, is off."""
    rng = np.random.default_rng(seed)
    wrt_parameters = graph.wrt == "parameters"
    moved = parameters if wrt_parameters else {graph.inputs[p].name: 0 for p in graph.variables}
    along = {name: rng.standard_normal((parameters if wrt_parameters else inputs)[name].shape) for name in moved}

    def at(h: float) -> NDArray[Any]:
        p = {k: a + h * along[k] if k in along and wrt_parameters else a for k, a in parameters.items()}
        x = {k: a + h * along[k] if k in along and not wrt_parameters else a for k, a in inputs.items()}
        return rows_of(graph, outputs_of(graph, x, p)).sum(axis=0)

    h = 1e-6
    expected = (at(h) - at(-h)) / (2 * h)
    if wrt_parameters:
        found = sum(got[name] @ v for name, v in along.items())
    else:
        v = np.concatenate([a.reshape(graph.batch, -1) for a in along.values()], axis=1)
        found = np.einsum("boi,bi->o", got["jacobian"], v)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8 * max(1.0, float(np.abs(expected).max())))


def check_graph(graph: Graph, seed: int = 1, *, differences: bool = True) -> int:
    """Run every strategy: derivatives agree with differences and with each other, bytes with the ledger.

    The differences are by each scalar, or without `differences` in one random direction. Returns how
    many strategies applied.
    """
    inputs, parameters = inputs_for(graph, seed), parameters_for(graph, seed + 1)
    first: dict[str, NDArray[Any]] | None = None
    count = 0
    for label, schedule in schedules_of(graph):
        result = execute(schedule, inputs, parameters)
        check_bytes(label, schedule, result)
        got = derivative(result)
        if first is None:
            first = got
            if differences:
                function = lambda x, p: rows_of(graph, outputs_of(graph, x, p))  # noqa: E731
                check_against_differences(graph, got, finite_differences(function, graph, inputs, parameters))
            else:
                check_direction(graph, got, inputs, parameters, seed)
        assert got.keys() == first.keys(), label
        for name in first:
            scale = max(1.0, float(np.abs(first[name]).max()))
            np.testing.assert_allclose(got[name], first[name], rtol=0, atol=1e-12 * scale, err_msg=f"{label}: {name}")
        count += 1
    return count
