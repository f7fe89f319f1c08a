"""The decorator of compiled kernels: numba, cached on disk, stale as soon as what a kernel took changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import numba
from numba.core.dispatcher import Dispatcher
from numba.core.types import int32, int64, intc, unliteral

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """`function`, compiled without bounds checks and kept on disk for the next process.

    Compiled functions copy and fill arrays in loops: slice assignments pull in numba's own machinery,
    which takes longer to compile than the function.
    """
    return _compiled(function)


def borrowing(function: F) -> F:
    """`function`, compiled as `compiled` does, for kernels that make no arrays and return none.

    They do not count references to the arrays they are given, which takes a fifth of the time of small ones.
    """
    return _compiled(function, _nrt=False)


def _compiled(function: F, **options: bool) -> F:
    compiler: Any = numba.njit
    made = compiler(cache=True, nogil=True, **options)(function)
    made.get_call_template = partial(_template, made.get_call_template)
    _depend_on_other_files(made._cache._cache_file, function)
    return cast(F, made)


def _template(template: Callable[..., Any], types: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """The type by which a kernel takes another that it calls: one for all whole numbers, constant or not."""
    return template([_plain(t) for t in types], {k: _plain(t) for k, t in keywords.items()})


def _plain(given: Any) -> Any:
    kind: Any = unliteral(given)  # type: ignore[no-untyped-call]
    return int64 if kind in (int32, intc) else kind


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
