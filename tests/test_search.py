"""The search over the ways to spread a job: its bounds, its front beside every configuration, and what it prints."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import graphs
from hypothesis import assume, given
from hypothesis import strategies as st
from pipelines import made

import sim
from sim.base import yaml as yamltext
from sim.base.document import DocumentError
from sim.base.pareto import front
from sim.commands.cli import main
from sim.commands.search import settings_of
from sim.experiment.run import compute
from sim.experiment.search import Found, search
from sim.graphs.graph import Graph
from sim.parallel.bounds import Bounds
from sim.parallel.cuts import cut, seconds_of
from sim.parallel.job import Plan, run
from sim.parallel.links import Link
from sim.parallel.pipeline import PARTS
from sim.parallel.sharding import Replicas
from sim.parallel.stages import Cutter, Gathers, RowTimes
from sim.scenario.scenario import Scenario, from_document
from sim.simulation.device import PRESETS

DEVICE = PRESETS["a100-80"]
TEXT = """\
version: 1
name: demo
graph: {kind: transformer, layers: 3, hidden: 16, heads: 2, sequence: 8, vocab: 16, batch: 1, loss: cross_entropy}
device: {preset: a100-40}
budget: 150 kB
optimizer: adam
parallel:
  pipeline: {stages: 2, schedule: [1f1b, zb_h1]}
  data: 2
  batch: 4
  link: {bandwidth: 25 GB/s, latency: 10 us}
