"""Outcomes of the cells of a sweep or a map: measured by workers, kept as they are finished, read again in order."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from sim.base import searches
from sim.base.document import Document, DocumentError, Finding
from sim.base.errors import GraphError, SimError
from sim.base.registry import Problem
from sim.base.store import Store, program
from sim.base.workers import WorkerLost, Workers
from sim.experiment.fronts import stand_ins
from sim.experiment.measure import measure
from sim.experiment.measure_pipeline import run_pipeline
from sim.experiment.point import Point
from sim.graphs.graph import Graph
from sim.models.onnx.file import PackageFile, located
from sim.scenario.parallel import PipelinePoint
from sim.scenario.points import REFUSALS, StrategyPoint
from sim.scenario.scenario import MOST_TOLD, Cells, Scenario, from_document

KEEP_S = 1.0
"""Seconds between two transactions of the store."""

Task = tuple[int, tuple[int, ...]]
"""A cell, and which of its requests are to be measured."""


@dataclass(frozen=True)
class Common:
    """What all tasks share: the scenario as it was read, whether seconds count, and the program's digest."""

    document: Document
    timed: bool
    program: str

    @property
    def scenario(self) -> Scenario:
        """The scenario, read again."""
        return from_document(self.document)


class OtherProgram(SimError):
    """A worker that runs another version of the program."""


@dataclass(frozen=True)
class Outcome:
    """The points of one request in one cell, as the data of results.json, or why it cannot work there."""

    points: tuple[dict[str, Any], ...] = ()
    refused: str | None = None


class Outcomes:
    """The outcomes of all cells, in a store."""

    def __init__(self, scenario: Scenario, store: Store, *, timed: bool = True) -> None:
        self.cells = Cells(scenario)
        self._store = store
        self._common = Common(scenario.document, timed, program())
        self._keys: list[list[bytes]] = []

    def measure(self, workers: Workers, *, fresh: bool, progress: Callable[[int], object]) -> None:
        """Measure what the store does not have, or everything if `fresh`; `progress` is told how many more are kept.

        Raises
        ------
        DocumentError
            If the graph of a cell cannot be built, or ends its worker; at the axes.
        KeyboardInterrupt
            If a search was asked to end: what it found so far is not kept.
        """
        tasks, count = self._missing(fresh, progress)
        made: list[tuple[bytes, str]] = []
        kept = time.monotonic()

        def keep() -> None:
            nonlocal kept
            self._store.put(made)
            progress(len(made))
            made.clear()
            kept = time.monotonic()

        try:
            for (cell, wanted), texts in workers.results(_outcomes, self._common, tasks, count=count):
                if searches.ended():
                    raise KeyboardInterrupt
                self._check(cell, texts)
                made += zip((self._keys[cell][i] for i in wanted), texts, strict=True)
                if time.monotonic() - kept > KEEP_S:
                    keep()
        except WorkerLost as lost:
            raise self._error(lost.item[0], str(lost)) from None
        finally:
            keep()

    def __iter__(self) -> Iterator[list[Outcome]]:
        """The outcomes of each cell in turn, one for each of its requests."""
        for keys in self._keys:
            texts = self._store.get(keys)
            yield [_outcome(texts[key]) for key in keys]

    def _missing(self, fresh: bool, progress: Callable[[int], object]) -> tuple[list[Task], int]:
        """The tasks that are left to do."""
        keyed = Keys(self._common)
        tasks: list[Task] = []
        problems: dict[Problem, None] = {}
        for cell in range(len(self.cells)):
            try:
                keys = keyed.of(self.cells[cell])
            except DocumentError as error:
                problems[self.cells.problem(cell, error)] = None
                if len(problems) > MOST_TOLD:
                    break
                continue
            known = set() if fresh else self._store.known(keys)
            self._keys.append(keys)
            wanted = tuple(i for i, key in enumerate(keys) if key not in known)
            if wanted:
                tasks.append((cell, wanted))
            if len(wanted) < len(keys):
                progress(len(keys) - len(wanted))
        if problems:
            raise self.cells.scenario.document.error(problems)
        return tasks, len(tasks)

    def _check(self, cell: int, texts: Sequence[str]) -> None:
        for text in texts:
            if text.startswith(_FAILED):
                path, message = json.loads(text)["failed"]
                raise self._error(cell, message, path)

    def _error(self, cell: int, message: str, path: str = "graph") -> DocumentError:
        document = self.cells.scenario.document
        error = DocumentError([Finding(document.name, None, path, message)])
        return document.error([self.cells.problem(cell, error)])


