"""A joint graph of AOTAutograd as rows and storages: what each call reads and makes, in bytes of memory.

A joint graph holds the forward and the backward of a training step as one list of functional ATen calls. Its
memory is that of storages: a view has none of its own and keeps its base, and so a plan says which calls run, and
views are made again wherever they are read. Between forward and backward stands the *boundary*: it reads what
the forward returns and makes the tangents, as the caller does who computes a loss and calls `backward()`.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.autograd.function import BackwardCFunction
from torch.utils import _pytree as pytree

from sim.base.errors import GraphError
from sim.models.torch.randomness import drawn_again, random_state, state_like
from sim.models.torch.tensors import storage, tensors_of

aten = torch.ops.aten
PURE_NAMESPACES = frozenset({"aten", "prims", "quantized", "quantized_decomposed"})
STATISTICS = aten._native_batch_norm_legit_functional.default
"""The batch norm that returns its updated running averages too, after its three results."""
_ROOT = re.compile(r"^(L\['[^']*'\](\[\d+\])?|self)\.?")
_SOURCE = re.compile(r'File "([^"]+)", line (\d+)')


@dataclass(eq=False)
class Row:
    """One call: the storages that it reads and makes by number, and how often and on which side it may run.

    `node` is `None` for the boundary. An `ordered` row keeps its place among those (it draws random numbers or
    changes something besides its results). `pinned` rows run before the boundary. `state` is the call that took the
    random state from which this one draws the same numbers again.
    """

    node: fx.Node | None
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    once: bool = False
    ordered: bool = False
    pinned: bool = False
    state: fx.Node | None = None


@dataclass(eq=False)
class Storage:
    """Memory that one row makes (`maker`, −1 for what the caller holds all along); `root` is the tensor that has it."""

    root: fx.Node
    bytes: int
    maker: int = -1


@dataclass(eq=False)
class JointRows:
    """The rows of a joint graph in its own order, of which row `boundary` ends the forward.

    `storage_of` gives the storage of each tensor; nodes in `views` have the memory of another one. `returned` and
    `gradients` are the forward's and the backward's results, `held` the storages that are in memory at the end: the
    caller's outputs, gradients, and tangents that are not let go before. `settled` are bytes of buffers' new values,
    which live throughout.
    """

    module: fx.GraphModule
    rows: list[Row] = field(default_factory=list)
    storages: list[Storage] = field(default_factory=list)
    storage_of: dict[fx.Node, int] = field(default_factory=dict)
    views: set[fx.Node] = field(default_factory=set)
    boundary: int = -1
    returned: list[Any] = field(default_factory=list)
    gradients: list[Any] = field(default_factory=list)
    descriptions: list[Any] = field(default_factory=list)
    held: frozenset[int] = frozenset()
    settled: int = 0
    dependencies: list[tuple[int, int]] = field(default_factory=list)
    """Rows of which the first runs before the second though no storage says so."""

    @property
    def resident_bytes(self) -> int:
        """Bytes of what the caller holds: parameters, buffers, inputs, constants; and of buffers' new values."""
        return sum(s.bytes for s in self.storages if s.maker < 0) + self.settled


def joint_rows(module: fx.GraphModule, returned: int, *, redrawn: bool = True) -> JointRows:
    """The rows of a joint graph whose first `returned` results are those of its forward.

    Random numbers may be drawn again, from states that are taken beforehand, unless `redrawn` is false.

    Raises
    ------
    GraphError
        For what no plan can be made for: sizes or values that depend on data, effects that are not ordered.
    """
    graph = module.graph
    graph.eliminate_dead_code()
    _one_getitem_each(graph)
    _without_unread_statistics(graph)
    states = _take_random_states(graph) if redrawn else {}
    out = JointRows(module)
    output = next(iter(graph.find_nodes(op="output")))
    results = pytree.arg_tree_leaves(*output.args)
    out.returned, out.gradients = results[:returned], results[returned:]
    if "desc" not in output.meta:
        raise GraphError("the joint graph does not say what its results are: PyTorch 2.9 or newer is needed")
    out.descriptions = pytree.arg_tree_leaves(output.meta["desc"])
    _Reader(out, states).read()
    return out


