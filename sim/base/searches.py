"""Searches that end early with the best that they have, when whoever owns the process asks them to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock

_asked = Event()
_lock = Lock()
_under_way = 0


@contextmanager
def under_way() -> Iterator[None]:
    """A search that looks at `ended` between its steps.

    Raises
    ------
    KeyboardInterrupt
        If searches were asked to end before it began.
    """
    global _under_way
    if ended():
        raise KeyboardInterrupt
    with _lock:
        _under_way += 1
    try:
        yield
    finally:
        with _lock:
            _under_way -= 1


def ended() -> bool:
    """Whether searches were asked to end."""
    return _asked.is_set()


def end() -> bool:
    """Ask the searches under way to end; return whether there are any, or were when they were asked first."""
    if _under_way:
        _asked.set()
    return ended()
