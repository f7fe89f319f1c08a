"""The README tells the truth: its commands, its numbers and its examples are run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sim.cli import main
from sim.schedule import replay

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
    (example,) = [b for b in blocks("python") if "import sim\n" in b]
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == re.search(r"# (\d+ \d+)", example)[1]  # type: ignore[index]
    assert "('jacobian_chain forward', 44000), ('jacobian_chain reverse', 8800)" in printed[2]


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
