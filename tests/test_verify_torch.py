"""`sim verify` and `sim plan` on PyTorch modules: predicted peaks are measured, and a plan file trains the module."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'ad-tradeoff-sim[torch]'")

import models  # noqa: E402

import sim.torch  # noqa: E402
from sim.commands import cli  # noqa: E402
from sim.execution.torch import reference as torch_reference  # noqa: E402
from sim.execution.torch.memory import LiveBytes  # noqa: E402
from sim.experiment import verify_torch as verification_torch  # noqa: E402
from sim.models.torch.importer import from_module  # noqa: E402

torch.set_num_threads(1)  # sums in one order, and no waiting for other processes

SCENARIO = """\
version: 1
name: net
graph:
  kind: torch
  factory: "models:resnet18"
  arguments: {classes: 10}
  inputs: {x: {shape: [2, 3, 32, 32]}}
  loss: cross_entropy
strategies:
  - reverse_full
  - reverse_checkpointed: {schedule: sqrt}
  - reverse_offload
  - forward_recompute: {chunk: 100000}
"""


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.yaml"
    path.write_text(SCENARIO)
    return path


@pytest.mark.slow
def test_every_point_is_run_or_told_why_not(scenario: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["verify", str(scenario), "--format", "json"])
    data = json.loads(capfd.readouterr().out)
    assert (code, data["engine"]) == (0, "PyTorch (CPU)")
    *run, offload, forward = data["points"]
    for point in run:
        peak, flops, gradient, slopes = point["checks"]
        assert point["ok"]
        assert peak["measured"] == pytest.approx(peak["predicted"], abs=8)
        assert flops["measured"] == flops["predicted"]
        assert gradient["error"] <= gradient["tolerance"]
        assert slopes["error"] <= slopes["tolerance"]
    assert data["without_slopes"] is None
    assert len(run) == 2
    assert "copies" in offload["skipped"]
    assert "one sweep" in forward["skipped"]


OWN = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = FIRST, nn.Linear(5, 4)

    def forward(self, x):
        return self.second(BODY)
"""


def verified(
    folder: Path, capfd: pytest.CaptureFixture[str], body: str, *options: str, first: str = "nn.Linear(6, 5)"
) -> Any:
    """(exit code, JSON) of `sim verify` on a small module with this between its two layers."""
    (folder / "slopes_net.py").write_text(OWN.replace("BODY", body).replace("FIRST", first))
    file = folder / "own.yaml"
    graph = 'graph: {kind: torch, factory: "slopes_net:Net", inputs: {x: {shape: [8, 6]}}, loss: mean}\n'
    file.write_text(f"version: 1\nname: own\n{graph}strategies: [reverse_full]\n")
    code = cli.main(["verify", str(file), "--format", "json", *options])
    return code, json.loads(capfd.readouterr().out)


def off(result: tuple[int, Any]) -> list[str]:
    """The quantities of the first point that fail; none where the exit code says so."""
    code, data = result
    assert code == (not data["points"][0]["ok"])
    return [check["quantity"] for check in data["points"][0]["checks"] if not check["ok"]]


def test_memory_that_is_held_too_long_is_found(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = verification_torch.TorchVerifier._run

    def holding(self: object, *arguments: object) -> object:
        gradients, peak, seconds = run(self, *arguments)  # type: ignore[arg-type]
        return gradients, peak * 112 // 100, seconds

    monkeypatch.setattr(verification_torch.TorchVerifier, "_run", holding)
    assert off(verified(tmp_path, capfd, "self.first(x)")) == ["peak bytes"]


def test_a_gradient_that_is_off_is_found(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = torch_reference.plain

    def other(*arguments: Any) -> tuple[float, dict[str, Any]]:
        seconds, gradients = plain(*arguments)
        return seconds, {name: 1.001 * g for name, g in gradients.items()}

    monkeypatch.setattr(torch_reference, "plain", other)
    assert off(verified(tmp_path, capfd, "self.first(x)")) == ["gradient"]


def test_a_gradient_that_is_a_hundredth_off_is_off_the_slopes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = verification_torch.TorchVerifier._run

    def scaled(self: Any, *arguments: Any) -> Any:
        gradients, *rest = run(self, *arguments)
        return {name: 1.01 * g for name, g in gradients.items()}, *rest

    monkeypatch.setattr(verification_torch.TorchVerifier, "_run", scaled)
    assert off(verified(tmp_path, capfd, "self.first(x)")) == ["gradient", "slopes"]


def test_frozen_parameters_are_not_moved(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    frozen = "nn.Linear(6, 5).requires_grad_(False)"
    code, data = verified(tmp_path, capfd, "self.first(x).tanh()", first=frozen)
    assert code == 0
    assert data["points"][0]["checks"][-1]["quantity"] == "slopes"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("nn.functional.dropout(self.first(x))", "draws random numbers"),
        ("self.first(x) + self.first(x).detach()", "stops gradients on purpose"),
        ("self.first(x).float().to(self.first.weight.dtype)", "computes in float32 whatever its parameters are"),
    ],
)
def test_slopes_that_cannot_be_had_are_left_out_with_the_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], body: str, reason: str
) -> None:
    _, data = verified(tmp_path, capfd, body)
    assert reason in data["without_slopes"]
    assert [c["quantity"] for c in data["points"][0]["checks"]] == ["peak bytes", "flops", "gradient"]


