"""The exit codes of the command line."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit code of a command, and what it means."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Exit:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    FINE = 0, "Everything that was asked for is done."
    OURS = 1, "Our fault, the machine's (a full disk), or a prediction that `sim verify` finds off."
    USAGE = 2, "Wrong usage, or an invalid scenario."
    NOTHING_FITS = 3, "The budget of `sim plan`, or that of a scenario under `sim run --strict`."
    INTERRUPTED = 130, "By Ctrl-C or SIGTERM; what was finished is kept."
    PIPE_CLOSED = 141, "Nobody reads what is printed any more (`sim list | head -1`)."
