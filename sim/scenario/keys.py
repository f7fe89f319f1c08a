"""Keys of a scenario as messages name their places (`graph.widths[0]`, `budget`), and files with other values there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import copy
from typing import Any

from sim.base.document import KeyPath
from sim.base.errors import suggest

KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*|\[-?\d+\])*")
_PART = re.compile(r"\[(-?\d+)\]|(\w+)")


def place(key: str, data: Mapping[str, Any]) -> KeyPath | str:
    """The path that a key names in a file, indices from the end resolved; or why it names nothing.

    The last part may be a key that the file leaves out.
    """
    if not KEY.fullmatch(key):
        return f"got {key!r:.60}, expected a key such as graph.widths[0], graph.length or budget"
    parts: list[str | int] = [int(m[1]) if m[1] else m[2] for m in _PART.finditer(key)]
    inside: Any = data
    path: list[str | int] = []
    for k, part in enumerate(parts, start=1):
        if isinstance(part, int):
            if not isinstance(inside, list):
                return f"got {key!r:.60}, but there is no list at {'.'.join(map(str, path))}"
            if not -len(inside) <= part < len(inside):
                return f"got {key!r:.60}, but the list there has {len(inside)} entries"
            part %= len(inside)
        elif not isinstance(inside, Mapping) or (part not in inside and k < len(parts)):
            keys = inside if isinstance(inside, Mapping) else ()
            return f"got {key!r:.60}, but there is no '{part}' there{suggest(part, keys) if keys else ''}"
        path.append(part)
        inside = inside.get(part) if isinstance(inside, Mapping) else inside[part]
    return tuple(path)


def assigned(data: Mapping[str, Any], values: Mapping[KeyPath, Any]) -> dict[str, Any]:
    """The data of a file with other values in some places; what stands elsewhere is shared with `data`."""
    changed: dict[str, Any] = dict(data)
    for path, value in values.items():
        inside: Any = changed
        for part in path[:-1]:
            inside[part] = copy(inside[part])
            inside = inside[part]
        inside[path[-1]] = value
    return changed
