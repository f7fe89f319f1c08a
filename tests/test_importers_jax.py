"""Graphs of JAX functions have published sizes and flops, and keep what JAX itself reports to keep."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from counts import saved_bytes

from sim.base.errors import GraphError, ParameterError
from sim.graphs import size
from sim.graphs.graph import Graph
from sim.graphs.node import Node
from sim.models.importers import importers, load
from sim.schedules.replay import replay
from sim.strategies.reverse import reverse_full

jax = pytest.importorskip("jax", reason="the extra 'jax' is not installed: pip install 'ad-tradeoff-sim[jax]'")
import jax.numpy as jnp  # noqa: E402
from jax._src.ad_checkpoint import saved_residuals  # noqa: E402
from jax_models import attention_block, choices, cnn, mlp, shapes_of  # noqa: E402

from sim.models.jax import flops as jax_flops  # noqa: E402
from sim.models.jax.importer import from_function  # noqa: E402

load()


def floats(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, "float32")


def reported(f: Any, params: Any, *args: Any, constants: int = 0) -> int:
    """Bytes that JAX reports as kept for the gradient by the parameters, less those of known constants.

    Parameters, arguments and numbers do not count. `constants` are bytes of arrays that depend on
    nothing (the zeros beside a relu's mask, a causal mask), which JAX lists and XLA folds.
    """
    kept = saved_residuals(lambda p: f(p, *args), params)
    listed = [a for a, what in kept if "argument" not in what and "literal" not in what and "constant" not in what]
    return sum(a.size * a.dtype.itemsize for a in listed) - constants


def kept(graph: Graph) -> int:
    return saved_bytes(graph, inputs=False)


def of_op(graph: Graph, op: str) -> list[Node]:
    return [n for n in graph.nodes if n.op == op]


def test_an_mlp_keeps_what_jax_reports() -> None:
    f, params, args = mlp(widths=[12, 16, 16, 4], batch=8)
    graph = from_function(f, shapes_of(params), *shapes_of(args))
    assert graph.parameter_count == 12 * 16 + 16 + 16 * 16 + 16 + 16 * 4 + 4
    zeros = 2 * 8 * 16 * 4  # beside the masks of two relus
    assert kept(graph) == reported(f, params, *args, constants=zeros)


def test_an_mlp_has_the_flops_of_its_products() -> None:
    f, params, args = mlp(widths=[12, 16, 16, 4], batch=8)
    graph = from_function(f, shapes_of(params), *shapes_of(args))
    products = of_op(graph, "dot_general")
    work = [2 * 8 * 12 * 16, 2 * 8 * 16 * 16, 2 * 8 * 16 * 4]
    assert [n.forward_flops for n in products] == work
    assert [n.vjp_flops for n in products] == work
    assert [n.param_vjp_flops for n in products] == work
    assert [n.jvp_flops for n in products] == work
    assert [n.residual_bytes for n in of_op(graph, "relu")] == [8 * 16, 8 * 16], "a mask of one byte a scalar"


def test_a_cnn_keeps_what_jax_reports() -> None:
    f, params, args = cnn(batch=2, size=8)
    graph = from_function(f, shapes_of(params), *shapes_of(args))
    zeros = 4 * 2 * (8 * 8 * 4 + 4 * 4 * 8)
    assert kept(graph) == reported(f, params, *args, constants=zeros)


def test_convolutions_have_equal_multiply_adds_forward_and_backward() -> None:
    f, params, args = cnn(batch=2, size=8)
    graph = from_function(f, shapes_of(params), *shapes_of(args))
    first, strided = of_op(graph, "conv_general_dilated")
    assert first.forward_flops == 2 * (2 * 8 * 8 * 4) * (3 * 3 * 3)
    work = 2 * (2 * 4 * 4 * 8) * (3 * 3 * 4)
    assert (strided.forward_flops, strided.vjp_flops, strided.param_vjp_flops, strided.jvp_flops) == (work,) * 4


def test_a_transformer_block_keeps_what_jax_reports() -> None:
    batch, sequence, hidden, heads = 2, 8, 16, 4
    f, params, args = attention_block(batch=batch, sequence=sequence, hidden=hidden, heads=heads)
    graph = from_function(f, shapes_of(params), *shapes_of(args))
    scores = batch * heads * sequence**2
    constants = 4 * scores + scores  # the zeros of the masked scores' cotangent, and the mask itself
    scale = 4 * hidden  # of the second layer norm, in another shape, which is a view of a parameter
    assert kept(graph) == reported(f, params, *args, constants=constants + scale)


def test_a_transformer_block_has_the_published_flops_and_parameters() -> None:
    """2·T·12·h² in the weights and 4·B·S²·h in the attention (Kaplan et al. 2020, Table 1, for one layer)."""
    batch, sequence, hidden = 2, 8, 16
    f, params, args = attention_block(batch=batch, sequence=sequence, hidden=hidden, heads=4)
    graph = from_function(f, shapes_of(params), *shapes_of(args))
    tokens = batch * sequence
    expected = 2 * tokens * 12 * hidden**2 + 4 * batch * sequence**2 * hidden
    assert sum(n.forward_flops for n in of_op(graph, "dot_general")) == expected
    assert graph.parameter_count == 12 * hidden**2 + (4 + 1) * hidden + 4 * hidden, "weights, biases, two norms"


def test_full_store_of_an_imported_graph_replays() -> None:
    f, params, args = mlp(widths=[12, 16, 16, 4], batch=8)
    graph = from_function(f, shapes_of(params), *shapes_of(args))
    cost = replay(reverse_full(graph))
    assert cost.flops.recompute == 0
    assert cost.flops.primal == graph.forward_flops


def test_jit_and_remat_are_looked_through_and_scans_unrolled() -> None:
    def plain(w: Any, x: Any) -> Any:
        for k in range(3):
            x = jnp.tanh(x @ w[k])
        return x.sum()

    def scanned(w: Any, x: Any) -> Any:
        turn = jax.checkpoint(jax.jit(lambda x, w: (jnp.tanh(x @ w), None)))
        return jax.lax.scan(turn, x, w)[0].sum()

    given = floats(3, 4, 4), floats(2, 4)
    one, other = from_function(plain, *given), from_function(scanned, *given)
    assert [n.op for n in one.nodes] == [n.op for n in other.nodes] == ["dot_general", "tanh"] * 3 + ["reduce_sum"]
    assert other.parameter_count == 3 * 4 * 4
    assert other.forward_flops == one.forward_flops
    assert kept(one) == kept(other)


def test_a_parameter_used_twice_belongs_to_its_first_reader() -> None:
    graph = from_function(lambda w, x: ((x @ w) @ w).sum(), floats(4, 4), floats(2, 4))
    first, second, _ = graph.nodes
    assert (first.param_size, second.param_size, second.tied_to) == (16, 0, first.name)


def test_choices_and_gates_keep_what_jax_reports() -> None:
    """The truth values and the places by which is chosen, the gate; not what is chosen from."""
    f, params, args = choices(batch=4, width=8)
    graph = from_function(f, shapes_of(params), *shapes_of(args))
    assert kept(graph) == reported(f, params, *args)
    product, choice, picked = (of_op(graph, op)[-1] for op in ("mul", "select_n", "gather"))
    assert (product.reads, choice.reads, picked.reads) == (("others", "others"), None, ("never", "always"))


def test_the_input_of_a_linear_map_is_read_for_its_weights_alone() -> None:
    graph = from_function(lambda w, x: jnp.sum(jnp.sin(x) @ w), floats(4, 4), floats(2, 4))
    [linear] = of_op(graph, "dot_general")
    assert (linear.needs, linear.reads) == ("input", ("parameters",))
    assert saved_bytes(graph) == 2 * 4 * 4, "sin x"
    assert saved_bytes(graph.configured(wrt="input")) == 2 * 4 * 4, "cos x"


def test_integers_have_no_derivative_and_reach_what_they_pick() -> None:
    graph = from_function(
        lambda table, ids: (table[ids] ** 2).sum(), floats(10, 4), jax.ShapeDtypeStruct((3,), "int32")
    )
    [gather] = of_op(graph, "gather")
    assert gather.param_size == 40
    assert gather.param_vjp_flops == 3 * 4, "one addition for each scalar that was picked"
    assert gather.vjp_flops == 0


def test_what_is_stopped_keeps_nothing() -> None:
    graph = from_function(
        lambda w, x: (x @ w - jax.lax.stop_gradient(jnp.sin(x @ w))).sum(), floats(4, 4), floats(2, 4)
    )
    [sine] = of_op(graph, "sin")
    assert (sine.needs, sine.residual_bytes, sine.vjp_flops) == ("none", None, 0)


def test_a_function_with_a_vjp_of_its_own_keeps_what_its_rule_keeps() -> None:
    @jax.custom_vjp
    def double(x: Any) -> Any:
        return 2 * x

    double.defvjp(lambda x: (2 * x, jnp.cos(x)), lambda kept, g: (kept * g,))
    graph = from_function(lambda w, x: double(x @ w).sum(), floats(4, 4), floats(2, 4))
    node = graph.nodes[1]
    assert (node.op, node.residual_bytes, node.needs) == ("double", 2 * 4 * 4, "none")


def test_an_import_takes_no_memory() -> None:
    """A product of a terabyte of weights."""
    graph = from_function(lambda w, x: (x @ w).sum(), floats(500_000, 500_000), floats(2, 500_000))
    assert graph.parameter_count == 500_000**2


def test_an_unknown_primitive_says_how_to_add_its_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        GraphError, match=r"node 'qr': primitive 'qr' has no rule.*sim\.models\.jax\.flops\.FLOPS\['qr'\] = "
    ):
        from_function(lambda w, x: jnp.linalg.qr(x * w, mode="reduced")[1].sum(), floats(4, 4), floats(4, 4))
    for name in ("qr", "householder_product"):
        monkeypatch.setitem(jax_flops.FLOPS, name, lambda inputs, outputs, params: 2 * math.prod(inputs[0].shape))
    graph = from_function(lambda w, x: jnp.linalg.qr(x * w, mode="reduced")[1].sum(), floats(4, 4), floats(4, 4))
    assert of_op(graph, "qr")[0].forward_flops == 2 * 16


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda w, x: x if x.sum() > 0 else w, "depends on the values of its arguments"),
        (lambda w, x: (w * x)[x > 0].sum(), "depends on the values of its arguments"),
        (lambda w, x: jax.lax.while_loop(lambda v: v.sum() < 9, lambda v: v * w, x).sum(), "'while'.*lax.scan"),
        (lambda w, x: jax.lax.cond(x.sum() > 0, lambda: w, lambda: x).sum(), "'cond'.*jnp.where"),
        (lambda w, x: x @ w.missing, "raised AttributeError"),
        (lambda w, x: w.sum(), "no output of the function depends on an argument"),
        (lambda w, x: (w * x).astype("complex64").real.sum(), "values of complex64 cannot be imported"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_the_reason(f: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        from_function(f, floats(4, 4), floats(4, 4))


FACTORIES = """
import jax, jax.numpy as jnp

def linear(width=3):
    return (lambda w, x, y: ((x @ w - y) ** 2).mean()), (lambda: jnp.zeros((4, width)))

def bare():
    return lambda x: jnp.sin(x).sum()

def broken():
    raise RuntimeError("no data here")

def odd():
    return 3

NUMBER = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "jax_factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "jax_factories", raising=False)
    return "jax_factories"


def test_a_factory_of_the_current_folder_gives_function_and_parameters(module: str) -> None:
    inputs = {"x": {"shape": [8, 4]}, "y": {"shape": [8, 5], "constant": True}}
    graph = importers.call("jax", factory=f"{module}:linear", inputs=inputs, arguments={"width": 5})
    assert [(i.name, i.shape, i.differentiable) for i in graph.inputs] == [("x", (8, 4), True), ("y", (8, 5), False)]
    assert (graph.parameter_count, graph.batch, graph.output_scalars) == (20, 8, 1)
    alone = importers.call("jax", factory=f"{module}:bare", inputs={"x": {"shape": [8, 4]}})
    assert (alone.wrt, alone.parameter_count) == ("input", 0)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("jax_factories:broken", "factory: jax_factories:broken raised RuntimeError: no data here"),
        ("jax_factories:odd", r"returned 3, expected \(f, params\) or f"),
        ("jax_factories:absent", "'jax_factories' has no 'absent'"),
        ("jax_factories:NUMBER", "is int, expected a function"),
        ("no_such_module:f", "there is no module 'no_such_module'; looked in the current folder"),
        ("jax_factories:linear", "the function raised TypeError.*'y'"),
    ],
)
def test_a_factory_at_fault_is_named(module: str, factory: str, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        importers.call("jax", factory=factory, inputs={"x": {"shape": [8, 4]}})


def test_bad_parameters_are_refused_before_any_code_runs(module: str) -> None:
    with pytest.raises(ParameterError, match="factory"):
        importers.call("jax", factory="no colon", inputs={"x": {"shape": [8, 4]}})
    with pytest.raises(ParameterError, match="at least 1"):
        importers.call("jax", factory=f"{module}:bare", inputs={"x": {"shape": [0]}})
    with pytest.raises(GraphError, match="inputs: the function has the arguments x, got z"):
        importers.call("jax", factory=f"{module}:bare", inputs={"z": {"shape": [8, 4]}})
    with pytest.raises(GraphError, match="inputs: x: unknown dtype 'flaot32'; did you mean 'float32'"):
        importers.call("jax", factory=f"{module}:bare", inputs={"x": {"shape": [1], "dtype": "flaot32"}})


def test_a_missing_extra_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(GraphError, match=r"pip install 'ad-tradeoff-sim\[jax\]'"):
        importers.call("jax", factory="m:f", inputs={"x": {"shape": [8, 4]}})


def test_jax_is_not_imported_before_a_model_is() -> None:
    code = "import sys; from sim.models.importers import load; load(); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_scan_larger_than_memory_is_refused_before_it_is_unrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    def looped(w: Any, x: Any) -> Any:
        return jax.lax.scan(lambda carry, _: (jnp.sin(carry * w), None), x, None, length=10**9)[0].sum()

    monkeypatch.setattr(size, "machine_bytes", lambda: 10**9)
    with pytest.raises(GraphError, match=r"a scan of 1000000000 turns with 2 equations: .* this machine has 1.00 GB"):
        from_function(looped, floats(4), floats(4))
