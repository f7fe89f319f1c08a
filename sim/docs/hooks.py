"""Hooks of `mkdocs build`: names with * in the nav, files from outside this folder, and pages that are generated."""

from __future__ import annotations

import inspect
import posixpath
import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ELSEWHERE = {
    "outputs/gallery": ("pictures", "*/*.png"),
    "sim/strategies/optimal": ("explanation/optimal", "README.md"),
    "sim/strategies/general": ("explanation/general", "README.md"),
}
"""Folders of the project: the folder of the site that stands for each, and the files taken from it."""
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def keys_page() -> str:
    """Every key of a scenario, from the schema that checks them."""
    from sim.scenario.reference import sections

    lines = [
        "# Every key of a scenario",
        "",
        "Read off the schema that checks scenarios, which `sim schema` prints for editors; `sim explain graph.batch`",
        "shows one key in the terminal. `[]` stands for each entry of a list, `NAME` for a name of your own. A key",
        "without a default that is not required may be left out.",
    ]
    for section in sections():
        lines += ["", f"## {section.title}", "", _markdown(section.about), ""]
        lines += ["| key | meaning | takes | unit | default | example |", "|---|---|---|---|---|---|"]
        for key in section.keys:
            cells = (key.path, key.about, key.allowed, key.unit, key.default, key.example)
            code = (0, 4, 5)
            lines.append(_row(f"`{c}`" if i in code and c else c for i, c in enumerate(cells)))
    return "\n".join([*lines, ""])


def strategies_page() -> str:
    """Every strategy with its parameters and sources, from its docstring."""
    from sim import strategies

    lines = [
        "# Strategies",
        "",
        "Each is a function from a graph and parameters to a schedule. What follows is its own text, which",
        "`sim explain NAME` prints.",
    ]
    for name, entry in sorted(strategies.load().items()):
        lines += ["", f"## {name}", *_entry(entry)]
        key, registry = entry.variants or ("", {})
        for variant, inner in sorted(registry.items()):
            lines += ["", f"### {key}: {variant}", *_entry(inner)]
    return "\n".join([*lines, ""])


def lists_page() -> str:
    """Pipeline schedules, ops and devices, each with one line."""
    from sim.ops import ops
    from sim.parallel import schedules
    from sim.simulation.device import PRESETS

    lines = ["# Pipelines, ops and devices", "", "## Pipeline schedules", "", "| schedule | what it is |", "|---|---|"]
    lines += [_row((f"`{name}`", entry.summary)) for name, entry in sorted(schedules.load().items())]
    lines += ["", "## Ops", "", "| op | what it is |", "|---|---|"]
    lines += [_row((f"`{name}`", ops[name].summary)) for name in sorted(ops)]
    lines += ["", "## Devices", "", "| preset | source of its rates |", "|---|---|"]
    lines += [_row((f"`{name}`", device.source)) for name, device in PRESETS.items()]
    return "\n".join([*lines, ""])


def exit_codes_page() -> str:
    """The exit codes of the command line."""
    from sim.commands.exit import Exit

    lines = ["# Exit codes", "", "| code | meaning |", "|---|---|"]
    return "\n".join([*lines, *(_row((f"`{code.value}`", code.meaning)) for code in Exit), ""])


GENERATED = {
    "reference/keys.md": keys_page,
    "reference/strategies.md": strategies_page,
    "reference/lists.md": lists_page,
    "reference/exit-codes.md": exit_codes_page,
}
"""The pages of the site that are made from the program, by where they stand."""


def _entry(entry: Any) -> list[str]:
    """The docstring of an entry and a table of its parameters."""
    text = (inspect.getdoc(entry.function) or "").partition("\n\nRaises\n")[0]
    lines = ["", *(_markdown(line) for line in text.splitlines())]
    properties = {} if entry.variants else entry.schema.get("properties", {})
    if properties:
        lines += ["", "| parameter | meaning | default |", "|---|---|---|"]
    for name, about in properties.items():
        required = name in entry.schema.get("required", ())
        default = "required" if required else "none" if about.get("default") is None else f"`{about['default']}`"
        lines.append(_row((f"`{name}`", about.get("description", ""), default)))
    return lines


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_markdown(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _markdown(text: str) -> str:
    """The text with what Markdown would take for its own."""
    return re.sub(r"(?<!`)\*(?!`)", r"\\*", text) if "`" not in text else text


def on_config(config: Any) -> Any:
    """Take the pages from the folder of the configuration, which mkdocs does not allow there."""
    config.docs_dir = str(HERE)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the files that lie elsewhere, and write out the nav."""
    from mkdocs.structure.files import File

    for folder, (place, pattern) in ELSEWHERE.items():
        for path in sorted((ROOT / folder).glob(pattern)):
            uri = posixpath.join(place, path.relative_to(ROOT / folder).as_posix())
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    for uri, make in GENERATED.items():
        files.append(File.generated(config, uri, content=make()))
    config.nav = _written_out(config.nav, [file.src_uri for file in files.documentation_pages()])
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point the links that leave this folder to where the site has their files."""
    return _LINK.sub(lambda found: found[1] + _moved(found[2], page.file.src_uri) + found[3], markdown)


def _written_out(nav: Any, uris: list[str]) -> Any:
    """The nav with each name that has a * as the list of the pages that match it."""
    if isinstance(nav, list):
        return [_written_out(part, uris) for part in nav]
    if isinstance(nav, dict):
        return {title: _written_out(part, uris) for title, part in nav.items()}
    return sorted(uri for uri in uris if fnmatch(uri, nav)) if "*" in nav else nav


def _moved(link: str, uri: str) -> str:
    """The link from a page of the site to what a link from its file names; unchanged within the site."""
    target = posixpath.normpath(posixpath.join("sim/docs", posixpath.dirname(uri), link))
    for folder, (place, _) in ELSEWHERE.items():
        if target.startswith(f"{folder}/"):
            there = posixpath.join(place, posixpath.relpath(target, folder))
            return posixpath.relpath(there, posixpath.dirname(uri))
    return link