def test_slopes_know_the_gradient_of_a_linear_function() -> None:
    # the sum of x·wᵀ + b over 3 samples has the slope Σ x·v + 3·Σ u along (v, u)
    module, x = torch.nn.Linear(2, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    graph = from_module(copy.deepcopy(module), (x,), loss="sum")
    found, gradients = torch_reference.slopes(graph, module, {"input": x}, "sum", directions=2, seed=0)
    for along, slopes in zip(found.directions, found.found, strict=True):
        expected = along["weight"].reshape(2, 2) @ [9.0, 12.0]
        assert slopes[0] == pytest.approx([expected.sum() + 3 * along["bias"].sum()], rel=1e-6)
    assert found.error(torch_reference.derivative(gradients, found)) < 1e-6


@pytest.mark.parametrize(
    ("flops", "overhead", "judged"),
    [("1 FLOP/s", "0 s", True), ("1 EFLOP/s", "1 s", False)],
    ids=["products", "launches"],
)
def test_seconds_are_judged_only_where_products_take_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], flops: str, overhead: str, judged: bool
) -> None:
    machine = tmp_path / "machine.yaml"
    machine.write_text(f"{{flops: {flops}, bandwidth: 1 TB/s, overhead: {overhead}}}\n")
    code, data = verified(tmp_path, capfd, "self.first(x)", "--device", str(machine))
    seconds = data["points"][0]["checks"][-1]
    assert seconds["quantity"] == "seconds"
    assert (seconds["tolerance"], seconds["ok"], code) == ((0.25, False, 1) if judged else (None, True, 0))


def test_a_module_without_a_loss_is_refused_at_its_place(scenario: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scenario.write_text(SCENARIO.replace("  loss: cross_entropy\n", ""))
    assert cli.main(["verify", str(scenario)]) == 2
    err = capfd.readouterr().err
    assert f"{scenario}:4:" in err
    assert "does not end in a scalar" in err


def test_the_gradient_of_the_input_is_refused_at_its_place(scenario: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scenario.write_text(SCENARIO.replace("strategies:", "wrt: input\nstrategies:"))
    assert cli.main(["verify", str(scenario)]) == 2
    assert f"{scenario}:9:" in capfd.readouterr().err


def test_the_plan_file_trains_the_module_with_the_same_gradient_within_its_peak(
    scenario: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scenario.write_text(SCENARIO.partition("  - reverse_offload\n")[0])
    assert cli.main(["plan", str(scenario), "--max-overhead", "100%"]) == 0
    plan = json.loads(Path("plan.json").read_text())
    assert plan["recomputed"]
    torch.manual_seed(0)
    plain = models.resnet18(classes=10).train()
    planned = sim.torch.apply(copy.deepcopy(plain), "plan.json")
    x, labels = torch.randn(2, 3, 32, 32), torch.randint(0, 10, (2,))
    torch.nn.functional.cross_entropy(plain(x), labels).backward()
    planned(x)  # traced once, outside of what is measured
    planned.load_state_dict(copy.deepcopy(plain.state_dict()))
    with LiveBytes() as live:
        torch.nn.functional.cross_entropy(planned(x), labels).backward()
    for (name, p), q in zip(plain.named_parameters(), planned.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name
    own = 64  # the loss outside the plan, and the seed of its cotangent
    assert live.peak_bytes <= plan["working_bytes"] + own
