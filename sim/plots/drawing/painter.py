"""A process that draws: it imports matplotlib while results are still computed, and shares the figures out.

To import matplotlib and draw the figures takes longer than to compute a small scenario.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sim.base.companion import companion
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
    with companion(f"{__name__}.paint") as process:
        yield partial(_ask, process)


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
            figures = pool.map(each, FIGURES, chunksize=1)
    else:
        figures = [each(name) for name in FIGURES]
    print(json.dumps([str(path) for paths in figures for path in paths]), flush=True)
    os._exit(0)  # taking matplotlib down takes a tenth of a second
