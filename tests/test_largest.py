"""The largest value of a key that fits a budget, against trying every value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sim
from sim.base.errors import GraphError, ParameterError
from sim.commands import cli
from sim.experiment.choose import NothingFits, planned_front
from sim.experiment.largest import largest
from sim.schedules.replay import replay

MLP: dict[str, Any] = {
    "version": 1,
    "name": "m",
    "graph": {"kind": "mlp", "widths": [8, 16, 16, 16, 4], "batch": 3, "loss": "mse"},
    "strategies": ["reverse_full", "reverse_offload"],
}
RESIDUAL: dict[str, Any] = {
    "version": 1,
    "name": "r",
    "graph": {"kind": "cnn", "preset": "resnet18", "image": [3, 16, 16], "batch": 2, "loss": "cross_entropy"},
    "strategies": [{"reverse_checkpointed": {"schedule": "sqrt"}}],
}


def smallest(scenario: dict[str, Any], batch: int) -> int:
    """The smallest peak of the planner and of the scenario's strategies with that batch."""
    loaded = sim.load(scenario | {"graph": scenario["graph"] | {"batch": batch}})
    graph = loaded.build_graph()
    return min(planned_front(graph).peak_bytes[0], *(replay(p.schedule(graph)).peak_bytes for p in loaded.points))


@pytest.mark.parametrize("bytes_more", [0, 1, 5000])
def test_it_is_the_last_value_that_fits(bytes_more: int) -> None:
    for last in (1, 2, 3, 7, 16):
        budget = smallest(MLP, last) + bytes_more
        expected = next(v for v in range(last, 200) if smallest(MLP, v + 1) > budget)
        fits = largest(sim.load(MLP), "graph.batch", budget_bytes=budget)
        assert fits[0].value == expected
        assert [fit.value for fit in fits] == list(dict.fromkeys(max(1, expected // k) for k in (1, 2, 4, 8)))
        assert all(fit.choice.chosen.peak_bytes <= budget for fit in fits)
        assert all(fit.graph.batch == fit.value for fit in fits)


def test_on_a_general_graph_it_fits_and_the_next_does_not() -> None:
    budget = smallest(RESIDUAL, 9)
    value = largest(sim.load(RESIDUAL), "graph.batch", budget_bytes=budget)[0].value
    assert value >= 9
    assert smallest(RESIDUAL, value) <= budget < smallest(RESIDUAL, value + 1)


def test_what_cannot_be_varied_is_refused() -> None:
    scenario = sim.load(MLP)
    with pytest.raises(ParameterError, match=r"graph\.loss is 'mse', expected a key that holds a whole number"):
        largest(scenario, "graph.loss", budget_bytes=10**6)
    with pytest.raises(ParameterError, match="there is no 'depth' there"):
        largest(scenario, "graph.depth.x", budget_bytes=10**6)
    with pytest.raises(NothingFits, match=r"nothing fits the budget of 1\.00 kB even with graph\.batch=1"):
        largest(scenario, "graph.batch", budget_bytes=1000)
    chain = sim.load(MLP | {"graph": {"kind": "chain", "length": 5}, "strategies": ["reverse_full"]})
    with pytest.raises(GraphError, match="changes which nodes there are"):
        largest(chain, "graph.length", budget_bytes=10**6)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(arguments)
        return code, *capfd.readouterr()

    return call


def test_the_command_tells_the_table_and_writes_the_plan(run: Callable[..., Any]) -> None:
    code, out, err = run("plan", "deep_mlp", "--max-batch", "--budget", "40MB", "-q", "-o", "p.json")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].split()[:2] == ["graph.batch", "plan"]
    value = int(lines[1].split()[0].replace(",", ""))
    assert f"graph.batch={value:,} is the largest at which a plan was found; none was at {value + 1:,}" in lines
    assert Path("p.json").exists()
    assert run("plan", "deep_mlp", "--max-batch", "--budget", "2MB", "-q")[0] == 3
    code, _, err = run("plan", "deep_mlp", "--max", "graph.batch", "--max-overhead", "5%", "--set", "device=")
    assert code == 2
    assert "--max: the largest value is that within a budget" in err
