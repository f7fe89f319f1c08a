"""A search over the ways to spread a job over a number of devices: the front of memory a device against time a step."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from sim.base.errors import ParameterError, SimError
from sim.base.pareto import front
from sim.base.workers import Workers
from sim.experiment.measure_pipeline import run_pipeline
from sim.graphs.graph import Graph
from sim.parallel.bounds import Bounds
from sim.parallel.schedules import Shape
from sim.parallel.sharding import Zero
from sim.parallel.stages import ATTENTION_CORE, Recompute
from sim.scenario.parallel import MOST_PASSES, PipelinePoint
from sim.scenario.scenario import Scenario

Outcome: TypeAlias = Literal["simulated", "does not fit", "bytes", "seconds"]
"""A simulation that fits or not; or a lower bound by which it cannot fit, or is beaten by one that was simulated."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One way to spread the job, and its bytes a device and seconds a step: simulated, or lower bounds where pruned."""

    tensor: int
    sequence: bool
    pipeline: int
    data: int
    zero: int
    micro_batch: int
    micro_batches: int
    recompute: str
    schedule: str
    outcome: Outcome
    peak_bytes: int
    seconds: float
    bubble: float | None = None
    front: bool = False


@dataclass(frozen=True)
class Found:
    """The outcome of a search: each configuration once; `impossible` counts those that cannot be, by why."""

    scenario: str
    description: str
    device: str
    devices: int
    batch: int
    limit_bytes: int | None
    configurations: tuple[Configuration, ...]
    impossible: Mapping[str, int]
    complete: bool

    @property
    def front(self) -> list[Configuration]:
        """The configurations that fit and that none beats, the one with the least memory first."""
        return sorted((c for c in self.configurations if c.front), key=lambda c: (c.peak_bytes, c.seconds))

    def count(self, *outcomes: Outcome) -> int:
        """How many configurations ended so."""
        return sum(c.outcome in outcomes for c in self.configurations)

    def to_dict(self) -> dict[str, Any]:
        """The plain data: configurations as a column a key."""
        keys = [field.name for field in dataclasses.fields(Configuration)]
        columns = {key: [getattr(c, key) for c in self.configurations] for key in keys}
        own = {key: value for key, value in vars(self).items() if key != "configurations"}
        return own | {"configurations": columns}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1) + "\n"


@dataclass(frozen=True)
class Group:
    """The configurations that have one graph: its shards and samples."""

    tensor: int
    micro_batch: int


@dataclass(frozen=True)
class Common:
    """What all groups share: the scenario, the number of devices, and the samples of a step."""

    scenario: Scenario
    devices: int
    batch: int


Answer: TypeAlias = tuple[list[Configuration], dict[str, int]]


def search(
    scenario: Scenario,
    devices: int | None = None,
    *,
    workers: Workers | None = None,
    progress: Callable[[Found, int, int], object] = lambda found, groups, done: None,
) -> Found:
    """Try every division of `devices` into tensor, pipeline and data ranks, with the samples of a step as they are.

    Tried are all micro-batches that divide these samples, ZeRO 0 to 3, no, selective and full recomputation, and
    each schedule of the scenario. What else the scenario says of the job stays. A configuration is pruned if its
    lower bounds (see `Bounds`) do not fit, or if one that was simulated takes no more memory and no more time than
    these. `progress` is told after each graph, of how many.

    Raises
    ------
    DocumentError
        If the scenario has no job with a graph and a device, or gives what would not be the same elsewhere.
    """
    check(scenario)
    base = scenario.pipelines[0]
    count = base.shape.ranks * base.plan.ranks_of_stage * base.plan.replicas.count // base.plan.context
    about = Common(scenario, count if devices is None else devices, samples(scenario))
    groups = list(_groups(about))
    answers: dict[Group, Answer] = {}

    def found(*, complete: bool) -> Found:
        return _joined(about, [answers[group] for group in groups if group in answers], complete=complete)

    for group, answer in (workers or Workers()).results(_search, about, groups, count=len(groups)):
        answers[group] = answer
        progress(found(complete=len(answers) == len(groups)), len(groups), len(answers))
    return found(complete=True)


