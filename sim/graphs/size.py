"""The limits of a graph's size: the machine's memory, checked before anything is allocated, and numbers of nodes."""

from __future__ import annotations

import os

from sim.base.errors import GraphError
from sim.base.units import format_bytes

NODE_BYTES = 1000
"""Memory of a run for each node (measured): a `Node` with its attributes, its columns, a schedule and its trace."""
LAYER_BYTES = 250
"""Memory of a run for each layer of an abstract chain (measured), which has columns and no `Node`s."""
MOST_NODES = 2**31 - 1
"""The most nodes, so that their numbers fit."""


def machine_bytes() -> int | None:
    """Count the bytes of this machine's memory; `None` where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def excess(nodes: int, *, node_bytes: int = NODE_BYTES) -> str | None:
    """Say why a graph of so many nodes is too large for this machine; `None` where it is not."""
    needed, memory = nodes * node_bytes, machine_bytes()
    if memory is not None and needed > memory:
        taken = f"{nodes} nodes would take about {format_bytes(needed)} of memory"
        return f"{taken}; this machine has {format_bytes(memory)}"
    return f"{nodes} nodes cannot be numbered; expected at most {MOST_NODES}" if nodes > MOST_NODES else None


def check_size(nodes: int, *, key: str, node_bytes: int = NODE_BYTES) -> None:
    """Raise `GraphError`, at the parameter `key`, unless this machine's memory holds a graph of so many nodes."""
    problem = excess(nodes, node_bytes=node_bytes)
    if problem is not None:
        raise GraphError(f"{key}: {problem}", key=key)
