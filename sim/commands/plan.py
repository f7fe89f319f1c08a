"""`sim plan`: the cheapest plan that fits, what it keeps and recomputes, and the file that an executor runs."""

from __future__ import annotations

import re
from enum import Enum
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.base import files
from sim.base.errors import ParameterError
from sim.commands.command import Changes, Quiet, ScenarioPath, Shown, TableOrJson, app, emit, note
from sim.commands.exit import Exit
from sim.commands.process import on_interruption

if TYPE_CHECKING:
    from sim.experiment.largest import Fit


class BoundLevel(Enum):
    """The levels of `sim.strategies.general.certificate`, as typer wants them."""

    none = "none"
    fast = "fast"
    proof = "proof"


@app.command()
def plan(
    file: ScenarioPath,
    changes: Changes = None,
    budget: Annotated[str | None, typer.Option("--budget", "-b", help="Peak memory at most, such as 8GB.")] = None,
    max_overhead: Annotated[
        str | None, typer.Option("--max-overhead", help="Price over full store at most, such as 20%.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", "-d", help="A preset or YAML file; its memory is the budget if none is given."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("plan.json"),
    max_key: Annotated[
        str | None,
        typer.Option("--max", metavar="KEY", help="Find the largest value of a key that fits."),
    ] = None,
    max_batch: Annotated[bool, typer.Option("--max-batch", help="The same as --max graph.batch.")] = False,
    bound: Annotated[
        BoundLevel, typer.Option("--bound", help="How much is spent on proving what no plan takes less than.")
    ] = BoundLevel.fast,
    format: Shown = TableOrJson.table,
    quiet: Quiet = False,
) -> Exit:
    """Choose the cheapest plan that fits, say what it keeps and recomputes, and write it to plan.json."""
    from sim.commands.tables.plan import largest_table, text
    from sim.experiment.choose import NothingFits, choose
    from sim.experiment.largest import largest
    from sim.scenario.devices import named_device
    from sim.scenario.scenario import load
    from sim.schedules.plan import plan_of, to_json, write

    budget_bytes = None if budget is None else _bytes(budget)
    overhead = None if max_overhead is None else _share(max_overhead)
    given = None if device is None else named_device(device)
    files.check_writable(output.parent)
    scenario = load(file, changes=changes or ()).single()
    machine = given or scenario.device
    if budget_bytes is None and (given is not None or overhead is None):
        limits = (scenario.budget_bytes if given is None else None, machine.memory_bytes if machine else None)
        budget_bytes = min((limit for limit in limits if limit is not None), default=None)
    if budget_bytes is None and overhead is None:
        raise ParameterError(
            f"{file}: names neither a budget nor a device with a memory; "
            "give --budget 8GB, --max-overhead 20% or --device"
        )
    key = "graph.batch" if max_batch else max_key
    fits: list[Fit] = []
    try:
        if key is None:
            graph = scenario.build_graph()
            choice = choose(
                scenario, graph, budget_bytes=budget_bytes, max_overhead=overhead, device=machine, bound=bound.value
            )
        elif budget_bytes is None:
            raise ParameterError("--max: the largest value is that within a budget; give --budget or --device")
        else:
            told = partial(_tell_of, key=key, quiet=quiet)
            fits = largest(scenario, key, budget_bytes=budget_bytes, device=machine, bound=bound.value, progress=told)
            graph, choice = fits[0].graph, fits[0].choice
    except NothingFits as error:
        note(f"error: {file}: {error}")
        return Exit.NOTHING_FITS
    request = choice.chosen.request
    plan = plan_of(request.schedule(graph)) | {
        "strategy": request.strategy,
        "parameters": dict(request.parameters),
        "budget_bytes": choice.budget_bytes,
        "seconds": choice.chosen.point.seconds,
    }
    path = write(plan, output)
    on_interruption(f"{path} is written")
    if format is TableOrJson.json:
        emit(to_json(plan))
    else:
        emit((largest_table(fits, key) if key else "") + text(choice, plan, graph, name=scenario.name))
    note(f"wrote {path}", quiet=quiet)
    return Exit.FINE


def _tell_of(value: int, *, key: str, quiet: bool) -> None:
    note(f"planning {key}={value}", quiet=quiet)


def _bytes(text: str) -> int:
    from sim.base.units import parse_bytes

    try:
        return parse_bytes(text)
    except ValueError as error:
        raise ParameterError(f"--budget: got '{text}', expected {error}", parameter=("budget",)) from None


def _share(text: str) -> Fraction:
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*%\s*", text)
    if match is None:
        message = f"--max-overhead: got '{text}', expected a percentage such as 20%"
        raise ParameterError(message, parameter=("max-overhead",))
    return Fraction(match[1]) / 100
