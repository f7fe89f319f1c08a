"""The page of results as a file: it carries all it needs, and nothing in a scenario can become markup."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from points import point, some

from sim import report
from sim.commands.cli import main

SCENARIO = """\
version: 1
name: demo
graph: {kind: chain, length: 7, activation_bytes: 8}
device: cpu-server
strategies: [reverse_full, reverse_offload, {reverse_checkpointed: {schedule: optimal}}]
"""
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>@@data@@"


def carried(page: str) -> Any:
    """The data inside a page."""
    (text,) = re.findall(r'id="data">([^<]*)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(text)))


def test_a_page_carries_the_results_that_it_draws() -> None:
    results = some(point(), point(label="other"))
    data = carried(report.html(results.to_dict(), command="sim run f.yaml"))
    assert data["command"] == "sim run f.yaml"
    expected = json.loads(results.to_json())
    assert data["results"] == {k: v for k, v in expected.items() if k not in report.UNUSED}


def test_a_page_is_the_same_bytes_each_time() -> None:
    assert report.html(some(point()).to_dict()) == report.html(some(point()).to_dict())


def test_no_text_of_a_scenario_becomes_markup() -> None:
    results = some(point(label=HOSTILE, notes={"bracketing": HOSTILE}))
    results.scenario["name"] = results.scenario["description"] = HOSTILE
    page = report.html(results.to_dict(), command=HOSTILE)
    title = html.escape(HOSTILE)
    assert f"<title>{title}</title>" in page
    assert "alert(" not in page.replace(title, "")
    assert "<img" not in page
    assert carried(page)["results"]["points"][0]["label"] == HOSTILE


def test_a_page_asks_for_nothing_from_elsewhere() -> None:
    page = report.html(some(point()).to_dict())
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|importScripts|import)\s*\(", page)
    assert "innerHTML" not in page


def test_a_surrogate_in_a_name_is_no_end() -> None:
    results = some(point(label="\ud800"))
    results.scenario["name"] = "\ud800"
    page = report.html(results.to_dict())
    assert page.encode()
    assert carried(page)["results"]["points"][0]["label"] == "\ud800"


def test_a_notebook_shows_the_page_in_a_frame() -> None:
    results = some(point())
    shown = results._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    (inside,) = re.findall(r'srcdoc="([^"]*)"', shown)
    assert html.unescape(inside) == report.html(results.to_dict())


def test_a_run_writes_the_page_and_report_writes_it_again(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text(SCENARIO)
    folder = tmp_path / "out"
    assert main(["run", str(tmp_path / "demo.yaml"), "-o", str(folder), "--report", "--no-plots", "-q"]) == 0
    first = carried((folder / "report.html").read_text())
    assert main(["report", str(folder / "results.json"), "-q"]) == 0
    second = carried((folder / "report.html").read_text())
    assert first["results"] == second["results"]
    assert first["command"].endswith("demo.yaml --report")
    assert main(["report", str(folder / "results.json"), "-q", "-o", str(tmp_path / "new" / "page.html")]) == 0
    assert carried((tmp_path / "new" / "page.html").read_text()) == second


def test_a_run_without_the_page_takes_an_earlier_one_away(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text(SCENARIO)
    for more, there in ((["--report"], True), ([], False)):
        assert main(["run", str(tmp_path / "demo.yaml"), "-o", str(tmp_path), "--no-plots", "-q", *more]) == 0
        assert (tmp_path / "report.html").exists() == there


@pytest.mark.parametrize("content", ["", "{", "3", '{"points": []}', "[" * 3000])
def test_a_file_that_holds_no_results_is_told_as_plot_tells_it(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    told = []
    for command in ("plot", "report"):
        assert main([command, str(path)]) == 2
        told.append(capsys.readouterr().err)
    assert told[0] == told[1] != ""
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_written_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some(point()).write(tmp_path)
    (tmp_path / "taken").write_text("")
    assert main(["report", str(tmp_path / "results.json"), "-o", str(tmp_path / "taken" / "page.html")]) == 2
    assert "this is a file, expected a folder for the output" in capsys.readouterr().err


def test_the_page_needs_nothing_heavy() -> None:
    code = (
        "import sys; from sim import report; "
        "report.html({'scenario': {'name': 'x'}, 'points': []}); "
        "print({'numpy', 'numba', 'matplotlib'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
