"""Work for workers of tests, in a module of its own so that other processes find it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path


def squares(folder: str, items: Sequence[int]) -> list[int]:
    """The squares, of what takes a moment; negative numbers end their worker the first time, 13 every time."""
    for item in items:
        time.sleep(0.002)
        mark = Path(folder) / str(item)
        if item == 13 or (item < 0 and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return [item * item for item in items]


def processes(_: None, items: Sequence[int]) -> list[int]:
    """The process that each item was done in."""
    time.sleep(0.02)
    return [os.getpid() for _ in items]
