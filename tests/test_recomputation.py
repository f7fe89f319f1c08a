"""Recomputation chosen for a limit of bytes: within it, no slower than other choices of first blocks, and where."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipelines import made

import sim
from sim.base import yaml as yamltext
from sim.base.errors import ParameterError
from sim.experiment.run import compute
from sim.parallel import job as jobs
from sim.parallel.job import JobTrace, Plan, run
from sim.parallel.links import Link
from sim.parallel.times import Times
from sim.scenario.scenario import from_document

DEVICE = sim.device("h100-sxm")
GPT = sim.transformer(
    layers=6, hidden=16, heads=2, sequence=32, vocab=16, dropout=0.1, loss="cross_entropy"
).configured(optimizer="adam")
SMALL = sim.transformer(layers=2, hidden=16, heads=2, sequence=32, vocab=16, loss="cross_entropy").configured(
    optimizer="adam"
)
LINK = Link(bytes_per_s=1e9)


def job(name: str, ranks: int, micro_batches: int, recompute: Any, limit: int | None = None) -> JobTrace:
    schedule = made(name, ranks, micro_batches)
    plan = Plan(recompute=(recompute,), link=LINK)
    return run(GPT, schedule, plan, stages=ranks, device=DEVICE, limit_bytes=limit)


def peak(trace: JobTrace) -> int:
    return max(map(trace.peak_bytes, range(trace.pipeline.schedule.ranks)))


@given(name=st.sampled_from(["1f1b", "gpipe", "zb_h1", "interleaved"]), ranks=st.integers(1, 3), share=st.floats(0, 1))
def test_it_keeps_to_the_limit_where_recomputing_every_block_does(name: str, ranks: int, share: float) -> None:
    """And takes no more time than recomputing every block, which it may have to."""
    all_kept, all_again = job(name, ranks, 2 * ranks, "none"), job(name, ranks, 2 * ranks, "block")
    limit = int(peak(all_again) + share * (peak(all_kept) - peak(all_again)))
    chosen = job(name, ranks, 2 * ranks, "optimal", limit)
    assert peak(chosen) <= max(limit, peak(all_again))
    assert chosen.seconds <= all_again.seconds * (1 + 1e-9) or peak(all_again) > limit
    assert chosen.seconds >= all_kept.seconds * (1 - 1e-9)


def first_blocks(count: int) -> Iterator[tuple[str, ...]]:
    """Yield so many whole blocks, then so many selective ones, then none."""
    for whole, part in itertools.product(range(count + 1), repeat=2):
        if whole + part <= count:
            yield ("block",) * whole + ("selective",) * part + ("none",) * (count - whole - part)


def test_no_choice_of_first_blocks_that_fits_is_faster() -> None:
    """Of two ranks every number of whole and of selective blocks on each is simulated."""
    schedule, plan = made("1f1b", 2, 4), Plan(recompute=("none",), link=LINK)
    own = jobs._Job(SMALL, schedule, plan, 2, DEVICE, None)
    stages = own.simulate(None).stages
    ways = [list(first_blocks(len(list(own.cutter.blocks(*stage.span))))) for stage in stages]
    every = [own.simulate(hows) for hows in itertools.product(*ways)]  # type: ignore[arg-type]
    peaks = sorted({peak(trace) for trace in every})
    for limit in peaks:
        optimal = dataclasses.replace(plan, recompute=("optimal",))
        chosen = run(SMALL, schedule, optimal, stages=2, device=DEVICE, limit_bytes=limit)
        best = min(trace.seconds for trace in every if peak(trace) <= limit)
        assert peak(chosen) <= limit
        assert chosen.seconds <= best * 1.02


def test_early_stages_recompute_more() -> None:
    """Rank i of 1F1B holds p - i micro-batches, so that what is kept of each is less on the first."""
    limit = (peak(job("1f1b", 3, 6, "none")) + peak(job("1f1b", 3, 6, "block"))) // 2
    hows = job("1f1b", 3, 6, "optimal", limit).recompute
    assert hows is not None
    again = [sum(how != "none" for how in of_stage) for of_stage in hows]
    assert again[0] > again[1] >= again[2]
    assert again[2] == 0


def test_without_need_nothing_is_recomputed() -> None:
    for limit in (None, 10**12):
        chosen = job("1f1b", 2, 4, "optimal", limit)
        assert chosen.recompute is None
        assert chosen.seconds == job("1f1b", 2, 4, "none").seconds


def test_it_is_refused_where_it_has_no_price_or_no_place() -> None:
    with pytest.raises(ParameterError, match="each stage on one rank"):
        job("dualpipe", 2, 4, "optimal", 1)
    times = Times(forward=(1.0,), input_vjp=(1.0,), weight_vjp=(1.0,))
    with pytest.raises(ParameterError, match="no price where times are given"):
        run(GPT, made("1f1b", 2, 4), Plan(recompute=("optimal",)), stages=2, times=times)


def test_results_tell_which_blocks_are_evaluated_again() -> None:
    text = """\
version: 1
name: demo
graph: {kind: transformer, layers: 6, hidden: 16, heads: 2, sequence: 32, vocab: 16, loss: cross_entropy}
device: a100-40
budget: 400 kB
optimizer: adam
parallel:
  pipeline: {stages: 2, schedule: 1f1b, micro_batches: 4}
  recompute: optimal
"""
    (point,) = compute(from_document(yamltext.parse(text, name="f.yaml"))).points
    assert point.fits
    assert point.notes["recompute"].startswith("blocks of each stage: ")
