"""The examples of the README and of `sim/docs/`: files to write, commands with what they print, Python that runs.

The blocks of a page run one after the other in one folder, as its reader would:

- `yaml` and `python` blocks with `title="name"` are written to that file; a scenario (with `version: 1`) is loaded;
- `python` blocks without a title run in one namespace, as cells of a notebook do, and print what a `text` block
  right behind them shows;
- in `console` blocks each line after `$ ` runs, and prints on standard output, or where nothing is there on
  standard error, what stands below it; `echo $?` shows the exit code.

Where `…` is shown there may be anything: any lines if it stands alone, the rest of a line that ends with it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.base import yaml as yamltext
from sim.commands.cli import main
from sim.scenario.scenario import from_document

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "sim" / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', flags=re.DOTALL | re.MULTILINE)
ANY = "…"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it is written to, its text, its line, and the `text` block behind it."""

    language: str
    title: str
    text: str
    line: int
    prints: str | None = None


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, those of `text` with the block that they follow."""
    out: list[Block] = []
    end = 0
    for found in _BLOCK.finditer(text):
        language, title, body = found[1], found[2] or "", found[3]
        line = text.count("\n", 0, found.start()) + 1
        if language == "text" and out and out[-1].language == "python" and not text[end : found.start()].strip():
            out[-1] = Block("python", out[-1].title, out[-1].text, out[-1].line, body)
        else:
            out.append(Block(language, title, body, line))
        end = found.end()
    return out


def sessions(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a console block, and what it is shown to print."""
    commands: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            commands.append((line[2:], []))
        elif commands[-1][0].endswith("\\"):
            commands[-1] = (commands[-1][0][:-1] + line, [])
        else:
            commands[-1][1].append(line)
    yield from ((command, "\n".join(shown).strip("\n")) for command, shown in commands)


def matches(shown: str, printed: str) -> bool:
    """Tell whether a page shows what was printed, where a line `…` stands for any lines and none.

    >>> matches("a\\n…\\nd", "a\\nb\\nc\\nd"), matches("a\\n…", "b")
    (True, False)
    """
    lines = [line.rstrip() for line in printed.strip("\n").splitlines()]
    pattern = "".join(_line(x.rstrip()) for x in shown.splitlines())
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None


def _line(shown: str) -> str:
    if shown == ANY:
        return r"(?:[^\n]*\n)*"
    start, rest, end = shown.rpartition(f" {ANY}")
    return f"{re.escape(start)} [^\n]*\n" if rest and not end else re.escape(shown) + "\n"


class Reader:
    """One who does what a page says, in the current folder; AssertionError at the first thing that differs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.code = 0
        self.names: dict[str, Any] = {"__name__": "page"}

    def run(self, block: Block) -> None:
        """One block; of a language of which nothing is expected it does nothing."""
        where = f"{self.name}:{block.line}"
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        if block.language == "yaml":
            document = yamltext.parse(block.text, name=block.title or where)
            if isinstance(document.data, dict) and "version" in document.data:
                from_document(document)
        elif block.language == "python" and not block.title:
            self._python(block, where)
        elif block.language == "console":
            for command, shown in sessions(block):
                self._command(command, shown, where)

    def _python(self, block: Block, where: str) -> None:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block.text, where, "exec", dont_inherit=True), self.names)
        if block.prints is not None:
            _same(block.prints.rstrip("\n"), out.getvalue(), where)

    def _command(self, command: str, shown: str, where: str) -> None:
        if command == "echo $?":
            assert shown == str(self.code), f"{where}: the exit code is {self.code}"
            self.code = 0
            return
        assert self.code == 0, f"{where}: the command before `{command}` ended with {self.code}"
        words = shlex.split(command)
        self.code, printed = _sim(words[1:]) if words[0] == "sim" else _other(words)
        _same(shown, printed, f"{where}: {command}")


def _same(shown: str, printed: str, where: str) -> None:
    assert matches(shown, printed), f"{where}: it prints\n{printed}\nand the page shows\n{shown}"


def _sim(arguments: list[str]) -> tuple[int, str]:
    if arguments[0] == "run" and "--no-plots" not in arguments:
        arguments = [*arguments, "--no-plots"]  # seconds of drawing, of which nothing is printed
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return code, out.getvalue() or err.getvalue()


def _other(words: list[str]) -> tuple[int, str]:
    assert words[0] in ("python", "cat", "ls"), f"no page has the command {words[0]}"
    program = [sys.executable, *words[1:]] if words[0] == "python" else words
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    ran = subprocess.run(program, capture_output=True, text=True, env=environment, check=False)
    return ran.returncode, ran.stdout or ran.stderr
