"""A piece taken apart: a forward that keeps what the gradient reads, one that does not, and the gradient.

The piece is differentiated once, by PyTorch's own autograd on fake tensors, and what autograd calls is
recorded below it. Run again on real tensors, the same kernels give the same bits, and what is saved
between forward and backward is a plain list of tensors that a schedule can keep or drop.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.utils import _pytree as pytree

from sim.base.errors import GraphError
from sim.models.torch import codegen
from sim.models.torch.codegen import Body, Rebuilt
from sim.models.torch.flops import contraction_flops, flops
from sim.models.torch.grouping import Piece, is_random
from sim.models.torch.recorded import storage, tensors_of, value

Layout = tuple[int, ...]


@dataclass(eq=False)
class Joint:
    """The forward and backward functions of a piece, and what they cost.

    Slots are the tensors that a piece reads: activations, then parameters, then buffers. `residual`
    are the values that only the gradient keeps; besides, it reads the slots in `read` and, if
    `reads_outputs`, the results. `gradients` are those of the slots in `targets`.
    `expanded` are the target slots whose gradient is a view of a smaller tensor, `passed` those whose
    gradient is the result's own cotangent.
    """

    slots: Sequence[Node]
    cotangents: Sequence[Node]
    forward: Sequence[Node]
    backward: Sequence[Node]
    outputs: Sequence[Node]
    residual: Sequence[Node]
    targets: Sequence[int]
    gradients: Sequence[Node | None]
    differentiable: Sequence[bool]
    read: frozenset[int]
    reads_outputs: bool
    expanded: frozenset[int]
    passed: frozenset[int]
    random: bool
    written: Sequence[int]
    _rebuilt: Sequence[Rebuilt]

    @cached_property
    def plain_body(self) -> Body:
        calls = codegen.needed(self.forward, self.outputs, _effectful)
        return Body(calls, [], self.slots, self.outputs)

    @cached_property
    def taping_body(self) -> Body:
        outputs = [*self.outputs, *self.residual]
        return Body(codegen.needed(self.forward, outputs, _effectful), [], self.slots, outputs)

    @cached_property
    def backward_body(self) -> Body:
        calls = codegen.needed(self.backward, self.gradients, _effectful)
        return Body(
            calls, [*self.residual, *self.cotangents], [*self.slots, *self.outputs], self.gradients, self._rebuilt
        )

    @cached_property
    def plain(self) -> Callable[..., list[Any]]:
        """`(owned=[], slots) -> outputs`."""
        return codegen.function(self.plain_body)

    @cached_property
    def taping(self) -> Callable[..., list[Any]]:
        """`(owned=[], slots) -> outputs + residual`."""
        return codegen.function(self.taping_body)

    @cached_property
    def pullback(self) -> Callable[..., list[Any]]:
        """`(owned=residual + cotangents, slots + outputs) -> gradients of the target slots`."""
        return codegen.function(self.backward_body)

    @cached_property
    def output_bytes(self) -> int:
        return _bytes(self.outputs)

    @cached_property
    def residual_bytes(self) -> int:
        return _bytes(self.residual)

    def gradient_bytes(self, slot: int) -> int:
        """Bytes of the gradient of a target slot, 0 where nothing reaches it."""
        node = self.gradients[list(self.targets).index(slot)]
        return 0 if node is None else _bytes([node])

    @cached_property
    def forward_flops(self) -> int:
        return sum(flops(n) for n in self.plain_body.calls)

    @cached_property
    def backward_flops(self) -> int:
        return sum(flops(n) for n in self.backward_body.calls)

    @cached_property
    def forward_contractions(self) -> int:
        return sum(contraction_flops(n) for n in self.plain_body.calls)

    @cached_property
    def backward_contractions(self) -> int:
        return sum(contraction_flops(n) for n in self.backward_body.calls)

    @cached_property
    def plain_peak_bytes(self) -> int:
        return codegen.peak_bytes(self.plain_body)

    @cached_property
    def taping_peak_bytes(self) -> int:
        return codegen.peak_bytes(self.taping_body)

    @cached_property
    def backward_peak_bytes(self) -> int:
        return codegen.peak_bytes(self.backward_body)


def _bytes(nodes: Sequence[Node]) -> int:
    """Bytes of the distinct memory of some values."""
    return sum({storage(t): int(t.untyped_storage().nbytes()) for n in nodes for t in tensors_of(n)}.values())


def _effectful(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return is_random(node) or (schema is not None and (schema.is_mutable or schema.name == "aten::native_batch_norm"))


def signature(piece: Piece, targets: Sequence[bool], layouts: Sequence[Layout]) -> Hashable:
    """A key that two pieces share if and only if the same functions serve both; see `take_apart`."""
    slots = {n: i for i, n in enumerate([*piece.reads, *piece.parameters, *piece.buffers])}
    local: dict[Node, int] = {}
    calls: list[Hashable] = []

    def plain(a: Any) -> Hashable:
        if isinstance(a, Node):
            return ("slot", slots[a]) if a in slots else ("local", local[a])
        if isinstance(a, list | tuple):
            return tuple(plain(x) for x in a)
        return type(a).__name__, str(a)

    for op in piece.ops:
        kwargs = tuple((k, plain(v)) for k, v in op.node.kwargs.items())
        calls.append((str(op.node.target), op.grad, plain(op.node.args), kwargs))
        local[op.node] = len(local)
    return (
        tuple(calls),
        tuple(_layout(n) for n in slots),
        tuple(targets),
        tuple(layouts),
        tuple(local[n] for n in piece.outputs),
        len(piece.reads),
        len(piece.parameters),
    )


def _layout(node: Node) -> Hashable:
    return tuple((tuple(t.shape), tuple(t.stride()), t.dtype, str(t.device)) for t in tensors_of(node))


def take_apart(piece: Piece, targets: Sequence[bool], layouts: Sequence[Layout], mode: FakeTensorMode) -> Joint:
    """The forward and backward of a piece, for gradients of the slots that `targets` marks.

    `layouts` are the strides of the cotangents of its outputs, which decide what PyTorch calls on them.

    Raises
    ------
    GraphError
        If PyTorch cannot differentiate the piece, or its memory cannot be followed.
    """
    sources = [*piece.reads, *piece.parameters, *piece.buffers]
    with mode:
        fakes = [
            pytree.tree_map_only(torch.Tensor, lambda t, w=w: _fresh(t, target=w), value(n))
            for n, w in zip(sources, targets, strict=True)
        ]
    boundary: list[int] = []
    reached: list[bool] = []

    def forward(slots: Sequence[Any]) -> list[Any]:
        env = dict(zip(sources, slots, strict=True))
        for op in piece.ops:
            args, kwargs = torch.fx.map_arg((op.node.args, dict(op.node.kwargs)), env.__getitem__)
            with torch.set_grad_enabled(op.grad):
                env[op.node] = op.node.target(*args, **kwargs)
        storages = {storage(t) for t in pytree.tree_leaves(slots) if isinstance(t, torch.Tensor)}
        return [_own(env[n], value(n), storages) for n in piece.outputs]

    def joint(slots: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        outputs = forward(slots)
        boundary.append(len(get_proxy_mode().tracer.graph.nodes))
        flat = [t for t in pytree.tree_leaves(outputs) if isinstance(t, torch.Tensor)]
        reached[:] = [t.requires_grad for t in flat]
        wrt = [t for s, w in zip(slots, targets, strict=True) if w for t in pytree.tree_leaves(s)]
        pairs = [(t, c) for t, c in zip(flat, cotangents, strict=True) if t.requires_grad]
        leaves = [t for t in wrt if t.requires_grad]
        if not pairs or not leaves:
            return [outputs, [None for _ in wrt]]
        out, seeds = zip(*pairs, strict=True)
        with torch.enable_grad():
            gradients = iter(torch.autograd.grad(out, leaves, seeds, allow_unused=True))
        return [outputs, [next(gradients) if t.requires_grad else None for t in wrt]]

    outputs = [t for n in piece.outputs for t in tensors_of(n)]
    seeds = [_fresh(t, target=False, stride=stride) for t, stride in zip(outputs, layouts, strict=True)]
    try:
        with mode, torch.enable_grad():
            traced = make_fx(joint)(fakes, seeds)
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        raise GraphError(f"'{piece.name}' cannot be differentiated: {type(error).__name__}: {text}") from error
    return _joint(traced.graph, piece, fakes, list(targets), boundary[0], reached)


def _own(result: Any, expected: Any, storages: set[int]) -> Any:
    """A piece's result in memory of its own, laid out as the module's recording says."""
    if not isinstance(result, torch.Tensor):
        return result
    if result.stride() != expected.stride():
        own = torch.empty_strided(result.shape, expected.stride(), dtype=result.dtype, device=result.device)
        return own.copy_(result)
    return result.clone() if storage(result) in storages else result


def _fresh(t: Any, *, target: bool, stride: Layout | None = None) -> Any:
    with t.fake_mode:
        fake = torch.empty_strided(t.shape, stride or t.stride(), dtype=t.dtype, device=t.device)
        return fake.requires_grad_(target and t.dtype.is_floating_point)


def _joint(
    graph: torch.fx.Graph, piece: Piece, fakes: Sequence[Any], targets: list[bool], boundary: int, reached: list[bool]
) -> Joint:
    order = list(graph.nodes)
    placeholders = [n for n in order if n.op == "placeholder"]
    widths = [len([t for t in pytree.tree_leaves(f) if isinstance(t, torch.Tensor)]) for f in fakes]
    slots, cotangents = placeholders[: sum(widths)], placeholders[sum(widths) :]
    if any(n.op == "get_attr" for n in order):
        raise GraphError(f"'{piece.name}' makes a constant tensor within its gradient; that is not supported")
    flat_targets = [i for i, w in enumerate(w for w, k in zip(targets, widths, strict=True) for _ in range(k)) if w]
    returned = pytree.tree_leaves(order[-1].args[0], is_leaf=lambda x: x is None)
    n_outputs = len(returned) - len(flat_targets)
    outputs, gradients = returned[:n_outputs], returned[n_outputs:]
    calls = [n for n in order if n.op == "call_function"]
    first = set(order[:boundary])
    forward, backward = [n for n in calls if n in first], [n for n in calls if n not in first]
    n_reads = sum(widths[: len(piece.reads)])
    backward, gradients, expanded, passed = _apart(
        graph, backward, gradients, flat_targets, slots, cotangents, outputs, n_reads
    )

    of_slot = {storage(value(n)): i for i, n in enumerate(slots)}
    of_output = {storage(value(n)): n for n in outputs}
    if any(storage(value(n)) in of_slot for n in outputs) or len(of_output) < len(outputs):
        raise GraphError(f"'{piece.name}' returns memory that it does not own; that is not supported")
    kept = codegen.needed(backward, gradients, lambda _: False)
    before = first - set(cotangents)
    crossing = dict.fromkeys(n for call in kept for n in call.all_input_nodes if n in before)
    crossing |= dict.fromkeys(n for n in gradients if n is not None and n in before)
    residual: list[Node] = []
    rebuilt: list[Rebuilt] = []
    read: set[int] = set()
    reads_outputs = False
    for n in crossing:
        if n in slots:
            read.add(slots.index(n))
        elif n in outputs:
            reads_outputs = True
        elif not isinstance(value(n), torch.Tensor):
            raise GraphError(f"'{piece.name}' keeps {n.target}, which is no single tensor, for its gradient")
        elif storage(value(n)) in of_slot and _rebuildable(n, slots[of_slot[storage(value(n))]]):
            base = slots[of_slot[storage(value(n))]]
            read.add(slots.index(base))
            rebuilt.append(Rebuilt(n, base))
        elif storage(value(n)) in of_output and _rebuildable(n, of_output[storage(value(n))]):
            reads_outputs = True
            rebuilt.append(Rebuilt(n, of_output[storage(value(n))]))
        else:
            residual.append(n)
    return Joint(
        slots=slots, cotangents=cotangents, forward=forward, backward=backward, outputs=outputs, residual=residual,
        targets=flat_targets, gradients=gradients, differentiable=reached, read=frozenset(read),
        reads_outputs=reads_outputs, expanded=expanded, passed=passed, random=any(is_random(n) for n in forward),
        written=_written_slots(piece, slots, widths), _rebuilt=rebuilt,
    )  # fmt: skip


def _rebuildable(node: Node, base: Node) -> bool:
    return bool(value(node).dtype == value(base).dtype and not value(node).is_neg())


def _written_slots(piece: Piece, slots: Sequence[Node], widths: Sequence[int]) -> list[int]:
    """The slots of the buffers that the forward updates."""
    start = sum(widths[: len(piece.reads) + len(piece.parameters)])
    written = {n for op in piece.ops for n in op.mutated}
    return [start + i for i, n in enumerate(piece.buffers) if n in written]


def _apart(
    graph: torch.fx.Graph, backward: list[Node], gradients: list[Node | None], targets: Sequence[int],
    slots: Sequence[Node], cotangents: Sequence[Node], outputs: Sequence[Node], n_reads: int,
) -> tuple[list[Node], list[Node | None], frozenset[int], frozenset[int]]:  # fmt: skip
    """Gradients in memory of their own: copies of what is shared, or a part of something larger.

    One gradient may take over the memory of a cotangent, or be a view of a smaller tensor that is.
    """
    foreign = {storage(value(n)) for n in (*slots, *outputs)}
    own_cotangent = {storage(value(n)) for n in cotangents}
    claimed: set[int] = set()
    expanded: set[int] = set()
    passed: set[int] = set()
    apart: list[Node | None] = []
    for slot, node in zip(targets, gradients, strict=True):
        if node is None:
            apart.append(None)
            continue
        t = value(node)
        if t.layout != torch.strided:
            raise GraphError("a gradient is sparse; use dense gradients (sparse=False)")
        s, room = storage(t), int(t.untyped_storage().nbytes())
        full = t.numel() * t.element_size()
        if s in foreign or s in claimed or room > full or (room < full and slot >= n_reads):
            copy = graph.call_function(
                torch.ops.aten.clone.default, (node,), {"memory_format": torch.contiguous_format}
            )
            with t.fake_mode:
                copy.meta["val"] = torch.empty_strided(t.shape, contiguous(t.shape), dtype=t.dtype, device=t.device)
            backward, node = [*backward, copy], copy
        else:
            claimed.add(s)
            if room < full:
                expanded.add(slot)
            elif s in own_cotangent:
                passed.add(slot)
        apart.append(node)
    return backward, apart, frozenset(expanded), frozenset(passed)


def contiguous(shape: Sequence[int]) -> Layout:
    """The strides of a tensor without gaps, last dimension fastest."""
    strides = [1]
    for d in reversed(shape[1:]):
        strides.append(strides[-1] * max(1, d))
    return tuple(strides[::-1][: len(shape)])