"""
GPT = sim.transformer(layers=4, hidden=16, heads=2, sequence=8, vocab=16, dropout=0.1, loss="cross_entropy")


def scenario(text: str = TEXT) -> Scenario:
    return from_document(yamltext.parse(text, name="f.yaml"))


@pytest.fixture(scope="module")
def found() -> Found:
    return search(scenario(), 4)


@given(
    name=st.sampled_from(["gpipe", "1f1b", "zb_h1", "zb_v", "interleaved"]), ranks=st.integers(1, 2),
    groups=st.integers(1, 2), count=st.integers(1, 3), zero=st.sampled_from([0, 1, 2, 3]),
    how=st.sampled_from(["none", "selective", "block"]), latency=st.sampled_from([0.0, 1e-5]),
    preallocated=st.booleans(),
)  # fmt: skip
def test_bounds_are_below_what_is_simulated(
    name: str, ranks: int, groups: int, count: int, zero: Any, how: Any, latency: float, preallocated: bool
) -> None:
    graph = GPT.configured(optimizer="adam", preallocated_gradients=preallocated)
    replicas = Replicas(count=count, zero=zero if count > 1 else 0)
    plan = Plan(replicas=replicas, recompute=(how,), link=Link(bytes_per_s=1e9, latency_s=latency))
    schedule = made(name, ranks, ranks * groups)
    job = run(graph, schedule, plan, stages=ranks, device=DEVICE)
    bounds = Bounds(graph, plan, schedule, DEVICE)
    assert bounds.bytes(replicas) <= max(map(job.peak_bytes, range(ranks)))
    assert bounds.seconds <= job.seconds
    if preallocated and ranks == groups == count == 1 and name == "1f1b":
        assert bounds.bytes(replicas) == job.peak_bytes(0)
        assert bounds.seconds == pytest.approx(job.seconds)


@given(graph=graphs(wrt="parameters"), count=st.integers(1, 3), how=st.sampled_from(["none", "block"]))
def test_stages_that_differ_in_their_place_alone_are_those_laid_out_anew(graph: Graph, count: int, how: Any) -> None:
    assume(graph.output_scalars == 1 and len(graph.articulation_points) > count)
    _compare(graph, cut(graph, count), how)


@pytest.mark.parametrize("how", ["none", "selective", "block"])
def test_blocks_of_a_transformer_are_laid_out_once(how: Any) -> None:
    """Of four stages of a block each, the two in the middle are alike."""
    assert len(_compare(GPT, cut(GPT, 4, at_blocks=True), how).made) == 3


def _compare(graph: Graph, starts: tuple[int, ...], how: Any) -> Cutter:
    times = RowTimes.of(seconds_of(graph, DEVICE))
    cutter = Cutter(graph, times, gathers=Gathers(), gradient_dtype=None)
    cutter.made = {}
    for start, stop in itertools.pairwise(starts):
        again, anew = cutter.stage(start, stop, how), cutter._stage(start, stop, how)
        assert (again.span, again.forward, again.back, again.flops) == (anew.span, anew.forward, anew.back, anew.flops)
        assert again.owners == anew.owners
        for part in PARTS:
            for one, other in zip(again.profiles[part], anew.profiles[part], strict=True):
                assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other
    return cutter


def test_the_front_is_that_of_every_configuration(found: Found) -> None:
    """Each division of 4 devices, each micro-batch, ZeRO and recomputation, run as a scenario of its own."""
    costs = {}
    for tensor, pipeline, data in itertools.product((1, 2, 4), repeat=3):
        for micro_batch in (1, 2, 4) if tensor * pipeline * data == 4 and tensor < 4 else ():
            if 4 % (data * micro_batch):
                continue
            for zero, how in itertools.product((0, 1, 2, 3) if data > 1 else (0,), ("none", "selective", "block")):
                own = {
                    "graph.batch": micro_batch, "parallel.tensor": tensor, "parallel.data": data,
                    "parallel.sequence": "true" if tensor > 1 else "false", "parallel.zero": zero,
                    "parallel.recompute": how, "parallel.pipeline.stages": pipeline,
                }  # fmt: skip
                for point in compute(scenario().changed([f"{key}={value}" for key, value in own.items()])).points:
                    key = (tensor, pipeline, data, micro_batch, zero, how, point.label)
                    costs[key] = (point.peak_bytes, point.seconds or 0.0, point.fits)
    mine = {
        (c.tensor, c.pipeline, c.data, c.micro_batch, c.zero, c.recompute, c.schedule): c for c in found.configurations
    }
    assert set(mine) == set(costs)
    for key, (peak, seconds, fits) in costs.items():
        c = mine[key]
        if c.outcome in ("simulated", "does not fit"):
            assert (c.peak_bytes, c.seconds, c.outcome == "simulated") == (peak, seconds, fits)
        else:
            assert c.peak_bytes <= peak
            assert c.seconds <= seconds
    fitting = [(peak, seconds) for peak, seconds, fits in costs.values() if fits]
    assert {(c.peak_bytes, c.seconds) for c in found.front} == {fitting[k] for k in front(fitting)}
    assert found.count("bytes")
    assert found.count("seconds")


def test_the_settings_of_a_configuration_are_that_configuration(found: Found) -> None:
    for c in found.front:
        (point,) = compute(scenario().changed([s.removeprefix("--set=") for s in settings_of(c)])).points
        assert (point.peak_bytes, point.seconds) == (c.peak_bytes, c.seconds)


def test_what_is_finished_is_there_before_the_end() -> None:
    steps: list[tuple[int, bool, int]] = []
    search(scenario(), 2, progress=lambda f, groups, done: steps.append((len(f.configurations), f.complete, groups)))
    assert [complete for _, complete, _ in steps] == [False] * (len(steps) - 1) + [True]
    assert steps[-1][2] == len(steps)
    assert steps[0][0] < steps[-1][0]


def test_configurations_with_too_many_passes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.experiment.search.MOST_PASSES", 6)
    few = search(scenario(), 2)
    assert all(3 * c.pipeline * c.micro_batches <= 6 for c in few.configurations)
    assert any("makes 24 passes, expected at most 6" in why for why in few.impossible)


def test_search_prints_the_front_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f.yaml").write_text(TEXT)
    assert main(["search", "f.yaml", "--devices", "2", "--jobs", "1"]) == 0
    out, told = capsys.readouterr()
    data = json.loads(Path("outputs/demo/search/search.json").read_text())
    assert out.splitlines()[0] == "demo: 2 devices of 150 kB, 4 samples a step"
    assert len(out.splitlines()) == 3 + sum(data["configurations"]["front"])
    assert f"{len(data['configurations']['front'])} configurations: " in told
    assert {p.name for p in Path("outputs/demo/search").iterdir()} == {"search.json", "search.png", "search.svg"}
    assert main(["search", "f.yaml", "--devices", "2", "--jobs", "1", "-f", "json", "--no-plots", "-q"]) == 0
    assert json.loads(capsys.readouterr().out) == data
    assert main(["search", "f.yaml", "--jobs", "1", "--set", "budget=1 kB", "--no-plots"]) == 3
    assert "nothing fits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("device: {preset: a100-40}\n", "", "needs a device"),
        ("schedule: [1f1b, zb_h1]", "schedule: 1f1b, cuts: [block0.mlp.add]", "cuts"),
        ("data: 2", "strategies: [reverse_full]", "strategies"),
    ],
)
def test_what_cannot_be_searched_says_why(before: str, after: str, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        search(scenario(TEXT.replace(before, after)), 4)