class _Reader:
    """The walk over a joint graph that fills a `JointRows`."""

    def __init__(self, joint: JointRows, states: Mapping[fx.Node, fx.Node]) -> None:
        self.joint = joint
        self.states = states
        self.number: dict[int, int] = {}
        self.tangents: list[int] = []
        described = zip(joint.returned, joint.descriptions, strict=False)
        self.updates = {n for n, what in described if type(what).__name__ == "InputMutationAOTOutput"}
        self.updated: set[int] = set()

    def read(self) -> None:
        joint = self.joint
        nodes = list(joint.module.graph.nodes)
        for node in nodes:
            if node.op in ("placeholder", "get_attr"):
                self._given(node)
        self._find_updated()
        calls = [n for n in nodes if n.op == "call_function"]
        first = next((i for i, n in enumerate(calls) if self._of_backward(n)), len(calls))
        # AOTAutograd writes new values into buffers at the very end; they are known after the forward
        late = [n for n in calls[first:] if written(n) and not self._of_backward(n)]
        for node in [*calls[:first], *late]:
            self._called(node)
        self._bound()
        for node in calls[first:]:
            if node not in late:
                self._called(node)
        self._dependencies()
        outputs = [n for n in joint.returned if isinstance(n, fx.Node) and n not in self.updates]
        ends = [n for n in [*outputs, *joint.gradients] if isinstance(n, fx.Node)]
        made = {joint.storage_of[n] for n in ends} | self._tangents_held()
        joint.held = frozenset(s for s in made if joint.storages[s].maker >= 0)
        for n in outputs:  # the caller has this very tensor: it does not go away to be made again
            maker = joint.storages[joint.storage_of[n]].maker if isinstance(n, fx.Node) else -1
            if maker >= 0:
                joint.rows[maker].once = True

    def _tangents_held(self) -> set[int]:
        """The tangents in memory until the backward returns: those that it does not read, and a scalar's, the seed.

        Versions of PyTorch that do not call a backward with its arguments in a box hold all of them.
        """
        read = {s for row in self.joint.rows[self.joint.boundary :] for s in row.reads}
        if hasattr(BackwardCFunction, "apply_boxed"):
            storages = self.joint.storages
            return {s for s in self.tangents if s not in read or storages[s].root.meta["val"].numel() == 1}
        return set(self.tangents)

    def _given(self, node: fx.Node) -> None:
        given = node.meta.get("val")
        if given is None and node.op == "get_attr":
            given = node.meta["val"] = operator.attrgetter(str(node.target))(self.joint.module)
        if not isinstance(given, torch.Tensor):
            if node.users:
                raise GraphError(f"{node.name} is {given}, no tensor: sizes that vary cannot be planned for")
            return  # a size that Dynamo has fixed
        known = storage(given) in self.number
        number = self._storage(given, node)
        if _is_tangent(node):
            if known:
                raise GraphError(f"tangent {node.name} has the memory of another input")
            self.tangents.append(number)

    def _storage(self, tensor: Any, node: fx.Node) -> int:
        """The number of a tensor's storage, a new one where it was not seen before."""
        key = storage(tensor)
        number = self.number.setdefault(key, len(self.joint.storages))
        if number == len(self.joint.storages):
            self.joint.storages.append(Storage(node, int(tensor.untyped_storage().nbytes())))
        self.joint.storage_of[node] = number
        return number

    def _find_updated(self) -> None:
        """The storages of inputs that the step changes, when it runs or as the caller's side of AOTAutograd does it."""
        joint = self.joint
        placeholders = {_name(n.meta.get("desc")): n for n in joint.module.graph.find_nodes(op="placeholder")}
        for what in joint.descriptions[: len(joint.returned)]:
            if type(what).__name__ == "InputMutationAOTOutput":
                self.updated.add(joint.storage_of[placeholders[_name(what.mutated_input)]])
        for node in joint.module.graph.nodes:
            changed = [storage(n.meta["val"]) for n in written(node)]
            self.updated.update(self.number[s] for s in changed if s in self.number)

    def _of_backward(self, node: fx.Node) -> bool:
        return node.meta.get("partitioner_tag") in ("is_backward", "must_be_in_backward") or any(
            self.joint.storage_of.get(n) in self.tangents for n in node.all_input_nodes
        )

    def _bound(self) -> None:
        """The boundary, after all rows of the forward."""
        joint = self.joint
        joint.boundary = len(joint.rows)
        read = [n for n in joint.returned if isinstance(n, fx.Node)]
        for s in self.tangents:
            joint.storages[s].maker = joint.boundary
        joint.rows.append(Row(None, self._made(read), tuple(self.tangents), once=True))

    def _made(self, nodes: Sequence[fx.Node]) -> tuple[int, ...]:
        """The storages of tensors, without those that the caller holds."""
        numbers = dict.fromkeys(self.joint.storage_of[n] for n in nodes)
        return tuple(s for s in numbers if self.joint.storages[s].maker >= 0)

    def _called(self, node: fx.Node) -> None:
        joint = self.joint
        if node.target is aten.mkldnn_rnn_layer.default:
            raise GraphError(
                "an LSTM of oneDNN keeps its workspace for itself, which the front does not see; set "
                f"torch.backends.mkldnn.enabled = False; {_where(node)}"
            )
        if node.target is operator.getitem and node.args[0] not in joint.views:
            return  # read with the call whose result it takes
        results = list(_results(node))
        state = self.states.get(node)
        operands = [*node.all_input_nodes, *([state] if state is not None else [])]
        for n in operands:
            if n not in joint.storage_of and n not in joint.views:
                raise GraphError(f"{node.name} reads {n.name} as a whole, which gives several results; {_where(node)}")
        known = [storage(t) in self.number for t, _ in results]
        effect = bool(written(node)) or not isinstance(node.target, torch._ops.OpOverload)
        if results and all(known) and (not effect or node.target is operator.getitem):
            joint.views.add(node)
            for t, n in results:
                joint.storage_of[n] = self.number[storage(t)]
                joint.views.add(n)
            return
        if any(known) and not effect:
            raise GraphError(f"{node.name} ({node.target}) returns a view and new memory at once; {_where(node)}")
        reads = self._made(operands)
        made = dict.fromkeys(self._storage(t, n) for (t, n), old in zip(results, known, strict=True) if not old)
        for t, n in results:
            joint.storage_of[n] = self.number[storage(t)]
        for s in made:
            joint.storages[s].maker = len(joint.rows)
        ordered = effect or _draws(node)
        averages = [n for _, n in results if n is not node and n.args[1] in (3, 4)]
        forgets = node.target is STATISTICS and node.args[5] is True
        kept = (u.op == "output" or u.target is aten.copy_.default for n in averages for u in n.users)
        forgets = forgets and all(kept)
        changed = any(joint.storage_of[n] in self.updated for n in operands if n in joint.storage_of)
        if forgets:
            for s in [joint.storage_of[n] for n in averages]:
                joint.settled += joint.storages[s].bytes
                joint.storages[s].bytes = 0
            changed = any(joint.storage_of[n] in self.updated for n in (node.args[0], *node.args[1:3]) if n is not None)
        pure = isinstance(node.target, torch._ops.OpOverload) and node.target.namespace in PURE_NAMESPACES
        backward = joint.boundary >= 0
        if backward and changed:
            raise GraphError(f"the backward reads an input that the forward changes in place; {_where(node)}")
        joint.rows.append(
            Row(
                node, reads, tuple(made), once=(ordered and state is None) or not pure or changed, ordered=ordered,
                pinned=not backward and (ordered or changed), state=state,
            )
        )  # fmt: skip

    def _dependencies(self) -> None:
        """The order of rows with effects or random numbers, and of readers of an input before it is changed."""
        joint, previous, readers = self.joint, -1, dict[int, list[int]]()
        for k, row in enumerate(joint.rows):
            if row.ordered or k == joint.boundary:
                if previous >= 0:
                    joint.dependencies.append((previous, k))
                previous = k
            elif row.pinned:
                joint.dependencies.append((k, joint.boundary))
            if row.node is None:
                continue
            for n in written(row.node):
                joint.dependencies += [(r, k) for r in readers.get(joint.storage_of[n], []) if r != k]
            for n in row.node.all_input_nodes:
                readers.setdefault(joint.storage_of.get(n, -1), []).append(k)


