"""A process that draws: it imports matplotlib while results are still computed, and shares the figures out.

To import matplotlib and draw the figures takes longer than to compute a small scenario. The process is a
new interpreter rather than a fork, so that it inherits no threads, handlers or open pipes; it ends when
the pipe to it is closed, however this process ends.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sim.plots import FIGURES, draw, draw_all

Draw = Callable[[Mapping[str, Any], Path], list[Path]]


@contextmanager
def painter() -> Iterator[Draw]:
    """Yield `draw_all`, done by a process that gets ready from now on.

    Where this process has imported matplotlib already, or there is one core, it draws by itself.
    """
    if "matplotlib" in sys.modules or (os.cpu_count() or 1) < 2:
        yield draw_all
        return
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", f"from {__name__} import paint; paint()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # the same modules, and no threads of NumPy, so that it may fork
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C is for this process alone
    )
    try:
        yield partial(_ask, process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with the two that share the figures
        process.communicate()


def _ask(process: subprocess.Popen[bytes], results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Let a process draw; what it cannot draw is drawn here, with the error that there is."""
    answer, _ = process.communicate(json.dumps([results, str(folder)]).encode())
    return [Path(path) for path in json.loads(answer)] if process.returncode == 0 else draw_all(results, folder)


def paint() -> None:
    """Draw the results on standard input into the folder beside them, on two cores; answer with the files."""
    gc.disable()  # there is little garbage, and the process ends soon
    for name in FIGURES:
        importlib.import_module(f"sim.plots.{name}")
    results, folder = json.load(sys.stdin)
    each = partial(draw, results=results, folder=Path(folder))
    if "fork" in multiprocessing.get_all_start_methods():
        with multiprocessing.get_context("fork").Pool(2) as pool:
            drawn = pool.map(each, FIGURES, chunksize=1)
    else:
        drawn = [each(name) for name in FIGURES]
    print(json.dumps([str(path) for paths in drawn for path in paths]))
