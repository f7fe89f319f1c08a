"""The documentation tells the truth: every example of the README and of `sim/docs/` is run."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import DOCS, PAGES, ROOT, Block, Reader, blocks, matches

from sim.strategies import load as strategies

SLOW = "<!-- slow -->"
"""What a page says of itself if its examples take more than some seconds."""
FRAMEWORKS = ("torch", "jax", "onnx")


def marked(pages: list[Path]) -> list[object]:
    return [
        pytest.param(p, marks=[pytest.mark.slow] if SLOW in p.read_text(encoding="utf-8") else [], id=p.stem)
        for p in pages
        if blocks(p.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize("page", marked(PAGES))
def test_the_examples_of_a_page_run_and_print_what_it_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    text = page.read_text(encoding="utf-8")
    for framework in FRAMEWORKS:
        if re.search(rf"^(import|from) (sim\.)?{framework}\b|kind: {framework}\b", text, flags=re.MULTILINE):
            pytest.importorskip(framework, reason=f"needs the extra {framework}")
    reader = Reader(str(page.relative_to(ROOT)))
    known = {*strategies()}
    try:
        for block in blocks(text):
            reader.run(block)
    finally:
        for name in {*strategies()} - known:
            strategies().forget(name)
    assert reader.code == 0


@pytest.mark.parametrize(
    ("language", "text", "prints"),
    [
        ("console", "$ sim explain 3\nexit code 4\n", None),
        ("console", "$ sim explain 3\n…\n$ echo $?\n1\n", None),
        ("console", "$ sim explain nothing\n…\n$ sim explain 3\n…\n", None),
        ("python", "print(1)\n", "2\n"),
    ],
)
def test_what_is_not_printed_is_found_out(language: str, text: str, prints: str | None) -> None:
    with pytest.raises(AssertionError, match=r"page\.md:7"):
        Reader("page.md").run(Block(language, "", text, 7, prints))


def test_an_ellipsis_stands_for_lines() -> None:
    assert matches("a\n…\nd", "a\nb\nc\nd\n")
    assert matches("…", "")
    assert not matches("a\n…\nd", "a\nd e\n")
    assert not matches("a", "a\nb")


def test_every_picture_and_page_that_is_linked_is_there() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", page.read_text(encoding="utf-8")):
            there = link.startswith("https://") or (page.parent / link).is_file()
            assert there, f"{page.relative_to(ROOT)}: {link}"


@pytest.mark.slow
def test_the_site_is_built_and_asks_for_nothing_from_elsewhere(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "-f", str(DOCS / "mkdocs.yml"), "-d", str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "WARNING  -" not in built.stderr
    pages = {path.relative_to(tmp_path).with_suffix(".md").as_posix() for path in tmp_path.rglob("*.html")}
    assert {p.relative_to(DOCS).as_posix() for p in PAGES if p.is_relative_to(DOCS)} <= pages
    for path in tmp_path.rglob("*.html"):
        fetched = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(https?:[^"]*)"', path.read_text("utf-8"))
        assert fetched == [], path
