"""The `parallel:` section of a scenario: a pipeline over ranks, one point for each combination of its values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from sim.base.document import KeyPath
from sim.base.errors import ParameterError, suggest
from sim.base.registry import Count, Entry, Problem, Size, keywords
from sim.base.units import TIME, ByteRate, Duration, parse_seconds
from sim.ops.core import Dtype
from sim.parallel import links, schedules
from sim.parallel.job import Machine, Plan
from sim.parallel.links import Link
from sim.parallel.pipeline import PipelineSchedule
from sim.parallel.schedules import Shape
from sim.parallel.sharding import Precision, Replicas, Zero
from sim.parallel.stages import Recompute
from sim.parallel.times import Times, Works, even_work
from sim.scenario.points import MOST_POINTS, listed

NOT_PARALLEL = ("strategies", "regimes")
"""Sections that do not go with many devices."""
DIVIDED = ("tensor", "context", "expert")
"""Keys of `parallel` by which ranks divide the layers of a graph."""
OF_GRAPHS = ("device", "budget", "wrt", "optimizer", "gradients")
"""Sections that do not go with stages of which times alone are known."""
MOST_PASSES = 20_000_000
"""Parts of one pipeline, which take half a minute and 3 GB to simulate."""
_EACH = f"{TIME.expected}, or a list with one for each stage"
_TIME: Mapping[str, Any] = {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}]}


def _each_stage(value: Any) -> tuple[float, ...]:
    """Seconds of all stages alike, or of each."""
    try:
        times = tuple(map(parse_seconds, value if isinstance(value, list) else [value]))
    except ValueError:
        raise ValueError(_EACH) from None
    if not times:
        raise ValueError(_EACH)
    return times


OfStages = Annotated[
    tuple[float, ...],
    PlainValidator(_each_stage),
    WithJsonSchema({"anyOf": [*_TIME["anyOf"], {"type": "array", "minItems": 1, "items": _TIME}]}),
]


class TimesFile(BaseModel):
    """The durations of the passes of one micro-batch: one time for all stages, or a list."""

    model_config = ConfigDict(extra="forbid", strict=True)

    forward: Annotated[OfStages, Field(description="The forward pass.")]
    input_vjp: Annotated[OfStages, Field(description="The part of the VJP that the stage before waits for.")]
    weight_vjp: Annotated[OfStages, Field(description="The part of the VJP that makes the gradients of weights.")]
    send: Annotated[Duration, Field(description="A send from one rank to another.")] = 0.0
    freed: Annotated[
        float,
        Field(ge=0, le=1, description="The share of activations that the input part frees; a graph says it itself."),
    ] = Times.freed


class PipelineFile(BaseModel):
    """A model cut into stages, through which micro-batches are sent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    stages: Annotated[Any, Field(description="How many ranks share the model; a list or range is tried in turn.")]
    schedule: Annotated[Any, Field(description="The order of passes; of a list each is tried.")]
    micro_batches: Annotated[
        Any,
        Field(description="How many micro-batches a step has; a list or range is tried. `batch` says it too."),
    ] = None
    chunks: Annotated[Any, Field(description="Stages on each rank, for schedules that take it.")] = None
    cuts: Annotated[
        Literal["blocks"] | list[str] | None,
        Field(description="The last node of each stage but one; `blocks` cuts between blocks alone. Even work else."),
    ] = None
    times: Annotated[
        TimesFile | None, Field(description="What passes and sends take; that of the device unless given.")
    ] = None


class LinkFile(BaseModel):
    """The way of a rank's bytes to other ranks."""

    model_config = ConfigDict(extra="forbid", strict=True)

    preset: Annotated[str | None, Field(description="A preset whose values the other keys override.")] = None
    bandwidth: Annotated[ByteRate | None, Field(description="Bytes a second in one direction.")] = None
    latency: Annotated[Duration | None, Field(description="Time until the first byte is there.")] = None
    shared: Annotated[bool | None, Field(description="Whether all ranks of a machine leave it by this one link.")] = (
        None
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"preset": value} if isinstance(value, str) else value

    def link(self) -> Link:
        """The link that the preset and the other keys make.

        Raises
        ------
        ParameterError
            If there is no such preset, or no bandwidth.
        """
        if self.preset is not None and self.preset not in links.PRESETS:
            message = f"unknown link '{self.preset}'{suggest(self.preset, links.PRESETS)}"
            raise ParameterError(message, parameter=("preset",))
        if self.preset is None and self.bandwidth is None:
            raise ParameterError("'bandwidth' is missing; or name a preset", parameter=())
        base = Link(bytes_per_s=math.inf) if self.preset is None else links.PRESETS[self.preset]
        return replace(
            base,
            bytes_per_s=base.bytes_per_s if self.bandwidth is None else self.bandwidth,
            latency_s=base.latency_s if self.latency is None else self.latency,
            shared=base.shared if self.shared is None else self.shared,
        )


