"""Hooks of `mkdocs build`: names with * in the nav, and pictures and pages that lie outside this folder."""

from __future__ import annotations

import posixpath
import re
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
