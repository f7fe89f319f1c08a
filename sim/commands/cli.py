"""The command line: every command of this package, and each error as one message and an exit code.

Nothing heavy is imported here, so that `sim --help` answers at once; each command imports what it needs.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import pkgutil
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from sim import commands
from sim.base import searches
from sim.commands import process
from sim.commands.command import PipeClosed, app, note, unprinted
from sim.commands.exit import Exit


def _version(asked: bool) -> None:
    if asked:
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


UNPRINTED = (errno.EBADF, errno.ENOSPC, errno.EIO)
"""Errors of typer where it cannot print help or the version; our own errors of files are no `OSError`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command line, every error told in one message on stderr."""
    gc.set_threshold(SELDOM)
    process.on_interruption(process.NOTHING)
    try:
        for module in pkgutil.iter_modules(commands.__path__):
            importlib.import_module(f"{commands.__name__}.{module.name}")
        command: Any = typer.main.get_command(app)
        code = command.main(arguments, prog_name="sim", standalone_mode=False) or Exit.FINE
        code = Exit.INTERRUPTED if searches.ended() else code
        # typer takes a KeyboardInterrupt for its exit code
        return _fail(process.interrupted(), code) if code == Exit.INTERRUPTED else code
    except (KeyboardInterrupt, typer.Abort):
        return _fail(process.interrupted(), Exit.INTERRUPTED)
    except SystemExit:  # what typer makes of a pipe that nobody reads help from
        return Exit.PIPE_CLOSED
    except MemoryError:
        return _fail("error: this machine has too little memory for that", Exit.OURS)
    except OSError as error:
        return _failure(unprinted(error) if error.errno in UNPRINTED else error)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # typer's usage errors, whichever click it has
            with contextlib.suppress(OSError):
                error.show()
            return int(error.exit_code)
        return _failure(error)


def _failure(error: Exception) -> int:
    from sim.base.document import DocumentError
    from sim.base.errors import InvalidSchedule, SimError
    from sim.base.files import OutputError

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
    note(message)
    return code
