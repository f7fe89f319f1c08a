"""Each op's rule alone and in nets with skips, branches and views: derivative, bytes, and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from execution import check_bytes, check_graph, derivative, outputs_of, schedules_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import ops as op
from sim.base.errors import GraphError, NotApplicable
from sim.execution.numpy import machine
from sim.execution.numpy.arrays import inputs_for, parameters_for
from sim.execution.numpy.execute import execute
from sim.execution.numpy.memory import Memory
from sim.graphs.graph import Graph
from sim.models.families import load as load_families
from sim.models.families.transformer import transformer
from sim.ops import GraphBuilder, Tensor, add_loss
from sim.strategies import load

Make = Callable[[GraphBuilder, Tensor], Tensor]

VECTOR, SEQUENCE, IMAGE = (2, 4), (2, 3, 4), (2, 2, 4, 3)


def one(function: Callable[..., Any], **parameters: Any) -> Make:
    return lambda builder, x: builder.add(function("op", x, **parameters))


def two(function: Callable[..., Any], **parameters: Any) -> Make:
    """The op on x and on tanh of x, so that its inputs differ and one is read twice."""
    return lambda builder, x: builder.add(function("op", x, builder.add(op.tanh("other", x)), **parameters))


def _weighed(builder: GraphBuilder, x: Tensor) -> Tensor:
    weights = builder.add(op.attention_scores("scores", x, builder.add(op.tanh("k", x)), heads=2))
    return builder.add(op.attention_context("op", weights, x))


def _fused(causal: bool) -> Make:
    def make(builder: GraphBuilder, x: Tensor) -> Tensor:
        k, v = builder.add(op.tanh("k", x)), builder.add(op.sigmoid("v", x))
        return builder.add(op.flash_attention("op", x, k, v, heads=2, causal=causal))

    return make


def _grouped(builder: GraphBuilder, x: Tensor) -> Tensor:
    """Four heads of queries and two of keys and values, which lie on twice the tokens."""
    keys = builder.add(op.concat("more", x, builder.add(op.tanh("other", x))))
    k = builder.add(op.linear("k", keys, features=2))
    v = builder.add(op.linear("v", keys, features=2))
    scores = builder.add(op.attention_scores("scores", x, k, heads=4, kv_heads=2))
    y = builder.add(op.attention_context("context", builder.add(op.softmax("weights", scores)), v, kv_heads=2))
    return builder.add(op.flash_attention("op", y, k, v, heads=4, kv_heads=2))


def _mixture(builder: GraphBuilder, x: Tensor) -> Tensor:
    """Three experts, two a token, and places for three quarters of the choices."""
    gates = builder.add(op.softmax("gates", builder.add(op.linear("router", x, features=3))))
    y = builder.add(op.expert_dispatch("dispatch", x, gates, top_k=2, capacity=0.75))
    y = builder.add(op.tanh("inner", builder.add(op.expert_linear("expert", y, features=3))))
    return builder.add(op.expert_combine("op", y, gates, top_k=2))


CASES: dict[str, tuple[tuple[int, ...], Make]] = {
    "relu": (VECTOR, one(op.relu)),
    "tanh": (VECTOR, one(op.tanh)),
    "sigmoid": (VECTOR, one(op.sigmoid)),
    "gelu": (VECTOR, one(op.gelu)),
    "silu": (VECTOR, one(op.silu)),
    "add": (VECTOR, two(op.add)),
    "add of itself": (VECTOR, lambda b, x: b.add(op.add("op", x, x, x))),
    "mul": (VECTOR, two(op.mul)),
    "mul by itself": (VECTOR, lambda b, x: b.add(op.mul("op", x, x))),
    "concat": (SEQUENCE, two(op.concat, axis=2)),
    "dropout": (VECTOR, one(op.dropout, rate=0.4)),
    "softmax": (VECTOR, one(op.softmax)),
    "softmax causal": ((2, 3, 3), one(op.softmax, causal=True)),
    "linear": (SEQUENCE, one(op.linear, features=3)),
    "linear without bias": (VECTOR, one(op.linear, features=3, bias=False)),
    "matmul": ((2, 3, 3), two(op.matmul)),
    "matmul transposed": (SEQUENCE, two(op.matmul, transpose_b=True)),
    "positions": (SEQUENCE, one(op.positions, entries=5)),
    "layer_norm": (SEQUENCE, one(op.layer_norm)),
    "rms_norm": (VECTOR, one(op.rms_norm)),
    "batch_norm": (IMAGE, one(op.batch_norm)),
    "batch_norm of vectors": ((4, 3), one(op.batch_norm)),
    "attention_scores": (SEQUENCE, two(op.attention_scores, heads=2)),
    "attention_context": (SEQUENCE, _weighed),
    "flash_attention": (SEQUENCE, _fused(False)),
    "flash_attention causal": (SEQUENCE, _fused(True)),
    "attention of groups of heads": (SEQUENCE, _grouped),
    "rope": (SEQUENCE, one(op.rope, heads=2)),
    "mixture of experts": (SEQUENCE, _mixture),
    "conv2d": (IMAGE, one(op.conv2d, channels=3, kernel=(3, 2), padding=(1, 0))),
    "conv2d strided, dilated, grouped": (
        (2, 4, 7, 5),
        one(op.conv2d, channels=2, kernel=2, stride=(2, 1), dilation=(2, 1), groups=2, bias=False),
    ),
    "conv_transpose2d": (IMAGE, one(op.conv_transpose2d, channels=3, kernel=(3, 2), stride=(2, 1), padding=(1, 0))),
    "max_pool2d": (IMAGE, one(op.max_pool2d, kernel=(3, 2), stride=(2, 1), padding=(1, 1))),
    "avg_pool2d": (IMAGE, one(op.avg_pool2d, kernel=(3, 2), stride=(2, 1), padding=(1, 1))),
    "adaptive_avg_pool2d": (IMAGE, one(op.adaptive_avg_pool2d, size=(3, 2))),
    "global_avg_pool": (IMAGE, one(op.global_avg_pool)),
    "upsample": (IMAGE, one(op.upsample, scale=(2, 1))),
    "cross_entropy": (VECTOR, lambda b, x: add_loss(b, x, "cross_entropy")),
    "cross_entropy of images": (IMAGE, lambda b, x: add_loss(b, x, "cross_entropy", axis=1)),
    "mse": (IMAGE, lambda b, x: add_loss(b, x, "mse")),
    "sum": (SEQUENCE, lambda b, x: add_loss(b, x, "sum")),
    "mean": (SEQUENCE, lambda b, x: add_loss(b, x, "mean")),
}
COUPLED = {"batch_norm", "batch_norm of vectors"}


def graph_of(case: str, wrt: str) -> Graph:
    """x, a layer with parameters of the same shape, the op, and with parameters a tanh and a loss behind it."""
    shape, make = CASES[case]
    builder = GraphBuilder()
    x = builder.input("x", shape, "float64")
    if wrt == "parameters":
        x = builder.add(op.positions("bias", x) if len(shape) == 3 else _layer(x))
    x = make(builder, x)
    if wrt == "parameters" and x.shape:
        x = add_loss(builder, builder.add(op.tanh("after", x)), "sum")
    return builder.graph(case, batch=shape[0], wrt=wrt)


def _layer(x: Tensor) -> Any:
    if len(x.shape) == 4:
        return op.conv2d("layer", x, channels=x.shape[1], kernel=1)
    return op.linear("layer", x, features=x.shape[1])


def test_every_op_of_the_families_has_a_case() -> None:
    covered = {node.op for case in CASES for node in graph_of(case, "parameters").nodes}
    assert covered | {"embedding"} == set(op.ops)


@pytest.mark.parametrize("case", CASES)
def test_gradient_and_bytes_of_each_op(case: str) -> None:
    assert check_graph(graph_of(case, "parameters")) >= 19


@pytest.mark.parametrize("case", sorted(set(CASES) - COUPLED))
def test_jacobian_of_each_sample_and_bytes_of_each_op(case: str) -> None:
    assert check_graph(graph_of(case, "input")) >= 24


@pytest.mark.parametrize("case", sorted(COUPLED))
def test_batch_norm_has_no_jacobian_of_each_sample(case: str) -> None:
    graph = graph_of(case, "input")
    for _, schedule in schedules_of(graph):
        with pytest.raises(NotApplicable, match="couples the samples"):
            execute(schedule, inputs_for(graph, 1), parameters_for(graph, 2))


@pytest.mark.parametrize(("function", "most"), [(op.upsample, 1), (op.conv2d, 1), (op.linear, 0)])
def test_a_constant_jacobian_takes_the_tangents_of_one_sample(
    function: Callable[..., Any], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = GraphBuilder()
    x = builder.input("x", (5, 2, 3, 3), "float64")
    node = {
        op.upsample: lambda: op.upsample("op", x),
        op.conv2d: lambda: op.conv2d("op", x, channels=2, kernel=2, bias=False),
        op.linear: lambda: op.linear("op", x.flattened(), features=3),
    }[function]()
    builder.add(node)
    graph = builder.graph("one", batch=5, wrt="input")
    seen: list[int] = []

    def jvp(at: Any, dx: Any) -> Any:
        seen.append(dx[0].shape[1])
        return op.ops[node.op].arrays.jvp(at, dx)

    watched = dataclasses.replace(op.ops[node.op].arrays, jvp=jvp)
    monkeypatch.setattr(machine, "rule_of", lambda node: watched)
    schedule = load().call("jacobian_chain", graph, order="reverse")
    inputs, parameters = inputs_for(graph, 1), parameters_for(graph, 2)
    got = execute(schedule, inputs, parameters)
    assert seen == [1] * most
    check_bytes("chain", schedule, got)
    expected = execute(load().call("reverse_full", graph), inputs, parameters)
    np.testing.assert_allclose(derivative(got)["jacobian"], derivative(expected)["jacobian"], atol=1e-12)


def test_embedding_with_a_tied_head_adds_both_shares_to_one_gradient() -> None:
    builder = GraphBuilder()
    ids = builder.input("ids", (2, 3), "int64")
    x = builder.add(op.embedding("table", ids, entries=5, features=4, dtype="float64"))
    x = builder.add(op.tanh("inside", builder.add(op.layer_norm("norm", x))))
    x = builder.add(op.linear("head", x, features=5, bias=False, tied_to="table"))
    add_loss(builder, x, "cross_entropy")
    check_graph(builder.graph("tied", batch=2))


def test_a_tied_layer_on_a_branch_of_its_own_is_differentiated() -> None:
    builder = GraphBuilder()
    x, z = builder.input("x", (2, 3), "float64"), builder.input("z", (2, 3), "float64")
    first = builder.add(op.linear("first", x, features=2, bias=False))
    other = builder.add(op.linear("other", z, features=2, bias=False, tied_to="first"))
    builder.add(op.mul("product", first, builder.add(op.tanh("tanh", other))))
    check_graph(builder.graph("tied branch", batch=2))


def test_a_tie_to_a_later_or_unknown_node_is_refused() -> None:
    builder = GraphBuilder()
    x = builder.input("x", (2, 3), "float64")
    first = builder.add(op.linear("first", x, features=3, bias=False, tied_to="second"))
    builder.add(op.linear("second", first, features=3, bias=False))
    with pytest.raises(GraphError, match="node 'first' is tied to 'second', which is no earlier node"):
        builder.graph("tied", batch=2)


def test_a_recomputed_dropout_draws_the_same_mask_and_another_seed_another() -> None:
    builder = GraphBuilder()
    x = builder.input("x", (4, 50), "float64")
    builder.add(op.dropout("drop", x, rate=0.3))
    graph = builder.graph("dropout", batch=4)
    ones: dict[str, Any] = {"x": np.ones((4, 50))}
    first, again, other = (outputs_of(graph, ones, {}, seed=s)["drop"] for s in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert set(np.unique(first)) == {0, 1 / 0.7}


def test_a_reduction_inside_couples_samples_only_where_there_are_several() -> None:
    def inner_sum(batch: int) -> Graph:
        builder = GraphBuilder()
        total = builder.add(op.sum_all("total", builder.input("x", (batch, 3), "float64")))
        builder.add(op.tanh("after", total))
        return builder.graph("inner sum", batch=batch)

    check_graph(inner_sum(1))
    graph = inner_sum(2)
    with pytest.raises(NotApplicable, match="couples the samples"):
        execute(load().call("reverse_full", graph), inputs_for(graph, 1), {})


@st.composite
def nets(draw: st.DrawFn) -> Graph:
    """Small nets of (batch, 3): layers, pointwise ops, residual adds, products, and a join by concat."""
    batch = draw(st.integers(1, 3))
    builder = GraphBuilder()
    made = [builder.input("x", (batch, 3), "float64")]
    if draw(st.booleans()):
        made.append(builder.input("z", (batch, 3), "float64"))
    made.append(builder.add(op.linear("layer", made[0], features=3)))
    for i in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["linear", "tanh", "relu", "layer_norm", "add", "mul", "concat", "softmax"]))
        a, b = draw(st.sampled_from(made)), draw(st.sampled_from(made))
        if kind == "linear":
            node = op.linear(f"{i}", a, features=3, bias=draw(st.booleans()))
        elif kind == "concat":
            joined = builder.add(op.concat(f"{i}.joined", a, b))
            node = op.linear(f"{i}", joined, features=3)
        elif kind in ("add", "mul"):
            node = getattr(op, kind)(f"{i}", a, b)
        else:
            node = getattr(op, kind)(f"{i}", a)
        made.append(builder.add(node))
    if draw(st.booleans()):
        add_loss(builder, made[-1], draw(st.sampled_from(["mse", "sum", "mean", "cross_entropy"])))
    graph = builder.graph("net", batch=batch)
    read = {name for node in graph.nodes for name in node.inputs}
    wrt = draw(st.sampled_from(["parameters", "input"]))
    if wrt == "input" and not {"x", "z"} & read:
        wrt = "parameters"
    return graph.configured(wrt=wrt)


@pytest.mark.slow
@settings(max_examples=40)
@given(graph=nets(), seed=st.integers(0, 1000))
def test_random_nets_with_skips_and_branches(graph: Graph, seed: int) -> None:
    assert check_graph(graph, seed, differences=False) >= 19


def test_a_residual_network_flattened_into_a_classifier() -> None:
    builder = GraphBuilder()
    x = builder.add(op.conv2d("stem", builder.input("x", (2, 1, 4, 4), "float64"), channels=2, kernel=3, padding=1))
    inside = builder.add(op.relu("relu", builder.add(op.batch_norm("norm", x))))
    inside = builder.add(op.conv2d("conv", inside, channels=2, kernel=3, padding=1, bias=False))
    x = builder.add(op.max_pool2d("pool", builder.add(op.add("skip", x, inside)), kernel=2))
    x = builder.add(op.linear("head", x.flattened(), features=3))
    add_loss(builder, x, "cross_entropy")
    check_graph(builder.graph("residual", batch=2))


QUICK = {("explicit", "layer_norm", True), ("flash", "rms_norm", False)}
CHOICES = [
    pytest.param(*choice, marks=[] if choice in QUICK else [pytest.mark.slow])
    for choice in itertools.product(["explicit", "flash"], ["layer_norm", "rms_norm"], [True, False])
]


@pytest.mark.parametrize(("attention", "norm", "tied"), CHOICES)
def test_a_transformer_from_tokens_to_loss(attention: str, norm: str, tied: bool) -> None:
    graph = transformer(
        layers=1, hidden=4, heads=2, sequence=3, vocab=5, batch=2, attention=attention, norm=norm,
        dropout=0.2, tied=tied, dtype="float64", loss="cross_entropy",
    )  # fmt: skip
    assert check_graph(graph, differences=False) >= 19


def test_a_mixture_of_experts_with_groups_of_heads_and_rotary_positions() -> None:
    graph = transformer(
        layers=1, hidden=8, heads=4, kv_heads=2, sequence=3, vocab=5, batch=2, attention="flash", norm="rms_norm",
        activation="silu", gated=True, positions="rope", experts=3, mlp_ratio=0.5, bias=False, tied=False,
        dtype="float64", loss="cross_entropy",
    )  # fmt: skip
    assert check_graph(graph, differences=False) >= 19


def test_transformer_blocks_by_their_input() -> None:
    graph = transformer(layers=2, hidden=4, heads=2, sequence=3, batch=2, dtype="float64").configured(wrt="input")
    assert check_graph(graph, differences=False) >= 19


def test_a_cnn_with_a_residual_block() -> None:
    layers: list[Any] = [
        {"conv": {"channels": 2, "kernel": 3, "padding": 1}}, "batch_norm", "relu",
        {"add": [[{"conv": {"channels": 2, "kernel": 3, "padding": 1}}, "relu"], []]},
        {"max_pool": {"kernel": 2}}, "flatten", {"linear": 3},
    ]  # fmt: skip
    graph = load_families().call("cnn", layers=layers, image=[1, 4, 4], batch=2, dtype="float64", loss="cross_entropy")
    assert check_graph(graph) >= 19


def test_a_published_network_on_small_images() -> None:
    graph = load_families().call("cnn", preset="resnet18", image=[3, 32, 32], classes=4, batch=2, loss="cross_entropy")
    x, p = inputs_for(graph, 1), parameters_for(graph, 2)
    full, segmented = (
        load().call(name, graph, **parameters)
        for name, parameters in (("reverse_full", {}), ("reverse_checkpointed", {"schedule": "uniform", "segments": 4}))
    )
    kept, recomputed = execute(full, x, p), execute(segmented, x, p)
    check_bytes("reverse_full", full, kept)
    check_bytes("uniform", segmented, recomputed)
    for name, gradient in derivative(kept).items():
        assert np.array_equal(gradient, recomputed.gradients[name])


def test_what_is_stored_can_be_added_to() -> None:
    graph = graph_of("tanh", "input")
    memory = Memory(load().call("reverse_full", graph).table, [])
    block = np.ones((2, 3))
    memory.write(0, np.broadcast_to(block, (1, 2, 3)), "float64")
    memory.arrays[0] += 1
    assert memory.arrays[0].tolist() == [[[2, 2, 2], [2, 2, 2]]]
    assert block.tolist() == [[1, 1, 1], [1, 1, 1]]
