"""ONNX operators: for each the node with its costs, which constants are parameters, and how arrays run it.

To add one, write a function decorated by `operator` in a file of this package: it takes a `Call` and
gives a `Node`, or `None` for a view, which costs nothing. What the derivative reads is what PyTorch
saves for the same function. Costs may be those of another call (of an image with as many windows);
`runs` keeps the operator's own meaning.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache

from sim.models.onnx.call import OPERATORS, Operator


@cache
def load() -> Mapping[str, Operator]:
    """The table of operators, with every module of this package imported."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return OPERATORS


STATIC = frozenset({"Shape", "Size"})
"""Operators that say of a tensor what is known without computing it."""

CONTROL_FLOW: Mapping[str, str] = {
    "If": "which branch runs depends on values",
    "Loop": "how often it runs depends on values",
    "Scan": "its body is a graph of its own",
}
"""Operators that are refused, and why."""
