"""The decorator of compiled kernels: numba, cached on disk, stale as soon as what a kernel took changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import numba
from numba.core.dispatcher import Dispatcher
from numba.core.types import unliteral

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """`function`, compiled without bounds checks and kept on disk for the next process.

    Compiled functions copy and fill arrays in loops: slice assignments pull in numba's own machinery,
    which takes longer to compile than the function.
    """
    made: Any = numba.njit(cache=True, nogil=True)(function)
    made.get_call_template = partial(_template, made.get_call_template)
    _depend_on_other_files(made._cache._cache_file, function)
    return cast(F, made)


def _template(template: Callable[..., Any], types: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """The type by which a kernel takes another that it calls: one for all numbers, constant or not."""
    plain: Callable[[Any], Any] = unliteral
    return template([plain(t) for t in types], {k: plain(t) for k, t in keywords.items()})


def _depend_on_other_files(file: Any, function: Callable[..., Any]) -> None:
    """Make a cached kernel stale when what it takes from other files changes.

    Numba compiles constants, other kernels and the order of a record's fields into a kernel, but
    compares its own file alone.
    """
    taken: list[Any] = []
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, Dispatcher):
            cache: Any = vars(value)["_cache"]
            taken.append((name, cache._cache_file._source_stamp))
        elif isinstance(value, int | float):
            taken.append((name, value))
    for name in function.__annotations__.values():
        taken.append((name, getattr(function.__globals__.get(str(name)), "_fields", None)))
    file._source_stamp = (file._source_stamp, tuple(taken))


@compiled
def put(stack: Any, at: Any, a: Any, b: Any, c: Any, d: Any) -> None:
    """Write a row of four numbers; assigning a tuple takes long to compile."""
    stack[at, 0], stack[at, 1], stack[at, 2], stack[at, 3] = a, b, c, d
