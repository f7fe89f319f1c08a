"""JAX functions to graphs: `graph: {kind: jax, factory: "module:function", inputs: {x: {shape: [8, 784]}}}`.

From Python, `from_function(f, params, *args)` gives the graph of a function. Nothing is computed and
no memory is taken: shapes are enough, of parameters too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from sim.base.errors import GraphError, suggest
from sim.base.registry import Count
from sim.graphs.graph import Graph
from sim.graphs.node import FLOATS, ITEMSIZE, GraphInput, Node, Reads, Wrt
from sim.models.factory import NamedFactory
from sim.models.importers import extra, importers
from sim.models.jax.costs import Pricing
from sim.models.jax.function import function_and_parameters
from sim.models.jax.program import Piece, Program, program, trace

_STAND_INS: Mapping[tuple[str, int], str] = {
    ("i", 1): "int8", ("i", 2): "int8", ("i", 4): "int32", ("i", 8): "int64",
    ("u", 1): "uint8", ("u", 2): "uint8", ("u", 4): "int32", ("u", 8): "int64", ("b", 1): "bool",
}  # fmt: skip
"""Integers that the simulator knows, for those that it does not (of 2 bytes: sizes are given in bytes beside it)."""


class Input(BaseModel):
    """One argument of the function."""

    model_config = ConfigDict(extra="forbid", strict=True)

    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(description="All dimensions; [] for a number.")]
    dtype: Annotated[str, Field(description="As JAX names it.")] = "float32"
    constant: Annotated[bool, Field(description="A float that nothing is differentiated by.")] = False


@importers.register("jax", user_code=True)
def jax(
    *,
    factory: Annotated[
        NamedFactory,
        Field(
            description="module:function that returns a function and its parameters; "
            "looked for beside the scenario file first."
        ),
    ],
    inputs: Annotated[dict[str, Input], Field(min_length=1, description="By the names of the function's arguments.")],
    arguments: Annotated[dict[str, Any] | None, Field(description="Keyword arguments of the factory.")] = None,
    batch: Annotated[Count | None, Field(description="Samples; the first dimension of the first input.")] = None,
) -> Graph:
    """A JAX function from Python code of yours, with what JAX would save of it.

    The factory returns `(f, params)`, and `f(params, …)` of the inputs, by name, is imported; `params` is a pytree of
    arrays or shapes, or a function without arguments that makes it, which then takes no memory. A
    factory that returns `f` alone gives a function of the inputs, without parameters. To plan
    training, let `f` return the loss. Running this imports the code of the module.

    Raises
    ------
    GraphError
        If the factory raises or returns something else, or the function cannot be traced.
    """
    (numpy_jax, library) = extra("jax", "jax.numpy", "jax")
    f, params = function_and_parameters(factory, arguments or {})
    names = argument_names(f, len(inputs) + 1)[1:]
    args = []
    for name in names:
        if name not in inputs:
            raise GraphError(
                f"inputs: the function has the arguments {', '.join(names)}, got {', '.join(inputs)}", key="inputs"
            )
        argument = inputs[name]
        try:
            args.append(library.ShapeDtypeStruct(tuple(argument.shape), numpy_jax.dtype(argument.dtype)))
        except TypeError:
            dtypes = [*ITEMSIZE, "uint32", "int16"]
            raise GraphError(
                f"inputs: {name}: unknown dtype '{argument.dtype}'{suggest(argument.dtype, dtypes)}", key="inputs"
            ) from None
    constant = [n for n, i in inputs.items() if i.constant]
    return Imported(f, params, args, names=names, constant=constant).graph(factory.function, batch)


def from_function(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    constant: Collection[str] = (),
    batch: int | None = None,
    name: str | None = None,
    wrt: Wrt | None = None,
) -> Graph:
    """The graph of `f(params, *args)`, each a pytree of arrays or of `jax.ShapeDtypeStruct`s.

    One node for each primitive that depends on `args`; a function with a derivative of its own
    (`jax.nn.relu`) is one node. jit and remat inside `f` are looked through, scans are unrolled.
    Reshapes own no memory; slices, transposes and broadcasts are copies. What depends on parameters
    alone is evaluated in the nodes that read it. `constant` names arguments of a floating dtype that
    nothing is differentiated by (a target); they are named like the parameters of `f`.

    What a node's derivative keeps is what `jax.vjp` keeps of it, its VJP and JVP flops those of JAX's
    own derivative programs; making a residual counts as part of the VJP. A parameter used by several
    nodes belongs to the first.

    Raises
    ------
    GraphError
        If `f` raises, depends on values, or uses a primitive without a rule; the message names it.
    """
    imported = Imported(f, params, args, names=argument_names(f, len(args) + 1)[1:], constant=constant)
    return imported.graph(name or str(getattr(f, "__name__", "function")), batch, wrt)


class Imported:
    """A traced `f(params, *args)`; the nodes of `graph` are the pieces of `program`, in order.

    `names` are those of the arguments; `out_tree` is how the outputs hang together.
    """

    def __init__(
        self, f: Callable[..., Any], params: Any, args: Sequence[Any], *, names: Sequence[str],
        constant: Collection[str] = (),
    ) -> None:  # fmt: skip
        (library,) = extra("jax", "jax")
        tree = library.tree_util
        leaves, _ = tree.tree_flatten(params)
        unknown = set(constant) - set(names)
        if unknown:
            word = min(unknown)
            raise GraphError(f"constant: the function has no argument '{word}'{suggest(word, names)}", key="constant")
        self.input_names: list[str] = []
        numbers = []
        for root, arg in zip(names, args, strict=True):
            for path, _ in tree.tree_flatten_with_path(arg)[0]:
                if root in constant:
                    numbers.append(len(self.input_names))
                self.input_names.append(root + tree.keystr(path))
        self.constant = frozenset(numbers)
        closed, shape = trace(f, params, *args)
        self.out_tree = tree.tree_structure(shape)
        self.program: Program = program(closed, leaves=len(leaves), constant=self.constant)

    def graph(self, name: str, batch: int | None = None, wrt: Wrt | None = None) -> Graph:
        """The graph, with a node for each piece of the program."""
        p = self.program
        inputs = self._inputs()
        names = {i.name for i in inputs}
        piece_names = [_free(piece.name, names) for piece in p.pieces]
        writers = dict(zip(p.arguments, (i.name for i in inputs), strict=True))
        for piece, piece_name in zip(p.pieces, piece_names, strict=True):
            writers |= dict.fromkeys(piece.writes, piece_name)
        pricing = Pricing(p)
        owners: dict[int, str] = {}
        nodes = [self._node(piece, n, writers, owners, pricing) for piece, n in zip(p.pieces, piece_names, strict=True)]
        read = {i for node in nodes for i in node.inputs}
        used = [i for i in inputs if i.name in read]
        return Graph.from_nodes(nodes, used, name=name, batch=batch or _samples(used), wrt=wrt)

    def _inputs(self) -> list[GraphInput]:
        entering = []
        for k, (value, name) in enumerate(zip(self.program.arguments, self.input_names, strict=True)):
            aval = self.program.avals[value]
            dtype, size = _dtype(aval, name), _bytes(aval)
            other_size = None if size == math.prod(aval.shape) * ITEMSIZE[dtype] else size
            entering.append(GraphInput(name, tuple(aval.shape), dtype, other_size, constant=k in self.constant))
        return entering

    def _node(
        self, piece: Piece, name: str, writers: Mapping[int, str], owners: dict[int, str], pricing: Pricing
    ) -> Node:
        avals = self.program.avals
        costs = pricing.costs(piece)
        first = avals[piece.writes[0]]
        dtype = _dtype(first, name)
        size = sum(_bytes(avals[v]) for v in piece.writes)
        weights = [v for v in piece.leaves if v in self.program.active]
        read = [writers[v] for v in piece.activations]
        new = [v for v in weights if v not in owners]
        owners.update(dict.fromkeys(new, name))
        return Node(
            name=name,
            op=piece.op,
            inputs=tuple(dict.fromkeys(read)),
            output_shape=tuple(first.shape),
            dtype=dtype,
            activation_bytes=None if size == math.prod(first.shape) * ITEMSIZE[dtype] else size,
            forward_flops=costs.forward_flops,
            jvp_flops=costs.jvp_flops,
            vjp_flops=costs.vjp_flops,
            param_vjp_flops=costs.param_vjp_flops,
            param_size=sum(math.prod(avals[v].shape) for v in new),
            tied_to=owners[weights[0]] if weights and not new else None,
            needs=costs.needs,
            reads=_reads(read, costs.reads),
            residual_bytes=costs.residual_bytes,
        )


def _reads(names: Sequence[str], words: Sequence[Reads]) -> tuple[Reads, ...] | None:
    """Say when the derivative reads each distinct name; `None` for always, or where it reads none."""
    of: dict[str, set[Reads]] = {}
    for name, word in zip(names, words, strict=False):
        of.setdefault(name, set()).add(word)
    several = len(of) < len(names)  # values of one node may be each other's others
    conditions: list[Reads] = []
    for of_name in of.values():
        read = of_name - {"never"}
        conditions.append("never" if not read else "always" if several or len(read) > 1 else read.pop())
    return None if set(conditions) in ({"always"}, {"never"}, set()) else tuple(conditions)


def argument_names(f: Callable[..., Any], count: int) -> list[str]:
    """The names of the first `count` arguments of a function; arg0, arg1, … where they have none."""
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [positional[k] if k < len(positional) else f"arg{k}" for k in range(count)]


def _free(name: str, names: set[str]) -> str:
    while name in names:
        name += "_"
    names.add(name)
    return name


def _samples(inputs: Sequence[GraphInput]) -> int:
    return inputs[0].shape[0] if inputs and inputs[0].shape else 1


def _bytes(aval: Any) -> int:
    return int(math.prod(aval.shape) * aval.dtype.itemsize)


def _dtype(aval: Any, name: str) -> str:
    """The simulator's dtype of an abstract value; random keys and odd integers have stand-ins."""
    dtype = str(aval.dtype)
    if dtype in ITEMSIZE:
        return dtype
    if dtype.startswith("key<"):
        return "int64"
    kind = getattr(aval.dtype, "kind", "?")
    stand_in = _STAND_INS.get((kind, aval.dtype.itemsize))
    if stand_in is None:
        raise GraphError(f"'{name}': values of {dtype} cannot be imported; floats are {', '.join(sorted(FLOATS))}")
    return stand_in
