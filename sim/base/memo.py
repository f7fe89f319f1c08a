"""The one cache of derived data: answers about an object, kept while the object lives and gone with it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from inspect import signature
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

Of = TypeVar("Of")
P = ParamSpec("P")
R = TypeVar("R")


def remembered(function: Callable[Concatenate[Of, P], R]) -> Callable[Concatenate[Of, P], R]:
    """`function` of an object and hashable keywords, asked once for each.

    Its answers must not refer to the object, or neither would ever be freed.
    """
    answers: WeakKeyDictionary[Any, dict[Hashable, R]] = WeakKeyDictionary()
    parameters = signature(function)

    @wraps(function)
    def answer(of: Of, /, *args: P.args, **keywords: P.kwargs) -> R:
        of_object = answers.setdefault(of, {})
        asked = parameters.bind(of, *args, **keywords)
        asked.apply_defaults()
        key = tuple(asked.arguments.values())[1:]
        if key not in of_object:
            of_object[key] = function(of, *args, **keywords)
        return of_object[key]

    return answer
