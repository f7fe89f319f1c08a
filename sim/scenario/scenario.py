"""Scenarios: what a YAML file asks for, checked as a whole, with every problem shown at its place."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
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
from sim.scenario.devices import device_of
from sim.scenario.keys import assigned, place
from sim.scenario.parallel import DIVIDED, ParallelFile, PipelinePoint, misplaced, problem_of
from sim.scenario.parallel import expand as expand_parallel
from sim.scenario.points import REFUSALS, StrategyPoint, expand
from sim.simulation.device import Device
from sim.simulation.roofline import timed

STDIN = "standard input"
MOST_ALIKE = 1_000
"""Scenarios of cells that are kept, for cells that share all but the graph."""
MOST_TOLD = 50
"""Cells that are wrong and told."""
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
    sweep: Annotated[
        axes.Sweep | None,
        Field(
            description="Keys with the values that they take, every combination a cell; keys separated by commas "
            "take theirs together."
        ),
    ] = None
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
    sweep: axes.Grid | None = None
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
            key = error.parameter[0] if isinstance(error, ParameterError) and error.parameter else None
            place = ("parallel", str(key)) if key in DIVIDED else self._graph_place(error)
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
        shards = Shards(plan.tensor, plan.sequence, plan.context, plan.replicas.expert)
        return () if shards == Shards() else (shards,)

    @property
    def kind(self) -> Entry[Graph]:
        """The registered family or importer that makes the graph."""
        kind = graph_kind(self.graph_kind)
        assert kind is not None, "checked when the scenario was read"
        return kind

    @property
    def steps(self) -> int:
        """The number of points to compute, and of cells of the map."""
        return len(self.requests) * (len(self.sweep) if self.sweep else 1) + (len(self.regimes) if self.regimes else 0)

    @property
    def has_graph(self) -> bool:
        """Whether there is more than the times of stages."""
        return self.document.data.get("graph") is not None

    def single(self) -> Scenario:
        """This scenario; raises DocumentError if it asks for many devices or for a sweep."""
        if self.pipelines:
            raise self.error(("parallel",), "many devices are for `sim run` and `sim fits`")
        if self.sweep:
            raise self.error(("sweep",), "a sweep is for `sim run`; `--set sweep=` leaves it out")
        return self

    @property
    def requests(self) -> tuple[StrategyPoint | PipelinePoint, ...]:
        """Everything that is asked of the graph."""
        return (*self.points, *self.pipelines)

    def check(self) -> Graph | None:
        """The graph, once it is known that each strategy can work on it; nothing is planned.

        `None` for a graph that only the user's own code can make, which is not run here.

        Raises
        ------
        DocumentError
            If the graph cannot be built, or strategies do not work on it: at their places in the file.
        """
        if self.sweep or self.regimes:
            cells = Cells(self)
            cells.check_all()
            cells.check_graphs()
        if self.kind.user_code:
            return None
        graph = self.build_graph()
        try:
            graph.check_counts()
        except CountOverflow as error:
            raise self.error(("graph",), str(error)) from None
        problems = []
        for point in () if self.sweep else self.points:
            try:
                point.check(graph)
            except REFUSALS as error:
                problems.append(point.problem(error))
        for pipeline in self.pipelines if self.has_graph and not self.sweep else ():
            try:
                pipeline.plan.check_links(pipeline.shape.ranks)
                check_job(graph, pipeline.schedule().stages, pipeline.plan)
            except ParameterError as error:
                problems.append(problem_of(error, pipeline))
        if problems:
            raise self.document.error(problems)
        return graph

    def shares_all_but_the_graph(self, other: Scenario) -> bool:
        """Whether another cell of the same sweep was made of this one's other sections."""
        return self.points is other.points and self.pipelines is other.pipelines and self.device is other.device

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
    data = _without_axes(assigned(document.data, values), set(values))
    try:
        return from_document(replace(document, data=data, changes=(*document.changes, *changes)))
    except DocumentError as error:
        keys = [shown_path(path) for path in values]
        findings = [
            replace(f, file="--set", at=None) if any(f.path.startswith(key) for key in keys) else f
            for f in error.findings
        ]
        raise DocumentError(findings, error.text) from None