_RATED = {"anyOf": [{"required": ["bandwidth"]}, {"required": ["preset"]}]}
OfLink = Annotated[
    LinkFile, WithJsonSchema({"anyOf": [{"enum": list(links.PRESETS)}, LinkFile.model_json_schema() | _RATED]})
]


class MachineFile(BaseModel):
    """Machines that have several ranks each."""

    model_config = ConfigDict(extra="forbid", strict=True)

    devices: Annotated[Count, Field(description="How many ranks a machine has.")]
    link: Annotated[OfLink | None, Field(description="Between the ranks of a machine: a preset or its own.")] = None

    def machine(self) -> Machine:
        """The machines; raises as the link does."""
        return Machine(devices=self.devices, link=None if self.link is None else self.link.link())


class GatherFile(BaseModel):
    """What ZeRO-3 gathers when, as PyTorch's FSDP does."""

    model_config = ConfigDict(extra="forbid", strict=True)

    blocks: Annotated[Count, Field(description="Blocks of the model that are gathered, and reduced, together.")] = 1
    prefetch: Annotated[Size, Field(description="Units that are gathered ahead of the one that runs.")] = 1
    reshard: Annotated[
        bool, Field(description="Whether parameters are freed after the forward pass, and gathered again for the VJP.")
    ] = True


class PrecisionFile(BaseModel):
    """Dtypes of what is held for each parameter."""

    model_config = ConfigDict(extra="forbid", strict=True)

    parameters: Annotated[
        Dtype | None,
        Field(description="As which parameters are held; the graph's, in which they are gathered, if none."),
    ] = None
    gradients: Annotated[Dtype | None, Field(description="Of gradients; the parameters' unless given.")] = None
    main: Annotated[Dtype | None, Field(description="Of a main copy of the parameters; none unless given.")] = None
    optimizer: Annotated[Dtype | None, Field(description="Of the optimizer's state; the parameters' unless given.")] = (
        None
    )
    communication: Annotated[
        Dtype | None, Field(description="In which gradients are reduced; that of gradients unless given.")
    ] = None


class ParallelFile(BaseModel):
    """A job spread over devices."""

    model_config = ConfigDict(extra="forbid", strict=True)

    pipeline: Annotated[PipelineFile, Field(description="Stages of the model on different ranks.")]
    data: Annotated[Count, Field(description="How many replicas there are of the pipeline.")] = 1
    zero: Annotated[
        Zero, Field(description="What replicas share: 1 the optimizer's state, 2 gradients too, 3 parameters too.")
    ] = 0
    tensor: Annotated[Count, Field(description="How many ranks divide the layers of each stage of a transformer.")] = 1
    sequence: Annotated[bool, Field(description="Whether they divide tokens too, between those layers.")] = False
    context: Annotated[Count, Field(description="How many ranks divide the tokens of all layers of a transformer.")] = 1
    expert: Annotated[Count, Field(description="Among how many of the replicas the experts are divided.")] = 1
    batch: Annotated[
        Count | None,
        Field(description="Samples of a step, of all replicas; the micro-batch is the graph's batch."),
    ] = None
    gather: Annotated[GatherFile | None, Field(description="What ZeRO-3 gathers when.")] = None
    link: Annotated[
        OfLink | None,
        Field(description="Between ranks, or between machines: a preset or its own; without one sends take no time."),
    ] = None
    machine: Annotated[MachineFile | None, Field(description="Several ranks on one machine, and their link.")] = None
    precision: Annotated[PrecisionFile | None, Field(description="Of what is held for each parameter.")] = None
    recompute: Annotated[
        Recompute | Literal["optimal"] | Annotated[list[Recompute], Field(min_length=1)],
        Field(
            description="What is evaluated again before VJPs: one for all stages, or a list; `optimal` chooses the "
            "fewest blocks of each stage with which its rank is within budget and device."
        ),
    ] = "none"


