"""Importers: a real model to a `Graph`. One file each, one decorated function; they register themselves.

The packages that read models (onnx, torch, jax) are imported when a model is, not before.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from sim.errors import GraphError
from sim.graph import Graph
from sim.registry import Registry

importers: Registry[Graph] = Registry("importer")


def load() -> Registry[Graph]:
    """The registry, with every module of this package imported."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
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
