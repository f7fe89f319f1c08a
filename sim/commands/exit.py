"""The exit codes of the command line."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit code of a command."""

    FINE = 0
    OURS = 1
    """Our fault, the machine's (a full disk), or a prediction that `sim verify` finds off."""
    USAGE = 2
    """Wrong usage, or an invalid scenario."""
    NOTHING_FITS = 3
    """The budget of `sim plan`, or that of a scenario under `sim run --strict`."""
    INTERRUPTED = 130
    """By Ctrl-C or SIGTERM."""
    PIPE_CLOSED = 141
    """Nobody reads what is printed any more (`sim list | head -1`)."""
