"""The function and parameters that a factory of a person's own code makes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from sim.base.errors import GraphError
from sim.models.factory import Factory, find, first_line
from sim.models.importers import extra


def function_and_parameters(factory: Factory | str, arguments: Mapping[str, Any]) -> tuple[Callable[..., Any], Any]:
    """`(f, params)` of the factory named `module:function`, so that `f(params, *inputs)` can be called.

    Parameters that are given as a function are made abstractly, without memory.

    Raises
    ------
    GraphError
        If there is no such module or function, if it raises, or if it returns something else.
    """
    where = f"factory: {factory}"
    result = find(factory)(**arguments)
    if callable(result):
        return without_parameters(result), ()
    if not isinstance(result, tuple) or len(result) != 2 or not callable(result[0]):
        raise GraphError(f"{where} returned {_shown(result)}, expected (f, params) or f", key="factory")
    f, params = result
    if callable(params):
        (jax,) = extra("jax", "jax")
        try:
            params = jax.eval_shape(params)
        except Exception as error:
            raise GraphError(f"{where}: making the parameters raised {first_line(error)}", key="factory") from error
    return f, params


def without_parameters(f: Callable[..., Any]) -> Callable[..., Any]:
    """The function with parameters, which are ignored, before its own arguments."""

    def ignoring(_: Any, *args: Any) -> Any:
        return f(*args)

    try:
        own = inspect.signature(f)
        first = inspect.Parameter("_", inspect.Parameter.POSITIONAL_ONLY)
        ignoring.__signature__ = own.replace(parameters=[first, *own.parameters.values()])  # type: ignore[attr-defined]
    except (TypeError, ValueError):  # a function without a signature, or one with a "_" of its own
        pass
    ignoring.__name__ = getattr(f, "__name__", "function")
    return ignoring


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
