"""The lecture as a notebook: its cells are those of the page, and they run in a kernel."""

from __future__ import annotations

from typing import Any

import pytest
from pages import DOCS, blocks

LECTURE = DOCS / "tutorials" / "lecture.md"
NOTEBOOK = LECTURE.with_suffix(".ipynb")


def cells(notebook: Any) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_the_notebook_has_the_cells_of_the_page() -> None:
    """Make it again with `jupytext --to notebook sim/docs/tutorials/lecture.md`."""
    jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed")
    page = jupytext.reads(LECTURE.read_text(encoding="utf-8"), fmt="md")
    assert cells(jupytext.read(NOTEBOOK)) == cells(page)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_every_cell_prints_in_a_kernel_what_the_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    monkeypatch.setenv("PYTHONPATH", str(DOCS.parents[1]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    printed = ["".join(o.get("text", "") for o in cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    shown = [block.prints or "" for block in blocks(LECTURE.read_text(encoding="utf-8")) if block.language == "python"]
    assert printed == shown
