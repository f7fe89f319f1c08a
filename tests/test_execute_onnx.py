"""Imported ONNX graphs run on arrays: the operators' own meaning, exact gradients, and the bytes of the ledger."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from execution import check_bytes, check_graph, outputs_of

from sim.base.errors import NotApplicable
from sim.commands import cli
from sim.execution.numpy.arrays import inputs_for, parameter_shapes, parameters_for
from sim.execution.numpy.execute import execute
from sim.execution.numpy.products import executed_flops
from sim.graphs.graph import Graph
from sim.models.onnx import operators
from sim.ops.rule import split
from sim.schedules.replay import replay
from sim.strategies import load

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed: pip install 'ad-tradeoff-sim[onnx]'")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnxfiles import imported, ints, model, value  # noqa: E402

VECTOR, IMAGE = (2, 5), (2, 4, 5, 6)


@dataclass(frozen=True)
class Case:
    """One operator on x, with weights of these shapes behind it; `twice` makes it read x and x again."""

    op: str
    shape: tuple[int, ...] = VECTOR
    weights: list[tuple[int, ...]] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    twice: bool = False
    opset: int = 17
    training: bool = False

    def nodes(self, *, stem: bool) -> list[Any]:
        x = "stem" if stem else "x"
        names = [x] * (1 + self.twice) + [f"w{k}" for k in range(len(self.weights))]
        first = [helper.make_node("Add", ["x", "b"], ["stem"])] if stem else []
        return [*first, helper.make_node(self.op, names, ["y"], **self.attributes)]


CASES = {
    "Conv of 1 side": Case("Conv", (2, 4, 7), [(6, 2, 3), (6,)], {"group": 2, "pads": [2, 0], "strides": [2]}),
    "Conv of 2 sides": Case("Conv", IMAGE, [(3, 4, 3, 2), (3,)], {"pads": [0, 1, 2, 0], "dilations": [1, 2]}),
    "Conv of 3 sides": Case("Conv", (1, 2, 3, 4, 3), [(2, 2, 2, 2, 2)], {"pads": [1, 0, 0, 0, 1, 0]}),
    "Conv as large as its input": Case("Conv", IMAGE, [(2, 4, 2, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "ConvTranspose": Case("ConvTranspose", (2, 4, 3), [(4, 2, 3), (2,)], {"strides": [2], "pads": [0, 1]}),
    "ConvTranspose in groups": Case("ConvTranspose", (1, 4, 3, 2), [(4, 2, 2, 3)], {"group": 2, "strides": [2, 1]}),
    "MaxPool": Case("MaxPool", IMAGE, [], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [0, 0, 1, 0]}),
    "MaxPool of a ceiling": Case("MaxPool", (2, 2, 6), [], {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}),
    "GlobalMaxPool": Case("GlobalMaxPool", IMAGE),
    "AveragePool": Case("AveragePool", IMAGE, [], {"kernel_shape": [3, 2], "pads": [1, 0, 0, 1]}),
    "AveragePool with padding": Case(
        "AveragePool", IMAGE, [], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1}
    ),
    "GlobalAveragePool": Case("GlobalAveragePool", IMAGE),
    "Gemm": Case("Gemm", VECTOR, [(3, 5), (3,)], {"transB": 1}),
    "MatMul": Case("MatMul", (2, 3, 5), [(5, 4)]),
    "MatMul of activations": Case("MatMul", (2, 3, 3), twice=True),
    "BatchNormalization": Case("BatchNormalization", IMAGE, [(4,)] * 4),
    "LayerNormalization": Case("LayerNormalization", (2, 3, 4), [(4,), (4,)]),
    "LRN": Case("LRN", (5, 5, 1, 1), [], {"size": 3, "alpha": 0.75, "beta": 0.5, "bias": 1.5}),
    "LRN of an even window": Case("LRN", (5, 5, 1, 1), [], {"size": 4, "alpha": 0.9}),
    "Softmax": Case("Softmax", (2, 3, 4), [], {"axis": 1}),
    "Softmax of several axes": Case("Softmax", (2, 3, 4), [], {"axis": 1}, opset=11),
    "LogSoftmax": Case("LogSoftmax", (2, 3, 4), [], {"axis": 2}),
    "Add": Case("Add", IMAGE, [(4, 1, 1)]),
    "Add of itself": Case("Add", twice=True),
    "Sum": Case("Sum", (2, 3, 4), [(3, 1), (4,)]),
    "Sub": Case("Sub", IMAGE, [(4, 1, 6)]),
    "Mul": Case("Mul", IMAGE, [(1, 4, 1, 1)]),
    "Mul by itself": Case("Mul", twice=True),
    "Concat": Case("Concat", IMAGE, [], {"axis": -1}, twice=True),
    "Transpose": Case("Transpose", IMAGE, [], {"perm": [0, 2, 3, 1]}),
    "Relu": Case("Relu"),
    "Sigmoid": Case("Sigmoid"),
    "Tanh": Case("Tanh"),
    "Exp": Case("Exp"),
    "Abs": Case("Abs"),
    "Sin": Case("Sin"),
    "Cos": Case("Cos"),
    "Atan": Case("Atan"),
    "Neg": Case("Neg"),
    "Erf": Case("Erf"),
    "Softplus": Case("Softplus"),
    "LeakyRelu": Case("LeakyRelu", VECTOR, [], {"alpha": 0.2}),
}
TRAINED = {"BatchNormalization in training": Case("BatchNormalization", IMAGE, [(4,)] * 4, training=True)}


def file_of(case: Case, folder: Path, weights: list[Any], *, stem: bool) -> Path:
    """The model in float64, with a trained Add before the operator if it has a `stem`."""
    if stem:
        weights = [*weights, numpy_helper.from_array(np.full((1, *case.shape[1:]), 0.1), "b")]
    x = value("x", case.shape, TensorProto.DOUBLE)
    return model(folder, case.nodes(stem=stem), [x], weights, case.opset)


def graph_of(case: Case, folder: Path, *, stem: bool, **more: Any) -> Graph:
    constants = [numpy_helper.from_array(np.ones(s), f"w{k}") for k, s in enumerate(case.weights)]
    return imported(file_of(case, folder, constants, stem=stem), training=case.training, **more)


def test_every_operator_that_runs_has_a_case() -> None:
    running = {op for op, known in operators.load().items() if known.runs is not None}
    # divisions and casts need a constant, and a second dtype: they have tests of their own; the others run by the
    # array rules of the families' ops
    own = {"Div", "Cast"} | {"Gather", "Dropout", "Gelu", "Swish", "RMSNormalization"}
    assert running - {case.op for case in (CASES | TRAINED).values()} == own


# the evaluator takes the axis of an old Softmax as a new one's and has no transposed convolution in groups; its LRN
# needs as many samples as channels
@pytest.mark.parametrize("name", sorted(set(CASES) - {"Softmax of several axes", "ConvTranspose in groups"}))
def test_outputs_are_those_of_the_standard(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    graph = graph_of(case, tmp_path, stem=False)
    x, p = inputs_for(graph, 1), parameters_for(graph, 2)
    parts = [a for n in graph.nodes if n.param_size for a in split(p[n.name], parameter_shapes(graph, n))]
    if case.op == "MatMul":
        parts = [a.T for a in parts]  # a linear layer holds its weight as (out, in)
    if case.op == "BatchNormalization":  # the running averages are taken for 0 and 1
        parts += [np.zeros(4), np.ones(4) - 1e-5]
    weights = [
        numpy_helper.from_array(np.ascontiguousarray(a.reshape(s)), f"w{k}")
        for k, (a, s) in enumerate(zip(parts, case.weights, strict=True))
    ]
    (expected,) = ReferenceEvaluator(onnx.load(file_of(case, tmp_path, weights, stem=False))).run(None, x)
    (got,) = outputs_of(graph, x, p).values()
    exact = 1e-7 if case.op == "Erf" else 1e-10  # the evaluator's erf is one of float32
    np.testing.assert_allclose(got, expected, rtol=exact, atol=exact)


def test_an_old_softmax_sums_over_all_axes_from_its_own_on(tmp_path: Path) -> None:
    graph = graph_of(CASES["Softmax of several axes"], tmp_path, stem=False)
    x = inputs_for(graph, 1)
    (got,) = outputs_of(graph, x, {}).values()
    expected = np.exp(x["x"]) / np.exp(x["x"]).sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_a_transposed_convolution_in_groups_is_one_for_each_group(tmp_path: Path) -> None:
    whole = graph_of(CASES["ConvTranspose in groups"], tmp_path, stem=False)
    part = graph_of(Case("ConvTranspose", (1, 2, 3, 2), [(2, 2, 2, 3)], {"strides": [2, 1]}), tmp_path, stem=False)
    x, p = inputs_for(whole, 1)["x"], parameters_for(whole, 2)["y"]
    (got,) = outputs_of(whole, {"x": x}, {"y": p}).values()
    halves = zip(np.split(x, 2, axis=1), np.split(p, 2), strict=True)
    expected = [outputs_of(part, {"x": a}, {"y": w})["y"] for a, w in halves]
    np.testing.assert_allclose(got, np.concatenate(expected, axis=1), rtol=1e-12)


@pytest.mark.parametrize("name", CASES | TRAINED)
def test_gradient_and_bytes_of_each_operator(name: str, tmp_path: Path) -> None:
    case = (CASES | TRAINED)[name]
    graph = graph_of(case, tmp_path, stem=True, loss="mse").configured(wrt="parameters")
    small = math.prod(case.shape) < 40
    assert check_graph(graph, differences=small) >= 19


def test_constants_and_casts_are_executed(tmp_path: Path) -> None:
    half = numpy_helper.from_array(np.array(0.5), "half")
    nodes = [
        helper.make_node("Div", ["x", "half"], ["d"]),
        helper.make_node("Mul", ["d", "half"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = imported(model(tmp_path, nodes, [value("x", VECTOR, TensorProto.DOUBLE)], [half]), loss="mse")
    schedule = load().call("reverse_full", graph.configured(wrt="input"))
    result = execute(schedule, inputs_for(graph, 1), {})
    check_bytes("constants", schedule, result)
    assert [n.op for n in graph.nodes[:3]] == ["div", "mul", "cast"]


def conv(name: str, x: str, y: str) -> Any:
    return helper.make_node("Conv", [x, name], [y])


def test_a_residual_network_with_views_and_joins(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 0, 1]),
        helper.make_node("BatchNormalization", ["a", "s", "t", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        conv("w1", "r", "c"),
        helper.make_node("Add", ["c", "a"], ["sum"]),
        helper.make_node("Concat", ["sum", "r"], ["j"], axis=1),
        helper.make_node("MaxPool", ["j"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["y"]),
    ]
    shapes = {"w0": (2, 1, 2, 3), "w1": (2, 2, 1, 1), "s": (2,), "t": (2,), "m": (2,), "v": (2,)}
    shapes |= {"w2": (16, 3), "b2": (3,)}
    weights = [numpy_helper.from_array(np.ones(s), n) for n, s in shapes.items()]
    file = model(tmp_path, nodes, [value("x", [2, 1, 4, 4], TensorProto.DOUBLE)], weights)
    for training in (True, False):
        graph = imported(file, loss="cross_entropy", training=training)
        assert check_graph(graph.configured(wrt="parameters"), differences=False) >= 19


@pytest.mark.parametrize("network", ["squeezenet", pytest.param("shufflenet", marks=pytest.mark.slow)])
def test_published_networks_hold_what_is_counted(network: str) -> None:
    file = f"onnx:backend/test/data/light/light_{network}.onnx"
    graph = imported(file, loss="cross_entropy").configured(wrt="parameters")
    x, p = inputs_for(graph, 1), parameters_for(graph, 2)
    full = load().call("reverse_full", graph)
    some = load().call("reverse_checkpointed", graph, schedule="uniform", segments=4)
    kept, recomputed = execute(full, x, p), execute(some, x, p)
    for schedule, result in ((full, kept), (some, recomputed)):
        check_bytes(network, schedule, result)
        assert executed_flops(schedule, result.actions) == replay(schedule).flops.total
    assert kept.gradients.keys() == recomputed.gradients.keys()
    for name, gradient in kept.gradients.items():
        assert np.isfinite(gradient).all()
        assert np.array_equal(gradient, recomputed.gradients[name]), name


def single(op: str, names: list[str], folder: Path, shape: Any = IMAGE, weights: Any = (), **attributes: Any) -> Graph:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node(op, ["a", *names], ["b"], **attributes)]
    return imported(model(folder, [*nodes, helper.make_node("Relu", ["b"], ["y"])], [value("x", shape)], weights))


@pytest.mark.parametrize(
    ("op", "weights", "attributes", "message"),
    [
        ("ReduceMax", {}, {"keepdims": 1}, r"\(reduce_max\) cannot be executed: ReduceMax has no rule"),
        ("Gemm", {"w": (4, 3)}, {"alpha": 0.5}, "its first factor is transposed or scaled"),
        ("Div", {"w": (4,)}, {}, "it divides by what may be 0"),
        ("Slice", {"w": None}, {}, "node 'y' reads a part of 'a' as a view"),
    ],
)
def test_what_has_no_rule_of_its_meaning_is_refused(
    tmp_path: Path, op: str, weights: dict[str, Any], attributes: dict[str, Any], message: str
) -> None:
    made = [numpy_helper.from_array(np.ones(s, dtype=np.float32), n) for n, s in weights.items() if s]
    names = list(weights)
    if op == "Slice":
        made, names = [ints("from", 0), ints("to", 2), ints("axis", 1)], ["from", "to", "axis"]
    graph = single(op, names, tmp_path, (2, 4), made, **attributes)
    with pytest.raises(NotApplicable, match=message):
        outputs_of(graph, inputs_for(graph, 1), parameters_for(graph, 2))


def test_a_weight_of_two_nodes_is_refused(tmp_path: Path) -> None:
    nodes = [conv("w", "x", "a"), conv("w", "a", "y")]
    w = numpy_helper.from_array(np.ones((2, 2, 1, 1), dtype=np.float32), "w")
    graph = imported(model(tmp_path, nodes, [value("x", [1, 2, 3, 3])], [w]))
    with pytest.raises(NotApplicable, match="it shares parameters with another node"):
        outputs_of(graph, inputs_for(graph, 1), {})


SCENARIO = """\
version: 1
name: net
graph: {kind: onnx, file: model.onnx, loss: cross_entropy}
strategies:
  - reverse_full
  - reverse_checkpointed: {schedule: sqrt}