@dataclass(frozen=True, kw_only=True)
class PipelinePoint:
    """One pipeline schedule for one number of ranks and micro-batches; `path` is where the scenario asks for it."""

    name: str
    shape: Shape
    parameters: Mapping[str, Any]
    times: Times | None
    label: str
    path: KeyPath
    plan: Plan = field(default_factory=Plan)

    @property
    def entry(self) -> Entry[PipelineSchedule]:
        """The registered schedule."""
        return schedules.load()[self.name]

    def schedule(self, work: Works = even_work) -> PipelineSchedule:
        """The passes of each rank for the work of stages; whatever the schedule raises comes through."""
        return self.entry.function(replace(self.shape, work=work), **self.parameters)

    def check(self) -> None:
        """Raise ParameterError if the schedule cannot be made for so many ranks and micro-batches."""
        if self.entry.requires is not None:
            self.entry.requires(self.shape, **keywords(self.entry.requires, self.parameters))


def problem_of(error: ParameterError, point: PipelinePoint) -> Problem:
    """The problem that keeps a point from being run, at the key at fault or at the schedule."""
    key = error.parameter[0] if error.parameter else ""
    here = ("recompute", "tensor", "context", "expert", "machine")
    places: dict[object, KeyPath] = {name: ("parallel", name) for name in here} | {"link": ("parallel",)}
    places |= {name: ("parallel", "pipeline", name) for name in ("stages", "cuts")}
    return Problem(places.get(key, point.path), f"{point.label}: {error}")


@dataclass
class Expansion:
    """The points of a pipeline, and what is wrong with it."""

    points: list[PipelinePoint] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def expand(section: Mapping[str, Any], *, micro_batch: int | None = None) -> Expansion:
    """Every point that a `parallel:` section of valid shape asks for, the numbers of each schedule in turn.

    `micro_batch` are the samples of the graph, by which the section's `batch` is divided.
    """
    result = Expansion()
    file, root = dict(section["pipeline"]), ("parallel", "pipeline")
    problem = _count_micro_batches(section, file, micro_batch)
    if problem is not None:
        result.problems.append(problem)
        return result
    result.problems += _impossible(section)
    named = list(_schedules(file["schedule"], (*root, "schedule"), result.problems))
    counts = {
        key: list(_counts(file[key], (*root, key), result.problems))
        for key in ("stages", "micro_batches", "chunks")
        if file.get(key) is not None
    }
    chunked = [name for name, _, _ in named if "chunks" in schedules.load()[name].model.model_fields]
    if named and "chunks" in counts and not chunked:
        takers = [name for name, entry in schedules.load().items() if "chunks" in entry.model.model_fields]
        message = f"is for the schedules that take it, which are {', '.join(sorted(takers))}"
        result.problems.append(Problem((*root, "chunks"), message, on_key=True))
    given = file.get("times")
    times = None if given is None else Times(**TimesFile.model_validate(given).model_dump())
    for ranks, _ in counts["stages"]:
        result.problems += _wrong_lengths(given or {}, ranks)
    several = {key for key, values in counts.items() if len(values) > 1}
    if result.problems:
        return result
    total = sum(math.prod(len(v) for k, v in counts.items() if k != "chunks" or n in chunked) for n, _, _ in named)
    if total > MOST_POINTS:
        result.problems.append(Problem(root, f"makes {total} points, expected at most {MOST_POINTS} in a scenario"))
        return result
    for name, own, path in named:
        takes = [key for key in counts if key != "chunks" or (name in chunked and "chunks" not in own)]
        for values in itertools.product(*(counts[key] for key in takes)):
            chosen = {key: value for key, (value, _) in zip(takes, values, strict=True)}
            _add(result, name, own, chosen, several, times, path)
    plan = _plan(ParallelFile.model_validate(section))
    result.points = [replace(point, plan=plan) for point in result.points]
    return result


