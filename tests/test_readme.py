"""The README is the front door, and the page of scenarios tells their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from pages import DOCS, PAGES, ROOT, blocks

import sim
from sim.base.units import parse_bytes
from sim.commands.cli import main
from sim.scenario import shipped

README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = (DOCS / "reference" / "scenarios.md").read_text(encoding="utf-8")
FRONTS = (DOCS / "explanation" / "planned-fronts.md").read_text(encoding="utf-8")
LONGEST = 150


def test_the_two_commands_stand_as_they_are_run() -> None:
    commands = [block.text.strip() for block in blocks(README) if block.language == "sh"]
    assert "pip install -e . && sim run scenarios/deep_mlp.yaml" in commands
    assert "pip install -e '.[test]' && pytest" in commands


def test_the_front_door_is_short() -> None:
    assert len(README.splitlines()) <= LONGEST


@pytest.mark.parametrize("name", shipped.names())
def test_every_shipped_scenario_is_told_of(name: str) -> None:
    assert f"`{name}`" in TABLE


def test_every_command_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    told = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert main(["--help"]) == 0
    listed = re.findall(r"^  (\w+)  +\S", capsys.readouterr().out.split("Commands:")[1], flags=re.MULTILINE)
    assert listed
    assert [c for c in listed if f"sim {c}" not in told] == []


ROWS = {
    found[1]: found[2]
    for found in re.finditer(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", TABLE, flags=re.MULTILINE)
    if found[2].strip()
}
SLOW = {"resnet50", "unet", "transformer", "time_stepper"}
UNIT = r"(?:[kMGTP]?(?:B|FLOP)|[mu]?s)"


def marked(names: Iterable[str]) -> list[object]:
    """The scenarios, those that take long marked as slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in sorted(names)]


@pytest.mark.parametrize("name", marked(ROWS.keys() - {"three_factors", "checkpointing", "regimes"}))
def test_the_numbers_of_the_table_are_printed_by_the_scenarios(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each amount; a size and its work on one line ("1.36 GB for 0.89 F", where F is one evaluation of the graph).

    What is said to be planned is met or beaten: searches get better.
    """
    assert main(["run", str(ROOT / "scenarios" / f"{name}.yaml"), "--no-plots", "-o", str(tmp_path), "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    exact, _, planned = ROWS[name].partition("planned: ")
    told = re.findall(rf"(\d[\d.]* {UNIT})(?: (?:in|for) ([\d.]+) F)?\b", exact)
    told += [(multiple, "") for multiple in re.findall(r"mode ([\d.]+) F", ROWS[name])]
    assert told
    if planned:
        amount, multiple = re.findall(rf"(\d[\d.]* {UNIT}) for ([\d.]+) F", planned)[0]
        head = next(re.split(r"  +", line.strip()) for line in lines if line.startswith("strategy"))
        rows = [dict(zip(head, re.split(r"  +", line.strip()), strict=False)) for line in lines if "optimal" in line]
        assert any(
            parse_bytes(row["working"]) <= parse_bytes(amount) and float(row["redone"]) <= float(multiple)
            for row in rows
        ), (amount, multiple)
    for amount, multiple in told:
        assert any({amount, multiple} - {""} <= {*re.split(r"  +", line.strip())} for line in lines), (amount, multiple)


def test_the_checkpointing_scenario_is_as_told() -> None:
    results = sim.run(sim.load(ROOT / "scenarios" / "checkpointing.yaml"))
    evaluations = {p.label: p.actions["forward"] for p in results.points}
    found = re.search(r"(\d+) checkpoints take (\d+) evaluations, sqrt (\d+)", ROWS["checkpointing"])
    assert found
    assert evaluations[f"binomial slots={found[1]}"] == int(found[2])
    assert evaluations["sqrt"] == int(found[3])
    shown = re.search(r"run scenarios/checkpointing.yaml`:\n(.+?):\n\n!\[(\w+) schedules", FRONTS, flags=re.DOTALL)
    assert shown
    pictures = results.views["pictures"]
    assert re.findall("`([^`]+)`", shown[1]) == [p["label"] for p in pictures]
    assert shown[2] == ("None", "One", "Two", "Three", "Four", "Five", "Six")[len(pictures)]


@pytest.mark.slow
def test_the_map_of_regimes_is_as_told() -> None:
    found = re.search(r"above (\d+) of both, mixed orders win by up to (\d+) times", ROWS["regimes"])
    assert found
    data = sim.run(sim.load(ROOT / "scenarios" / "regimes.yaml")).views["regimes"]
    cells = [
        (data["strategies"][data["winner"][j][i]]["strategy"], data["factor"][j][i], min(x, y) > int(found[1]))
        for j, y in enumerate(data["y"]["values"])
        for i, x in enumerate(data["x"]["values"])
    ]
    assert {strategy for strategy, _, above in cells if above} == {"jacobian_chain"}
    assert round(max(factor for _, factor, above in cells if above)) == int(found[2])