def _without_axes(data: dict[str, Any], paths: set[KeyPath]) -> dict[str, Any]:
    """The data of a file without those axes of its sweep whose keys have a value of their own."""
    sweep = data.get("sweep")
    if ("sweep",) in paths or not isinstance(sweep, dict):
        return data
    kept = {}
    for names, values in sweep.items():
        keys = axes.linked(names)
        own = [key for key in keys if place(key, data) in paths]
        if own and len(keys) > 1:
            raise DocumentError([Finding("--set", None, own[0], f"the sweep varies it together with others: {names}")])
        if not own:
            kept[names] = values
    return data | {"sweep": kept or None}


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
    problems += misplaced(data)
    graph_parameters, wrong = _graph_parameters(data.get("graph"), Path(document.name).parent)
    problems += wrong
    machine, wrong = (None, []) if data.get("device") is None else device_of(data["device"], Path(document.name).parent)
    problems += [Problem(("device", *p.path), p.message, p.on_key) for p in wrong]
    strategies = data.get("strategies")
    expansion = expand(strategies if isinstance(strategies, list) else [])
    problems += expansion.problems
    pipelines: list[PipelinePoint] = []
    if not one_device and not any(p.path[:1] == ("parallel",) for p in problems):
        spread = expand_parallel(data["parallel"], micro_batch=_batch(data.get("graph"), graph_parameters))
        pipelines, problems = spread.points, problems + spread.problems
    regimes: axes.Regimes | None = None
    sweep: axes.Grid | None = None
    if data.get("regimes") is not None and not problems:
        regimes, problems = axes.read_regimes(data["regimes"], data)
    if data.get("sweep") is not None and not problems:
        sweep, problems = axes.read_sweep(data["sweep"], data)
    if problems:
        raise document.error(problems)
    file = ScenarioFile.model_validate(data)
    scenario = Scenario(
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
        sweep=sweep,
        regimes=regimes,
        document=document,
    )
    if sweep or regimes:
        Cells(scenario).check_values()
    return scenario


