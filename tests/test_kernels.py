"""What is cached on disk of compiled kernels goes stale with all that was compiled into it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

CONSTANTS = "STEP = {step}\n"
HELPER = "from sim.base.compiled import compiled\n\n\n@compiled\ndef helper(x):\n    return x * {factor}\n"
KERNEL = """from constants_of_a_kernel import STEP
from helper_of_a_kernel import helper
import sim
from sim.base.compiled import compiled
from sim.schedules import ledger


@compiled
def kernel(x):
    return helper(x) + STEP
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def imported(folder: Path, *, step: int, factor: int) -> ModuleType:
    """The module of the kernel, as a new process finds it when its two sources of constants are these."""
    (folder / "constants_of_a_kernel.py").write_text(CONSTANTS.format(step=step))
    (folder / "helper_of_a_kernel.py").write_text(HELPER.format(factor=factor))
    (folder / "a_kernel.py").write_text(KERNEL)
    for name in ("a_kernel", "helper_of_a_kernel", "constants_of_a_kernel"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return importlib.import_module("a_kernel")


def test_a_kernel_is_compiled_once_for_the_same_sources(folder: Path) -> None:
    assert imported(folder, step=1, factor=2).kernel(10) == 21
    again = imported(folder, step=1, factor=2).kernel
    assert again(10) == 21
    assert sum(again.stats.cache_hits.values()) == 1


@pytest.mark.parametrize(("step", "factor", "result"), [(5, 2, 25), (1, 3, 31)])
def test_a_kernel_is_compiled_anew_when_another_file_changes(folder: Path, step: int, factor: int, result: int) -> None:
    assert imported(folder, step=1, factor=2).kernel(10) == 21
    assert imported(folder, step=step, factor=factor).kernel(10) == result


SIGNATURES = """
import sim
from sim.schedules import ledger

graphs = [
    sim.chain(length=5), sim.chain(sizes=[3, 2, 4], residual_bytes=8), sim.mlp(widths=[5, 4, 3], batch=2, loss="mse"),
    sim.cnn(preset="resnet18", batch=1),
]
calls = [
    ("reverse_full", {}), ("reverse_full", {"chunk": 2}), ("reverse_offload", {}), ("forward_recompute", {"chunk": 2}),
    ("reverse_checkpointed", {"schedule": "sqrt"}), ("reverse_checkpointed", {"schedule": "binomial", "slots": 2}),
]
for graph in graphs:
    for name, parameters in calls:
        graph = graph.configured(wrt="input")
        sim.simulate(sim.schedule(graph, name, **parameters), sim.device("h100-sxm"))
for kernel in (ledger.mark, ledger.ledger, ledger.alive_forwards):
    print(len(kernel.signatures))
"""


def test_the_ledger_is_compiled_once_for_all_graphs_and_schedules() -> None:
    """A second signature would double what the very first run waits for."""
    done = subprocess.run([sys.executable, "-c", SIGNATURES], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1", "1"]
