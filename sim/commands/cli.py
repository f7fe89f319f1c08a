"""The command line: every command of this package, and each error as one message and an exit code.

Nothing heavy is imported here, so that `sim --help` answers at once; each command imports what it needs.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from sim import commands
from sim.commands.command import Exit, app


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


SELDOM = 100_000
"""New objects before cyclic garbage is looked for: imports and compilation make many that stay, and looking through
them took a tenth of a run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command line, every error told in one message on stderr."""
    gc.set_threshold(SELDOM)
    try:
        for module in pkgutil.iter_modules(commands.__path__):
            importlib.import_module(f"{commands.__name__}.{module.name}")
        command: Any = typer.main.get_command(app)
        return command.main(arguments, prog_name="sim", standalone_mode=False) or Exit.FINE
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", Exit.INTERRUPTED)
    except MemoryError:
        return _fail("error: this machine has too little memory for that", Exit.OURS)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # typer's usage errors, whichever click it has
            error.show()
            return int(error.exit_code)
        return _fail("interrupted", Exit.INTERRUPTED) if _was_interrupted(error) else _failure(error)


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
    from sim.commands.command import PipeClosed

    if isinstance(error, PipeClosed):
        return Exit.PIPE_CLOSED
    if isinstance(error, DocumentError):
        return _fail(str(error), Exit.USAGE)
    if isinstance(error, OutputError):
        return _fail(f"error: {error}", Exit.OURS if error.out_of_space else Exit.USAGE)
    if isinstance(error, SimError) and not isinstance(error, InvalidSchedule):
        return _fail(f"error: {error}", Exit.USAGE)
    if os.environ.get("SIM_DEBUG", "0") not in ("", "0"):
        import traceback

        traceback.print_exception(error)
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return _fail(f"internal error: {what} (--debug shows where; please report it)", Exit.OURS)


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr)
    return code