class Cells:
    """The cells of a sweep or a map, by number: scenarios without axes, with other values at their keys.

    Those that differ in keys of the graph alone share all but the graph, unless micro-batches follow from it.
    """

    def __init__(self, scenario: Scenario) -> None:
        grid = scenario.sweep or (scenario.regimes.grid if scenario.regimes else None)
        assert grid is not None, "a scenario without axes has no cells"
        self.scenario = scenario
        self.grid = grid
        self.section = "sweep" if scenario.sweep else "regimes"
        counted = (scenario.document.data.get("parallel") or {}).get("batch") is not None
        self._outside = [k for k, axis in enumerate(grid.axes) if counted or not _inside_graph(axis)]
        self._alike: dict[tuple[int, ...], Scenario] = {}

    def __len__(self) -> int:
        return len(self.grid)

    def __getitem__(self, cell: int) -> Scenario:
        """One cell; raises DocumentError, at the keys that are varied, if its values do not go together."""
        at = self.grid.at(cell)
        document = self._document(self.grid.values(cell))
        key = tuple(at[k] for k in self._outside)
        if key not in self._alike:
            if len(self._alike) == MOST_ALIKE:
                self._alike.clear()
            self._alike[key] = from_document(document)
            return self._alike[key]
        return _with_graph(self._alike[key], document)

    def shown(self, cell: int) -> str:
        """The keys of a cell with their values."""
        return ", ".join(axis.shown(i) for axis, i in zip(self.grid.axes, self.grid.at(cell), strict=True))

    def problem(self, cell: int, error: DocumentError) -> Problem:
        """What is wrong with a cell, at the axes."""
        return Problem((self.section,), _told(self.shown(cell), error.findings[0]))

    def check_values(self) -> None:
        """Raise DocumentError unless cells with each value of each axis make scenarios; at the values' places."""
        self._try(self.__getitem__)

    def check_all(self) -> None:
        """Raise DocumentError unless all cells make scenarios."""
        problems: dict[Problem, None] = {}
        for cell in range(len(self)):
            try:
                self[cell]
            except DocumentError as error:
                problems[self.problem(cell, error)] = None
            if len(problems) > MOST_TOLD:
                break
        if problems:
            raise self.scenario.document.error(problems)

    def check_graphs(self) -> None:
        """Raise DocumentError unless the cells of `check_values` and those at the ends of axes make graphs.

        A strategy of a sweep that works on none of these is an error, one that works on some is none. Nothing
        is built where that runs a person's own code.
        """
        if self.scenario.kind.user_code:
            return
        refused: dict[KeyPath, list[Problem | None]] = {}
        self._try(partial(self._try_graph, refused), also=self.grid.corners())
        problems = [found[0] for found in refused.values() if found[0] is not None and None not in found]
        if problems and self.section == "sweep":
            raise self.scenario.document.error(problems)

    def _try(self, work: Callable[[int], object], also: Sequence[int] = ()) -> None:
        """Try the first cell, those with one other value, and some more; tell what raises DocumentError."""
        document, grid = self.scenario.document, self.grid
        try:
            work(0)
        except DocumentError as error:
            at_fault = [axis for axis in grid.axes if self._alone(axis)]
            told = [Problem(axis.places[0], _told(axis.shown(0), error.findings[0])) for axis in at_fault]
            raise document.error(told or [Problem((self.section,), _told(self.shown(0), error.findings[0]))]) from None
        first = [0] * len(grid.axes)
        tried: list[tuple[int, KeyPath, str]] = [
            (grid.number([*first[:k], i, *first[k + 1 :]]), axis.places[i], axis.shown(i))
            for k, axis in enumerate(grid.axes)
            for i in range(1, len(axis))
        ]
        problems: dict[Problem, None] = {}
        known = {0, *(cell for cell, _, _ in tried)}
        tried += [(cell, (self.section,), self.shown(cell)) for cell in also if cell not in known]
        for cell, at, shown in tried:
            try:
                work(cell)
            except DocumentError as error:
                problems |= dict.fromkeys(Problem(at, _told(shown, f)) for f in error.findings)
        if problems:
            raise document.error(problems)

    def _alone(self, axis: axes.Axis) -> bool:
        """Whether the first value of an axis is wrong with the values that the file has for the other keys."""
        try:
            from_document(self._document(dict(zip(axis.paths, axis.values[0], strict=True)))).build_graph()
        except DocumentError:
            return True
        return False

    def _try_graph(self, refused: dict[KeyPath, list[Problem | None]], cell: int) -> None:
        """Build the graph of a cell, and note which points it refuses."""
        scenario = self[cell]
        graph = scenario.build_graph()
        try:
            graph.check_counts()
        except CountOverflow as error:
            raise scenario.error(("graph",), str(error)) from None
        for point in scenario.points:
            try:
                point.check(graph)
                refused.setdefault(point.path, []).append(None)
            except REFUSALS as error:
                refused.setdefault(point.path, []).append(point.problem(error))

    def _document(self, values: Mapping[KeyPath, Any]) -> Document:
        data = assigned(self.scenario.document.data, values)
        return replace(self.scenario.document, data={k: v for k, v in data.items() if k not in ("sweep", "regimes")})


def _inside_graph(axis: axes.Axis) -> bool:
    return all(path[0] == "graph" and len(path) > 1 for path in axis.paths)


def _with_graph(scenario: Scenario, document: Document) -> Scenario:
    """A scenario with the graph of another document, whose other sections are the same."""
    if document.data.get("graph") is None:
        return scenario
    parameters, wrong = _graph_parameters(document.data["graph"], Path(document.name).parent)
    if wrong:
        raise document.error(wrong)
    return replace(scenario, graph_parameters=parameters, document=document)


def _told(values: str, finding: Finding) -> str:
    """A finding about a cell with these values; a key that both name is named once."""
    path = "" if not finding.path or values.startswith(f"{finding.path} = ") else f"{finding.path}: "
    return f"{values}: {path}{finding.message}"


def _stages(pipelines: Sequence[PipelinePoint]) -> dict[str, Any]:
    """The parameters of the chain that stands for stages of which times alone are known."""
    nothing = dict.fromkeys(("forward_flops", "jvp_flops", "vjp_flops", "activation_bytes", "input_bytes"), 0)
    return {"length": max(p.shape.ranks for p in pipelines), **nothing}


def _batch(graph: Any, parameters: Mapping[str, Any]) -> int | None:
    """The samples of a graph; `None` if its kind does not say it."""
    kind = graph_kind(graph.get("kind")) if isinstance(graph, dict) else None
    field = None if kind is None else kind.model.model_fields.get("batch")
    batch = parameters.get("batch", field.default if field is not None else None)
    return batch if isinstance(batch, int) else None


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
