"""Judge whether a job on many devices fits: the rank that decides, and which single change helps most."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.base.document import DocumentError
from sim.base.errors import SimError
from sim.experiment.measure_pipeline import run_pipeline
from sim.experiment.point import Point, Rank
from sim.experiment.run import compute
from sim.graphs.graph import Graph
from sim.scenario.parallel import PipelinePoint
from sim.scenario.scenario import Scenario, load


@dataclass(frozen=True)
class Change:
    """One change of a job, as `--set` takes it, and what the job takes then."""

    what: str
    settings: tuple[str, ...]
    peak_bytes: int
    seconds: float | None
    fits: bool


@dataclass(frozen=True)
class Verdict:
    """The answer whether a job fits: the point that decides, what a rank may hold, and changes, the best first.

    The point is the fastest that fits, or the one with the smallest peak. `limit_bytes` is `None` if nothing
    limits it.
    """

    point: Point
    limit_bytes: int | None
    changes: tuple[Change, ...]

    @property
    def fits(self) -> bool:
        return self.point.fits

    @property
    def rank(self) -> Rank:
        """The rank that holds most."""
        return max(self.point.ranks, key=lambda rank: rank["peak_bytes"])

    def to_dict(self) -> dict[str, Any]:
        """The plain data of the verdict."""
        return {
            "fits": self.fits,
            "label": self.point.label,
            "peak_bytes": self.point.peak_bytes,
            "limit_bytes": self.limit_bytes,
            "rank": self.rank["ranks"][0],
            "peak_at": self.point.peak_at,
            "breakdown": self.rank["breakdown"],
            "seconds": self.point.seconds,
            "changes": [vars(change) for change in self.changes],
        }


def verdict(source: str | Path, *, changes: Sequence[str] = ()) -> Verdict:
    """Judge the job of a scenario that has a graph and `parallel`.

    Raises
    ------
    DocumentError
        With everything that is wrong with the scenario, or if it is none of a job with a graph.
    """
    scenario = load(source, changes=changes)
    if not (scenario.pipelines and scenario.has_graph):
        raise scenario.error((), "expected a graph and `parallel`; `sim plan` finds what fits on one device")
    measurements = compute(scenario)
    points, graph = measurements.points, measurements.graph
    fitting = [k for k, p in enumerate(points) if p.fits]
    chosen = (
        min(fitting, key=lambda k: points[k].seconds or 0.0)
        if fitting
        else min(range(len(points)), key=lambda k: points[k].peak_bytes)
    )
    request = scenario.pipelines[chosen]
    tried = []
    for what, settings in _changes(scenario, request):
        for alternative in settings:
            point = _run(scenario, graph, [*_pinned(request), *alternative])
            if point is not None:
                tried.append(Change(what, tuple(alternative), point.peak_bytes, point.seconds, point.fits))
                break
    limits = [scenario.budget_bytes, scenario.device.memory_bytes if scenario.device else None]
    limit = min((x for x in limits if x is not None), default=None)
    return Verdict(points[chosen], limit, tuple(sorted(tried, key=lambda change: change.peak_bytes)))


def _run(scenario: Scenario, graph: Graph, changes: Sequence[str]) -> Point | None:
    """The point of the scenario with some changes, on its graph unless they change that; `None` where it cannot be."""
    try:
        changed = scenario.changed(changes)
        if any(change.startswith("graph.") for change in changes):
            graph = changed.build_graph()
        sequence = changed.graph_parameters.get("sequence")
        return run_pipeline(changed.pipelines[0], graph, changed.device, changed.budget_bytes, sequence=sequence)[0]
    except (DocumentError, SimError):
        return None


def _pinned(request: PipelinePoint) -> list[str]:
    """The settings under which a scenario has this point alone."""
    schedule = json.dumps({request.name: dict(request.parameters)}) if request.parameters else request.name
    numbers = {"stages": request.shape.ranks, "micro_batches": request.shape.micro_batches, "schedule": schedule}
    return [f"parallel.pipeline.{key}={value}" for key, value in numbers.items()] + ["parallel.pipeline.chunks="]


def _changes(scenario: Scenario, request: PipelinePoint) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each change that may help, with the settings that make it, of which the first that works counts."""
    ranks, batches, plan = request.shape.ranks, request.shape.micro_batches, request.plan
    data: Mapping[str, Any] = scenario.document.data
    if not plan.cuts and request.times is None:
        yield "more stages", [[f"parallel.pipeline.stages={n}"] for n in range(ranks + 1, 2 * ranks + 1)]
    if plan.replicas.count > 1 and plan.replicas.zero < 3:
        yield f"ZeRO-{plan.replicas.zero + 1}", [[f"parallel.zero={plan.replicas.zero + 1}"]]
    for how in ("selective", "block", "optimal"):
        if set(plan.recompute) != {how}:
            yield f"recompute: {how}", [[f"parallel.recompute={how}"]]
    batch = data["graph"].get("batch", 1)
    if isinstance(batch, int) and batch > 1 and batch % 2 == 0:
        settings = [f"graph.batch={batch // 2}", f"parallel.pipeline.micro_batches={2 * batches}"]
        yield "half the micro-batch", [settings]
