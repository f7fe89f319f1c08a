"""Points that stand for a planned front, and the curves that are drawn beneath them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

import sim
from sim.base import files
from sim.base.yaml import parse
from sim.commands.cli import main
from sim.experiment.fronts import stand_ins
from sim.experiment.results import Results
from sim.experiment.run import run
from sim.graphs.graph import Graph
from sim.scenario.points import StrategyPoint
from sim.scenario.scenario import from_document
from sim.schedules.replay import replay
from sim.simulation.device import device

HEAD = "version: 1\nname: fronts\n"
FIXED = """\
  - reverse_full
  - reverse_checkpointed: {schedule: sqrt}
  - reverse_checkpointed: {schedule: uniform, segments: {from: 2, to: 6}}
  - reverse_checkpointed: {schedule: binomial, slots: {from: 1, to: 6}}
"""
GRAPHS = {
    "a chain": "graph: {kind: chain, length: 12, activation_bytes: [9, 2, 7, 1, 8, 3, 6, 4, 5, 9, 2, 7]}\n",
    "an mlp": "graph: {kind: mlp, widths: [8, 30, 9, 25, 7, 20, 6], batch: 4, loss: mse}\n",
    "a dag": "graph: {kind: transformer, layers: 2, hidden: 8, heads: 2, sequence: 4, vocab: 7, loss: cross_entropy}\n",
}


def results(text: str) -> Results:
    return run(from_document(parse(HEAD + text, name="f.yaml")))


def point(**parameters: object) -> StrategyPoint:
    return StrategyPoint("reverse_checkpointed", parameters)


def chain() -> Graph:
    return sim.chain(length=12, activation_bytes=[9, 2, 7, 1, 8, 3, 6, 4, 5, 9, 2, 7])


def test_a_front_becomes_points_whose_peaks_are_their_budgets() -> None:
    graph = chain()
    ran = stand_ins(point(schedule="optimal", points=5), graph, None)
    costs = [replay(p.schedule(graph)) for p in ran]
    assert len(ran) == 5
    assert [c.peak_bytes for c in costs] == [p.parameters["budget"] for p in ran]
    assert all(a.peak_bytes < b.peak_bytes and a.flops.total > b.flops.total for a, b in pairwise(costs))


@pytest.mark.parametrize("parameters", [{"schedule": "optimal", "budget": 10**6}, {"schedule": "sqrt"}])
def test_a_point_that_is_no_front_is_run_as_it_is(parameters: dict[str, object]) -> None:
    assert stand_ins(point(**parameters), chain(), device("h100-sxm")) == [point(**parameters)]


@pytest.mark.parametrize("graph", GRAPHS)
def test_no_fixed_schedule_lies_below_the_planned_curve_nor_the_curve_below_its_bound(graph: str) -> None:
    found = results(GRAPHS[graph] + "strategies:\n" + FIXED + "  - reverse_checkpointed: {schedule: optimal}\n")
    exact, bound = (c["breakpoints"] for c in found.views["curves"])
    for p in found.points:
        least = min((flops for peak, flops in exact if peak <= p.peak_bytes), default=None)
        assert least is not None
        assert least <= p.flops["total"]
    assert all(low[0] == high[0] and low[1] <= high[1] for low, high in zip(bound, exact, strict=True))
    planned = [[p.peak_bytes, p.flops["total"]] for p in found.points if p.parameters.get("schedule") == "optimal"]
    assert all(pair in exact for pair in planned)


def test_orders_of_products_within_memory_are_spread_over_their_front() -> None:
    graph = sim.chain(sizes=[10, 2, 100, 20, 3])
    wanted = StrategyPoint("jacobian_chain", {"order": "optimal_in_memory"})
    ran = stand_ins(wanted, graph, None)
    pairs = [(c.peak_bytes, c.flops.total) for c in (replay(p.schedule(graph)) for p in ran)]
    assert [peak for peak, _ in pairs] == [p.parameters["budget"] for p in ran]
    asked = "strategies:\n  - jacobian_chain: {order: optimal_in_memory}\n"
    (curve,) = results("graph: {kind: chain, sizes: [10, 2, 100, 20, 3]}\n" + asked).views["curves"]
    assert curve["breakpoints"] == [list(p) for p in pairs]


def test_copies_are_priced_by_the_links_of_the_device_unless_prices_are_given() -> None:
    graph = sim.chain(length=9, forward_flops=100, activation_bytes=8)
    # a step takes 100 / 50 = 2 s, the copy of 8 bytes 8 s out and 4 s back: 4 and 2 steps
    link = device(
        {
            "flops": "50 FLOP/s", "bandwidth": "1 TB/s", "to_host": "1 B/s", "from_host": "2 B/s",
            "overhead": "0 s", "copy_latency": "0 s",
        }
    )  # fmt: skip
    (filled,) = stand_ins(point(schedule="multilevel", slots=2, host_slots=2), graph, link)
    assert (filled.parameters["write_cost"], filled.parameters["read_cost"]) == (4, 2)
    assert filled.label == "multilevel slots=2 host_slots=2"
    given = point(schedule="multilevel", slots=2, host_slots=2, write_cost=7.0)
    (kept,) = stand_ins(given, graph, link)
    assert kept.parameters == given.parameters


def test_seconds_are_minimised_on_the_device_and_such_a_scenario_is_valid(tmp_path: Path) -> None:
    # flops cost nothing and bytes everything: what is cheapest in seconds is not what is cheapest in flops
    text = HEAD + (
        "graph: {kind: chain, length: 6, forward_flops: [9, 1, 9, 1, 9, 1], activation_bytes: [1, 90, 1, 90, 1, 90]}\n"
        "device: {flops: 1 TFLOP/s, bandwidth: 1 B/s, to_host: 1 B/s, from_host: 1 B/s, overhead: 0 s}\n"
        "strategies:\n  - reverse_checkpointed: {schedule: optimal, minimize: [flops, seconds]}\n"
    )
    path = tmp_path / "s.yaml"
    path.write_text(text)
    assert main(["validate", str(path)]) == 0
    points = run(from_document(parse(text, name="f.yaml"))).points
    by: dict[str, dict[int, float]] = {"flops": {}, "seconds": {}}
    for p in points:
        assert p.seconds is not None
        by[p.parameters.get("minimize", "flops")][p.peak_bytes] = p.seconds
    gains = [s / min(t for m, t in by["seconds"].items() if m <= peak) for peak, s in by["flops"].items()]
    assert min(gains) >= 1 - 1e-9
    assert max(gains) > 1.01


def test_figures_of_an_earlier_run_do_not_stay_beside_new_results(tmp_path: Path) -> None:
    files.write(tmp_path / "pareto.png", b"new")
    for name in ("trace.json", "timeline.png", "mine.txt"):
        files.write(tmp_path / name, "old")
    files.remove(tmp_path, ("timeline.png", "trace.json", "absent.png"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.txt", "pareto.png"]


@pytest.mark.parametrize(("loss", "told"), [("none", True), ("sum", False)])
def test_many_gradients_a_parameter_are_pointed_out(
    loss: str, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(HEAD + f"graph: {{kind: mlp, widths: [3, 5], loss: {loss}}}\nstrategies: [reverse_full]\n")
    assert main(["run", str(path), "--no-plots", "--output", str(tmp_path / "out")]) == 0
    assert ("each parameter has 5 gradients" in capsys.readouterr().err) == told
