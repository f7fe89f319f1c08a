"""Families: a few numbers to a `Graph`. One file each, one decorated function; they register themselves."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Annotated

from pydantic import Field

from sim.base.registry import Count, Registry
from sim.graphs.graph import Graph

families: Registry[Graph] = Registry("family")
Batch = Annotated[Count, Field(description="Samples.")]


@cache
def load() -> Registry[Graph]:
    """The registry, with every module of this package imported."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return families
