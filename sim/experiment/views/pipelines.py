"""The runs of pipelines: what each rank does when, and how many micro-batches it holds."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from sim.base.json import Amount, Column, Measured, Number, rounded, words
from sim.experiment.measurements import MOST_PASSES, Measurements
from sim.experiment.views import view

SHOWN = 8


class Lane(TypedDict):
    """The work of one rank: a column a pass, and what it holds at its peak, in micro-batches and bytes.

    `held` is the most that it holds in each of equal stretches from 0 to the end of the last rank: bytes, or
    micro-batches where there are none. `done` is when it has ended its passes and collectives.
    """

    in_flight: Measured
    peak_bytes: NotRequired[Amount]
    part: Column
    stage: list[Amount]
    micro_batch: list[Amount]
    start: list[Measured]
    end: list[Measured]
    held: Annotated[list[Number], Field(min_length=1)]
    done: Measured


def _fitting(lane: Lane) -> Lane:
    lengths = {len(lane["part"]["of"]), *(len(lane[key]) for key in ("stage", "micro_batch", "start", "end"))}
    times = [t for span in zip(lane["start"], lane["end"], strict=False) for t in span]
    if len(lengths) != 1 or any(b < a for a, b in pairwise(times)):
        raise ValueError("columns of one length, whose spans follow one another")
    return lane


class PipelineRun(TypedDict):
    """The lanes of one pipeline, rank by rank; `seconds` and `bubble` are those of its point."""

    label: str
    strategy: str
    stages: Amount
    seconds: Measured
    bubble: Measured
    lanes: list[Annotated[Lane, AfterValidator(_fitting)]]


@view("pipelines", place=4, parallel=True)
def pipelines(run: Measurements) -> list[PipelineRun]:
    """The first few pipelines that are short enough to look at."""
    runs: list[PipelineRun] = []
    for point, trace, over_time in zip(run.points, run.pipelines, run.held, strict=True):
        if len(trace.schedule) > MOST_PASSES or len(runs) == SHOWN:
            continue
        share = trace.schedule.stages / trace.schedule.ranks
        peaks = {rank: r["peak_bytes"] for r in point.ranks for rank in r["ranks"] if "peak_bytes" in r}
        lanes = [
            Lane(
                in_flight=held / share,
                part=words([str(t.at.part) for t in passes]),
                stage=[t.at.stage for t in passes],
                micro_batch=[t.at.micro_batch for t in passes],
                start=[rounded(t.start) for t in passes],
                end=[rounded(t.end) for t in passes],
                held=[rounded(v) if isinstance(v, float) else v for v in of_rank.most],
                done=rounded(of_rank.done),
            )
            for held, passes, of_rank in zip(trace.schedule.in_flight(), trace.ranks, over_time, strict=True)
        ]
        for rank, peak in peaks.items():
            lanes[rank]["peak_bytes"] = peak
        runs.append(
            PipelineRun(
                label=point.label,
                strategy=point.strategy,
                stages=trace.schedule.stages,
                seconds=point.seconds or 0.0,
                bubble=point.bubble or 0.0,
                lanes=lanes,
            )
        )
    return runs
