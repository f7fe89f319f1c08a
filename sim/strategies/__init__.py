"""Strategies: a graph and parameters to a `Schedule`.

To add one, write a decorated function in a file of this package; `load()` finds it, and the command
line, the JSON Schema and the tests over all strategies pick it up.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Annotated

from pydantic import Field

from sim.base.registry import Count, Registry
from sim.schedules.schedule import Schedule

strategies: Registry[Schedule] = Registry("strategy")

Chunk = Annotated[Count, Field(description="tangents or cotangents that one sweep carries at once")]


@cache
def load() -> Registry[Schedule]:
    """The registry, with every module of this package imported."""
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return strategies


def compile_some() -> None:
    """Compile the kernels of a few strategies, which are kept on disk: what a first run comes to last."""
    from sim.models.families.chain import chain

    graph = chain(sizes=[2, 2, 2])
    load().call("jacobian_chain", graph, order="optimal")
    load().call("reverse_checkpointed", graph, schedule="binomial", slots=1)


def chunks(total: int, size: int) -> list[tuple[int, int]]:
    """(turns, width) of the sweeps that carry `total` in chunks of `size`: the full ones, then the rest.

    >>> chunks(784, 100)
    [(7, 100), (1, 84)]
    """
    full, rest = divmod(total, size)
    return [(turns, width) for turns, width in ((full, size), (1, rest)) if turns and width]
