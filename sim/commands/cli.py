"""The command line: what each command takes; the only place that chooses exit codes.

0 fine · 1 our fault, the machine's (a full disk), or a prediction that `sim verify` finds off · 2 wrong
usage or an invalid scenario · 3 nothing fits the budget (of `sim plan`, or under `--strict`) · 130
interrupted. Nothing heavy is imported here, so that
`sim --help` answers at once; each command imports what it needs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

OURS, USAGE, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141

app = typer.Typer(
    help="Memory and compute of automatic differentiation, simulated exactly.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Format(StrEnum):
    """What `sim run` prints."""

    table = "table"
    json = "json"
    csv = "csv"


class PlanFormat(StrEnum):
    """What `sim plan` and `sim verify` print."""

    table = "table"
    json = "json"


class Precision(StrEnum):
    """What `sim calibrate` multiplies matrices in."""

    float32 = "float32"
    float64 = "float64"


class Topic(StrEnum):
    """What `sim list` lists."""

    strategies = "strategies"
    schedules = "schedules"
    families = "families"
    devices = "devices"
    scenarios = "scenarios"


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sim {version('ad-tradeoff-sim')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an internal error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if debug:
        os.environ["SIM_DEBUG"] = "1"


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="A scenario, such as scenarios/deep_mlp.yaml.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the files; outputs/NAME unless given.")
    ] = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="What to print.")] = Format.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if nothing fits budget and device.")] = False,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Write no figures.")] = False,
) -> int:
    """Compute every point of a scenario: table, results.json, results.csv, figures and a trace."""
    from sim.commands.run import run as command

    return command(file, output=output, format=format.value, quiet=quiet, strict=strict, plots=not no_plots)


@app.command()
def plan(
    file: Annotated[Path, typer.Argument(help="A scenario, such as scenarios/deep_mlp.yaml.")],
    budget: Annotated[str | None, typer.Option("--budget", "-b", help="Peak memory at most, such as 8GB.")] = None,
    max_overhead: Annotated[
        str | None, typer.Option("--max-overhead", help="Price over full store at most, such as 20%.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", "-d", help="A preset or YAML file; its memory is the budget if none is given."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("plan.json"),
    format: Annotated[PlanFormat, typer.Option("--format", "-f", help="What to print.")] = PlanFormat.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")] = False,
) -> int:
    """Choose the cheapest plan that fits, say what it keeps and recomputes, and write it to plan.json."""
    from sim.commands.plan import plan as command

    return command(
        file, budget=budget, max_overhead=max_overhead, device=device, output=output, format=format.value, quiet=quiet
    )


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A scenario whose layers NumPy can run.")],
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="What `sim calibrate` measured here: compares seconds too.")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Samples, in place of the scenario's.")] = None,
    max_seconds: Annotated[float, typer.Option("--max-seconds", help="Time for all points together.")] = 60.0,
    format: Annotated[PlanFormat, typer.Option("--format", "-f", help="What to print.")] = PlanFormat.table,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print what is off alone.")] = False,
) -> int:
    """Run a scenario's schedules on real arrays: predicted against measured bytes, flops and gradients."""
    from sim.commands.verify import verify as command

    return command(file, device=device, batch=batch, max_seconds=max_seconds, format=format.value, quiet=quiet)


@app.command()
def calibrate(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A YAML file to write, too.")] = None,
    dtype: Annotated[Precision, typer.Option("--dtype", help="What the compute rate is measured in.")] = (
        Precision.float32
    ),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes.")] = False,
) -> int:
    """Measure this machine, as the `device:` of a scenario."""
    from sim.commands.calibrate import calibrate as command

    return command(output, dtype=dtype.value, quiet=quiet)


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Scenarios to check.")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors alone.")] = False,
) -> int:
    """Check scenarios, their graphs and their strategies, without computing anything."""
    from sim.commands.validate import validate as command

    return command(files, quiet=quiet)


@app.command("list")
def list_(
    topic: Annotated[Topic | None, typer.Argument(help="What to list; everything unless given.")] = None,
) -> int:
    """List strategies, schedules, families, devices and scenarios."""
    from sim.commands.list import show

    return show(topic.value if topic else None)


@app.command()
def schema() -> int:
    """Print the JSON Schema of scenarios, for editors."""
    from sim.commands.output import emit
    from sim.scenario.schema import schema_text

    emit(schema_text())
    return 0


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="The file to write, or a name for it.")] = Path("scenario.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> int:
    """Write a commented scenario to start from."""
    from sim.commands.init import init as command

    return command(file, force=force)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command line, every error told in one message on stderr."""
    try:
        command: Any = typer.main.get_command(app)
        return command.main(arguments, prog_name="sim", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except MemoryError:
        return _fail("error: this machine has too little memory for that", OURS)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # typer's usage errors, whichever click it has
            error.show()
            return int(error.exit_code)
        return _fail("interrupted", INTERRUPTED) if _was_interrupted(error) else _failure(error)


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error, such as that of an import or a callback which it broke off."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _failure(error: Exception) -> int:
    from sim.base.document import DocumentError
    from sim.base.errors import InvalidSchedule, SimError
    from sim.base.files import OutputError
    from sim.commands.output import PipeClosed

    if isinstance(error, PipeClosed):
        return PIPE_CLOSED
    if isinstance(error, DocumentError):
        return _fail(str(error), USAGE)
    if isinstance(error, OutputError):
        return _fail(f"error: {error}", OURS if error.out_of_space else USAGE)
    if isinstance(error, SimError) and not isinstance(error, InvalidSchedule):
        return _fail(f"error: {error}", USAGE)
    if os.environ.get("SIM_DEBUG", "0") not in ("", "0"):
        import traceback

        traceback.print_exception(error)
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return _fail(f"internal error: {what} (--debug shows where; please report it)", OURS)


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr)
    return code
