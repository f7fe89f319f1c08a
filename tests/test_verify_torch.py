"""`sim verify` and `sim plan` on PyTorch modules: predicted peaks are measured, and a plan file trains the module."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'ad-tradeoff-sim[torch]'")

import models  # noqa: E402

import sim.torch  # noqa: E402
from sim import cli, verification_torch  # noqa: E402
from sim.execute.torch_memory import LiveBytes  # noqa: E402

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


def test_every_point_is_run_or_told_why_not(scenario: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["verify", str(scenario), "--format", "json"])
    data = json.loads(capfd.readouterr().out)
    assert (code, data["engine"]) == (0, "PyTorch (CPU)")
    *run, forward = data["points"]
    for point in run:
        peak, flops, gradient = point["checks"]
        assert point["ok"]
        assert abs(peak["measured"] - peak["predicted"]) <= 0.01 * peak["predicted"]
        assert flops["measured"] == flops["predicted"]
        assert gradient["error"] <= gradient["tolerance"]
    assert len(run) == 3
    assert "one sweep" in forward["skipped"]


def test_memory_that_is_held_too_long_is_found(
    scenario: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = verification_torch.TorchVerifier._run

    def holding(self: object, *arguments: object) -> object:
        gradients, peak, seconds = run(self, *arguments)  # type: ignore[arg-type]
        return gradients, peak * 102 // 100, seconds

    monkeypatch.setattr(verification_torch.TorchVerifier, "_run", holding)
    assert cli.main(["verify", str(scenario)]) == 1
    assert "off: reverse_full: peak bytes: " in capfd.readouterr().err


def test_a_gradient_that_is_off_is_found(
    scenario: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = verification_torch.TorchVerifier._plain

    def other(self: object) -> object:
        seconds, gradients = plain(self)  # type: ignore[arg-type]
        return seconds, {name: 1.001 * g for name, g in gradients.items()}

    monkeypatch.setattr(verification_torch.TorchVerifier, "_plain", other)
    assert cli.main(["verify", str(scenario)]) == 1
    assert "off: reverse_full: gradient: " in capfd.readouterr().err


def test_a_module_without_a_loss_is_refused_at_its_place(scenario: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scenario.write_text(SCENARIO.replace("  loss: cross_entropy\n", ""))
    assert cli.main(["verify", str(scenario)]) == 2
    err = capfd.readouterr().err
    assert f"{scenario}:4:" in err
    assert "does not end in a scalar" in err


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