def check(scenario: Scenario) -> None:
    """Raise DocumentError unless a search of the scenario's job is possible."""
    if not (scenario.pipelines and scenario.has_graph):
        raise scenario.error((), "expected a graph and `parallel`; `sim plan` finds what fits on one device")
    point = scenario.pipelines[0]
    if point.times is not None:
        raise scenario.error(("parallel", "pipeline", "times"), "a search needs the times of other stages too")
    if point.plan.cuts:
        raise scenario.error(("parallel", "pipeline", "cuts"), "a search needs other cuts; leave them out")
    if scenario.device is None:
        raise scenario.error((), "a search needs a device")


def samples(scenario: Scenario) -> int:
    """The samples of a step of all replicas."""
    point = scenario.pipelines[0]
    replicas = point.plan.replicas.count // point.plan.context
    return int(scenario.graph_parameters.get("batch", 1)) * point.shape.micro_batches * replicas


def _groups(about: Common) -> Iterator[Group]:
    sharded = about.scenario.graph_kind == "transformer"
    share = about.devices // about.scenario.pipelines[0].plan.context
    for tensor in _divisors(share) if sharded else [1]:
        for micro_batch in _divisors(about.batch) if "batch" in about.scenario.kind.model.model_fields else [1]:
            yield Group(tensor, micro_batch)


def _divisors(count: int) -> list[int]:
    return [k for k in range(1, count + 1) if count % k == 0]


def _search(about: Common, groups: Sequence[Group]) -> list[Answer]:
    """The configurations of some groups, each with its own front."""
    return [_Search(about, group).answer() for group in groups]


