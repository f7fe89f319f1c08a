"""Published figures of jobs on many devices, and what the scenarios of their names give for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sim.experiment.measure_pipeline import run_pipeline
from sim.experiment.point import Point
from sim.models.families.transformer import transformer
from sim.models.shards import Shards
from sim.parallel.job import row_times
from sim.parallel.pipeline import Part
from sim.parallel.stages import Recompute, stages_of
from sim.scenario.scenario import load

SCENARIOS = Path(__file__).parent.parent / "scenarios"
LAYER = {"hidden": 6144, "heads": 64, "sequence": 2048, "batch": 4, "dropout": 0.1, "attention_dropout": 0.1}

LARGER: list[tuple[str, tuple[str, ...], float, float]] = [
    ("530 B", ("graph.layers=105", "graph.hidden=20480", "graph.heads=128", "parallel.pipeline.stages=35",
               "parallel.batch=280"), 37.83, 49.05),
    ("1 T", ("graph.layers=128", "graph.hidden=25600", "graph.heads=160", "parallel.pipeline.stages=64",
             "parallel.batch=512", "parallel.pipeline.schedule=1f1b", "parallel.pipeline.chunks="), 71.49, 94.42),
]  # fmt: skip
"""The larger models of arXiv:2205.05198, tables 3 and 5, with the device calibrated on the layer of the smallest."""


@dataclass(frozen=True)
class Row:
    """One published figure: what is measured, its unit, its value, how near ours has to be, and how to find ours.

    Of a row that the device was calibrated on nothing is shown by coming near. One that is `long` takes seconds.
    """

    what: str
    unit: str
    published: float
    tolerance: float
    ours: Callable[[], float]
    calibrated: bool = False
    long: bool = False


def point(name: str, *changes: str) -> Point:
    """The one point of a shipped scenario with other values at some keys."""
    return _point(name, changes)


@cache
def _point(name: str, changes: tuple[str, ...]) -> Point:
    scenario = load(SCENARIOS / f"{name}.yaml", changes=changes)
    graph = scenario.build_graph()
    sequence = scenario.graph_parameters["sequence"]
    return run_pipeline(scenario.pipelines[0], graph, scenario.device, None, sequence=sequence)[0]


@cache
def layer_milliseconds(sequence: bool, recompute: Recompute) -> tuple[float, float]:
    """Forward and back of the middle one of three layers of the 22B model, on the device of its scenario."""
    scenario = load(SCENARIOS / "megatron_22b.yaml")
    graph = transformer(Shards(8, sequence), layers=3, dtype="bfloat16", loss="sum", **LAYER)  # type: ignore[arg-type]
    assert scenario.device is not None
    plan = scenario.pipelines[0].plan
    times = row_times(graph, scenario.device, plan.channels(plan.cluster(1), 1))
    ends = [k + 1 for k, node in enumerate(graph.nodes) if node.name.endswith("mlp.add")]
    (stage,) = stages_of(graph, (ends[0], ends[1]), times, recompute=[recompute])
    return 1e3 * stage.seconds(Part.FORWARD), 1e3 * stage.seconds(Part.VJP)


def rows() -> Iterator[Row]:
    """Yield every figure, paper by paper."""
    table: list[tuple[str, bool, Recompute, float, float]] = [
        ("no recomputation", False, "none", 7.7, 11.9),
        ("sequence parallel", True, "none", 7.2, 11.8),
        ("full recomputation", False, "block", 7.7, 19.5),
        ("selective", False, "selective", 7.7, 13.2),
        ("selective, sequence parallel", True, "selective", 7.2, 13.1),
    ]
    for what, sequence, recompute, forward, back in table:
        for k, (part, published) in enumerate((("forward", forward), ("back", back))):
            yield Row(
                f"22B layer, {what}, {part}", "ms", published, 0.05,
                lambda k=k, s=sequence, r=recompute: layer_milliseconds(s, r)[k],  # type: ignore[misc]
                calibrated=recompute == "none" and not sequence,
            )  # fmt: skip
    full = ("parallel.recompute=block", "parallel.sequence=false")
    for name, present, before, near in (("megatron_22b", 1.10, 1.42, 0.15), ("gpt3_175b", 13.75, 18.13, 0.05)):
        yield Row(f"{name}, step", "s", present, near, lambda n=name: point(n).seconds or 0.0)  # type: ignore[misc]
        yield Row(f"{name}, step, full recomputation", "s", before, near,
                  lambda n=name: point(n, *full).seconds or 0.0)  # type: ignore[misc]  # fmt: skip
    for size, changes, present, before in LARGER:
        yield Row(f"GPT of {size}, step", "s", present, 0.12,
                  lambda c=changes: point("gpt3_175b", *c).seconds or 0.0, long=True)  # type: ignore[misc]  # fmt: skip
        yield Row(f"GPT of {size}, step, full recomputation", "s", before, 0.12,
                  lambda c=changes: point("gpt3_175b", *c, *full).seconds or 0.0, long=True)  # type: ignore[misc]  # fmt: skip
    more = "parallel.data=128"
    yield Row("llama3_8b_fsdp, 8 devices", "tokens/s each", 5762, 0.01, lambda: _tokens("llama3_8b_fsdp"), True)
    yield Row("llama3_8b_fsdp, 128 devices", "tokens/s each", 5605, 0.05, lambda: _tokens("llama3_8b_fsdp", more))
    yield Row("llama3_8b_fsdp, less on 128 than on 8", "GiB", 82.4 - 67.0, 0.1, lambda: (
        point("llama3_8b_fsdp").peak_bytes - point("llama3_8b_fsdp", more).peak_bytes) / 2**30)  # fmt: skip
    long = ("graph.sequence=131072", "parallel.context=16", "parallel.data=8", "parallel.batch=128")
    yield Row("llama3_405b, 8,192 devices", "% used", 43, 0.01, lambda: _used("parallel.data=64"), True)
    yield Row("llama3_405b, 16,384 devices", "% used", 41, 0.05, _used)
    yield Row("llama3_405b, 131,072 tokens", "% used", 38, 0.05, lambda: _used(*long))


def _tokens(name: str, *changes: str) -> float:
    one = point(name, *changes)
    assert one.throughput is not None
    return one.throughput["tokens_per_second"] / sum(rank["count"] for rank in one.ranks)


def _used(*changes: str) -> float:
    one = point("llama3_405b", *changes)
    assert one.throughput is not None
    return 100 * one.throughput["model_flops_utilization"]