def runs_through(joint: JointRows, rows: Sequence[int]) -> bool:
    """Tell whether a sequence has every row, those of `once` one time, and each after what it reads and depends on."""
    counts = Counter(rows)
    if set(counts) != set(range(len(joint.rows))) or any(
        joint.rows[r].once for r, times in counts.items() if times > 1
    ):
        return False
    before = dict[int, list[int]]()
    for first, then in joint.dependencies:
        before.setdefault(then, []).append(first)
    there, ran = set[int](), set[int]()
    for r in rows:
        if not there.issuperset(joint.rows[r].reads) or not ran.issuperset(before.get(r, ())):
            return False
        there.update(joint.rows[r].makes)
        ran.add(r)
    return True


def _results(node: fx.Node) -> Iterator[tuple[Any, fx.Node]]:
    """The tensors that a call makes, each with the node that stands for it."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        yield value, node
    elif isinstance(value, tuple | list):
        for user in node.users:
            if user.target is operator.getitem and isinstance(user.meta.get("val"), torch.Tensor):
                yield user.meta["val"], user
    elif value is not None:
        raise GraphError(f"{node.name} ({node.target}) gives {type(value).__name__}, no tensor; {_where(node)}")


def _one_getitem_each(graph: fx.Graph) -> None:
    """Let all readers of one result of a call read it through one node."""
    seen: dict[tuple[fx.Node, Any], fx.Node] = {}
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is operator.getitem:
            first = seen.setdefault((node.args[0], node.args[1]), node)
            if first is not node:
                node.replace_all_uses_with(first)
                graph.erase_node(node)


def _without_unread_statistics(graph: fx.Graph) -> None:
    """Take away the running averages from batch norms' derivatives, which in training read the batch's own."""
    for node in graph.find_nodes(op="call_function", target=aten.native_batch_norm_backward.default):
        if node.args[7] is True:
            node.args = (*node.args[:3], None, None, *node.args[5:])
    graph.eliminate_dead_code()


def _take_random_states(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Take the random state before each call that draws; the call that takes it for each."""
    states: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and not written(node) and _draws(node) and tensors_of(node):
            made = tensors_of(node)[0]
            with graph.inserting_before(node):
                states[node] = graph.call_function(random_state, (made.device,))
            states[node].meta = {**node.meta, "val": state_like(made)}
    return states


