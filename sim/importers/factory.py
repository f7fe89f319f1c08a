"""Functions of a person's own code that make a model, named `module:function`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sim.errors import GraphError


def find(path: str) -> Callable[..., Any]:
    """The function or class that `module:name` names; the module may lie in the current folder.

    Raises
    ------
    GraphError
        If there is none, or importing its module raises.
    """
    name, _, attribute = path.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(name)
    except ImportError as error:
        raise GraphError(f"factory {path}: cannot import '{name}' ({first_line(error)})") from None
    except Exception as error:
        raise GraphError(
            f"factory {path}: importing '{name}' raised {type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise GraphError(f"factory {path}: '{name}' has no '{part}'")
        found = getattr(found, part)
    if not callable(found):
        raise GraphError(f"factory {path} is {type(found).__name__}, expected a function or class")
    return found  # type: ignore[no-any-return]


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
