"""A plan on a JAX function changes no value and no gradient, and JAX then keeps and computes what the plan says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from sim.base.errors import NotApplicable
from sim.schedules.effects import FORWARD
from sim.schedules.schedule import Schedule
from sim.strategies.checkpointing.binomial import binomial
from sim.strategies.checkpointing.segments import uniform
from sim.strategies.forward import forward_cached
from sim.strategies.reverse import reverse_full, reverse_offload

jax = pytest.importorskip("jax", reason="the extra 'jax' is not installed: pip install 'ad-tradeoff-sim[jax]'")
import jax.numpy as jnp  # noqa: E402
from jax._src.ad_checkpoint import saved_residuals  # noqa: E402
from jax_models import attention_block, choices, cnn, mlp, shapes_of  # noqa: E402

from sim.execution.jax.regions import regions  # noqa: E402
from sim.jax import checkpoint, from_function, plan_of  # noqa: E402
from sim.models.jax import flops as jax_flops  # noqa: E402

MODELS = {
    "mlp": mlp(widths=[12, *[16] * 8, 4], batch=8),
    "cnn": cnn(batch=2, size=8),
    "transformer block": attention_block(batch=2, sequence=8, hidden=16, heads=4),
    "choices": choices(batch=4, width=8),
}
PLANS = {
    "full store": reverse_full,
    "three segments": lambda graph: uniform(graph, segments=3),
    "five segments": lambda graph: uniform(graph, segments=5),
    "two slots": lambda graph: binomial(graph, slots=2),
    "three slots": lambda graph: binomial(graph, slots=3),
}
EVERY = [(m, p) for m in MODELS for p in PLANS]
SOME = [pytest.param(m, p, marks=[] if (m, p) in (EVERY[1], EVERY[9], EVERY[12], EVERY[18]) else pytest.mark.slow)
        for m, p in EVERY]  # fmt: skip
SHARING = ("transformer block", "choices")
"""Models whose stretches read the same kept values."""


def planned(model: str, plan: str) -> tuple[Any, Schedule]:
    f, params, args = MODELS[model]
    schedule = PLANS[plan](from_function(f, shapes_of(params), *shapes_of(args)))
    return checkpoint(f, schedule), schedule


def kept_bytes(schedule: Schedule) -> int:
    """Bytes of what is in memory when the adjoint sweep begins and read in it."""
    root, columns = regions(schedule), schedule.graph.columns
    activations = sum(int(columns.activation_bytes[i]) for i in root.activations)
    return activations + sum(int(columns.residual_bytes[i]) for i in root.residuals)


def product_flops(program: Any) -> int:
    """Flops of the matrix products and convolutions of a jaxpr, those of programs inside it included."""
    rules = {"dot_general": jax_flops.dot_general, "conv_general_dilated": jax_flops.convolution}
    total = 0
    for eqn in jax_flops.opened(program).eqns:
        if eqn.primitive.name in rules:
            avals = [v.aval for v in eqn.invars], [v.aval for v in eqn.outvars]
            total += rules[eqn.primitive.name](*avals, eqn.params)
        total += sum(product_flops(inner) for inner in jax_flops.inner_programs(eqn.params)[:1])
    return total


def planned_product_flops(schedule: Schedule) -> int:
    graph = schedule.graph
    forwards = np.bincount(schedule.node[schedule.opcode == FORWARD], minlength=len(graph)).tolist()
    total = 0
    for node, times, wanted in zip(graph.nodes, forwards, graph.reads_active, strict=True):
        if node.op in ("dot_general", "conv_general_dilated"):
            total += times * node.forward_flops + node.vjp_flops * wanted + node.param_vjp_flops
    return total


@pytest.mark.slow
@pytest.mark.parametrize(("model", "plan"), EVERY)
def test_a_plan_changes_no_value_and_no_gradient(model: str, plan: str) -> None:
    f, params, args = MODELS[model]
    g, _ = planned(model, plan)
    expected, got = jax.jit(jax.value_and_grad(f))(params, *args), jax.jit(jax.value_and_grad(g))(params, *args)
    jax.tree_util.tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), expected, got)


@pytest.mark.parametrize(("model", "plan"), SOME)
def test_jax_keeps_what_the_plan_keeps(model: str, plan: str) -> None:
    _, params, args = MODELS[model]
    g, schedule = planned(model, plan)
    reported = saved_residuals(lambda p: g(p, *args), params)
    saved = [aval for aval, what in reported if "argument" not in what and "constant" not in what]
    assert sum(a.size * a.dtype.itemsize for a in saved) == kept_bytes(schedule)


@pytest.mark.parametrize(("model", "plan"), [case for case in SOME if case.values[0] not in SHARING])
def test_jax_computes_again_what_the_plan_computes_again(model: str, plan: str) -> None:
    _, params, args = MODELS[model]
    g, schedule = planned(model, plan)
    assert product_flops(jax.make_jaxpr(jax.grad(g))(params, *args)) == planned_product_flops(schedule)


@pytest.mark.parametrize("model", [pytest.param(SHARING[0], marks=pytest.mark.slow), SHARING[1]])
def test_jax_computes_nothing_that_the_plan_does_not(model: str) -> None:
    """Where stretches share kept values (inside one transformer block, a gate) they are computed again together."""
    for plan in PLANS:
        _, params, args = MODELS[model]
        g, schedule = planned(model, plan)
        counted = product_flops(jax.make_jaxpr(jax.grad(g))(params, *args))
        least = planned_product_flops(reverse_full(schedule.graph))
        assert least <= counted <= planned_product_flops(schedule)


def test_a_plan_computes_something_again() -> None:
    """The tests above would pass if nothing were ever computed again: two slots on ten layers cost more."""
    _, params, args = MODELS["mlp"]
    counts = []
    for plan in ("full store", "three segments", "two slots"):
        g, _ = planned("mlp", plan)
        counts.append(product_flops(jax.make_jaxpr(jax.grad(g))(params, *args)))
    assert counts[0] < counts[1] < counts[2]


def test_a_written_plan_does_what_its_schedule_does() -> None:
    f, params, args = MODELS["mlp"]
    schedule = PLANS["three segments"](from_function(f, shapes_of(params), *shapes_of(args)))
    g = checkpoint(f, json.loads(json.dumps(plan_of(schedule))))
    reported = saved_residuals(lambda p: g(p, *args), params)
    saved = [aval for aval, what in reported if "argument" not in what and "constant" not in what]
    assert sum(a.size * a.dtype.itemsize for a in saved) == kept_bytes(schedule)


def test_a_plan_of_another_function_is_refused() -> None:
    f, params, args = MODELS["cnn"]
    other, other_params, other_args = MODELS["mlp"]
    schedule = reverse_full(from_function(other, shapes_of(other_params), *shapes_of(other_args)))
    for plan in (schedule, plan_of(schedule)):
        with pytest.raises(NotApplicable, match=r"made for another .*fingerprint"):
            checkpoint(f, plan)(params, *args)


@pytest.mark.parametrize("strategy", [reverse_offload, forward_cached])
def test_plans_with_copies_or_tangents_are_refused(strategy: Any) -> None:
    f, params, args = MODELS["mlp"]
    schedule = strategy(from_function(f, shapes_of(params), *shapes_of(args)))
    with pytest.raises(NotApplicable, match="not reverse mode on the device alone"):
        checkpoint(f, schedule)(params, *args)


def test_arguments_by_name_are_refused() -> None:
    f, params, args = MODELS["mlp"]
    schedule = reverse_full(from_function(f, shapes_of(params), *shapes_of(args)))
    with pytest.raises(NotApplicable, match="by position, got x by name"):
        checkpoint(f, schedule)(params, x=args[0])


def floats(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, "float32")


@jax.custom_vjp
def scaled(x: Any) -> Any:
    return 2 * x


scaled.defvjp(lambda x: (2 * x, jnp.cos(x)), lambda kept, g: (kept * g,))


@pytest.mark.parametrize(
    "f",
    [
        lambda w, x: scaled(jnp.tanh(x @ w) @ w).sum(),
        lambda w, x: jax.lax.scan(lambda c, _: (jnp.sin(c @ w), c.sum()), x, None, length=4)[1].sum(),
        lambda w, x: jax.jit(lambda a: jnp.where(a > 0, jnp.exp(a), a / (1 + a**2)))(x @ w).sum(),
        lambda w, x: (jnp.split(x @ w, 2, axis=1)[0] * jnp.cumsum(x @ w, axis=1)[:, :2]).max(),
        lambda w, x: jnp.sort(x @ w, axis=-1)[0].sum() + jax.lax.stop_gradient(x @ w).sum() * w.sum(),
        lambda w, x: (jax.nn.one_hot(jnp.argmax(x, axis=1), 4) @ w).std(),
        lambda w, x: (jax.random.bernoulli(jax.random.key(0), 0.5, (3, 4)) * (x @ w)).sum(),
    ],
)
def test_gradients_stay_whatever_a_function_is_made_of(f: Any) -> None:
    random = np.random.default_rng(0)
    w, x = (jnp.asarray(random.normal(size=s), dtype="float32") for s in ((4, 4), (3, 4)))
    graph = from_function(f, floats(4, 4), floats(3, 4))
    for schedule in (reverse_full(graph), uniform(graph, segments=3), binomial(graph, slots=2)):
        expected = jax.value_and_grad(f)(w, x)
        got = jax.value_and_grad(checkpoint(f, schedule))(w, x)
        jax.tree_util.tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), expected, got)


def test_a_function_without_parameters_is_differentiated_by_its_input() -> None:
    def f(x: Any) -> Any:
        return jnp.sin(jnp.exp(jnp.sin(x))).sum()

    def bare(_: Any, x: Any) -> Any:
        return f(x)

    schedule = uniform(from_function(bare, (), floats(5)), segments=2)
    x = jnp.linspace(0, 1, 5)
    np.testing.assert_allclose(jax.grad(checkpoint(f, schedule))(x), jax.grad(f)(x), rtol=1e-6)


def test_one_plan_serves_other_batches_and_several_outputs() -> None:
    def f(w: Any, x: Any) -> Any:
        hidden = jnp.tanh(jnp.tanh(x @ w) @ w)
        return (hidden**2).sum(), {"hidden": hidden}

    plan = plan_of(uniform(from_function(lambda w, x: f(w, x)[0], floats(4, 4), floats(3, 4)), segments=2))
    g = checkpoint(lambda w, x: f(w, x)[0], plan)
    w, x = jnp.eye(4), jnp.ones((7, 4))
    np.testing.assert_allclose(jax.grad(g)(w, x), jax.grad(lambda w: f(w, x)[0])(w), rtol=1e-6)
    both = checkpoint(f, reverse_full(from_function(f, floats(4, 4), floats(7, 4))))
    (_, aux), _ = jax.value_and_grad(both, has_aux=True)(w, x)
    np.testing.assert_allclose(aux["hidden"], f(w, x)[1]["hidden"], rtol=1e-6)
