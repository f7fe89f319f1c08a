"""Scenarios: what a YAML file asks for, checked as a whole, with every problem shown at its place."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sim.base import yaml as yamltext
from sim.base.document import Document, DocumentError, Finding, KeyPath, decoded, shown_path
from sim.base.errors import CountOverflow, GraphError, ParameterError, SimError, suggest
from sim.base.registry import Entry, Problem, problems_of
from sim.base.units import Bytes
from sim.graphs.graph import Graph
from sim.graphs.node import Optimizer, Wrt
from sim.models.factory import Factory
from sim.models.shards import Shards
from sim.parallel.job import Plan
from sim.parallel.job import check as check_job
from sim.scenario import axes, shipped
from sim.scenario.keys import assigned, place
from sim.scenario.parallel import ParallelFile, PipelinePoint, problem_of
from sim.scenario.parallel import expand as expand_parallel
from sim.scenario.points import REFUSALS, StrategyPoint, expand
from sim.simulation.device import Device
from sim.simulation.device import check as check_device
from sim.simulation.roofline import timed

STDIN = "standard input"
DEVICE_FILES = (".yaml", ".yml")
NOT_PARALLEL = ("strategies", "regimes")
"""Sections that do not go with many devices."""
OF_GRAPHS = ("device", "budget", "wrt", "optimizer", "gradients")
"""Sections that do not go with stages of which times alone are known."""
SAFE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


def _version(value: Any) -> Any:
    if value != 1 or isinstance(value, bool):
        raise ValueError("1, the version of this format")
    return 1


class ScenarioFile(BaseModel):
    """The keys of a scenario file; graph, device and strategies are checked against their registries."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Annotated[Literal[1], BeforeValidator(_version), Field(description="The version of this format.")]
    name: Annotated[str, Field(description="Names the folder under outputs/.")]
    description: Annotated[str, Field(description="One sentence, shown by `sim list`.")] = ""
    graph: Annotated[dict[str, Any] | None, Field(description="The layers: exactly one kind.")] = None
    wrt: Annotated[
        Wrt | None, Field(description="What is differentiated; parameters where there are any, unless given.")
    ] = None
    optimizer: Annotated[Optimizer, Field(description="Its state is resident in memory.")] = "none"
    gradients: Annotated[
        Literal["on_demand", "preallocated"],
        Field(description="Whether parameter gradients are made when first needed or live from the start."),
    ] = "on_demand"
    device: Annotated[
        Any, Field(description="A preset, a YAML file, or rates and sizes of its own; without one no times.")
    ] = None
    budget: Annotated[Bytes | None, Field(description="Peak memory that a strategy should not exceed.")] = None
    strategies: Annotated[
        list[Any] | None, Field(min_length=1, description="A name, or a name with parameters; lists and ranges sweep.")
    ] = None
    parallel: Annotated[ParallelFile | None, Field(description="Many devices, in place of strategies.")] = None
    regimes: Annotated[
        axes.RegimesFile | None, Field(description="A map of which strategy wins where two keys are varied.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A checked scenario: a graph to build, what is asked of it, and the points to compute."""

    name: str
    graph_kind: str
    graph_parameters: Mapping[str, Any]
    points: tuple[StrategyPoint, ...]
    pipelines: tuple[PipelinePoint, ...] = ()
    description: str = ""
    wrt: Wrt | None = None
    optimizer: Optimizer = "none"
    preallocated_gradients: bool = False
    device: Device | None = None
    budget_bytes: int | None = None
    repeated_points: int = 0
    regimes: axes.Regimes | None = None
    document: Document = field(default=Document("scenario", "", None), repr=False)

    def build_graph(self) -> Graph:
        """The graph, with what is differentiated and the optimizer set.

        If a planner is to minimise seconds, its nodes have the device's times.

        Raises
        ------
        DocumentError
            If the graph cannot be; at the layer at fault where that is known.
        """
        try:
            graph = self.kind.function(*self._shards(), **self.graph_parameters)
        except (GraphError, ParameterError, CountOverflow) as error:
            tensor = isinstance(error, ParameterError) and error.parameter == ("tensor",)
            place = ("parallel", "tensor") if tensor else self._graph_place(error)
            raise self.error(place, str(error)) from None
        try:
            graph = graph.configured(
                wrt=self.wrt, optimizer=self.optimizer, preallocated_gradients=self.preallocated_gradients
            )
        except SimError as error:
            raise self.error(("wrt",) if self.wrt else ("graph",), str(error)) from None
        by_time = any(p.parameters.get("minimize") == "seconds" for p in self.points)
        return timed(graph, self.device) if by_time and self.device else graph

    def _shards(self) -> tuple[Shards, ...]:
        """The shards of one rank's graph, where ranks divide the layers of a transformer."""
        plan = self.pipelines[0].plan if self.pipelines else Plan()
        return () if plan.tensor == 1 else (Shards(plan.tensor, plan.sequence),)

    @property
    def kind(self) -> Entry[Graph]:
        """The registered family or importer that makes the graph."""
        kind = graph_kind(self.graph_kind)
        assert kind is not None, "checked when the scenario was read"
        return kind

    @property
    def steps(self) -> int:
        """The number of points to compute, and of cells of the map."""
        return len(self.points) + len(self.pipelines) + (len(self.regimes) if self.regimes else 0)

    @property
    def has_graph(self) -> bool:
        """Whether there is more than the times of stages."""
        return self.document.data.get("graph") is not None

    def on_one_device(self) -> Scenario:
        """This scenario; raises DocumentError if it asks for many devices."""
        if self.pipelines:
            raise self.error(("parallel",), "many devices are for `sim run` and `sim fits`")
        return self

    def cell(self, column: int, row: int) -> Scenario:
        """The scenario of one cell of its map: its graph and its budget with the values of both axes."""
        assert self.regimes is not None, "a scenario without regimes has no cells"
        x, y = self.regimes.x, self.regimes.y
        data = assigned(self.document.data, {x.path: x.values[column], y.path: y.values[row]})
        parameters, wrong = _graph_parameters(data["graph"], Path(self.document.name).parent)
        if wrong:
            raise self.error(("regimes",), f"{wrong[0].path[-1]}: {wrong[0].message}")
        budget = data["budget"] if "budget" in (x.key, y.key) else self.budget_bytes
        return replace(self, graph_parameters=parameters, budget_bytes=budget, regimes=None)

    def check(self) -> Graph | None:
        """The graph, once it is known that each strategy can work on it; nothing is planned.

        `None` for a graph that only the user's own code can make, which is not run here.

        Raises
        ------
        DocumentError
            If the graph cannot be built, or strategies do not work on it: at their places in the file.
        """
        if self.kind.user_code:
            return None
        graph = self.build_graph()
        try:
            graph.check_counts()
        except CountOverflow as error:
            raise self.error(("graph",), str(error)) from None
        problems = []
        for point in self.points:
            try:
                point.check(graph)
            except REFUSALS as error:
                problems.append(point.problem(error))
        for pipeline in self.pipelines if self.has_graph else ():
            try:
                check_job(graph, pipeline.schedule().stages, pipeline.plan)
            except ParameterError as error:
                problems.append(problem_of(error, pipeline))
        if problems:
            raise self.document.error(problems)
        return graph

    def changed(self, changes: Sequence[str]) -> Scenario:
        """The scenario with other values at some keys; see `load`."""
        return _changed(self.document, changes)

    def value(self, key: str) -> Any:
        """What stands at a key, or the graph's default for it.

        Raises
        ------
        ParameterError
            If the key names nothing.
        """
        path = place(key, self.document.data)
        if isinstance(path, str):
            raise ParameterError(path)
        inside: Any = self.document.data
        for part in path[:-1]:
            inside = inside[part]
        if isinstance(inside, Mapping) and path[-1] not in inside and path[:-1] == ("graph",):
            field = self.kind.model.model_fields.get(str(path[-1]))
            return None if field is None else field.default
        return inside.get(path[-1]) if isinstance(inside, Mapping) else inside[path[-1]]

    def error(self, path: KeyPath, message: str) -> DocumentError:
        """The error that shows a problem at a place of this scenario; a key that both name is named once."""
        key = f"{path[-1]}: " if path else ""
        return self.document.error([Problem(path, message.removeprefix(key))])

    def _graph_place(self, error: SimError) -> KeyPath:
        """The place of the key or the layer at fault, or of the graph as a whole."""
        graph = self.document.data.get("graph", {}) if isinstance(self.document.data, dict) else {}
        match error:
            case ParameterError(parameter=path):
                return ("graph", *path)
            case GraphError(node=str(node)):
                layers = graph.get("layers")
                for i, item in enumerate(layers if isinstance(layers, list) else ()):
                    if isinstance(item, dict) and item.get("name", f"layer{i + 1}") == node:
                        return ("graph", "layers", i)
            case GraphError(key=str(key)) | CountOverflow(key=str(key)) if key in graph:
                return ("graph", key)
        return ("graph",)


def graph_kinds() -> Mapping[str, Entry[Graph]]:
    """The families and importers that `graph: {kind: …}` may name."""
    from sim.models import families, importers

    return {**families.load(), **importers.load()}


def graph_kind(name: object) -> Entry[Graph] | None:
    """The kind of that name; importers are imported for a name that no family has."""
    from sim.models import families, importers

    for load_kinds in (families.load, importers.load):
        if isinstance(name, str) and name in load_kinds():
            return load_kinds()[name]
    return None


def load(source: str | Path | Mapping[str, Any], *, changes: Sequence[str] = ()) -> Scenario:
    """The scenario in a file, of the name of one that comes with the program, in standard input (`-`) or a mapping.

    `changes` are keys with other values than there, such as `graph.batch=16`.

    Raises
    ------
    DocumentError
        With everything that is wrong with the file, or with the changes.
    """
    try:
        document = _read(source)
    except DocumentError as unreadable:
        if unreadable.document is None:
            raise
        try:
            from_document(unreadable.document)
        except DocumentError as wrong:
            raise unreadable.joined(wrong) from None
        raise
    return _changed(document, changes) if changes else from_document(document)


def _read(source: str | Path | Mapping[str, Any]) -> Document:
    if isinstance(source, Mapping):
        return yamltext.parse(yamltext.dumped(source), name="scenario")
    if str(source) == "-":
        content = sys.stdin.buffer.read(yamltext.LARGEST_FILE + 1)
        return yamltext.parse(decoded(content, STDIN, largest=yamltext.LARGEST_FILE), name=STDIN)
    path = shipped.find(Path(source))
    try:
        return yamltext.read(path, name=str(path))
    except DocumentError as error:
        if path.suffix or path.name != str(path) or path.exists():
            raise
        known = suggest(str(path), shipped.names())
        raise DocumentError([replace(f, message=f.message + known) for f in error.findings]) from None


def _changed(document: Document, changes: Sequence[str]) -> Scenario:
    """The scenario of a document with other values at some keys."""
    values: dict[KeyPath, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        path = place(key.strip(), document.data) if equals else f"got {change!r:.60}, expected KEY=VALUE"
        if isinstance(path, str):
            raise DocumentError([Finding("--set", None, "", path)])
        values[path] = yamltext.parse(text, name=f"--set {key}").data if text.strip() else None
    try:
        changed = replace(document, data=assigned(document.data, values), changes=(*document.changes, *changes))
        return from_document(changed)
    except DocumentError as error:
        keys = [shown_path(path) for path in values]
        findings = [
            replace(f, file="--set", at=None) if any(f.path.startswith(key) for key in keys) else f
            for f in error.findings
        ]
        raise DocumentError(findings, error.text) from None


def from_document(document: Document) -> Scenario:
    """The scenario that a document holds.

    Raises
    ------
    DocumentError
        With everything that is wrong with it.
    """
    data, problems = document.data, []
    if not isinstance(data, dict):
        raise document.error([Problem((), "expected the keys version, name, graph, strategies")])
    try:
        ScenarioFile.model_validate(data)
    except ValidationError as error:
        problems += problems_of(error, ScenarioFile)
    name = data.get("name")
    if isinstance(name, str) and (not re.fullmatch(SAFE_NAME, name) or name.endswith(".")):
        message = f"got {name!r:.60}, expected letters, digits, '_', '-' and '.', because it names a folder"
        problems.append(Problem(("name",), message))
    one_device = data.get("parallel") is None
    problems += _misplaced(data)
    graph_parameters, wrong = _graph_parameters(data.get("graph"), Path(document.name).parent)
    problems += wrong
    machine, wrong = (None, []) if data.get("device") is None else _device(data["device"], Path(document.name).parent)
    problems += [Problem(("device", *p.path), p.message, p.on_key) for p in wrong]
    strategies = data.get("strategies")
    expansion = expand(strategies if isinstance(strategies, list) else [])
    problems += expansion.problems
    pipelines: list[PipelinePoint] = []
    if not one_device and not any(p.path[:1] == ("parallel",) for p in problems):
        spread = expand_parallel(data["parallel"])
        pipelines, problems = spread.points, problems + spread.problems
    section, regimes = data.get("regimes"), None
    if section is not None and not problems:
        regimes, wrong = axes.read(section, data)
        problems += wrong or _cells(regimes, data, Path(document.name).parent)
    if problems:
        raise document.error(problems)
    file = ScenarioFile.model_validate(data)
    return Scenario(
        name=file.name,
        description=file.description,
        graph_kind=file.graph["kind"] if file.graph else "chain",
        graph_parameters=graph_parameters if file.graph else _stages(pipelines),
        wrt=file.wrt,
        optimizer=file.optimizer,
        preallocated_gradients=file.gradients == "preallocated",
        device=machine,
        budget_bytes=file.budget,
        points=tuple(expansion.points),
        pipelines=tuple(pipelines),
        repeated_points=expansion.repeated,
        regimes=regimes,
        document=document,
    )


def named_device(text: str) -> Device:
    """The device that a command line names: a preset, or a YAML file.

    Raises
    ------
    DocumentError
        With everything that is wrong with the file.
    ParameterError
        For an unknown preset.
    """
    if text.endswith(DEVICE_FILES):
        return _device_in(Path(text), text)
    device, wrong = check_device(text)
    if device is None:
        raise ParameterError(wrong[0].message, parameter=("device",))
    return device


def _device(value: Any, folder: Path) -> tuple[Device | None, list[Problem]]:
    """The device that a scenario means: what `sim.simulation.device` knows, or a file beside the scenario."""
    if not (isinstance(value, str) and value.endswith(DEVICE_FILES)):
        return check_device(value)
    try:
        return _device_in(folder / value, value), []
    except DocumentError as error:
        return None, [Problem((), str(finding)) for finding in error.findings]


def _device_in(path: Path, name: str) -> Device:
    document = yamltext.read(path, name=name)
    if not isinstance(document.data, dict):
        raise document.error([Problem((), "expected the keys of a device, such as flops and bandwidth")])
    device, wrong = check_device(document.data)
    if device is None:
        raise document.error(wrong)
    return replace(device, source=f"given in {name}")


def _misplaced(data: Mapping[str, Any]) -> list[Problem]:
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
    if section.get("tensor", 1) != 1 and _mapping(data.get("graph")).get("kind", "transformer") != "transformer":
        problems.append(Problem(("parallel", "tensor"), "is for graphs of `kind: transformer`", on_key=True))
    if data.get("graph") is not None and data.get("device") is None and file.get("times") is None:
        problems.append(Problem(("parallel",), "needs a device, or the times of stages, beside the graph"))
    return problems


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _stages(pipelines: Sequence[PipelinePoint]) -> dict[str, Any]:
    """The parameters of the chain that stands for stages of which times alone are known."""
    nothing = dict.fromkeys(("forward_flops", "jvp_flops", "vjp_flops", "activation_bytes", "input_bytes"), 0)
    return {"length": max(p.shape.ranks for p in pipelines), **nothing}


def _cells(regimes: axes.Regimes | None, data: Mapping[str, Any], folder: Path) -> list[Problem]:
    """The problems of the values of a map, each tried by itself, at their places."""
    problems = []
    for axis in (regimes.x, regimes.y) if regimes else ():
        for value, at in zip(axis.values, axis.places, strict=True):
            _, wrong = _graph_parameters(assigned(data, {axis.path: value})["graph"], folder)
            problems += [Problem(at, f"{axis.key}: {p.message}") for p in wrong]
    return problems


def _graph_parameters(graph: Any, folder: Path) -> tuple[dict[str, Any], list[Problem]]:
    if not isinstance(graph, dict):
        return {}, []
    if "kind" not in graph:
        return {}, [Problem(("graph",), f"'kind' is missing{suggest('', graph_kinds())}")]
    kind = graph["kind"]
    entry = graph_kind(kind)
    if entry is None:
        return {}, [Problem(("graph", "kind"), f"unknown kind of graph '{kind}'{suggest(str(kind), graph_kinds())}")]
    checked, wrong = entry.check({k: v for k, v in graph.items() if k != "kind"})
    if wrong:
        return {}, [Problem(("graph", *p.path), p.message, p.on_key) for p in wrong]
    return {k: _placed(v, folder) for k, v in checked.items()}, []


def _placed(value: Any, folder: Path) -> Any:
    """A path or a factory as the scenario in this folder means it; anything else as it is."""
    if isinstance(value, Factory):
        return value.beside(folder)
    return folder / value if isinstance(value, Path) else value
