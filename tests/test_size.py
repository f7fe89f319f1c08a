"""Graphs larger than the machine's memory: refused before anything is allocated, with both sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim.base.errors import GraphError, ParameterError
from sim.commands import cli
from sim.graphs import size
from sim.models.families import load

NESTED = {"block": [{"block": ["relu", {"add": [["tanh"], []]}], "times": 10**6}], "times": 10**6}


@pytest.mark.parametrize(
    ("family", "parameters", "key", "nodes"),
    [
        ("chain", {"length": 10**12}, "length", 10**12),
        ("mlp", {"widths": [3, {"repeat": 4, "times": 10**12}]}, "widths", 10**12 + 1),
        ("transformer", {"layers": 10**12, "hidden": 4, "heads": 1, "sequence": 2}, "layers", 12 * 10**12),
        ("cnn", {"layers": [NESTED], "image": [1, 2, 2]}, "layers", 3 * 10**12),
    ],
)
def test_a_graph_larger_than_memory_is_refused_at_its_parameter(
    family: str, parameters: dict[str, Any], key: str, nodes: int
) -> None:
    message = rf"{key}: .*{nodes} nodes would take .* this machine has"
    with pytest.raises((GraphError, ParameterError), match=message) as caught:
        load().call(family, **parameters)
    error: Any = caught.value
    assert key == (error.key if isinstance(error, GraphError) else error.parameter[0])


def test_what_fits_the_memory_to_the_byte_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size, "machine_bytes", lambda: 10 * size.LAYER_BYTES)
    assert len(load().call("chain", length=10)) == 10
    with pytest.raises(GraphError, match=r"11 nodes would take about 2\.75 kB of memory; this machine has 2\.50 kB"):
        load().call("chain", length=11)


def test_a_system_that_does_not_say_its_memory_limits_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size, "machine_bytes", lambda: None)
    assert size.excess(2**31 - 1) is None
    assert size.excess(2**31) == "2147483648 nodes cannot be numbered; expected at most 2147483647"


def test_a_scenario_larger_than_memory_is_one_message_at_its_place(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "large.yaml"
    file.write_text("version: 1\nname: large\ngraph:\n  kind: chain\n  length: 1e12\nstrategies: [reverse_full]\n")
    assert cli.main(["validate", str(file)]) == 2
    err = capfd.readouterr().err
    assert "large.yaml:5:" in err
    assert "1000000000000 nodes would take about 250 TB of memory; this machine has" in err
