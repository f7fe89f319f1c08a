"""Standard streams that are closed, full or left by their reader: one message at most, and the right exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

SCENARIO = "version: 1\nname: s\ngraph: {kind: chain, length: 3}\nstrategies: [reverse_full]\n"
HELP, DATA, FILES = ["--help"], ["schema"], ["run", "s.yaml", "--no-plots"]
SLOW_DATA = pytest.param(DATA, marks=pytest.mark.slow)
MESSAGES = ["validate", "missing.yaml"]
USAGE = ["run"]
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s.yaml").write_text(SCENARIO)
    return tmp_path


def done(folder: Path, arguments: Sequence[str], redirections: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of a command line with redirections."""
    line = f'exec "$0" -m sim "$@" {redirections}'
    command = ["sh", "-c", line, sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("redirection", "reason"),
    [(">&-", "it is closed"), pytest.param("> /dev/full", "no space left on device", marks=needs_full)],
)
@pytest.mark.parametrize("arguments", [HELP, SLOW_DATA, FILES])
def test_data_that_cannot_be_printed_are_one_message(
    folder: Path, arguments: list[str], redirection: str, reason: str
) -> None:
    process = done(folder, arguments, redirection)
    assert process.returncode == 1
    assert process.stderr == f"error: standard output: cannot be written: {reason}\n"
    assert (folder / "outputs/s/results.json").exists() == (arguments is FILES)


@pytest.mark.parametrize("redirection", ["2>&-", pytest.param("2> /dev/full", marks=[needs_full, pytest.mark.slow])])
@pytest.mark.parametrize(
    ("arguments", "code"), [pytest.param(DATA, 0, marks=pytest.mark.slow), (FILES, 0), (MESSAGES, 2), (USAGE, 2)]
)
def test_without_standard_error_data_and_exit_code_are_the_same(
    folder: Path, arguments: list[str], code: int, redirection: str
) -> None:
    process, usual = done(folder, arguments, redirection), done(folder, arguments, "")
    assert process.returncode == usual.returncode == code
    assert process.stdout == usual.stdout
    assert (process.stderr, bool(usual.stderr)) == ("", arguments is not DATA)


def test_with_both_closed_files_are_written_whole(folder: Path) -> None:
    assert done(folder, FILES, "").returncode == 0
    written = {path: path.read_bytes() for path in (folder / "outputs/s").iterdir()}
    for path in written:
        path.unlink()
    assert done(folder, FILES, ">&- 2>&- <&-").returncode == 1
    assert {path: path.read_bytes() for path in (folder / "outputs/s").iterdir()} == written


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("arguments", [HELP, SLOW_DATA, MESSAGES, USAGE])
def test_a_reader_that_leaves_is_no_error(folder: Path, arguments: list[str], stream: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sim", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writer}
    process = subprocess.run(command, cwd=folder, text=True, check=False, **pipes)  # type: ignore[call-overload]
    os.close(writer)
    printed = arguments in (HELP, DATA)
    assert process.returncode == (2 if not printed else 141 if stream == "stdout" else 0)
    assert not process.stderr or not printed
