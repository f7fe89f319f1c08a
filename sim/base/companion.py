"""Another interpreter at work beside this one, with the same modules."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def companion(call: str) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that makes a call, such as `sim.plots.drawing.painter.paint`, and is ended with the block.

    It is a new interpreter rather than a fork, so that it inherits no threads, handlers or open pipes; it
    reads from a pipe that is closed when this process ends, however it ends. Ctrl-C does not reach it, and
    NumPy starts no threads in it, so that it may fork.
    """
    module, _, function = call.rpartition(".")
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", f"from {module} import {function}; {function}()"],
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
