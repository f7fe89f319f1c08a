"""Plans on JAX functions: `checkpoint(f, plan)` differentiates `f` keeping what the plan keeps.

Imported with JAX alone: `import sim.jax`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sim.base.errors import GraphError, NotApplicable
from sim.execution.jax.regions import Region, regions
from sim.execution.jax.remat import evaluate
from sim.models.importers import extra
from sim.models.jax.function import without_parameters
from sim.models.jax.importer import Imported, argument_names, from_function
from sim.schedules.plan import fingerprint, plan_of, schedule_of
from sim.schedules.schedule import Schedule

__all__ = ["checkpoint", "from_function", "plan_of"]

F = TypeVar("F", bound=Callable[..., Any])


def checkpoint(f: F, plan: Schedule | Mapping[str, Any]) -> F:
    """`f(params, *args)` with the same values and gradients, which keeps for the gradient what the plan keeps.

    `plan` is the schedule of a graph of `f` (`from_function`), or what `sim plan` writes; a function
    without parameters is fine. What the plan has in memory when its adjoint sweep begins is saved by
    name (`jax.ad_checkpoint.print_saved_residuals` shows it), and each stretch of nodes that it
    computes again is a `jax.checkpoint` of its own, nested where a stretch is computed again in parts.
    Use the result inside `jax.jit`, which traces `f` once; a jit or `jax.checkpoint` inside `f` is
    looked through.

    Raises
    ------
    NotApplicable
        When called: if the plan was made for another function or other shapes, or is not reverse mode.
    """
    matches: dict[Any, _Match] = {}

    @functools.wraps(f)
    def planned(*args: Any, **kwargs: Any) -> Any:
        (jax,) = extra("jax", "jax")
        if kwargs:
            raise NotApplicable(f"give the arguments by position, got {', '.join(kwargs)} by name")
        leaves, tree = jax.tree_util.tree_flatten(args)
        imported, match = _matched(f, plan, args, matches, (tree, tuple(_layout(leaf) for leaf in leaves)))
        outputs = evaluate(imported.program, match.names, match.differentiated, match.root, leaves)
        return jax.tree_util.tree_unflatten(imported.out_tree, outputs)

    return planned  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class _Match:
    """The meaning of a plan for a function of arguments of one layout."""

    names: tuple[str, ...]
    differentiated: tuple[bool, ...]
    root: Region
    with_parameters: bool


def _layout(leaf: Any) -> tuple[Any, ...]:
    (numpy,) = extra("jax", "jax.numpy")
    return numpy.shape(leaf), str(numpy.result_type(leaf))


def _matched(
    f: Callable[..., Any], plan: Schedule | Mapping[str, Any], args: Sequence[Any], known: dict[Any, _Match], key: Any
) -> tuple[Imported, _Match]:
    """Trace the function anew, and say what to keep of it, which is worked out once for each layout of the arguments.

    The first argument is the parameters if the plan's graph has any, which its fingerprint tells.
    """
    if key in known:
        return _traced(f, args, known[key].with_parameters), known[key]
    refusal: NotApplicable | GraphError | None = None
    for with_parameters in (True, False):
        try:
            imported = _traced(f, args, with_parameters)
            schedule = _schedule(imported, plan, getattr(f, "__name__", "function"))
        except (NotApplicable, GraphError) as error:
            refusal = refusal or error
            continue
        graph = schedule.graph
        names = tuple(graph.names[len(graph.inputs) :])
        differentiated = tuple(graph.active[len(graph.inputs) :].tolist())
        known[key] = _Match(names, differentiated, regions(schedule), with_parameters)
        return imported, known[key]
    assert refusal is not None
    raise refusal


def _traced(f: Callable[..., Any], args: Sequence[Any], with_parameters: bool) -> Imported:
    if with_parameters:
        return Imported(f, args[0], args[1:], names=argument_names(f, len(args))[1:])
    return Imported(without_parameters(f), (), args, names=argument_names(f, len(args)))


def _schedule(imported: Imported, plan: Schedule | Mapping[str, Any], name: str) -> Schedule:
    if not isinstance(plan, Schedule):
        return schedule_of(imported.graph(name), plan)
    theirs, own = fingerprint(plan.graph), fingerprint(imported.graph(name))
    if theirs != own:
        raise NotApplicable(
            f"the plan was made for another function: its fingerprint is {theirs} ({plan.graph.name}), "
            f"that of this one is {own} ({name})"
        )
    return plan