_FAILED = '{"failed":'


def _outcome(text: str) -> Outcome:
    data = from_json(text)
    return Outcome(tuple(data.get("points", ())), data.get("refused"))


def _outcomes(common: Common, tasks: Sequence[Task]) -> list[list[str]]:
    """The outcomes of tasks as text, each request's by itself; done by a worker."""
    if common.program != program():
        raise OtherProgram("a worker runs another version of the program; install the same everywhere")
    key = (common.document.sha256, common.document.name)
    if key not in _scenarios:
        _scenarios.clear()
        _scenarios[key] = Cells(common.scenario)
    return [_of_cell(_scenarios[key], common, cell, wanted) for cell, wanted in tasks]


_scenarios: dict[tuple[str, str], Cells] = {}
"""The scenario that this worker is at."""


def _of_cell(cells: Cells, common: Common, cell: int, wanted: Sequence[int]) -> list[str]:
    try:
        scenario = cells[cell]
        graph = scenario.build_graph()
    except DocumentError as error:
        first = error.findings[0]
        return [_text({"failed": [first.path, first.message]})] * len(wanted)
    if not common.timed:
        scenario = dataclasses.replace(scenario, device=None)
    requests = scenario.requests
    return [_of_request(requests[i], scenario, graph) for i in wanted]


def _of_request(request: StrategyPoint | PipelinePoint, scenario: Scenario, graph: Graph) -> str:
    try:
        return _text({"points": [p.to_dict() for p in _points(request, scenario, graph)]})
    except REFUSALS as error:
        return _text({"refused": str(error)})


def _points(request: StrategyPoint | PipelinePoint, scenario: Scenario, graph: Graph) -> Iterator[Point]:
    device, budget = scenario.device, scenario.budget_bytes
    if isinstance(request, PipelinePoint):
        own, sequence = graph if scenario.has_graph else None, scenario.graph_parameters.get("sequence")
        yield run_pipeline(request, own, device, budget, sequence=sequence)[0]
        return
    for one in stand_ins(request, graph, device):
        yield measure(one, one.schedule(graph), device, budget)[0]


def _text(data: Mapping[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class Keys:
    """The keys of outcomes in the store: digests of all that determines them."""

    def __init__(self, common: Common) -> None:
        self._common = common
        self._files: dict[Path | PackageFile, str] = {}
        self._alike: tuple[Scenario, bytes, list[bytes]] | None = None

    def of(self, cell: Scenario) -> list[bytes]:
        """The key of each request of a cell."""
        outside, requests = self._of_other_sections(cell)
        files = [self._digest(v) for v in cell.graph_parameters.values() if isinstance(v, Path | PackageFile)]
        base = hashlib.sha256(outside + _canonical([cell.document.data.get("graph"), files]))
        keys = []
        for request in requests:
            one = base.copy()
            one.update(request)
            keys.append(one.digest())
        return keys

    def _of_other_sections(self, cell: Scenario) -> tuple[bytes, list[bytes]]:
        """All but the graph, and each request, as bytes; cells in a row mostly share them."""
        if self._alike is not None and self._alike[0].shares_all_but_the_graph(cell):
            return self._alike[1:]
        data = cell.document.data
        minimized = [p.parameters["minimize"] for p in cell.points if "minimize" in p.parameters]
        timed = self._common.timed or bool(minimized)
        about = {
            "program": self._common.program,
            "settings": [data.get(key) for key in ("wrt", "optimizer", "gradients")],
            "device": dataclasses.asdict(cell.device) if cell.device and timed else None,
            "timed": self._common.timed,
            "minimized": minimized,
            "budget": cell.budget_bytes,
            "parallel": data.get("parallel"),
        }
        requests = [
            _canonical(r.label if isinstance(r, PipelinePoint) else [r.strategy, r.parameters]) for r in cell.requests
        ]
        self._alike = (cell, _canonical(about), requests)
        return self._alike[1:]

    def _digest(self, file: Path | PackageFile) -> str:
        if file not in self._files:
            try:
                self._files[file] = hashlib.sha256(located(file).read_bytes()).hexdigest()
            except (OSError, GraphError):  # the graph cannot be built then, which is told
                self._files[file] = ""
        return self._files[file]


def _canonical(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True, default=repr).encode()


def keepable(scenario: Scenario) -> bool:
    """Whether all that makes the points is part of their keys: none of a person's own code is run."""
    if scenario.kind.user_code:
        return False
    entries = [scenario.kind, *(request.entry for request in scenario.requests)]
    return all(entry.function.__module__.startswith("sim.") for entry in entries)
