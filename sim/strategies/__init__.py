"""Strategies: a graph and parameters to a `Schedule`.

To add one, write a decorated function in a file of this package; `load()` finds it, and the command
line, the JSON Schema and the tests over all strategies pick it up. It is never called for a plain graph,
which has no derivatives, unless it says that it accepts some.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache, wraps
from typing import Annotated, Any, Literal

from pydantic import Field

from sim.base.errors import NotApplicable
from sim.base.registry import Count, P, R, Registry
from sim.graphs.graph import Graph
from sim.schedules.schedule import Schedule

Accepted = Literal["with derivatives", "plain", "any"]


class StrategyRegistry(Registry[Schedule]):
    """Strategies by name, each with the graphs that it accepts: `plain` ones, or those `with derivatives`."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.accepted: dict[str, Accepted] = {}

    def register(
        self,
        name: str,
        *,
        accepts: Accepted = "with derivatives",
        front: Callable[..., Any] | None = None,
        requires: Callable[..., object] | None = None,
        **options: Any,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorator: register a function, its front and what it requires, all of which refuse other graphs."""
        self.accepted[name] = accepts

        def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(call)
            def refusing(graph: Graph, **parameters: Any) -> Any:
                check_accepted(graph, accepts)
                return call(graph, **parameters)

            return refusing

        add = super().register(
            name,
            front=None if front is None else guarded(front),
            requires=guarded(requires or (lambda graph: None)),
            **options,
        )

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            add(guarded(function))
            return function

        return decorate


strategies = StrategyRegistry("strategy")


def check_accepted(graph: Graph, accepts: Accepted) -> None:
    """Raise NotApplicable for a plain graph where derivatives are needed, and the other way round."""
    if graph.plain and accepts == "with derivatives":
        names = [name for name, accepted in strategies.accepted.items() if accepted != "with derivatives"]
        raise NotApplicable(f"a plain graph has no derivatives; the strategies for it are {', '.join(sorted(names))}")
    if not graph.plain and accepts == "plain":
        raise NotApplicable(
            "this is for plain graphs, and would compute no derivative of this one; reverse_full stores everything, "
            "and `reverse_checkpointed: {schedule: optimal}` fits a budget"
        )


Chunk = Annotated[Count, Field(description="tangents or cotangents that one sweep carries at once")]


@cache
def load() -> StrategyRegistry:
    """The registry, with every module of this package imported."""
    for module in pkgutil.walk_packages(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return strategies


def compile_some() -> None:
    """Compile the kernels of a few strategies, which are kept on disk: what a first run comes to last."""
    from sim.models.families.chain import chain

    graph = chain(sizes=[2, 2, 2])
    load().call("jacobian_chain", graph, order="optimal")
    load().call("reverse_checkpointed", graph, schedule="binomial", slots=1)


def chunks(total: int, size: int) -> list[tuple[int, int]]:
    """(turns, width) of the sweeps that carry `total` in chunks of `size`: the full ones, then the rest.

    >>> chunks(784, 100)
    [(7, 100), (1, 84)]
    """
    full, rest = divmod(total, size)
    return [(turns, width) for turns, width in ((full, size), (1, rest)) if turns and width]