def rerun(graph: fx.Graph, row: Row, resolve: Any) -> fx.Node:
    """A copy of a call that runs again, in `graph`: it draws the same numbers, and leaves running averages alone."""
    node = row.node
    assert node is not None
    if row.state is not None:
        args, kwargs = fx.map_arg((node.args, node.kwargs), resolve)
        drawn = (resolve(row.state), row.state.args[0], node.target)
        copied = graph.call_function(drawn_again, (*drawn, *args), kwargs)
        copied.meta = dict(node.meta)
        return copied
    if node.target is not STATISTICS:
        return graph.node_copy(node, resolve)
    args = fx.map_arg((*node.args[:3], *node.args[5:]), resolve)
    copied = graph.call_function(aten._native_batch_norm_legit.no_stats, args)
    copied.meta = {**node.meta, "val": node.meta["val"][:3]}
    return copied


def written(node: fx.Node) -> list[fx.Node]:
    """The operands that a call writes into."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    given = dict(zip([a.name for a in schema.arguments], node.args, strict=False)) | dict(node.kwargs)
    written = [given.get(a.name) for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return [n for n in pytree.tree_leaves(written) if isinstance(n, fx.Node)]


def _draws(node: fx.Node) -> bool:
    """Tell whether a call draws random numbers: attention without dropout is marked like one that does."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    names = [a.name for a in node.target._schema.arguments]
    if "dropout_p" not in names:
        return True
    at = names.index("dropout_p")
    given = node.args[at] if at < len(node.args) else node.kwargs.get("dropout_p", 0.0)
    return bool(given != 0.0)


def _is_tangent(node: fx.Node) -> bool:
    return type(node.meta.get("desc")).__name__.startswith("Tangent") or node.name.startswith("tangents_")


def _name(description: Any) -> str:
    return str(description)


def path_of(node: fx.Node) -> str:
    """The path of the submodule that makes a call, empty for the model's own forward and for the backward."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return path_in(stack[-1][0]) if stack else ""


def path_in(source: str) -> str:
    """The path of a submodule that Dynamo names by the expression that reads it."""
    path = _ROOT.sub("", str(source))
    return re.sub(r"(?:_modules)?\[['\"]?([^'\"\]]+)['\"]?\]", r".\1", path).replace("..", ".").strip(".")


def operation_of(node: fx.Node) -> str:
    """The name of what a call calls."""
    schema = getattr(node.target, "_schema", None)
    return schema.name.partition("::")[2] if schema is not None else str(node.target)


def source_of(node: fx.Node) -> str:
    """The user's `file:line` that makes a call, empty where it is not known."""
    lines = _SOURCE.findall(node.meta.get("stack_trace") or "")
    return "{}:{}".format(*lines[-1]) if lines else ""


def _where(node: fx.Node) -> str:
    return " ".join(filter(None, ["in", path_of(node) or "the model", source_of(node)]))
