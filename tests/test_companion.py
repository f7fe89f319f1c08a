"""Work done beside a run by other processes: the same figures, the same errors, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from figures import tents

from sim import plots

DATA = tents(200, 100)
DRAW = """\
import json, sys
from pathlib import Path
from sim.plots.drawing.painter import painter
with painter() as draw:
    print(draw.args[0].pid, flush=True)
    {then}
"""


def started(then: str) -> subprocess.Popen[str]:
    code = DRAW.format(then=then)
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def drawn(folder: Path) -> list[str]:
    """What another process says after it had `DATA` drawn into a folder: whether it has matplotlib, and the files."""
    asked = f"data = json.load(sys.stdin); files = draw(data, Path({str(folder)!r}))"
    process = started(asked + "; print('matplotlib' in sys.modules, *[f.name for f in files])")
    out, _ = process.communicate(json.dumps(DATA))
    return out.splitlines()[-1].split()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_another_process_draws_the_same_files(tmp_path: Path) -> None:
    here = plots.draw_all(DATA, tmp_path / "here")
    assert drawn(tmp_path / "there") == ["False", *(path.name for path in here)]
    for path in here:
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()


def test_what_it_cannot_draw_is_drawn_here_with_the_error_that_there_is(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    then = f"""
    data = json.load(sys.stdin)
    try:
        draw(data, Path({str(tmp_path / "taken")!r}))
    except Exception as error:
        print(type(error).__name__)"""
    out, _ = started(then).communicate(json.dumps(DATA))
    assert out.splitlines()[-1] == "OutputError"


@pytest.mark.slow
def test_some_kernels_are_compiled_beside(tmp_path: Path) -> None:
    code = "from sim.strategies import compile_some; compile_some()"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}, check=True)
    kept = {path.name.split("-")[0] for path in tmp_path.rglob("*.nbi")}
    assert {"binomial.emit", "matrix_chain._order"} <= kept


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_the_process_that_asked_for_it(how: signal.Signals) -> None:
    process = started("import time; time.sleep(60)")
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert is_running(pid)
    os.kill(process.pid, how)
    process.wait()
    deadline = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)
    process.communicate()
