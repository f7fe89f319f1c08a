"""Schedules of every strategy run on real arrays of small MLPs: the derivative and the bytes held."""

from __future__ import annotations

import dataclasses
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from execution import (
    cases,
    check_against_differences,
    check_bytes,
    derivative,
    finite_differences,
    outputs_of,
    rows_of,
    schedules_of,
    strategies_of_derivatives,
)
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sim.base.errors import GraphError, InvalidSchedule, NotApplicable
from sim.execution.numpy import machine
from sim.execution.numpy.arrays import inputs_for, parameters_for
from sim.execution.numpy.execute import Execution, execute
from sim.execution.numpy.memory import Memory
from sim.graphs.graph import Graph
from sim.models.families.chain import chain
from sim.models.families.mlp import mlp
from sim.ops import ops, rule_of
from sim.schedules.replay import replay
from sim.schedules.schedule import Builder, Schedule
from sim.strategies import load
from sim.strategies.checkpointing.segments import schedules
from sim.strategies.jacobians.chaining import orders

WIDTHS = [5, 4, 7, 2, 3]
SETTINGS = [(a, loss, wrt) for a in ("tanh", "relu") for loss in ("cross_entropy", "mse", "sum", "mean", "none")
            for wrt in ("parameters", "input")]  # fmt: skip


def net(activation: str, loss: str, wrt: str, dtype: str = "float64", batch: int = 3) -> Graph:
    return mlp(widths=WIDTHS, activation=activation, batch=batch, dtype=dtype, loss=loss).configured(wrt=wrt)


@cache
def runs(activation: str, loss: str, wrt: str) -> list[tuple[str, Schedule, Execution]]:
    graph = net(activation, loss, wrt)
    x, p = inputs_for(graph, 1), parameters_for(graph, 2)
    return [(label, schedule, execute(schedule, x, p)) for label, schedule in schedules_of(graph)]


def plain_mlp(activation: str, loss: str, x: Any, p: Any) -> NDArray[Any]:
    """The network written out by hand, independent of every rule: (batch, n_out), or (1, 1) with a loss."""
    h = x["x"]
    for i, (size, width) in enumerate(pairwise(WIDTHS), start=1):
        flat = p[f"layer{i}.linear"]
        h = h @ flat[: size * width].reshape(width, size).T + flat[size * width :]
        if i < len(WIDTHS) - 1:
            h = np.tanh(h) if activation == "tanh" else h * (h > 0)
    if loss == "cross_entropy":
        chosen = h[np.arange(len(h)), x["labels"]]
        return np.mean(np.log(np.exp(h).sum(axis=1)) - chosen).reshape(1, 1)
    if loss == "mse":
        return np.mean((h - x["target"]) ** 2).reshape(1, 1)
    return h if loss == "none" else (h.sum() if loss == "sum" else h.sum() / h.size).reshape(1, 1)


def test_every_strategy_schedule_and_order_is_run() -> None:
    ran = cases()
    assert {name for name, _ in ran} == set(strategies_of_derivatives())
    assert {p["order"] for _, p in ran if "order" in p} == set(orders)
    assert {p["schedule"] for _, p in ran if "schedule" in p} == set(schedules)


@pytest.mark.parametrize(("activation", "loss", "wrt"), SETTINGS)
def test_each_strategy_gives_the_derivative_of_finite_differences(activation: str, loss: str, wrt: str) -> None:
    graph = net(activation, loss, wrt)
    x, p = inputs_for(graph, 1), parameters_for(graph, 2)
    expected = finite_differences(lambda x, p: plain_mlp(activation, loss, x, p), graph, x, p)
    done = runs(activation, loss, wrt)
    by_input = ("jacobian_chain", "vertex_elimination")
    assert len(done) == sum(wrt == "input" or name not in by_input for name, _ in cases())
    for _, _, result in done:
        check_against_differences(graph, derivative(result), expected)


@pytest.mark.parametrize(("activation", "loss", "wrt"), SETTINGS)
def test_strategies_agree_to_rounding(activation: str, loss: str, wrt: str) -> None:
    (_, _, first), *others = runs(activation, loss, wrt)
    for label, _, result in others:
        for name, array in derivative(first).items():
            np.testing.assert_allclose(derivative(result)[name], array, rtol=1e-11, atol=1e-14, err_msg=label)