"""


def test_verify_runs_an_onnx_scenario(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = [
        numpy_helper.from_array(np.ones(s, dtype=np.float32), n) for n, s in (("w", (3, 2, 3, 3)), ("v", (12, 4)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["z"]),
        helper.make_node("Softmax", ["z"], ["y"]),
    ]
    model(tmp_path, nodes, [value("x", [2, 2, 4, 4])], weights)
    (tmp_path / "net.yaml").write_text(SCENARIO)
    assert cli.main(["verify", str(tmp_path / "net.yaml")]) == 0
    out = capfd.readouterr().out
    assert "run on NumPy" in out
    assert out.count(" yes\n") == 2


def test_verify_advises_a_loss_where_outputs_are_many(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    w = numpy_helper.from_array(np.ones((10, 3000), dtype=np.float32), "w")
    model(tmp_path, [helper.make_node("Gemm", ["x", "w"], ["y"])], [value("x", [2, 10])], [w])
    (tmp_path / "net.yaml").write_text(SCENARIO.replace(", loss: cross_entropy", ""))
    assert cli.main(["verify", str(tmp_path / "net.yaml"), "--max-seconds", "1e-6"]) == 2
    assert "for each of 3000 outputs, with a loss for one alone" in capfd.readouterr().err


def test_verify_says_which_node_cannot_be_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nodes = [helper.make_node("Mish", ["x"], ["y"], name="odd")]
    model(tmp_path, nodes, [value("x", [2, 3])], opset=18)
    (tmp_path / "net.yaml").write_text(SCENARIO)
    assert cli.main(["verify", str(tmp_path / "net.yaml")]) == 2
    err = capfd.readouterr().err
    assert "net.yaml:3:" in err
    assert "node 'odd' (mish) cannot be executed: Mish has no rule" in err
