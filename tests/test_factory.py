"""Where the factories of a person's own models are looked for, and that scenarios keep their modules apart."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.base.errors import GraphError
from sim.commands import cli
from sim.models import factory, importers
from sim.models.factory import find, parse
from sim.scenario import scenario

SCENARIO = """\
version: 1
name: own
graph:
  kind: torch
  factory: "own_net:make"
  inputs: {input: {shape: [4, 3]}}
  loss: sum
strategies: [reverse_full]
"""
NET = "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Linear(3, WIDTH), nn.ReLU())\n"


@pytest.fixture(autouse=True)
def _modules_as_before() -> Iterator[None]:
    before, path = dict(sys.modules), list(sys.path)
    yield
    assert sys.path == path
    for name in set(sys.modules) - set(before):
        if name.startswith("own_"):
            del sys.modules[name]
    factory._loaded.clear()


def folder(path: Path, **modules: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in modules.items():
        (path / f"{name}.py").write_text(text)
    return path


def called(where: Path, name: str = "own_net:make") -> object:
    return find(parse(name).beside(where))()


def says(value: str) -> str:
    return f"def make():\n    return {value!r}\n"


def test_a_module_beside_the_scenario_comes_before_one_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder(tmp_path / "here", own_net=says("here"), own_other=says("other")))
    beside = folder(tmp_path / "scenarios", own_net=says("beside"))
    assert called(beside) == "beside"
    assert called(beside, "own_other:make") == "other"
    assert find("own_net:make")() == "here"


def test_scenarios_of_two_folders_keep_modules_of_one_name_apart(tmp_path: Path) -> None:
    net = "import own_layers\nfrom own_package.inner import WHO\n\n"
    net += "def make():\n    import own_late\n    return own_layers.WHO + WHO + own_late.WHO\n"
    for who in "ab":
        told = f"WHO = {who!r}\n"
        folder(tmp_path / who, own_net=net, own_layers=told, own_late=told)
        folder(tmp_path / who / "own_package", __init__="", inner=told)
    first, second = (find(parse("own_net:make").beside(tmp_path / who)) for who in "ab")
    assert [first(), second(), first()] == ["aaa", "bbb", "aaa"]
    assert called(tmp_path / "b") == "bbb"


def test_a_module_is_imported_once(tmp_path: Path) -> None:
    folder(
        tmp_path, own_net="from pathlib import Path\n\nTIMES = []\ndef make():\n    TIMES.append(1)\n    return TIMES\n"
    )
    assert called(tmp_path) is called(tmp_path)


def test_a_module_that_was_imported_from_elsewhere_stays_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(folder(tmp_path / "elsewhere", own_net=says("elsewhere")))
    import own_net

    assert called(folder(tmp_path / "scenarios", own_net=says("beside"))) == "beside"
    assert sys.modules["own_net"] is own_net
    assert called(tmp_path / "elsewhere") == "elsewhere"
    assert sys.modules["own_net"] is own_net


def test_what_was_looked_for_in_vain_is_said_with_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, beside = folder(tmp_path / "here"), folder(tmp_path / "scenarios")
    monkeypatch.chdir(here)
    with pytest.raises(GraphError) as raised:
        called(beside)
    message = "factory: own_net:make: there is no module 'own_net'; looked beside the scenario ({}), "
    message += "in the current folder ({}) and among what is installed"
    assert str(raised.value) == message.format(beside, here)
    with pytest.raises(GraphError, match=r"looked beside the scenario \([^)]*\) and among what is installed"):
        called(here)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import own_dependency\n", "importing 'own_net' raised ModuleNotFoundError: No module named 'own_dependency'"),
        ("raise SystemExit(3)\n", "importing 'own_net' raised SystemExit: 3"),
        ("def make():\n    raise RuntimeError('no data')\n", "factory: own_net:make raised RuntimeError: no data"),
        ("", "has no 'make'"),
        ("make = 3\n", "factory: own_net:make is int, expected a function"),
    ],
)
def test_a_module_at_fault_is_told_from_one_that_is_missing(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(GraphError) as raised:
        called(folder(tmp_path, own_net=text))
    assert message in str(raised.value)
    assert "looked" not in str(raised.value)


def test_a_scenario_finds_its_model_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="needs torch: pip install 'ad-tradeoff-sim[torch]'")
    for width in (5, 7):
        where = folder(tmp_path / f"w{width}", own_net=NET.replace("WIDTH", str(width)))
        (where / "own.yaml").write_text(SCENARIO)
    monkeypatch.chdir(folder(tmp_path / "here"))
    for width in (5, 7):
        file = tmp_path / f"w{width}" / "own.yaml"
        assert scenario.load(file).build_graph().nodes[0].output_shape == (4, width)
        assert cli.main(["verify", str(file)]) == 0
        assert cli.main(["run", str(file), "--no-plots"]) == 0
        assert cli.main(["plan", str(file), "--max-overhead", "50%"]) == 0
    capfd.readouterr()
    (tmp_path / "w5" / "own_net.py").rename(tmp_path / "w5" / "own_other.py")
    (tmp_path / "w5" / "own.yaml").write_text(SCENARIO.replace("own_net", "own_lost"))
    assert cli.main(["run", str(tmp_path / "w5" / "own.yaml")]) == 2
    err = capfd.readouterr().err
    assert "own.yaml:5:" in err
    assert f"looked beside the scenario ({tmp_path / 'w5'})" in err


def test_every_importer_is_found_under_the_name_of_its_folder() -> None:
    assert set(importers.load()) == {file.parent.name for file in Path(importers.__file__).parent.glob("*/importer.py")}