@pytest.mark.parametrize(("activation", "loss", "wrt"), SETTINGS)
def test_bytes_held_are_the_ledger_at_every_action(activation: str, loss: str, wrt: str) -> None:
    for label, schedule, result in runs(activation, loss, wrt):
        check_bytes(label, schedule, result)
        cost = replay(schedule)
        assert result.working_bytes == cost.working_bytes, label
        assert result.live_bytes.max(axis=0).tolist() == list(cost.tier_peak_bytes.values()), label


def test_offloading_really_holds_activations_on_the_host() -> None:
    graph = net("tanh", "mse", "parameters")
    schedule = load().call("reverse_offload", graph, prefetch=1)
    held = execute(schedule, inputs_for(graph, 1), parameters_for(graph, 2)).live_bytes
    # The tanh outputs of widths 4 and 7, batch 3, float64. What the first two VJPs read (the last
    # tanh, of width 2, and the last linear layer) would have to come back at once and stays.
    assert held[:, 1].max() == 3 * 8 * (4 + 7)
    assert held[-1, 1] == 0


def test_preallocated_gradients_are_no_working_bytes() -> None:
    graph = net("relu", "mse", "parameters").configured(preallocated_gradients=True)
    x, p = inputs_for(graph, 1), parameters_for(graph, 2)
    for label, schedule in schedules_of(graph):
        result = execute(schedule, x, p)
        check_bytes(label, schedule, result)
        assert result.gradients.keys() == p.keys()


def test_float32_holds_half_the_bytes_and_the_same_gradient_to_its_precision() -> None:
    double, single = net("tanh", "cross_entropy", "parameters"), net("tanh", "cross_entropy", "parameters", "float32")
    x, p = inputs_for(double, 1), parameters_for(double, 2)
    small = {k: a.astype("float32") if a.dtype == np.float64 else a for k, a in x.items()}
    narrow = {k: a.astype("float32") for k, a in p.items()}
    for (label, wide), (_, schedule) in zip(schedules_of(double), schedules_of(single), strict=True):
        exact, result = execute(wide, x, p), execute(schedule, small, narrow)
        check_bytes(label, schedule, result)
        assert 2 * result.working_bytes == exact.working_bytes
        for name, gradient in result.gradients.items():
            assert gradient.dtype == np.float32
            np.testing.assert_allclose(gradient, exact.gradients[name], rtol=1e-4, atol=1e-5)


@given(
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    batch=st.integers(1, 4),
    activation=st.sampled_from(["tanh", "sigmoid", "gelu", "silu"]),
    chunk=st.integers(1, 5),
    seed=st.integers(0, 10**6),
)
def test_w_times_jacobian_times_v_is_the_same_three_ways(
    widths: list[int], batch: int, activation: str, chunk: int, seed: int
) -> None:
    graph = mlp(widths=widths, activation=activation, batch=batch, dtype="float64").configured(wrt="input")
    x, p = inputs_for(graph, seed), parameters_for(graph, seed)
    rng = np.random.default_rng(seed)
    v, w = rng.standard_normal((batch, widths[0])), rng.standard_normal((batch, widths[-1]))
    h = 1e-6
    above, below = (rows_of(graph, outputs_of(graph, {"x": x["x"] + s * h * v}, p)) for s in (1, -1))
    numbers = [float((w * (above - below)).sum() / (2 * h))]
    for name in ("forward_recompute", "reverse_full"):
        schedule = load().call(name, graph, chunk=chunk)
        result = execute(schedule, x, p)
        check_bytes(name, schedule, result)
        assert result.jacobian is not None
        numbers.append(float(np.einsum("bo,boi,bi->", w, result.jacobian, v)))
    assert numbers[1] == pytest.approx(numbers[2], rel=1e-11, abs=1e-13)
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-6, abs=1e-7)


