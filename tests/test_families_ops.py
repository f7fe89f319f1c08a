"""Every op rule: its shape, what its derivative reads and its residual, as PyTorch 2.13 keeps them.

Expected values are worked out on paper from `derivatives.yaml` of PyTorch: what each backward
formula names, without weights.
"""

import math
from fractions import Fraction
from typing import Any

import pytest
from counts import CONTRACTIONS
from hypothesis import given
from hypothesis import strategies as st

from sim.base.errors import GraphError
from sim.graphs.node import NEEDS, Node
from sim.ops import Tensor, apply, ops

ROWS, IMAGE, TOKENS, SCORES = (2, 6), (2, 4, 8, 8), (2, 5, 6), (2, 3, 5, 5)
# op: shapes read, parameters, output shape, needs, residual bytes
EXPECTED: dict[str, tuple[list[tuple[int, ...]], dict[str, Any], tuple[int, ...], str, int | None]] = {
    "linear": ([TOKENS], {"features": 3}, (2, 5, 3), "input", None),
    "conv2d": ([IMAGE], {"channels": 3, "kernel": 3, "stride": 2}, (2, 3, 3, 3), "input", None),
    "conv_transpose2d": ([IMAGE], {"channels": 3, "kernel": 2, "stride": 2}, (2, 3, 16, 16), "input", None),
    "matmul": ([(2, 3, 4), (2, 4, 5)], {}, (2, 3, 5), "input", None),
    "attention_scores": ([TOKENS, TOKENS], {"heads": 3}, SCORES, "input", None),
    "attention_context": ([SCORES, TOKENS], {}, TOKENS, "input", None),
    "flash_attention": ([TOKENS] * 3, {"heads": 3}, TOKENS, "both", 4 * 2 * 3 * 5),
    "rope": ([TOKENS], {"heads": 3}, TOKENS, "none", None),
    "expert_dispatch": ([TOKENS, (2, 5, 4)], {"top_k": 2, "capacity": 1.2}, (2, 4, 3, 6), "input", None),
    "expert_linear": ([(2, 4, 3, 6)], {"features": 7}, (2, 4, 3, 7), "input", None),
    "expert_combine": ([(2, 4, 3, 6), (2, 5, 4)], {"top_k": 2}, TOKENS, "input", None),
    "embedding": ([(2, 5)], {"entries": 11, "features": 6}, TOKENS, "input", None),
    "positions": ([TOKENS], {}, TOKENS, "none", None),
    "relu": ([ROWS], {}, ROWS, "output", None),
    "tanh": ([ROWS], {}, ROWS, "output", None),
    "sigmoid": ([ROWS], {}, ROWS, "output", None),
    "gelu": ([ROWS], {}, ROWS, "input", None),
    "silu": ([ROWS], {}, ROWS, "input", None),
    "add": ([ROWS] * 3, {}, ROWS, "none", None),
    "mul": ([ROWS] * 2, {}, ROWS, "input", None),
    "concat": ([IMAGE, (2, 3, 8, 8)], {}, (2, 7, 8, 8), "none", None),
    "dropout": ([ROWS], {}, ROWS, "none", 12),
    "softmax": ([ROWS], {}, ROWS, "output", None),
    "layer_norm": ([TOKENS], {}, TOKENS, "input", 4 * 2 * 10),
    "rms_norm": ([TOKENS], {}, TOKENS, "input", 4 * 10),
    "batch_norm": ([IMAGE], {}, IMAGE, "input", 4 * 2 * 4),
    "max_pool2d": ([IMAGE], {"kernel": 2}, (2, 4, 4, 4), "input", 8 * 128),
    "avg_pool2d": ([IMAGE], {"kernel": 2, "stride": 1}, (2, 4, 7, 7), "input", None),
    "adaptive_avg_pool2d": ([IMAGE], {"size": [2, 3]}, (2, 4, 2, 3), "input", None),
    "global_avg_pool": ([IMAGE], {}, (2, 4), "none", None),
    "upsample": ([IMAGE], {"scale": [2, 3]}, (2, 4, 16, 24), "none", None),
    "cross_entropy": ([ROWS, (2,)], {}, (), "input", 4 * 13),
    "mse": ([ROWS, ROWS], {}, (), "input", None),
    "sum": ([ROWS], {}, (), "none", None),
    "mean": ([ROWS], {}, (), "none", None),
}
INTEGERS = {("embedding", 0), ("cross_entropy", 1)}


def node_of(op: str, dtype: str = "float32") -> Node:
    shapes, parameters, *_ = EXPECTED[op]
    tensors = [Tensor(f"x{i}", shape, "int64" if (op, i) in INTEGERS else dtype) for i, shape in enumerate(shapes)]
    return apply(op, "node", tensors, **parameters)


def test_every_op_is_in_the_table() -> None:
    assert set(EXPECTED) == set(ops)


@pytest.mark.parametrize("op", EXPECTED)
def test_shape_needs_and_residual_are_those_of_pytorch(op: str) -> None:
    shapes, _, shape, needs, residual = EXPECTED[op]
    node = node_of(op)
    assert (node.output_shape, node.needs, node.residual_bytes) == (shape, needs, residual)
    assert node.needs in NEEDS
    assert node.attributes["input_shapes"] == tuple(shapes)
    assert node.inputs == tuple(f"x{i}" for i in range(len(shapes)))


@pytest.mark.parametrize("op", ops)
def test_every_op_says_what_it_costs(op: str) -> None:
    assert len(ops[op].summary) > 20


