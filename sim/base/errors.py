"""The errors a caller may want to tell apart; the command line alone turns them into exit codes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SimError(Exception):
    """Something the person who runs the program can mend; the message says what and where."""


class GraphError(SimError):
    """A graph that means nothing: a cycle, an unknown input, a negative size, a shape that does not fit.

    `node` is the name of the node at fault, `key` the parameter at fault: of the node, or without one of
    the family or importer.
    """

    def __init__(self, message: str, *, node: str | None = None, key: str | None = None) -> None:
        super().__init__(message)
        self.node = node
        self.key = key


class InvalidSchedule(SimError):
    """A schedule that no machine could run, such as one that reads a value which is not in memory."""

    def __init__(self, message: str, *, action: int, value: str | None = None) -> None:
        super().__init__(message)
        self.action = action
        self.value = value


class NotApplicable(SimError):
    """A strategy that cannot work on this graph, or for what is differentiated; the message says why."""


class ParameterError(SimError):
    """A parameter of a strategy, family or device that is unknown, missing or out of range.

    `parameter` is the path to it, `("layers", 1)`; empty where no single one is at fault.
    """

    def __init__(self, message: str, *, parameter: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.parameter = parameter


class OutOfMemory(SimError):
    """An action that can never start because its bytes do not fit.

    `action` is its number in the schedule; `enough_bytes` is a capacity that does, and the smallest
    one if nothing is copied.
    """

    def __init__(
        self, message: str, *, action: int, tier: str, needed_bytes: int, capacity_bytes: int, enough_bytes: int
    ) -> None:
        super().__init__(message)
        self.action = action
        self.tier = tier
        self.needed_bytes = needed_bytes
        self.capacity_bytes = capacity_bytes
        self.enough_bytes = enough_bytes


class Deadlock(SimError):
    """Streams that wait for each other, none of them for memory."""


class CountOverflow(SimError):
    """A count too large for exact integers in the ledger; `key` is the parameter that makes it so, if one does."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


def suggest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, followed by what is known: the tail of a message about an unknown word."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    guess = f"; did you mean '{close[0]}'?" if close else ";"
    return f"{guess} known: {', '.join(names)}"