def off_by_a_thousandth(op: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(ops[op].arrays, field)

    def wrong(at: Any, given: Any) -> Any:
        made = right(at, given)
        return tuple(1.001 * part for part in made) if isinstance(made, tuple) else 1.001 * made

    changed = dataclasses.replace(ops[op].arrays, **{field: wrong})
    monkeypatch.setattr(machine, "rule_of", lambda node: changed if node.op == op else rule_of(node))


@pytest.mark.parametrize(
    ("op", "field", "strategy"),
    [
        ("tanh", "vjp", "reverse_full"),
        ("tanh", "jvp", "forward_cached"),
        ("linear", "vjp", "reverse_full"),
        ("linear", "jvp", "forward_cached"),
        ("linear", "parameter_vjp", "reverse_full"),
        ("linear", "parameter_jvp", "forward_cached"),
    ],
)
def test_a_derivative_a_thousandth_off_is_found(
    op: str, field: str, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = net("tanh", "none", "parameters")
    x, p = inputs_for(graph, 1), parameters_for(graph, 2)
    expected = finite_differences(lambda x, p: plain_mlp("tanh", "none", x, p), graph, x, p)
    schedule = load().call(strategy, graph)
    check_against_differences(graph, derivative(execute(schedule, x, p)), expected)
    off_by_a_thousandth(op, field, monkeypatch)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_against_differences(graph, derivative(execute(schedule, x, p)), expected)


def test_a_value_freed_too_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = net("tanh", "mse", "parameters")
    schedule = load().call("reverse_full", graph)
    free, seen = Memory.free, []

    def forgetful(self: Memory, value: int) -> None:
        seen.append(value)
        if len(seen) != 3:
            free(self, value)

    monkeypatch.setattr(Memory, "free", forgetful)
    result = execute(schedule, inputs_for(graph, 1), parameters_for(graph, 2))
    with pytest.raises(AssertionError, match="bytes are held"):
        check_bytes("reverse_full", schedule, result)


def test_a_residual_of_other_bytes_than_declared_is_found() -> None:
    graph = net("tanh", "cross_entropy", "parameters")
    nodes = [dataclasses.replace(n, residual_bytes=n.residual_bytes and n.residual_bytes - 8) for n in graph.nodes]
    changed = Graph.from_nodes(nodes, graph.inputs, batch=graph.batch)
    schedule = load().call("reverse_full", changed)
    result = execute(schedule, inputs_for(changed, 1), parameters_for(changed, 2))
    with pytest.raises(AssertionError, match="bytes are held"):
        check_bytes("reverse_full", schedule, result)


def run(builder: Builder) -> Execution:
    return execute(builder.build(), inputs_for(builder.graph, 1), parameters_for(builder.graph, 2))


def test_reading_what_was_never_computed_names_action_and_value() -> None:
    builder = Builder(net("tanh", "none", "parameters"))
    builder.forward(range(3))
    builder.forward([5])
    with pytest.raises(InvalidSchedule, match=r"action 3 reads activation\(layer3.linear\), which is not in memory"):
        run(builder)


def test_a_cotangent_of_another_width_is_refused() -> None:
    graph = net("tanh", "none", "parameters")
    builder = Builder(graph)
    builder.forward(range(len(graph)))
    builder.vjp([6], width=3)
    builder.vjp([5], width=2)
    with pytest.raises(InvalidSchedule, match=r"action 8 reads cotangent\(layer3.tanh\).* another number"):
        run(builder)


def test_sweeps_that_leave_out_cotangents_are_refused() -> None:
    graph = net("tanh", "none", "parameters")
    builder = Builder(graph)
    builder.forward(range(len(graph)))
    builder.vjp(range(len(graph) - 1, -1, -1), width=2)
    with pytest.raises(InvalidSchedule, match=r"carries 2 of the 3 derivatives that start at output 'layer4.linear'"):
        run(builder)


def test_sweeps_that_carry_too_many_tangents_are_refused() -> None:
    graph = net("tanh", "none", "input")
    builder = Builder(graph)
    builder.forward(range(len(graph)))
    builder.jvp(range(len(graph)), width=6)
    with pytest.raises(InvalidSchedule, match=r"more than the 5 derivatives that start at input 'x'"):
        run(builder)


def test_an_abstract_chain_cannot_be_executed() -> None:
    with pytest.raises(NotApplicable, match="has no rule"):
        execute(load().call("reverse_full", chain(length=2)), {"input": np.zeros(1)}, {})


def test_arrays_that_do_not_fit_are_named() -> None:
    graph = net("tanh", "none", "parameters")
    schedule = load().call("reverse_full", graph)
    x, p = inputs_for(graph, 1), parameters_for(graph, 2)
    with pytest.raises(GraphError, match=r"parameters of 'layer2.linear': missing"):
        execute(schedule, x, {k: a for k, a in p.items() if k != "layer2.linear"})
    with pytest.raises(GraphError, match=r"input 'x': got float64 of shape \(3, 6\), expected float64 of \(3, 5\)"):
        execute(schedule, {"x": np.zeros((3, 6))}, p)
    half = load().call("reverse_full", net("tanh", "none", "parameters", "bfloat16"))
    with pytest.raises(NotApplicable, match="NumPy has no bfloat16"):
        execute(half, x, p)