class _Search:
    """The search of one group."""

    def __init__(self, about: Common, group: Group) -> None:
        self.about, self.group, self.scenario = about, group, about.scenario
        limits = (self.scenario.budget_bytes, self.scenario.device.memory_bytes if self.scenario.device else None)
        self.limit = min((x for x in limits if x is not None), default=None)
        self.done: list[Configuration] = []
        self.impossible: Counter[str] = Counter()

    def answer(self) -> Answer:
        """What each configuration comes to, the ones that may be fast first."""
        plan = self.scenario.pipelines[0].plan
        sequence = self.group.tensor > 1 and (plan.sequence or plan.tensor == 1)
        plan = dataclasses.replace(plan, tensor=self.group.tensor, sequence=sequence)
        points = list(self._points([dataclasses.replace(p, plan=plan) for p in self.scenario.pipelines]))
        if not points:
            return [], dict(self.impossible)
        parameters = {**self.scenario.graph_parameters}
        parameters |= {"batch": self.group.micro_batch} if "batch" in self.scenario.kind.model.model_fields else {}
        try:
            graph = dataclasses.replace(
                self.scenario, graph_parameters=parameters, pipelines=tuple(points[:1])
            ).build_graph()
        except SimError as error:
            self.impossible[str(error).splitlines()[0]] += sum(len(_levels(point)) for point in points)
            return [], dict(self.impossible)
        bounded = []
        for point in points:
            bounded += list(self._bounded(graph, point))
        for point, least_bytes, least_seconds in sorted(bounded, key=lambda of: of[2]):
            self._try(graph, point, least_bytes, least_seconds)
        return self.done, dict(self.impossible)

    def _points(self, bases: Sequence[PipelinePoint]) -> Iterator[PipelinePoint]:
        """Yield each schedule of each division of the devices, without ZeRO and recomputation."""
        group, context = self.group, bases[0].plan.context
        named = {(base.name, json.dumps(dict(base.parameters))): base for base in bases}
        for pipeline in _divisors(self.about.devices // (group.tensor * context)):
            data = self.about.devices // (group.tensor * context * pipeline)
            micro_batches, rest = divmod(self.about.batch, data * group.micro_batch)
            if rest or data % bases[0].plan.replicas.expert:
                continue
            for base in named.values():
                passes = 3 * pipeline * micro_batches * int(base.parameters.get("chunks", 1))
                if passes > MOST_PASSES:
                    why = f"{base.name}: makes {passes} passes, expected at most {MOST_PASSES}"
                    self.impossible[why] += 4 if data > 1 else 1
                    continue
                replicas = dataclasses.replace(base.plan.replicas, count=data * context, zero=0)
                yield dataclasses.replace(
                    base,
                    shape=Shape(ranks=pipeline, micro_batches=micro_batches),
                    plan=dataclasses.replace(base.plan, replicas=replicas),
                    label=" ".join([base.name, *(f"{key}={value}" for key, value in base.parameters.items())]),
                )

    def _bounded(self, graph: Graph, point: PipelinePoint) -> Iterator[tuple[PipelinePoint, int, float]]:
        """Yield the point with each ZeRO and recomputation, and its lower bounds."""
        device = self.scenario.device
        assert device is not None, "a search has a device"
        levels = _levels(point)
        ways = ways_to_recompute(graph)
        for how in ways:
            plan = dataclasses.replace(point.plan, recompute=(how,))
            try:
                point.check()
                bounds = Bounds(graph, plan, point.schedule(), device)
            except ParameterError as error:
                self.impossible[f"{point.name}: {error}"] += len(levels) * len(ways)
                return
            for zero in levels:
                replicas = dataclasses.replace(plan.replicas, zero=zero)
                made = dataclasses.replace(point, plan=dataclasses.replace(plan, replicas=replicas))
                yield made, bounds.bytes(replicas), bounds.seconds

    def _try(self, graph: Graph, point: PipelinePoint, least_bytes: int, least_seconds: float) -> None:
        """Prune a configuration by its bounds, or simulate it."""
        if self.limit is not None and least_bytes > self.limit:
            self._add(point, "bytes", least_bytes, least_seconds)
        elif any(
            c.outcome == "simulated" and c.peak_bytes <= least_bytes and c.seconds <= least_seconds for c in self.done
        ):
            self._add(point, "seconds", least_bytes, least_seconds)
        else:
            try:
                measured, _, _ = run_pipeline(point, graph, self.scenario.device, self.scenario.budget_bytes)
            except ParameterError as error:
                self.impossible[f"{point.name}: {error}"] += 1
                return
            outcome: Outcome = "simulated" if measured.fits else "does not fit"
            self._add(point, outcome, measured.peak_bytes, measured.seconds or 0.0, measured.bubble)

    def _add(
        self, point: PipelinePoint, outcome: Outcome, peak_bytes: int, seconds: float, bubble: float | None = None
    ) -> None:
        plan = point.plan
        self.done.append(
            Configuration(
                tensor=plan.tensor,
                sequence=plan.sequence,
                pipeline=point.shape.ranks,
                data=plan.replicas.count // plan.context,
                zero=plan.replicas.zero,
                micro_batch=self.group.micro_batch,
                micro_batches=point.shape.micro_batches,
                recompute=plan.recompute[0],
                schedule=point.label,
                outcome=outcome,
                peak_bytes=peak_bytes,
                seconds=seconds,
                bubble=bubble,
            )
        )


def _levels(point: PipelinePoint) -> tuple[Zero, ...]:
    return (0, 1, 2, 3) if point.plan.replicas.count > 1 else (0,)


def ways_to_recompute(graph: Graph) -> tuple[Recompute, ...]:
    """The recomputations that differ on a graph: without attention that is written out, selective is none."""
    ways: tuple[Recompute, ...] = get_args(Recompute)
    explicit = any(node.op in ATTENTION_CORE for node in graph.nodes)
    return tuple(way for way in ways if way != "selective" or explicit)


def _joined(about: Common, answers: Sequence[Answer], *, complete: bool) -> Found:
    scenario = about.scenario
    configurations = [c for done, _ in answers for c in done]
    fitting = [k for k, c in enumerate(configurations) if c.outcome == "simulated"]
    costs = [(configurations[k].peak_bytes, configurations[k].seconds) for k in fitting]
    best = {fitting[k] for k in {costs[k]: k for k in reversed(front(costs))}.values()}  # one of those that are equal
    limits = (scenario.budget_bytes, scenario.device.memory_bytes if scenario.device else None)
    return Found(
        scenario=scenario.name,
        description=scenario.description,
        device=scenario.device.name if scenario.device else "",
        devices=about.devices,
        batch=about.batch,
        limit_bytes=min((x for x in limits if x is not None), default=None),
        configurations=tuple(
            dataclasses.replace(c, front=True) if k in best else c for k, c in enumerate(configurations)
        ),
        impossible=dict(sum((Counter(refused) for _, refused in answers), Counter[str]())),
        complete=complete,
    )
