"""Another interpreter at work beside this one, with the same modules."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def companion(call: str) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that makes a call, such as `sim.plots.drawing.painter.paint`, and is ended with the block.

    It is a new interpreter rather than a fork, so that it inherits no threads, handlers or open pipes; it
    ends with this process, however that ends. Ctrl-C does not reach it, and NumPy starts no threads in it,
    so that it may fork.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", f"from {__name__} import accompany; accompany({call!r}, {os.getpid()})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def accompany(call: str, process: int) -> None:
    """Make a call in this process, which ends with the one that asked for it."""
    threading.Thread(target=_end_with, args=(process,), daemon=True).start()
    module, _, function = call.rpartition(".")
    getattr(importlib.import_module(module), function)()


def _end_with(process: int) -> None:
    while os.getppid() == process:
        time.sleep(0.05)
    os.killpg(os.getpid(), signal.SIGKILL)  # and what it has forked
