"""The scenarios that come with the program, by name, wherever it is installed."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".yaml", ".yml")


def folder() -> Path:
    """The folder that they lie in: in the package of a wheel, else beside the package in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "scenarios"
    return inside if inside.is_dir() else package.parent / "scenarios"


def names() -> list[str]:
    """The names that `find` knows."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def find(path: Path) -> Path:
    """The file of a shipped scenario for a path that is its name alone and no file here; else the path as it is.

    >>> find(Path("deep_mlp")).name, find(Path("mine.yaml"))
    ('deep_mlp.yaml', PosixPath('mine.yaml'))
    """
    if path.suffix in SUFFIXES or path.name != str(path) or path.exists():
        return path
    shipped = folder() / f"{path}.yaml"
    return shipped if shipped.is_file() else path
