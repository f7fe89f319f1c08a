"""Named, validated entries: families, strategies, schedules and what their parameters may be.

An entry is one decorated function. Its keyword parameters, with pydantic annotations, become a
model that checks values, a JSON Schema for editors and the text that `sim list` shows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Literal,
    NotRequired,
    ParamSpec,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from sim.base.errors import ParameterError, suggest

P = ParamSpec("P")
R = TypeVar("R")
Execution: TypeAlias = Literal["numpy", "torch"] | None


def _whole(value: Any) -> Any:
    """The whole number that a float stands for: people write 1e9, which YAML reads as a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_whole, json_schema_input_type=int), Field(ge=1, le=2**53)]
"""A whole number of at least 1."""
Size = Annotated[int, BeforeValidator(_whole, json_schema_input_type=int), Field(ge=0, lt=2**62)]
"""A whole number of at least 0."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with one value: its place in the data, and a message that says got and expected.

    `on_key` tells that the key itself is at fault (unknown) rather than its value.
    """

    path: tuple[str | int, ...]
    message: str
    on_key: bool = False


@dataclass(frozen=True)
class Entry(Generic[R]):
    """One registered function, whose keyword-only parameters are those of the entry.

    With `variants` = (key, registry), the value of that parameter names an entry of the registry,
    whose parameters are given beside it (`reverse_checkpointed: {schedule: binomial, slots: 3}`).

    An entry whose parameters pick one point of a whole front (a budget) has the function that plans the
    `front`; one that pays for copies has the function that takes its `prices` from the links of a device.
    What an entry `requires` is a function that raises, without planning, what its own would on a graph on
    which it cannot work. All take some of the entry's parameters: those that they name as keywords. With
    `user_code` the function runs what a person wrote (a module that the parameters name). The nodes of a
    graph are evaluated by the execution that its kind `runs_on`; `None` if they stand for no operation.
    """

    name: str
    function: Callable[..., R]
    variants: tuple[str, Registry[Any]] | None = None
    front: Callable[..., Any] | None = None
    prices: Callable[..., Mapping[str, float]] | None = None
    requires: Callable[..., object] | None = None
    user_code: bool = False
    runs_on: Execution = "numpy"

    @cached_property
    def model(self) -> type[BaseModel]:
        """The parameters as a model, made when they are first asked for: most runs use few entries of many."""
        hints = get_type_hints(self.function, include_extras=True)
        fields: dict[str, Any] = {
            p.name: (hints[p.name], ... if p.default is p.empty else p.default)
            for p in inspect.signature(self.function).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }
        config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
        return create_model(self.name, __config__=config, **fields)

    @cached_property
    def schema(self) -> Mapping[str, Any]:
        """The JSON Schema of the parameters, as pydantic writes it."""
        return self.model.model_json_schema(ref_template=f"#/$defs/{self.name}.{{model}}")

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def variant(self, values: Mapping[str, Any]) -> Entry[Any]:
        """The entry that one of the values names (see `variants`), or else this one."""
        if self.variants is None or self.variants[0] not in values:
            return self
        return self.variants[1][values[self.variants[0]]]

    def check(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
        """The parameters, checked and converted, and everything that is wrong with them.

        Only those given are returned, so that defaults stay the function's.
        """
        if self.variants is not None and self.variants[0] in values:
            key, registry = self.variants
            name = values[key]
            if not isinstance(name, str) or name not in registry:
                what = f"{registry.what} '{name}'" if isinstance(name, str) else f"{registry.what} {_shown(name)}"
                return {}, [Problem((key,), f"unknown {what}" + suggest(str(name), registry))]
            checked, problems = registry[name].check({k: v for k, v in values.items() if k != key})
            return {key: name, **checked}, problems
        try:
            model = self.model.model_validate(dict(values))
        except ValidationError as error:
            return {}, problems_of(error, self.model)
        return {key: getattr(model, key) for key in self.model.model_fields if key in model.model_fields_set}, []


class Registry(Mapping[str, Entry[R]]):
    """Entries by name; `what` is what an entry is called in messages ('strategy', 'family')."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[str, Entry[R]] = {}

    def __getitem__(self, name: str) -> Entry[R]:
        try:
            return self._entries[name]
        except KeyError:
            raise ParameterError(f"unknown {self.what} '{name}'{suggest(name, self._entries)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(
        self,
        name: str,
        *,
        variants: tuple[str, Registry[Any]] | None = None,
        front: Callable[..., Any] | None = None,
        prices: Callable[..., Mapping[str, float]] | None = None,
        requires: Callable[..., object] | None = None,
        user_code: bool = False,
        runs_on: Execution = "numpy",
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorator: register a function whose keyword-only parameters are the entry's parameters."""

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            self._entries[name] = Entry(name, function, variants, front, prices, requires, user_code, runs_on)
            return function

        return decorate

    def forget(self, name: str) -> None:
        """Take an entry out again, for tests that register their own."""
        del self._entries[name]

    def call(self, name: str, /, *args: Any, **parameters: Any) -> R:
        """Call the named entry with `args` and the checked `parameters`.

        Raises
        ------
        ParameterError
            For an unknown name, or parameters that are unknown, missing or out of range.
        """
        entry = self[name]
        checked, problems = entry.check(parameters)
        if problems:
            raise first_of(problems, f"{self.what} {name}: ")
        return entry.function(*args, **checked)


def keywords(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the values that a function takes as keyword-only parameters."""
    kinds = inspect.signature(function).parameters
    return {k: v for k, v in values.items() if k in kinds and kinds[k].kind is inspect.Parameter.KEYWORD_ONLY}


def first_of(problems: Sequence[Problem], before: str = "") -> ParameterError:
    """The error of the first of some problems, which says how many more there are."""
    key = ".".join(map(str, problems[0].path))
    rest = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
    message = f"{before}{key + ': ' if key else ''}{problems[0].message}{rest}"
    return ParameterError(message, parameter=problems[0].path)


def problems_of(error: ValidationError, kind: Any) -> list[Problem]:
    """pydantic's errors as messages that say what was found and what is allowed; `kind` is what was checked."""
    problems = []
    for e in error.errors(include_url=False):
        path = tuple(e["loc"])
        match e["type"]:
            case "extra_forbidden" | "unexpected_keyword_argument":
                hint = suggest(str(path[-1]), _keys_at(kind, path[:-1]))
                problems.append(Problem(path, f"unknown key '{path[-1]}'{hint}", on_key=True))
            case "missing":
                problems.append(Problem(path[:-1], f"'{path[-1]}' is missing"))
            case "json_invalid":
                problems.append(Problem((), f"this is not JSON: {e['ctx']['error']}"))
            case _:
                expected = str(e.get("ctx", {}).get("error", "")) or _expected(e)
                problems.append(Problem(path, f"got {_shown(e.get('input'))}, expected {expected}"))
    return problems


def _keys_at(kind: Any, path: tuple[str | int, ...]) -> list[str]:
    """The keys of the model, dataclass or TypedDict at a path inside another; none where there is no such."""
    for part in (*path, None):
        while get_origin(kind) in (Annotated, Union, UnionType, NotRequired):
            kind = next(a for a in get_args(kind) if a is not type(None))
        if get_args(kind):
            kind = get_args(kind)[0 if isinstance(part, int) else -1]
        elif part is not None:
            kind = _hints(kind).get(str(part))
    return list(_hints(kind))


def _hints(kind: Any) -> dict[str, Any]:
    """The types of the fields of a class by their keys."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {f.alias or name: f.annotation for name, f in kind.model_fields.items()}
    hints = get_type_hints(kind, include_extras=True) if isinstance(kind, type) else {}
    return {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar and hint is not ClassVar}


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _expected(error: Any) -> str:
    context = error.get("ctx", {})
    texts = {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "int_parsing": "a whole number",
        "float_type": "a number",
        "string_type": "text",
        "bool_type": "true or false",
        "list_type": "a list",
        "dict_type": "a mapping of keys to values",
        "model_type": "a mapping of keys to values",
        "model_attributes_type": "a mapping of keys to values",
        "dataclass_type": "a mapping of keys to values",
        "literal_error": f"one of {context.get('expected', '')}".replace(" or ", ", "),
        "greater_than_equal": f"at least {context.get('ge')}",
        "greater_than": f"more than {context.get('gt')}",
        "less_than_equal": f"at most {_count(context.get('le'))}",
        "less_than": f"less than {_count(context.get('lt'))}",
        "too_short": f"a list of {context.get('min_length')} or more",
        "too_long": f"a list of {context.get('max_length')} or fewer",
    }
    return texts.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")


def _count(bound: Any) -> str:
    return f"{bound:g}" if isinstance(bound, int) and bound > 10**30 else str(bound)
