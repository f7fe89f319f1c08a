"""The ground of every command: where it registers, and data on stdout with all else on stderr."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sim.base.files import OutputError

app = typer.Typer(
    help="Memory and compute of automatic differentiation, simulated exactly.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class TableOrJson(StrEnum):
    """The output format of a command that prints a table."""

    table = "table"
    json = "json"


ScenarioPath = Annotated[
    Path,
    typer.Argument(help="A scenario: a file, the name of a shipped one such as deep_mlp, or - for standard input."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key, such as graph.batch=16; repeatable."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
Shown = Annotated[TableOrJson, typer.Option("--format", "-f", help="What to print.")]


class PipeClosed(Exception):
    """Standard output closed by its reader (`sim list | head -1`)."""


def emit(text: str) -> None:
    """Write data to stdout: UTF-8 whatever the locale, so that it is the same bytes in a pipe and in a file.

    Raises
    ------
    PipeClosed
        If the reader has gone.
    OutputError
        If standard output cannot be written (`> /dev/full`).
    """
    binary = getattr(sys.stdout, "buffer", None)
    try:
        if binary is None or sys.stdout.isatty():
            encoding = sys.stdout.encoding or "utf-8"
            sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        else:
            sys.stdout.flush()
            binary.write(text.encode())
        sys.stdout.flush()
    except OSError as error:
        raise unprinted(error) from None


def unprinted(error: OSError) -> PipeClosed | OutputError:
    """The error for data that standard output does not take; from here on all is thrown away that is printed."""
    # what is still buffered would fail again when the interpreter exits
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return PipeClosed()
    reason = "it is closed" if error.errno == errno.EBADF else (error.strerror or str(error)).lower()
    return OutputError(f"standard output: cannot be written: {reason}", out_of_space=True)


def note(text: str, *, quiet: bool = False) -> None:
    """Write a line to stderr for the person at the terminal, or for nobody where standard error cannot be written."""
    if not quiet:
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def colours() -> bool:
    """Tell whether stdout may be coloured (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