def _count_micro_batches(section: Mapping[str, Any], file: dict[str, Any], micro_batch: int | None) -> Problem | None:
    """Set the micro-batches of a pipeline from the batch of the step, or say why they cannot be."""
    batch, data, place = section.get("batch"), section.get("data", 1), ("parallel", "batch")
    if batch is None:
        missing = file.get("micro_batches") is None
        return (
            Problem(("parallel", "pipeline"), "'micro_batches' is missing; or give the step's `batch`")
            if missing
            else None
        )
    if micro_batch is None:
        return Problem(place, "needs a graph that says how many samples a micro-batch has", on_key=True)
    count, rest = divmod(batch, data * micro_batch)
    if rest or not count:
        message = f"got {batch} samples, of which {data} replicas cannot have micro-batches of {micro_batch} each"
        return Problem(place, f"{message}; expected a multiple of {data * micro_batch}")
    if file.get("micro_batches") not in (None, count):
        message = f"got {batch} samples, which are {count} micro-batches of {micro_batch} on each of {data} replicas"
        return Problem(place, f"{message}; leave out `micro_batches`, or give {count}")
    file["micro_batches"] = count
    return None


def _impossible(section: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what does not go together in a section of valid shape."""

    def given(key: str, default: Any = 1) -> Any:
        return section.get(key, default)

    if given("zero", 0) and given("data") * given("context") == 1:
        message = f"got {section['zero']}, but there is one replica; expected 0, or `data: 2` or more"
        yield Problem(("parallel", "zero"), message)
    if given("sequence", False) is True and given("tensor") == 1:
        message = "got true, but one rank has all tokens; expected false, or `tensor: 2` or more"
        yield Problem(("parallel", "sequence"), message)
    if given("data") % given("expert"):
        allowed = ", ".join(str(d) for d in range(1, given("data") + 1) if given("data") % d == 0)
        message = (
            f"got {section['expert']}, by which {given('data')} replicas cannot be divided; expected one of {allowed}"
        )
        yield Problem(("parallel", "expert"), message)
    if section.get("gather") is not None and given("zero", 0) != 3:
        yield Problem(("parallel", "gather"), "is for `zero: 3`, which alone gathers parameters as they are used", True)
    for path in (("link",), ("machine", "link")):
        value = section.get(path[0])
        value = value.get("link") if len(path) == 2 and isinstance(value, Mapping) else value
        if value is None:
            continue
        try:
            LinkFile.model_validate(value).link()
        except ParameterError as error:
            inside = error.parameter if isinstance(value, Mapping) else ()
            yield Problem(("parallel", *path, *inside), str(error))


def _plan(file: ParallelFile) -> Plan:
    precision, gather, machine = file.precision or PrecisionFile(), file.gather or GatherFile(), file.machine
    cuts = file.pipeline.cuts
    return Plan(
        replicas=Replicas(
            count=file.data * file.context,
            zero=file.zero,
            expert=file.expert,
            blocks=gather.blocks,
            prefetch=gather.prefetch,
            reshard=gather.reshard,
        ),
        tensor=file.tensor,
        sequence=file.sequence,
        context=file.context,
        precision=Precision(**precision.model_dump()),
        link=None if file.link is None else file.link.link(),
        machine=None if machine is None else machine.machine(),
        cuts=tuple(cuts) if isinstance(cuts, list) else (),
        at_blocks=cuts == "blocks",
        recompute=tuple(file.recompute) if isinstance(file.recompute, list) else (file.recompute,),
    )


def _add(
    result: Expansion,
    name: str,
    own: Mapping[str, Any],
    chosen: Mapping[str, int],
    several: set[str],
    times: Times | None,
    path: KeyPath,
) -> None:
    """Add one point, still without its plan, or what is wrong with it."""
    parameters = {**own, **({"chunks": chosen["chunks"]} if "chunks" in chosen else {})}
    shown = {**parameters, **{key: value for key, value in chosen.items() if key in several}}
    label = " ".join(
        [name, *(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in shown.items())]
    )
    shape = Shape(ranks=chosen["stages"], micro_batches=chosen["micro_batches"])
    point = PipelinePoint(name=name, shape=shape, parameters=parameters, times=times, label=label, path=path)
    parts = 3 * shape.ranks * shape.micro_batches * parameters.get("chunks", 1)
    if parts > MOST_PASSES:
        result.problems.append(Problem(path, f"{label}: makes {parts} passes, expected at most {MOST_PASSES}"))
        return
    _, wrong = point.entry.check(parameters)
    if wrong:
        result.problems += [Problem(("parallel", "pipeline", *p.path), p.message) for p in wrong]
        return
    try:
        point.check()
    except ParameterError as error:
        result.problems.append(Problem(path, f"{label}: {error}"))
        return
    result.points.append(point)


def _schedules(value: Any, path: KeyPath, problems: list[Problem]) -> Iterator[tuple[str, dict[str, Any], KeyPath]]:
    """Each schedule that is named, with its own parameters and its place."""
    registry = schedules.load()
    items = [(item, (*path, i)) for i, item in enumerate(value)] if isinstance(value, list) else [(value, path)]
    if not items:
        problems.append(Problem(path, "got an empty list, expected at least one schedule"))
    for item, at in items:
        name, given = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (item, {})
        if not isinstance(name, str) or not isinstance(given or {}, dict):
            expected = f"the name of a pipeline schedule: {', '.join(sorted(registry))}"
            problems.append(Problem(at, f"got {item!r:.60}, expected {expected}"))
        elif name not in registry:
            message = f"unknown pipeline schedule '{name}'{suggest(name, registry)}"
            problems.append(Problem((*at, name) if isinstance(item, dict) else at, message, isinstance(item, dict)))
        else:
            inside = (*at, name) if isinstance(item, dict) else at
            checked, wrong = registry[name].check(given or {})
            problems += [Problem((*inside, *p.path), p.message, p.on_key) for p in wrong]
            if not wrong:
                yield name, checked, inside


def _counts(value: Any, path: KeyPath, problems: list[Problem]) -> Iterator[tuple[int, KeyPath]]:
    """Each whole number of a value, a list or a range, with its place."""
    values, wrong = listed(value, path) if isinstance(value, list | dict) else ([(value, path)], [])
    problems += wrong
    for one, at in values:
        count = int(one) if isinstance(one, float) and one.is_integer() else one
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_PASSES:
            problems.append(Problem(at, f"got {one!r:.60}, expected a whole number from 1 to {MOST_PASSES}"))
        else:
            yield count, at


def _wrong_lengths(times: Mapping[str, Any], ranks: int) -> Iterator[Problem]:
    """Yield a problem for each list of times that does not have one for each stage."""
    for key, given in times.items():
        if isinstance(given, list) and len(given) != ranks:
            message = f"got {len(given)} times for {ranks} stages, expected {ranks}, or one time for all"
            yield Problem(("parallel", "pipeline", "times", key), message)


def misplaced(data: Mapping[str, Any]) -> list[Problem]:
    """The sections that are missing, or that do not go with `parallel`."""
    if data.get("parallel") is None:
        return [Problem((), f"'{key}' is missing") for key in ("graph", "strategies") if data.get(key) is None]
    problems = [
        Problem((key,), "does not go with parallel", on_key=True) for key in NOT_PARALLEL if data.get(key) is not None
    ]
    section = _mapping(data["parallel"])
    file = _mapping(section.get("pipeline"))
    if data.get("graph") is None:
        why = "needs a graph; of these stages only the times are given"
        problems += [Problem((key,), why, on_key=True) for key in OF_GRAPHS if data.get(key) is not None]
        keys: list[KeyPath] = [("parallel", key) for key in section if key != "pipeline"]
        keys += [("parallel", "pipeline", "cuts")] if "cuts" in file else []
        problems += [Problem(path, why, on_key=True) for path in keys]
        if file.get("times") is None:
            message = "'times' is missing; or give a graph, and a device that says how long it takes"
            problems.append(Problem(("parallel", "pipeline"), message))
    if _mapping(data.get("graph")).get("kind", "transformer") != "transformer":
        divided = [key for key in DIVIDED if section.get(key, 1) != 1]
        problems += [Problem(("parallel", key), "is for graphs of `kind: transformer`", on_key=True) for key in divided]
    if data.get("graph") is not None and data.get("device") is None and file.get("times") is None:
        problems.append(Problem(("parallel",), "needs a device, or the times of stages, beside the graph"))
    return problems


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
