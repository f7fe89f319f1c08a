"""What cannot be imported is refused with the place, the reason and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sim.base.document import DocumentError
from sim.base.errors import GraphError
from sim.scenario import scenario

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed: pip install 'ad-tradeoff-sim[onnx]'")
from onnx import TensorProto, helper  # noqa: E402
from onnxfiles import imported, ints, model, value, weight  # noqa: E402


def refusal(folder: Path, node: Any, *inputs: Any, weights: Sequence[Any] = (), **parameters: Any) -> str:
    more = {k: parameters.pop(k) for k in ("opset", "opsets") if k in parameters}
    with pytest.raises(GraphError) as caught:
        imported(model(folder, [node], inputs, weights, **more), **parameters)
    return str(caught.value)


SCENARIO = "version: 1\nname: a\ngraph: {{kind: onnx, file: {file}}}\nstrategies: [reverse_full]\n"


def test_a_path_is_relative_to_the_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], [value("x", [2, 3])])
    (tmp_path / "a.yaml").write_text(SCENARIO.format(file="model.onnx"))
    monkeypatch.chdir("/")
    assert len(scenario.load(tmp_path / "a.yaml").build_graph()) == 1


def test_a_missing_file_is_shown_at_its_key(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SCENARIO.format(file="other.onnx"))
    with pytest.raises(DocumentError, match=r"a\.yaml:3:27: graph\.file: .*no such file"):
        scenario.load(tmp_path / "a.yaml").build_graph()


def test_open_dimensions_are_named_with_what_to_give(tmp_path: Path) -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    message = refusal(tmp_path, relu, value("x", ["n", "t", None]))
    assert "input 'x' is open: (1, t, x.2); give its sizes, such as dims: {t: 1, x.2: 1}" in message
    message = refusal(tmp_path, relu, value("x", ["n", "t"]), dims={"tt": 3})
    assert message == "dims: the model has no dimension 'tt'; did you mean 't'? known: n, t"
    assert imported(tmp_path / "model.onnx", dims={"t": 3, "n": 2}).nodes[0].output_shape == (2, 3)


def test_shapes_that_depend_on_values_are_refused_at_their_node(tmp_path: Path) -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Exp", ["x"], ["y"])]
    nodes[0].name, nodes[1].input[0] = "places", "i"
    with pytest.raises(GraphError, match=r"^node 'places' \(NonZero\): there is no rule for this operator; add"):
        imported(model(tmp_path, nodes, [value("x", [2, 3])]))
    reshape = helper.make_node("Reshape", ["x", "to"], ["y"], name="fold")
    inputs = [value("x", [2, 3]), value("to", [2], TensorProto.INT64)]
    assert refusal(tmp_path, reshape, *inputs).startswith("node 'fold' (Reshape): the shape of 'y' ")


def test_a_batch_that_a_reshape_has_baked_in_is_given_under_dims(tmp_path: Path) -> None:
    """A file that says n and means 1: shapes are inferred at 1, and scaled."""
    nodes = [helper.make_node("Reshape", ["x", "to"], ["r"]), helper.make_node("Exp", ["r"], ["y"])]
    file = model(tmp_path, nodes, [value("x", ["n", 6])], [ints("to", 1, 2, 3)])
    with pytest.raises(GraphError, match=r"'r': cannot reshape \(8, 6\) to \(1, 2, 3\); .*give that under 'dims'"):
        imported(file, batch=8)
    assert imported(file, dims={"n": 1}, batch=8).nodes[0].output_shape == (8, 2, 3)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["y"], name="a")
    message = refusal(tmp_path, conv, value("x", [1, 4, 5, 5]), weights=[weight("w", 6, 3, 1, 1)])
    assert message == "node 'a': cannot convolve (1, 4, 5, 5) with a weight of shape (6, 3, 1, 1)"
    gemm = helper.make_node("Gemm", ["x", "w"], ["y"], name="a")
    message = refusal(tmp_path, gemm, value("x", [2, 4]), weights=[weight("w", 5, 3)])
    assert message.startswith("node 'a' (Gemm): the shape of 'y' cannot be inferred; ")


def test_attributes_that_do_not_fit_are_named_with_their_node(tmp_path: Path) -> None:
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], name="norm")
    vectors = [weight("s", 4), weight("b", 4)]
    message = refusal(tmp_path, node, value("x", [1, 4, 3, 3]), weights=vectors, opset=22)
    assert message.startswith("node 'norm' (GroupNormalization): its operands or attributes do not fit the operator")
    lonely = helper.make_node("Relu", [], ["y"], name="lonely")
    assert "node 'lonely' (Relu) reads no tensor" in refusal(tmp_path, lonely, value("x", [1]))


def test_operators_of_others_are_named_with_their_domain(tmp_path: Path) -> None:
    node = helper.make_node("Fused", ["x"], ["y"], domain="com.example")
    message = refusal(tmp_path, node, value("x", [2]), opsets=[helper.make_opsetid("com.example", 1)])
    assert message.startswith("node 'y' (com.example.Fused): there is no rule for this operator")


def test_control_flow_is_refused_with_the_reason(tmp_path: Path) -> None:
    def branch(op: str) -> Any:
        return helper.make_graph([helper.make_node(op, ["x"], ["z"])], op, [], [value("z", [2])])

    node = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branch("Exp"), else_branch=branch("Sin"))
    message = refusal(tmp_path, node, value("c", [], TensorProto.BOOL), value("x", [2]))
    assert message == "node 'choice' (If): control flow cannot be imported, because which branch runs depends on values"


def test_weights_computed_from_the_input_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="dynamic")
    message = refusal(tmp_path, node, value("x", [1, 2, 5, 5]), value("w", [3, 2, 1, 1]))
    assert message == "node 'dynamic': Conv with a weight that depends on the model's inputs cannot be imported"


def test_an_input_without_the_batch_is_not_scaled(tmp_path: Path) -> None:
    add = helper.make_node("Add", ["x", "state"], ["y"])
    message = refusal(tmp_path, add, value("x", [2, 3]), value("state", [3]), batch=4)
    assert message.startswith("batch: input 'state' of shape (3,) does not start with the batch of the file, 2")


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(range(256))])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(GraphError, match=r"^file: .*a\.onnx: this is no ONNX model"):
        imported(tmp_path / "a.onnx")


def test_places_without_a_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="no such file"):
        imported(tmp_path / "missing.onnx")
    with pytest.raises(GraphError, match="is a directory"):
        imported(tmp_path)
    with pytest.raises(GraphError, match=r"^file: nobody_has:a\.onnx: no package 'nobody_has' is installed"):
        imported("nobody_has:a.onnx")
