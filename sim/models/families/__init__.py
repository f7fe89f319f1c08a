"""Families: a few numbers to a `Graph`. One file each, one decorated function; they register themselves."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from sim.base.registry import Registry
from sim.graphs.graph import Graph

families: Registry[Graph] = Registry("family")


@cache
def load() -> Registry[Graph]:
    """The registry, with every module of this package imported."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return families
