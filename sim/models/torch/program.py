"""A PyTorch module as a `Graph` whose nodes can be run: the pieces, their functions and what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sim.base.errors import GraphError
from sim.graphs.graph import Graph
from sim.graphs.node import GRANULARITY, ITEMSIZE, LOSS, GraphInput, Needs, Node, Reads
from sim.models.torch import Granularity
from sim.models.torch.capture import capture
from sim.models.torch.codegen import needed
from sim.models.torch.flops import contraction_flops, flops
from sim.models.torch.grouping import Piece, Pieces, cut
from sim.models.torch.joint import Joint, Layout, contiguous, signature, take_apart
from sim.models.torch.recorded import Captured, part_of, tensors_of, value


@dataclass(frozen=True, eq=False)
class Step:
    """One piece as it is run: its functions, and where the tensors that they read come from.

    `reads` are nodes (i ≥ 0) or residents (~k for number k), `read_tensors` how many tensors each is;
    `targets` are the gradient's targets in the order in which the pullback returns them: (node, tensor)
    or (-1, parameter), or `None` for those that nobody wants.
    """

    name: str
    joint: Joint
    reads: tuple[int, ...]
    read_tensors: tuple[int, ...]
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    targets: tuple[tuple[int, int], ...]
    first: frozenset[int]  # the nodes whose cotangent this VJP is the first to contribute to, in reverse order


@dataclass(frozen=True, eq=False)
class Program:
    """A module's graph with a `Step` for each node, and what a caller gives and gets.

    `residents` names what is resident beside parameters and buffers: inputs of the module, then constants.
    `returned` are the values that the module returns, as views of the graph's outputs.
    """

    graph: Graph
    steps: tuple[Step, ...]
    pieces: Pieces
    captured: Captured
    residents: tuple[str, ...]


def program(
    module: nn.Module,
    inputs: Mapping[str, Any],
    *,
    granularity: Granularity = "modules",
    loss: str = "none",
    name: str | None = None,
) -> Program:
    """The module on `inputs` (real or fake tensors by name), cut into pieces.

    `loss` (`sum`, `mean`, `cross_entropy`, `mse`) is put behind the module; the latter two read one more
    input, `labels` or `target`.

    Raises
    ------
    GraphError
        For what cannot be traced truthfully, with the submodule and the reason.
    """
    tensors = dict(inputs)
    captured = capture(module, tensors, call=_with_loss(loss, tensors) if loss != "none" else None)
    pieces = cut(captured, granularity)
    if not pieces.pieces:
        raise GraphError("the module computes nothing from its inputs")
    if len(pieces.pieces[-1].outputs) < 1:
        raise GraphError("the module returns nothing that it computes")
    return _Builder(captured, pieces, name or type(module).__name__, granularity, loss).program()


def _with_loss(loss: str, inputs: Mapping[str, Any]) -> Callable[..., Any]:
    """A call of the module followed by a loss; a target that is not among the inputs is added to them."""
    functional = nn.functional
    reading = {"cross_entropy": "labels", "mse": "target"}
    if loss in reading and reading[loss] not in inputs:
        raise GraphError(
            f"loss: {loss} reads an input '{reading[loss]}'; give it beside the module's inputs", key="loss"
        )

    def call(module: nn.Module, **tensors: Any) -> Any:
        target = tensors.pop(reading[loss]) if loss in reading else None
        out = part_of(module(**tensors), "logits")
        if not isinstance(out, torch.Tensor):
            raise GraphError(f"loss: {loss} reads one tensor, but the module returns {type(out).__name__}", key="loss")
        if loss == "cross_entropy":
            classes = out.shape[-1]
            assert target is not None
            return functional.cross_entropy(out.reshape(-1, classes), target.reshape(-1))
        if loss == "mse":
            return functional.mse_loss(out, target)
        if loss in ("sum", "mean"):
            return out.sum() if loss == "sum" else out.mean()
        raise GraphError(f"unknown loss '{loss}'; known: cross_entropy, mean, mse, none, sum")

    return call


class _Builder:
    """A builder that turns pieces into steps and nodes."""

    def __init__(self, captured: Captured, pieces: Pieces, name: str, granularity: Granularity, loss: str) -> None:
        self.captured, self.pieces, self.name, self.loss = captured, pieces, name, loss
        self.granularity = granularity
        self.home = {n: i for i, p in enumerate(pieces.pieces) for n in p.outputs}
        inputs = [n for n in captured.inputs if isinstance(value(n), torch.Tensor)]
        self.resident = {n: k for k, n in enumerate([*inputs, *pieces.constants])}
        self.names = (*(captured.inputs[n] for n in inputs), *(f"constant{k}" for k in range(len(pieces.constants))))
        self.trainable = {n for n, name in captured.parameters.items() if name in captured.trainable}
        self.joints: dict[Hashable, Joint] = {}
        self.active: list[bool] = []

    def program(self) -> Program:
        steps_and_nodes = self._steps()
        names = self.names
        graph_inputs: list[GraphInput] = []
        batch = 1
        for n, name in zip(self.resident, names, strict=True):
            t = tensors_of(n)[0]
            if n in self.captured.inputs and t.dim() and not graph_inputs:
                batch = int(t.shape[0])
            dtype = _dtype(t, name)
            graph_inputs.append(GraphInput(name, tuple(t.shape), dtype, constant=n not in self.captured.inputs))
        steps, nodes = zip(*steps_and_nodes, strict=True)
        graph = Graph.from_nodes(_with_costs(steps, nodes, self), graph_inputs, name=self.name, batch=batch)
        return Program(graph, steps, self.pieces, self.captured, names)

    def _steps(self) -> list[tuple[Step, dict[str, Any]]]:
        pieces = self.pieces.pieces
        reads = [[self._read(n) for n in p.reads] for p in pieces]
        live: list[list[bool]] = []
        reached: list[bool] = []  # whether a gradient may come from the piece
        for piece, read in zip(pieces, reads, strict=True):
            live.append([r >= 0 and reached[r] for r in read])
            reached.append(any(live[-1]) or any(n in self.trainable for n in piece.parameters))
        layouts: list[list[Layout | None]] = [[None for n in p.outputs for _ in tensors_of(n)] for p in pieces]
        seen: set[int] = set()
        steps: list[tuple[Step, dict[str, Any]]] = []
        self.active = [False] * len(pieces)
        for i in range(len(pieces) - 1, -1, -1):
            step = self._step(pieces[i], reads[i], live[i], layouts[i])
            joint = step.joint
            self.active[i] = any(joint.differentiable) and any(g is not None for g in joint.gradients)
            first = set()
            for (source, k), gradient in zip(step.targets, joint.gradients, strict=True):
                if source >= 0 and self.active[i]:
                    if source not in seen:
                        first.add(source)
                    if gradient is not None and layouts[source][k] is None:
                        layouts[source][k] = self._layout(gradient, source, reads)
            seen |= first
            steps.append(
                (replace(step, first=frozenset(first)), {"op": pieces[i].op, "piece": pieces[i], "live": live[i]})
            )
        return steps[::-1]

    def _layout(self, gradient: torch.fx.Node, source: int, reads: Sequence[Sequence[int]]) -> Layout:
        """The strides of a cotangent: those of its first contribution, made whole where more are added to it."""
        t = value(gradient)
        if sum(source in r for r in reads) > 1 and t.untyped_storage().nbytes() < t.numel() * t.element_size():
            return contiguous(t.shape)
        return tuple(t.stride())

    def _step(self, piece: Piece, read: list[int], live: list[bool], layouts: list[Layout | None]) -> Step:
        flags = [*live, *(n in self.trainable for n in piece.parameters), *(False for _ in piece.buffers)]
        outputs = [t for n in piece.outputs for t in tensors_of(n)]
        strides = [tuple(t.stride()) if layout is None else layout for t, layout in zip(outputs, layouts, strict=True)]
        key = signature(piece, flags, strides)
        if key not in self.joints:
            self.joints[key] = take_apart(piece, flags, strides, self.captured.mode)
        targets: list[tuple[int, int]] = []
        for n, r, used in zip(piece.reads, read, live, strict=True):
            targets += [(r, k) for k in range(len(tensors_of(n)))] if used else []
        targets += [(-1, k) for k, n in enumerate(piece.parameters) if n in self.trainable]
        return Step(
            piece.name, self.joints[key], tuple(read), tuple(len(tensors_of(n)) for n in piece.reads),
            tuple(self.captured.parameters[n] for n in piece.parameters),
            tuple(self.captured.buffers[n] for n in piece.buffers), tuple(targets), frozenset(),
        )  # fmt: skip

    def _read(self, node: torch.fx.Node) -> int:
        if node in self.home:
            return self.home[node]
        if node not in self.resident:
            raise GraphError(f"an input of the module, {self.captured.inputs.get(node, node.name)}, is no tensor")
        return ~self.resident[node]


def _with_costs(steps: Sequence[Step], details: Sequence[dict[str, Any]], builder: _Builder) -> list[Node]:
    owners, tied = _owners(steps, builder)
    nodes = []
    names = builder.names
    for i, (step, detail) in enumerate(zip(steps, details, strict=True)):
        joint, piece = step.joint, detail["piece"]
        out = tensors_of(piece.outputs[0])[0]
        dtype = _dtype(out, step.name)
        itemsize = ITEMSIZE[dtype]
        own = [n for n in step.parameters if owners.get(n) == i]
        sizes = _parameter_bytes(builder)
        param_bytes = sum(sizes[n] for n in own)
        read = [steps[r].name if r >= 0 else names[~r] for r in step.reads]
        needs, reads = _needs(step, read, builder.active[i])
        total, own_share = joint.backward_flops, _parameter_flops(joint, detail["live"], step)
        taped = joint.residual if builder.active[i] else []
        nodes.append(
            Node(
                name=step.name, inputs=tuple(dict.fromkeys(read or names[:1])), output_shape=tuple(out.shape),
                op=detail["op"], dtype=dtype, forward_flops=joint.forward_flops, vjp_flops=total - own_share,
                param_vjp_flops=own_share, param_size=math.ceil(param_bytes / itemsize),
                residual_bytes=joint.residual_bytes if taped else None, needs=needs, reads=reads,
                activation_bytes=joint.output_bytes,
                vjp_broadcasts=bool(joint.expanded) and len(piece.reads) == 1,
                tied_to=None if i not in tied else steps[tied[i]].name,
                attributes={
                    GRANULARITY: builder.granularity,
                    "contraction_flops": (joint.forward_contractions, joint.backward_contractions),
                    **({LOSS: True} if builder.loss != "none" and i == len(steps) - 1 else {}),
                },
            )
        )  # fmt: skip
    return _with_workspaces(nodes, steps, owners, builder)


def _with_workspaces(
    nodes: list[Node], steps: Sequence[Step], owners: Mapping[str, int], builder: _Builder
) -> list[Node]:
    """The nodes with what lives only while they run; it depends on the sizes of cotangents in the graph."""
    out = []
    cotangents = _cotangent_bytes(nodes, steps)
    for i, (node, step) in enumerate(zip(nodes, steps, strict=True)):
        joint = step.joint
        scratch = sum(
            int(value(joint.slots[s]).untyped_storage().nbytes()) for s in joint.written
        )  # buffers that a recomputation must not update
        tied = steps_index(nodes, node.tied_to) if node.tied_to else None
        grown = sum(cotangents[r] for r in step.first)
        gradient = node.param_size * ITEMSIZE[node.dtype]
        if tied is not None:
            gradient = nodes[tied].param_size * ITEMSIZE[nodes[tied].dtype]
        elif any(n.tied_to == node.name for n in nodes):
            gradient = 0
        own = sum(int(t.untyped_storage().nbytes()) for c in joint.cotangents for t in tensors_of(c))
        vjp = joint.backward_peak_bytes - joint.residual_bytes - own - grown - gradient
        plain = joint.plain_peak_bytes - joint.output_bytes + scratch
        taping = joint.taping_peak_bytes - joint.output_bytes - joint.residual_bytes + scratch
        active = builder.active[i]
        out.append(
            replace(
                node, workspace_bytes=plain, taping_workspace_bytes=taping if active else None,
                vjp_workspace_bytes=vjp if active else None,
            )
        )  # fmt: skip
    return out


def steps_index(nodes: Sequence[Node], name: str) -> int:
    return next(i for i, n in enumerate(nodes) if n.name == name)


def _cotangent_bytes(nodes: Sequence[Node], steps: Sequence[Step]) -> list[int]:
    """As `Graph.cotangent_bytes`: those of the activation, less where it is a view of a small one."""
    readers: dict[int, int] = {}
    for step in steps:
        for r in set(step.reads):
            readers[r] = readers.get(r, 0) + 1
    sizes = [n.activation_bytes or 0 for n in nodes]
    for i in range(len(nodes) - 1, -1, -1):
        if nodes[i].vjp_broadcasts:
            for r in set(steps[i].reads):
                if r >= 0 and readers[r] == 1:
                    sizes[r] = min(sizes[r], sizes[i])
    return sizes


def _owners(steps: Sequence[Step], builder: _Builder) -> tuple[dict[str, int], dict[int, int]]:
    """The node to which each trainable parameter counts, and the nodes tied to an earlier one.

    A node whose parameters all belong to one earlier node is tied to it. Of other shared parameters,
    the last user makes the gradient first.
    """
    trainable = builder.captured.trainable
    users: dict[str, list[int]] = {}
    for i, step in enumerate(steps):
        for name in dict.fromkeys(step.parameters):
            if name in trainable:
                users.setdefault(name, []).append(i)
    owners: dict[str, int] = {}
    tied: dict[int, int] = {}
    for i, step in enumerate(steps):
        own = [n for n in step.parameters if n in trainable]
        sources = {users[n][0] for n in own}
        if own and len(sources) == 1 and (source := sources.pop()) < i:
            tied[i] = source
    for name, by in users.items():
        loose = [i for i in by if i not in tied]
        owners[name] = loose[0] if len(loose) == 1 or any(i in tied for i in by) else loose[-1]
    for i, step in enumerate(steps):
        own = [n for n in step.parameters if n in trainable]
        counted = i in tied or any(owners[n] == i for n in own) or any(r >= 0 and builder.active[r] for r in step.reads)
        if own and not counted:
            raise GraphError(f"'{step.name}' shares its parameters {', '.join(own)} with several other parts")
    return owners, tied


def _parameter_bytes(builder: _Builder) -> dict[str, int]:
    return {name: value(n).numel() * value(n).element_size() for n, name in builder.captured.parameters.items()}


def _parameter_flops(joint: Joint, live: Sequence[bool], step: Step) -> int:
    """The share of the backward that only the gradients of parameters need."""
    to_inputs = [g if t[0] >= 0 else None for g, t in zip(joint.gradients, step.targets, strict=True)]
    if not any(live):
        return joint.backward_flops
    calls = needed(joint.backward_body.calls, to_inputs, lambda _: False)
    return joint.backward_flops - sum(flops(n) - _weight_share(n) for n in calls)


def _weight_share(node: torch.fx.Node) -> int:
    """Flops of the weight gradient inside a call that makes the input's gradient too."""
    name = str(node.target)
    if name == "aten.convolution_backward.default" and node.args[-1][0]:
        products = contraction_flops(node)
        return (products // 2 if node.args[-1][1] else 0) + flops(node) - products
    if "norm_backward" in name:
        return 3 * int(tensors_of(node.all_input_nodes[0])[0].numel())
    return 0


def _needs(step: Step, names: Sequence[str], active: bool) -> tuple[Needs, tuple[Reads, ...] | None]:
    """The activations that the gradient reads, and those of the inputs, `names` for each of the step's reads."""
    if not active:
        return "none", None
    sources = [name for name, many in zip(names, step.read_tensors, strict=True) for _ in range(many)]
    read = {sources[k] for k in step.joint.read if k < len(sources)}
    of_inputs: list[Reads] = ["always" if name in read else "never" for name in dict.fromkeys(names)]
    if not read:
        return "output" if step.joint.reads_outputs else "none", None
    needs: Needs = "both" if step.joint.reads_outputs else "input"
    return needs, tuple(of_inputs) if "never" in of_inputs else None


def _dtype(t: Any, name: str) -> str:
    dtype = str(t.dtype).removeprefix("torch.")
    if dtype not in ITEMSIZE:
        raise GraphError(f"'{name}' is {dtype}, which is not supported; known: {', '.join(ITEMSIZE)}")
    return dtype
