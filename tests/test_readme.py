"""The README tells the truth: its commands, its numbers and its examples are run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sim.commands.cli import main
from sim.schedules.schedule import replay

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def test_the_two_commands_stand_as_they_are_run() -> None:
    commands = [block.strip() for block in blocks("sh")]
    assert "pip install -e . && sim run scenarios/deep_mlp.yaml" in commands
    assert "pip install -e '.[test]' && pytest" in commands


@pytest.mark.parametrize("block", blocks("console"), ids=lambda b: b.splitlines()[0])
def test_a_session_prints_what_the_readme_shows(
    block: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, _, shown = block.partition("\n")
    monkeypatch.chdir(ROOT)
    assert main([*command.removeprefix("$ sim ").split(), "--no-plots", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.rstrip() == shown.rstrip()


def test_the_scenario_is_valid(tmp_path: Path) -> None:
    (scenario,) = [b for b in blocks("yaml") if "version: 1" in b]
    path = tmp_path / "my_model.yaml"
    path.write_text(scenario)
    assert main(["validate", str(path)]) == 0


def test_the_library_example_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (example,) = [b for b in blocks("python") if "sim.load(" in b]
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == re.search(r"# (\d+ \d+)", example)[1]  # type: ignore[index]
    assert "('jacobian_chain forward', 44000), ('jacobian_chain reverse', 8800)" in printed[2]


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_training_under_a_plan_is_training(framework: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(framework, reason=f"needs the extra {framework}")
    (example,) = [b for b in blocks("python") if f"import sim.{framework}\n" in b]
    exec(compile(example, "README.md", "exec", dont_inherit=True), {"__name__": "readme"})
    printed = capsys.readouterr().out.split()
    assert printed[-1] == "True"
    if framework == "torch":
        full, planned = map(int, printed[:2])
        assert planned <= 0.8 * full


def test_the_strategy_to_add_works_as_it_stands() -> None:
    import sim
    from sim.strategies import strategies

    (example,) = [b for b in blocks("python") if "@strategies.register" in b]
    try:
        exec(compile(example, "README.md", "exec", dont_inherit=True), {"__name__": "readme"})
        flops = replay(sim.schedule(sim.chain(length=3), "reverse_twice", times=4)).flops
    finally:
        strategies.forget("reverse_twice")
    assert (flops.primal, flops.recompute, flops.adjoint) == (3, 9, 3)


@pytest.mark.parametrize("scenario", sorted((ROOT / "scenarios").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_scenario_is_told_of(scenario: Path) -> None:
    assert scenario.name in README


def test_every_picture_is_there() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert pictures
    assert all((ROOT / p).is_file() and p.startswith("outputs/gallery/") for p in pictures)


def test_every_command_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = re.findall(r"^  (\w+)  +\S", capsys.readouterr().out.split("Commands:")[1], flags=re.MULTILINE)
    assert listed
    assert [c for c in listed if f"sim {c}" not in README] == []


CLAIMS = [
    ("resnet50", "reverse_full", {}, "2.76 GB", None),
    ("resnet50", "reverse_checkpointed", {"schedule": "sqrt"}, "1.36 GB", "0.89 F"),
    ("resnet50", "reverse_checkpointed", {"schedule": "optimal", "budget": 1_220_000_000}, "891 MB", "0.33 F"),
    ("vgg19", "reverse_checkpointed", {"schedule": "sqrt"}, "2.22 GB", "0.95 F"),
    ("vgg19", "reverse_checkpointed", {"schedule": "optimal"}, "1.81 GB", "0.10 F"),
    ("unet", "reverse_full", {}, "992 MB", None),
    ("unet", "reverse_checkpointed", {"schedule": "sqrt"}, "558 MB", "0.76 F"),
    ("unet", "reverse_checkpointed", {"schedule": "optimal", "budget": 819_000_000}, "438 MB", "0.57 F"),
    ("transformer", "reverse_checkpointed", {"schedule": "sqrt"}, "4.48 GB", "0.62 F"),
    ("transformer", "reverse_checkpointed", {"schedule": "optimal", "budget": 5_570_000_000}, "4.07 GB", "0.44 F"),
    ("time_stepper", "reverse_full", {}, "3.20 TB", None),
    ("time_stepper", "reverse_checkpointed", {"schedule": "binomial", "slots": 5}, "80.0 MB", None),
    ("fan_out", "forward_cached", {}, "89.6 MFLOP", None),
    ("fan_out", "reverse_full", {}, "18.4 GFLOP", None),
    ("hourglass", "forward_cached", {}, "2.19 GFLOP", None),
    ("hourglass", "jacobian_chain", {"order": "optimal"}, "92.6 MFLOP", None),
]


@pytest.mark.parametrize(("name", "strategy", "parameters", "amount", "redone"), CLAIMS)
def test_the_numbers_of_the_table_are_those_of_the_scenarios(
    name: str, strategy: str, parameters: dict[str, object], amount: str, redone: str | None
) -> None:
    import sim
    from sim.base.units import format_bytes, format_flops

    (row,) = [line for line in README.splitlines() if line.startswith(f"| `{name}.yaml`")]
    graph = sim.load(ROOT / "scenarios" / f"{name}.yaml").build_graph()
    cost = replay(sim.schedule(graph, strategy, **parameters))
    assert amount in row
    assert amount in (format_bytes(cost.working_bytes), format_flops(cost.flops.total))
    if redone is not None:
        assert redone in row
        assert f"{cost.flops.recompute / graph.forward_flops:.2f} F" == redone
