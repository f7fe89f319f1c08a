"""Data on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys

from sim.base.files import OutputError


class PipeClosed(Exception):
    """Nobody reads what we print any more (`sim list | head -1`)."""


def emit(text: str) -> None:
    """Data: UTF-8 whatever the locale, so that it is the same bytes in a pipe and in a file.

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
        # what is still buffered would fail again when the interpreter exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise PipeClosed from None
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"standard output: cannot be written: {reason}", out_of_space=True) from None


def note(text: str, *, quiet: bool = False) -> None:
    """A line for the person at the terminal."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def colours() -> bool:
    """Whether stdout may be coloured (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
