"""The data of figures: one file a view, one decorated function from what is finished to plain data.

To give a figure data of its own, write such a function in a file of this package. Its key is the one in
results.json and in the figure that draws it; its return type is what results.json may hold there.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from sim.experiment.measurements import Measurements

V = TypeVar("V", bound=Callable[[Measurements], Any])


@dataclass(frozen=True)
class View:
    """A registered view: what makes its data, and the type of that."""

    function: Callable[[Measurements], Any]
    kind: Any
    place: int
    parallel: bool

    @property
    def nothing(self) -> Any:
        """The data of a run without any for this view."""
        return None if NoneType in get_args(self.kind) else []


_views: dict[str, View] = {}


def view(key: str, *, place: int, parallel: bool = False) -> Callable[[V], V]:
    """Register a view under its key of results.json; `place` is where it stands there among the views.

    A `parallel` view is of jobs over many devices, others of those on one.
    """

    def decorate(function: V) -> V:
        _views[key] = View(function, get_type_hints(function, include_extras=True)["return"], place, parallel)
        return function

    return decorate


@cache
def load() -> Mapping[str, View]:
    """All views in the order of results.json, every module of this package imported."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(_views.items(), key=lambda item: item[1].place))


def nothing() -> dict[str, Any]:
    """The data of all views where there is none."""
    return {key: view.nothing for key, view in load().items()}
