"""The page that shows results: one HTML file with its data inside, without a network or a server.

`html` fills `page/page.html` with the style, the scripts and the data. Imports `base` alone: what a page
draws is plain data of results.json.
"""

from __future__ import annotations

import base64
import gzip
import html as text_of_html
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from sim.report.finding import Finding, finding, one_breakpoint

__all__ = ["Finding", "finding", "frame", "html", "one_breakpoint"]

SCRIPTS = (
    "format", "dom", "scale", "data", "front", "zoom", "plans", "pipeline", "model", "memory", "schedule", "streams",
    "peak", "products", "regimes", "table", "about", "main",
)  # fmt: skip
"""In the order in which they build on each other; together they are one module of JavaScript."""
FRAME_HEIGHT = 900
UNUSED = ("pictures",)
"""Keys of results.json that figures alone draw: `plans` has what the page needs of them."""


def html(results: Mapping[str, Any], *, command: str | None = None) -> str:
    """The page of a parsed results.json; `command` is what it says it was made by.

    The data is compressed and in base64, so that no name in it can be taken for markup.
    """
    shown = {key: value for key, value in results.items() if key not in UNUSED}
    data = {"results": shown, "finding": asdict(finding(results)), "command": command}
    packed = gzip.compress(json.dumps(data, separators=(",", ":"), allow_nan=False).encode(), mtime=0)
    parts = {
        "title": text_of_html.escape(str(results["scenario"]["name"])).encode(errors="replace").decode(),
        "style": _read("page.css").strip(),
        "script": "\n".join(_read(f"{name}.js") for name in SCRIPTS).strip(),
        "data": base64.b64encode(packed).decode(),
    }
    return re.sub("@@([a-z]+)@@", lambda place: parts[place[1]], _read("page.html"))


def frame(results: Mapping[str, Any]) -> str:
    """The page inside a notebook: a frame of its own, so that neither's style touches the other's."""
    page = text_of_html.escape(html(results))
    return f'<iframe srcdoc="{page}" width="100%" height="{FRAME_HEIGHT}" style="border:0"></iframe>'


def _read(name: str) -> str:
    return files(__name__).joinpath("page", name).read_text(encoding="utf-8")
