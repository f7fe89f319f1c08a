"""Importers: a real model to a `Graph`. One decorated function each, in `importer.py` of its package; `load` finds it.

The packages that read models (onnx, torch, jax) are imported when a model is, not before.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType

from sim import models
from sim.base.errors import GraphError
from sim.base.registry import Registry
from sim.graphs.graph import Graph

importers: Registry[Graph] = Registry("importer")


@cache
def load() -> Registry[Graph]:
    """The registry, with every importer imported."""
    for module in pkgutil.walk_packages(models.__path__, f"{models.__name__}."):
        if module.name.endswith(".importer"):
            importlib.import_module(module.name)
    return importers


def extra(package: str, *modules: str) -> list[ModuleType]:
    """`modules`, imported from the optional dependency `package`, which is also the name of its extra.

    Raises
    ------
    GraphError
        With the line that installs it.
    """
    try:
        return [importlib.import_module(module) for module in modules]
    except ImportError as error:
        if error.name != package:
            raise
        raise GraphError(
            f"graphs of kind {package} need the package '{package}', which is not installed; "
            f"install it by: pip install 'ad-tradeoff-sim[{package}]'"
        ) from None
