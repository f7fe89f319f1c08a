"""`sim verify`: right predictions pass, every kind of wrong one is found, and what cannot be run is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from execution import schedules_of

from sim.commands import cli
from sim.execution import differences
from sim.execution.numpy.arrays import inputs_for, parameters_for
from sim.execution.numpy.execute import Execution, execute
from sim.execution.numpy.products import executed_flops
from sim.experiment import verify as verification
from sim.experiment.verify import Verifier
from sim.graphs.graph import Graph
from sim.models.families.cnn import cnn
from sim.models.families.mlp import mlp
from sim.models.families.transformer import transformer
from sim.scenario.points import StrategyPoint
from sim.schedules.replay import replay
from sim.simulation.device import device

MLP = """\
version: 1
name: small
graph: {kind: mlp, widths: [6, 5, 4, 3], activation: tanh, batch: 4, loss: cross_entropy}
wrt: parameters
optimizer: adam
strategies:
  - reverse_full
  - reverse_checkpointed: {schedule: binomial, slots: 1}
  - reverse_offload
  - forward_recompute: {chunk: 7}
"""
FULL = StrategyPoint("reverse_full", {})


def net(dtype: str = "float32", wrt: str = "parameters", loss: str = "mse") -> Graph:
    return mlp(widths=[5, 4, 7, 3], activation="tanh", batch=3, dtype=dtype, loss=loss).configured(wrt=wrt)


def verifier(graph: Graph, **options: Any) -> Verifier:
    return Verifier(graph, **({"device": None, "limit_s": 1000.0, "memory_bytes": 10**12} | options))


@pytest.mark.parametrize("wrt", ["parameters", "input"])
@pytest.mark.parametrize("loss", ["cross_entropy", "none"])
def test_flops_counted_from_shapes_are_those_of_replay(wrt: str, loss: str) -> None:
    graph = net("float64", wrt, loss)
    x, p = inputs_for(graph, 1), parameters_for(graph, 2)
    for label, schedule in schedules_of(graph):
        actions = execute(schedule, x, p).actions
        assert executed_flops(schedule, actions) == replay(schedule).flops.total, label


@pytest.mark.parametrize(
    "graph",
    [
        cnn(preset="resnet18", batch=1, image=[3, 32, 32], loss="cross_entropy"),
        transformer(layers=1, hidden=8, heads=2, sequence=5, vocab=11, batch=2, attention="explicit", loss="mean"),
    ],
    ids=["resnet18", "transformer"],
)
def test_flops_counted_from_shapes_are_those_of_convolutions_and_attention(graph: Graph) -> None:
    graph = graph.configured(wrt="parameters")
    schedule = FULL.schedule(graph)
    assert executed_flops(schedule, np.arange(len(schedule))) == replay(schedule).flops.total


def test_a_matrix_product_has_two_flops_for_each_multiply_add() -> None:
    # forward 2·4·6·5 + 4·5 for the bias, as much again for the weight gradient; the input's cotangent is not wanted
    graph = mlp(widths=[6, 5], activation="tanh", batch=4, dtype="float32", loss="none").configured(wrt="parameters")
    schedule = FULL.schedule(graph)
    forward, *_ = np.arange(len(schedule))
    assert executed_flops(schedule, np.array([forward])) == 2 * 4 * 6 * 5 + 4 * 5


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("wrt", ["parameters", "input"])
@pytest.mark.parametrize("loss", ["cross_entropy", "none"])
def test_predictions_hold_in_every_precision(dtype: str, wrt: str, loss: str) -> None:
    checking = verifier(net(dtype, wrt, loss))
    for wanted in (
        FULL,
        StrategyPoint("reverse_checkpointed", {"schedule": "sqrt"}),
        StrategyPoint("forward_cached", {"chunk": 2}),
    ):
        done = checking.verify(wanted)
        assert done.ok, done
        assert {c.quantity for c in done.checks} == {"peak bytes", "flops", "gradient", "slopes"}


def changed(monkeypatch: pytest.MonkeyPatch, **how: Any) -> None:
    """From now on executions come out with these fields changed by functions."""

    def run(*arguments: Any, **options: Any) -> Execution:
        result = execute(*arguments, **options)
        return dataclasses.replace(result, **{name: change(getattr(result, name)) for name, change in how.items()})

    monkeypatch.setattr(verification, "execute", run)


def wrong(monkeypatch: pytest.MonkeyPatch, **how: Any) -> set[str]:
    checking = verifier(net("float64"))
    changed(monkeypatch, **how)
    done = checking.verify(FULL)
    return {c.quantity for c in done.checks if not c.ok}


def test_a_gradient_that_is_a_thousandth_off_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong(monkeypatch, gradients=lambda g: {k: v * 1.001 for k, v in g.items()}) == {"gradient", "slopes"}


def test_a_gradient_that_is_not_finite_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong(monkeypatch, gradients=lambda g: {k: v * np.nan for k, v in g.items()}) == {"gradient", "slopes"}


def test_a_missing_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def drop(gradients: dict[str, Any]) -> dict[str, Any]:
        first = next(iter(gradients))
        return {k: v * (k != first) for k, v in gradients.items()}

    assert wrong(monkeypatch, gradients=drop) == {"gradient", "slopes"}


def test_one_byte_at_one_action_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def more(live: Any) -> Any:
        live = live.copy()
        live[0, 0] += 1
        return live

    assert wrong(monkeypatch, live_bytes=more) == {"peak bytes"}


def test_an_action_done_once_more_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "flops" in wrong(monkeypatch, actions=lambda a: np.append(a, a[0]))


def test_a_reference_that_is_wrong_too_is_found_by_the_slopes(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, gradients=lambda g: {k: v * 1.001 for k, v in g.items()})
    done = verifier(net("float64")).verify(FULL)
    assert {c.quantity for c in done.checks if not c.ok} == {"slopes"}


def test_slopes_are_those_of_a_known_function() -> None:
    # y = Σ over the batch of x·w has the slope Σ x·v along v
    graph = mlp(widths=[3, 1], activation="tanh", batch=2, dtype="float64", loss="none", bias=False)
    graph = graph.configured(wrt="parameters")
    x, p = inputs_for(graph, 1), parameters_for(graph, 2)
    found = differences.slopes(graph, x, p, directions=2, seed=3)
    (name,) = p
    for along, slopes in zip(found.directions, found.found, strict=True):
        expected = x[graph.inputs[0].name].sum(axis=0) @ along[name]
        assert slopes[:, 0].tolist() == [pytest.approx(expected, rel=1e-7), pytest.approx(expected, rel=1e-4)]


def test_seconds_are_judged_only_where_products_take_them() -> None:
    slow = {"flops": 1, "bandwidth": "1 TB/s", "overhead": 0}  # a flop a second: nothing else counts
    launches = {"flops": "1 EFLOP/s", "bandwidth": "1 TB/s", "overhead": "1 s"}
    judged = verifier(net(), device=device(slow)).verify(FULL).check("seconds")
    other = verifier(net(), device=device(launches)).verify(FULL).check("seconds")
    assert judged is not None
    assert other is not None
    assert (judged.tolerance, judged.ok) == (verification.SECONDS_TOLERANCE, False)
    assert (other.tolerance, other.ok) == (None, True)
    assert judged.predicted == replay(FULL.schedule(net())).flops.total


def test_what_takes_too_long_or_too_much_memory_is_not_run() -> None:
    assert "that are left" in str(verifier(net(), limit_s=1e-6).impossible)
    assert "of memory" in str(verifier(net(), memory_bytes=100).impossible)


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(MLP)
    return path


def run(*arguments: object, capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(["verify", *map(str, arguments)])
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_the_table_has_a_line_for_each_point_and_states_the_tolerances(
    scenario: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(scenario, capfd=capfd)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "small: 6 nodes, batch 4, float32, run on NumPy"
    assert [line.split()[-1] for line in lines[3:7]] == ["yes"] * 4
    assert "0.0001 of its largest entry" in out
    assert max(map(len, lines)) <= 120


def test_json_has_every_number(scenario: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(scenario, "--format", "json", "--batch", "2", capfd=capfd)
    data = json.loads(out)
    assert code == 0
    assert data["graph"]["batch"] == 2
    for point in data["points"]:
        assert point["ok"] is True
        peak, flops, gradient, slopes = point["checks"]
        assert peak["predicted"] == peak["measured"]
        assert flops["predicted"] == flops["measured"]
        assert gradient["error"] <= gradient["tolerance"]
        assert slopes["error"] <= slopes["tolerance"]


def test_the_plans_of_a_whole_front_hold_on_a_residual_network(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "residual.yaml"
    blocks = [
        f"{{name: l{i}, op: linear, inputs: {read}, features: 64}}, {{name: g{i}, op: gelu}}, "
        f"{{name: m{i}, op: linear, features: 16}}, {{name: s{i}, op: add, inputs: [m{i}, {read}]}}"
        for i, read in enumerate(["x", "s0", "s1", "s2"])
    ]
    path.write_text(
        "version: 1\nname: residual\n"
        f"graph: {{kind: layers, inputs: {{x: {{shape: [256, 16]}}}}, layers: [{', '.join(blocks)}, "
        "{name: loss, op: mean}]}\n"
        "strategies: [reverse_checkpointed: {schedule: optimal, points: 4}]\n"
    )
    code, out, _ = run(path, "--format", "json", capfd=capfd)
    points = json.loads(out)["points"]
    peaks = [check["measured"] for point in points for check in point["checks"] if check["quantity"] == "peak bytes"]
    assert code == 0
    assert peaks == sorted(set(peaks))
    assert len(peaks) == 4


def test_a_prediction_that_is_off_exits_with_1_and_says_which(
    scenario: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(monkeypatch, live_bytes=lambda live: live + 8)
    code, out, err = run(scenario, "-q", capfd=capfd)
    assert code == 1
    assert "off: reverse_full: peak bytes: " in err
    assert "expected the same" in err
    assert " NO\n" in out


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (MLP[MLP.index("graph") : MLP.index("wrt")], "graph: {kind: chain, length: 3}\n", "graph.kind: a chain is abs"),
        ("batch: 4,", "batch: 4, dtype: bfloat16,", "graph: NumPy has no bfloat16"),
    ],
)
def test_what_cannot_be_executed_is_refused_at_its_place(
    scenario: Path, capfd: pytest.CaptureFixture[str], old: str, new: str, expected: str
) -> None:
    text = MLP.replace(old, new)
    if "chain" in new:
        text = text.replace("wrt: parameters\noptimizer: adam\n", "").replace("chunk: 7", "chunk: 1")
    scenario.write_text(text)
    code, out, err = run(scenario, capfd=capfd)
    assert (code, out) == (2, "")
    assert f"{scenario}:3:" in err
    assert expected in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--max-seconds", "0"], "--max-seconds: got 0, expected more than 0"),
        (["--max-seconds", "1e-9"], "too large to be run here: about "),
        (["--batch", "0"], "--batch: got 0, expected"),
        (["--device", "nonsense"], "unknown device 'nonsense'"),
    ],
)
def test_wrong_limits_exit_with_2(
    scenario: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    code, out, err = run(scenario, *arguments, capfd=capfd)
    assert (code, out) == (2, "")
    assert expected in err