@pytest.mark.parametrize("op", sorted((CONTRACTIONS & set(EXPECTED)) - {"flash_attention"}))
def test_tangent_and_cotangent_of_a_product_have_the_same_flops(op: str) -> None:
    """A bilinear map a·b has the tangent da·b + a·db and two cotangents: twice the products."""
    node = node_of(op)
    products = node.forward_flops - (2 * 5 * 3 if op == "linear" else 0)
    products -= {"conv2d": 2 * 3 * 3 * 3, "conv_transpose2d": 2 * 3 * 16 * 16}.get(op, 0)
    assert node.jvp_flops == node.vjp_flops == products * len(node.inputs)


def test_jacobians_of_linear_layers_are_their_weights_and_those_of_activations_one_flop_a_scalar() -> None:
    for op in ("linear", "conv2d", "conv_transpose2d"):
        assert (node_of(op).jacobian.structure, node_of(op).jacobian.flops) == ("constant", 0)
    for op in ("relu", "tanh", "sigmoid", "gelu", "silu"):
        assert (node_of(op).jacobian.structure, node_of(op).jacobian.flops) == ("diagonal", 12)


def test_a_transposed_factor_is_read_by_rows() -> None:
    a, b = Tensor("a", (2, 3, 4)), Tensor("b", (2, 5, 4))
    assert apply("matmul", "node", [a, b], transpose_b=True).output_shape == (2, 3, 5)
    with pytest.raises(GraphError, match=r"'node': cannot multiply \(2, 3, 4\) by \(2, 5, 4\)$"):
        apply("matmul", "node", [a, b])


@given(st.integers(1, 30), st.integers(1, 30))
def test_adaptive_windows_are_those_of_pytorch(size: int, windows: int) -> None:
    """Window i of w covers ⌊i·n/w⌋ … ⌈(i+1)·n/w⌉ of n rows."""
    rows = range(windows)
    read = sum(math.ceil(Fraction((i + 1) * size, windows)) - math.floor(Fraction(i * size, windows)) for i in rows)
    node = apply("adaptive_avg_pool2d", "node", [Tensor("x", (1, 1, size, 1))], size=[windows, 1])
    assert node.forward_flops == read


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2))
def test_a_transposed_convolution_undoes_the_shape_of_its_convolution(
    rows: int, kernel: int, stride: int, padding: int
) -> None:
    small = Tensor("x", (1, 1, rows, rows))
    if (rows - 1) * stride + kernel - 2 * padding < 1:
        return
    large = apply("conv_transpose2d", "up", [small], channels=1, kernel=kernel, stride=stride, padding=padding)
    up = Tensor("y", large.output_shape)
    down = apply("conv2d", "down", [up], channels=1, kernel=kernel, stride=stride, padding=padding)
    assert down.output_shape == small.shape
    assert down.jvp_flops == large.jvp_flops


@pytest.mark.parametrize(
    ("op", "shapes", "parameters", "message"),
    [
        ("conv2d", [IMAGE], {"channels": 3, "kernel": 9}, "a kernel of 9 does not fit an image of 8"),
        ("max_pool2d", [IMAGE], {"kernel": 2, "padding": 2}, "more than half the kernel"),
        ("conv_transpose2d", [IMAGE], {"channels": 1, "kernel": 1, "padding": 4}, "leaves nothing"),
        ("attention_scores", [TOKENS, TOKENS], {"heads": 4}, "6 cannot be divided among 4 heads"),
        ("attention_scores", [TOKENS, TOKENS], {"heads": 3, "kv_heads": 2}, "3 heads cannot be divided among 2"),
        ("attention_scores", [TOKENS, TOKENS], {"heads": 6, "kv_heads": 2}, r"keys and values of shape \(2, 5, 2\)"),
        ("rope", [TOKENS], {"heads": 2}, "6 features cannot be divided into pairs of 2 heads"),
        ("expert_dispatch", [TOKENS, (2, 4, 4)], {}, "got gates of shape"),
        ("expert_dispatch", [TOKENS, (2, 5, 4)], {"top_k": 5}, "expected at most the 4 there are"),
        ("expert_combine", [(2, 3, 3, 6), (2, 5, 4)], {}, "tokens of 3 experts, expected those of 4"),
        ("attention_context", [SCORES, (2, 4, 6)], {}, "cannot weigh"),
        ("concat", [IMAGE, (2, 4, 8, 7)], {}, "along axis 1"),
        ("concat", [IMAGE, IMAGE], {"axis": 0}, "is the batch"),
        ("cross_entropy", [ROWS, (3,)], {}, "got labels of shape"),
        ("mse", [ROWS, (2, 5)], {}, "got a target of shape"),
        ("linear", [(4,)], {"features": 2}, "expected .batch"),
        ("linear", [ROWS], {"features": 2, "tied_to": "a"}, "no bias of its own"),
        ("positions", [TOKENS], {"entries": 4}, "does not fit 4 learned positions"),
        ("relu", [], {}, "reads 1 input, got 0"),
        ("linear", [(2**10, 2)], {"features": 2**52}, "more than 4 EiB"),
        ("conv2d", [IMAGE], {"channels": 3, "kernel": [1, 2, 3]}, "or two of them"),
        ("softsign", [ROWS], {}, "unknown op 'softsign'"),
    ],
)
def test_what_does_not_fit_names_the_node(
    op: str, shapes: list[tuple[int, ...]], parameters: dict[str, Any], message: str
) -> None:
    tensors = [Tensor(f"x{i}", shape, "int64" if (op, i) in INTEGERS else "float32") for i, shape in enumerate(shapes)]
    with pytest.raises(GraphError, match=f"^node 'node': .*{message}"):
        apply(op, "node", tensors, **parameters)
