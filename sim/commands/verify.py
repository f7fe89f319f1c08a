"""`sim verify`: a scenario's schedules run on real arrays, and each prediction beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sim.base.errors import GraphError, NotApplicable, ParameterError
from sim.commands.command import Changes, ScenarioPath, Shown, TableOrJson, app, emit, note
from sim.commands.exit import Exit
from sim.commands.process import on_interruption

if TYPE_CHECKING:
    from sim.base.registry import Problem
    from sim.commands.tables.verify import AnyVerifier
    from sim.experiment.verify import Check, Verified
    from sim.graphs.graph import Graph
    from sim.scenario.scenario import Scenario
    from sim.simulation.device import Device


@app.command()
def verify(
    file: ScenarioPath,
    changes: Changes = None,
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="What `sim calibrate` measured here: compares seconds too.")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Samples, in place of the scenario's.")] = None,
    max_seconds: Annotated[float, typer.Option("--max-seconds", help="Time for all points together.")] = 60.0,
    format: Shown = TableOrJson.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print what is off alone.")] = False,
) -> Exit:
    """Run a scenario's schedules on real arrays: predicted against measured bytes, flops and gradients."""
    from sim.commands.tables.verify import as_json, table
    from sim.experiment.fronts import stand_ins
    from sim.scenario.devices import named_device
    from sim.scenario.points import REFUSALS
    from sim.scenario.scenario import load

    if not max_seconds > 0:
        raise ParameterError(f"--max-seconds: got {max_seconds:g}, expected more than 0", parameter=("max-seconds",))
    scenario = load(file, changes=changes or ()).single()
    machine = named_device(device) if device is not None else None
    if batch is not None:
        scenario = _with_batch(scenario, batch)
    _check_executable(scenario)
    try:
        verifier = _verifier(scenario, machine, max_seconds)
    except (NotApplicable, GraphError) as error:
        raise scenario.error(("graph",), str(error)) from None
    if verifier.impossible:
        advice = _advice(verifier.graph, scenario)
        raise NotApplicable(f"{file}: too large to be run here: {verifier.impossible}{advice}")
    points: list[Verified] = []
    problems: list[Problem] = []

    def tell() -> str:
        _tell(points, quiet=quiet)
        emit(as_json(scenario, verifier, points) if format is TableOrJson.json else table(scenario, verifier, points))
        return f"{len(points)} points are verified, more were asked for"

    for request in scenario.points:
        try:
            for point in stand_ins(request, verifier.graph, machine):
                points.append(verifier.verify(point))
                on_interruption(tell)
        except REFUSALS as error:
            problems.append(request.problem(error))
    if problems:
        raise scenario.document.error(problems)
    on_interruption("every point is verified")
    tell()
    return Exit.FINE if all(p.ok for p in points) else Exit.OURS


def _verifier(scenario: Scenario, machine: Device | None, max_seconds: float) -> AnyVerifier:
    from sim.experiment.verify import Verifier, free_memory

    memory_bytes = free_memory()
    if scenario.kind.runs_on == "torch":
        from sim.experiment.verify_torch import TorchVerifier

        return TorchVerifier(scenario.graph_parameters, device=machine, limit_s=max_seconds, memory_bytes=memory_bytes)
    return Verifier(scenario.build_graph(), device=machine, limit_s=max_seconds, memory_bytes=memory_bytes)


def _with_batch(scenario: Scenario, batch: int) -> Scenario:
    from dataclasses import replace

    if "batch" not in scenario.kind.model.model_fields:
        raise ParameterError(f"--batch: graphs of kind {scenario.graph_kind} have no batch", parameter=("batch",))
    parameters = {**scenario.document.data["graph"], "batch": batch}
    del parameters["kind"]
    problems = scenario.kind.check(parameters)[1]
    if any(p.path[:1] == ("batch",) for p in problems):
        raise ParameterError(f"--batch: {problems[0].message}", parameter=("batch",))
    return replace(scenario, graph_parameters={**scenario.graph_parameters, "batch": batch})


def _check_executable(scenario: Scenario) -> None:
    if scenario.kind.runs_on is None:
        raise scenario.error(
            ("graph", "kind"),
            f"a {scenario.graph_kind} is abstract: its nodes compute nothing, so there is nothing to measure; "
            "verify a graph of layers (mlp, cnn, transformer, layers by op)",
        )
    if scenario.kind.runs_on == "torch" and scenario.wrt == "input":
        raise scenario.error(("wrt",), "a PyTorch module is run for the gradient of its parameters alone")


def _advice(graph: Graph, scenario: Scenario) -> str:
    if graph.wrt == "parameters" and graph.output_scalars > 1:
        return f"; a gradient is made for each of {graph.output_scalars} outputs, with a loss for one alone"
    if "batch" in scenario.kind.model.model_fields and graph.batch > 1:
        return f"; --batch 1 in place of {graph.batch}, or a larger --max-seconds, may do"
    return "; a larger --max-seconds may do"


def _tell(points: Sequence[Verified], *, quiet: bool) -> None:
    for p in points:
        if p.skipped:
            note(f"not run: {p.label}: {p.skipped}", quiet=quiet)
        for c in p.checks:
            if not c.ok:
                note(f"off: {p.label}: {c.quantity}: {_how_far(c)}")


def _how_far(c: Check) -> str:
    if c.predicted is None:
        return f"{c.error:.2g}, expected at most {c.tolerance:g}"
    expected = "expected the same" if not c.tolerance else f"expected at most {c.tolerance * 100:g} % between them"
    return f"{c.predicted} predicted, {c.measured} measured; {expected}"
