"""Pipelines of many ranks: seconds of processor time to make a schedule, run it, and to lay out what ranks hold.

Run `python tests/benchmarks/bench_pipelines.py`. 10,000 ranks with times that all differ and 500 micro-batches under
1F1B are 1,000 passes a rank; the model of 405 B parameters is on pipeline 16, tensor 8, data 8, with 128 micro-batches.
Compiled kernels are loaded before. The search is for 64 devices of Llama 3 8B, on one core.
"""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable
from typing import TypeVar

import sim
from sim.experiment.search import search
from sim.models.families.transformer import transformer
from sim.models.shards import Shards
from sim.parallel.job import Plan, run
from sim.parallel.links import Link
from sim.parallel.schedules import Shape, load
from sim.parallel.sharding import Precision, Replicas
from sim.parallel.simulate import simulate
from sim.parallel.times import Times
from sim.scenario.scenario import load as load_scenario

T = TypeVar("T")


def timed(what: str, task: Callable[[], T]) -> T:
    began = time.process_time()
    result = task()
    print(f"{what:50} {time.process_time() - began:6.2f} s")
    return result


def many_timelines(ranks: int, micro_batches: int) -> None:
    draw = random.Random(0)
    of_ranks = [tuple(draw.random() for _ in range(ranks)) for _ in range(3)]
    times = Times(forward=of_ranks[0], input_vjp=of_ranks[1], weight_vjp=of_ranks[2], send=0.1)
    shape = Shape(ranks=ranks, micro_batches=micro_batches)
    schedule = timed(f"1F1B of {ranks} ranks, {micro_batches} micro-batches", lambda: load()["1f1b"].function(shape))
    trace = timed("  its run", lambda: simulate(schedule, times.clock(schedule.homes)))
    timed("  what ranks hold, and the bubble", lambda: (schedule.in_flight(), trace.bubble))


def large_model() -> None:
    """Llama 3 405B without grouped queries, in shards of 8 on one link."""
    graph = transformer(
        layers=126, hidden=16384, heads=128, sequence=8192, vocab=128256, mlp_ratio=3.25, attention="flash",
        dtype="bfloat16", loss="cross_entropy", shards=Shards(8, sequence=True),
    ).configured(wrt="parameters", optimizer="adam")  # fmt: skip
    plan = Plan(
        replicas=Replicas(count=8, zero=1), tensor=8, sequence=True, link=Link(bytes_per_s=50e9, latency_s=10e-6),
        recompute=("block",), precision=Precision(gradients="float32", main="float32", optimizer="float32"),
    )  # fmt: skip

    def job() -> None:
        schedule = load()["1f1b"].function(Shape(ranks=16, micro_batches=128))
        run(graph, schedule, plan, stages=16, device=sim.device("h100-sxm"))

    job()
    timed("405 B parameters on 16 x 8 x 8 ranks, 128 micro-batches", job)


def front() -> None:
    scenario = load_scenario("llama3_8b_fsdp", changes=["parallel.pipeline.micro_batches=16"])
    found = timed("search for 64 devices, 256 samples a step", lambda: search(scenario, 64))
    simulated = found.count("simulated", "does not fit")
    print(f"  {len(found.configurations)} configurations, {simulated} simulated, {len(found.front)} on the front")


if __name__ == "__main__":
    many_timelines(10, 10)
    many_timelines(10_000, 500)
    large_model()
    front()
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
