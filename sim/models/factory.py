"""Functions of a person's own code that make a model, named `module:function`.

The module is looked for beside the scenario file that names it, then in the current folder, then among
what is installed.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from sim.base.errors import GraphError


@dataclass(frozen=True, slots=True)
class Factory:
    """A `module:function`, and the folder of the file in which it was written."""

    module: str
    function: str
    folder: Path | None = None

    def __str__(self) -> str:
        return f"{self.module}:{self.function}"

    def beside(self, folder: Path) -> Factory:
        """The same, named by a file in this folder."""
        return replace(self, folder=folder)

    @property
    def places(self) -> tuple[str, ...]:
        """The folders in which its module may lie, in the order of looking."""
        folders = ([self.folder] if self.folder is not None else []) + [Path.cwd()]
        return tuple(dict.fromkeys(str(f.resolve()) for f in folders))


def parse(value: Any) -> Factory:
    """The factory that a person writes as `module:function`.

    Raises
    ------
    ValueError
        With what was expected instead.
    """
    if isinstance(value, Factory):
        return value
    module, colon, function = value.partition(":") if isinstance(value, str) else ("", "", "")
    names = [*module.split("."), *function.split(".")]
    if not colon or not all(name.isidentifier() for name in names):
        raise ValueError("module:function, such as model:make")
    return Factory(module, function)


NamedFactory = Annotated[
    Factory, PlainValidator(parse), WithJsonSchema({"type": "string", "pattern": r"^[\w.]+:[\w.]+$"})
]
"""A factory as a parameter, written `module:function`."""


def find(factory: Factory | str) -> Callable[..., Any]:
    """The function or class that a factory names; what it raises when called is a GraphError that says so.

    Raises
    ------
    GraphError
        If there is none, or importing its module raises.
    """
    factory = parse(factory)
    with _importing(factory):
        module = _module(factory)
    value: Any = module
    for part in factory.function.split("."):
        if not hasattr(value, part):
            file = getattr(module, "__file__", None)
            raise GraphError(
                f"factory: '{factory.module}' has no '{part}'{f'; it is {file}' if file else ''}", key="factory"
            )
        value = getattr(value, part)
    if not callable(value):
        raise GraphError(f"factory: {factory} is {type(value).__name__}, expected a function or class", key="factory")

    def make(**arguments: Any) -> Any:
        with _importing(factory):
            try:
                return value(**arguments)
            except (Exception, SystemExit) as error:
                message = f"factory: {factory} raised {type(error).__name__}: {first_line(error)}"
                raise GraphError(message, key="factory") from error

    return make


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _module(factory: Factory) -> ModuleType:
    name = factory.module
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent is not None and (name == absent or name.startswith(f"{absent}.")):
            beside = [] if factory.folder is None else [f"beside the scenario ({factory.places[0]})"]
            here = f"in the current folder ({factory.places[-1]})"
            folders = beside if len(factory.places) == 1 and beside else [*beside, here]
            search = f"looked {', '.join(folders)} and among what is installed"
            raise GraphError(f"factory: {factory}: there is no module '{absent}'; {search}", key="factory") from None
        message = f"importing '{name}' raised {type(error).__name__}: {first_line(error)}"
        raise GraphError(f"factory: {factory}: {message}", key="factory") from error


_loaded: dict[tuple[str, ...], dict[str, ModuleType]] = {}
"""By the folders that were looked in: the modules found in them, which those of other folders must not meet."""


@contextmanager
def _importing(factory: Factory) -> Iterator[None]:
    """Imports find what lies in the factory's places, and nothing that was imported from other factories' places.

    A module that a person's own code has imported stays theirs: where one of another file has the
    factory's name, it is back at the end.
    """
    places, top = factory.places, factory.module.partition(".")[0]
    for others in _loaded.values():
        for name, module in others.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
    foreign = _family(top) if _is_elsewhere(top, places) else {}
    for name in foreign:
        del sys.modules[name]
    own = _loaded.setdefault(places, {})
    sys.modules.update(own)
    before = set(sys.modules)
    sys.path[:0] = places
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for place in places:
            with suppress(ValueError):  # the code may have changed sys.path itself
                sys.path.remove(place)
        fresh = {n for n in set(sys.modules) - before if "." not in n and _folder(sys.modules[n]) in places}
        tops = fresh | {name.partition(".")[0] for name in own}
        own |= {n: m for n, m in sys.modules.items() if n.partition(".")[0] in tops}
        if foreign:
            for name in _family(top):
                del sys.modules[name]
            sys.modules.update(foreign)


def _family(top: str) -> dict[str, ModuleType]:
    """A module with all its submodules that are imported."""
    return {n: m for n, m in sys.modules.items() if n == top or n.startswith(f"{top}.")}


def _is_elsewhere(top: str, places: tuple[str, ...]) -> bool:
    """Tell whether a module of this name is imported, though the first one in the places is another."""
    if top not in sys.modules:
        return False
    files = (f"{top}.py", f"{top}/__init__.py")
    first = next((p for p in places if any((Path(p) / f).exists() for f in files)), None)
    return first is not None and _folder(sys.modules[top]) != first


def _folder(module: ModuleType) -> str | None:
    """The folder in which a module lies, or a package does."""
    spec = getattr(module, "__spec__", None)
    if not isinstance(spec, ModuleSpec):
        return None
    inside = list(spec.submodule_search_locations or ())
    file = inside[0] if inside else spec.origin if spec.has_location else None
    return str(Path(file).resolve().parent) if file else None
