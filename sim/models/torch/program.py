"""A PyTorch module as a `Graph`: the pieces of its joint graph with what they cost, and how a schedule becomes rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from sim.base.errors import GraphError
from sim.graphs.graph import Graph
from sim.graphs.node import GRANULARITY, ITEMSIZE, LOSS, GraphInput, Needs, Node, Reads
from sim.models.torch import Granularity
from sim.models.torch.flops import contraction_flops, flops
from sim.models.torch.front import Captured, capture
from sim.models.torch.pieces import Piece, Pieces, cut
from sim.models.torch.rows import JointRows
from sim.models.torch.tensors import part_of, tensors_of

TARGETS: Mapping[str, str] = {"cross_entropy": "labels", "mse": "target"}
"""The input that a loss reads beside the module's output."""


@dataclass(frozen=True, eq=False)
class Program:
    """A module's graph, each node of which is a piece of its joint graph."""

    graph: Graph
    pieces: Pieces
    captured: Captured


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
        For what cannot be traced or cut, with the reason.
    """
    if loss in TARGETS and TARGETS[loss] not in inputs:
        raise GraphError(
            f"loss: {loss} reads an input '{TARGETS[loss]}'; give it beside the module's inputs", key="loss"
        )
    captured = capture(module, inputs, None if loss == "none" else lambda m, given: with_loss(m, given, loss))
    pieces = cut(captured.joint, module, granularity, loss=loss, taken=[*inputs, CONSTANTS])
    built = _Builder(captured, pieces, module, inputs)
    attributes = {GRANULARITY: granularity}
    return Program(built.graph(name or type(module).__name__, attributes, loss != "none"), pieces, captured)


def with_loss(module: Callable[..., Any], inputs: Mapping[str, Any], loss: str) -> Any:
    """The loss of what a module makes of its inputs."""
    functional, given = nn.functional, dict(inputs)
    target = given.pop(TARGETS[loss]) if loss in TARGETS else None
    out = part_of(module(**given), "loss" if loss == "none" else "logits")
    if loss == "none":
        return out
    if not isinstance(out, torch.Tensor):
        raise GraphError(f"loss: {loss} reads one tensor, but the module returns {type(out).__name__}", key="loss")
    if loss == "cross_entropy":
        assert target is not None
        return functional.cross_entropy(out.reshape(-1, out.shape[-1]), target.reshape(-1))
    if loss == "mse":
        return functional.mse_loss(out, target)
    return out.sum() if loss == "sum" else out.mean()


CONSTANTS = "constants"
"""The graph input that stands for what no schedule can change beside inputs and trained parameters."""


class _Builder:
    """A builder that turns pieces into nodes."""

    def __init__(self, captured: Captured, pieces: Pieces, module: nn.Module, inputs: Mapping[str, Any]) -> None:
        self.joint, self.pieces, self.inputs = captured.joint, pieces.pieces, inputs
        self.ending, self.loose = pieces.ending, pieces.loose
        self.trained = {name for name, p in module.named_parameters() if p.requires_grad}
        storage_of = self.joint.storage_of
        self.name_of = {storage_of[n]: name for n, name in captured.names.items() if n in storage_of}
        self.maker = {s: i for i, p in enumerate(self.pieces) for s in p.outputs}
        self.views: dict[int, list[fx.Node]] = {}
        for n in self.joint.module.graph.nodes:
            if n in self.joint.views and n in storage_of:
                self.views.setdefault(storage_of[n], []).append(n)
        self.readers: dict[int, set[int]] = {}
        for i, p in enumerate(self.pieces):
            for s in [s for r in p.adjoint for s in self.joint.rows[r].reads]:
                self.readers.setdefault(s, set()).add(i)

    def graph(self, name: str, attributes: Mapping[str, Any], lossy: bool) -> Graph:
        given = [
            GraphInput(k, tuple(t.shape), _dtype(t, k)) for k, t in self.inputs.items() if isinstance(t, torch.Tensor)
        ]
        batch = next((i.shape[0] for i in given if i.shape), 1)
        held = self._constant_bytes()
        if held:
            given.append(GraphInput(CONSTANTS, (held,), "uint8", constant=True))
        if not given:
            raise GraphError("the model reads no tensor")
        first = given[0].name
        sizes = self._parameter_bytes()
        nodes = []
        for i, piece in enumerate(self.pieces):
            loss = {LOSS: True} if lossy and i == len(self.pieces) - 1 else {}
            nodes.append(self._node(i, piece, sizes[i], first, {**attributes, **loss}))
        graph = Graph.from_nodes(nodes, given, name=name, batch=batch)
        return Graph.from_nodes(self._with_memory(graph, nodes), given, name=name, batch=batch)

    def _constant_bytes(self) -> int:
        """Bytes of frozen parameters, buffers, random states, and of what runs once and stays for whoever reads it."""
        joint = self.joint
        known = set(self.inputs) | self.trained
        held = sum(
            s.bytes for k, s in enumerate(joint.storages) if s.maker < 0 and self.name_of.get(k, "") not in known
        )
        once = [r for r in once_rows(joint) if r not in self.ending]
        return held + joint.settled + sum(joint.storages[s].bytes for r in once for s in joint.rows[r].makes)

    def _parameter_bytes(self) -> list[int]:
        """Bytes of the trained parameters that count to each piece.

        A shared one counts to the last piece that reads it, whose VJP is the first to make its gradient. Of that, a
        piece that reads no other one has one scalar, so that it has a VJP of its own.
        """
        storages = self.joint.storages
        users: dict[int, list[int]] = {}
        for i, piece in enumerate(self.pieces):
            for s in self._read(piece.forward):
                if storages[s].maker < 0 and self.name_of.get(s, "") in self.trained:
                    users.setdefault(s, []).append(i)
        out = [0] * len(self.pieces)
        for s, by in users.items():
            out[by[-1]] += storages[s].bytes
        for s, by in users.items():
            scalar = int(storages[s].root.meta["val"].element_size())
            for i in by[:-1]:
                if not out[i]:
                    out[i] += scalar
                    out[by[-1]] -= scalar
        return out

    def _read(self, rows: Sequence[int]) -> list[int]:
        """The storages that rows read and do not make, the caller's too."""
        made = {s for r in rows for s in self.joint.rows[r].makes}
        nodes = [self.joint.rows[r].node for r in rows]
        read = [self.joint.storage_of.get(o, -1) for n in nodes if n is not None for o in n.all_input_nodes]
        return [s for s in dict.fromkeys(read) if s >= 0 and s not in made]

    def _node(self, i: int, piece: Piece, parameter_bytes: int, first: str, attributes: Mapping[str, Any]) -> Node:
        joint = self.joint
        forward, adjoint = self._sources(piece.forward), self._sources(piece.adjoint)
        names = [*self.inputs, *(p.name for p in self.pieces)]
        before = set(names[: len(self.inputs) + i])
        later = [name for name in adjoint if name in names and name not in {*before, piece.name}]
        if later:
            raise GraphError(
                f"the derivative of '{piece.name}' reads what '{later[0]}' makes, which comes later: the model cannot "
                "be cut into parts with derivatives of their own"
            )
        read = [name for name in dict.fromkeys([*forward, *adjoint]) if name in before]
        inputs = tuple(read) or (first,)
        of_inputs: list[Reads] = ["always" if n in adjoint else "never" for n in inputs]
        needs: Needs = "none"
        if "always" in of_inputs:
            needs = "both" if piece.name in adjoint else "input"
        elif piece.name in adjoint:
            needs = "output"
        out = self._shown(piece)
        dtype = _dtype(out, piece.name)
        calls = [list(self._calls(rows)) for rows in (piece.forward, piece.adjoint)]
        parameter_flops = self._parameter_flops(i, piece)
        return Node(
            name=piece.name, inputs=inputs, output_shape=tuple(max(1, d) for d in out.shape), op=piece.op, dtype=dtype,
            forward_flops=sum(map(flops, calls[0])), vjp_flops=sum(map(flops, calls[1])) - parameter_flops,
            param_vjp_flops=parameter_flops, param_size=math.ceil(parameter_bytes / ITEMSIZE[dtype]),
            residual_bytes=sum(joint.storages[s].bytes for s in piece.residual) if piece.residual else None,
            needs=needs, reads=tuple(of_inputs) if needs in ("input", "both") and "never" in of_inputs else None,
            activation_bytes=sum(joint.storages[s].bytes for s in piece.outputs),
            attributes={**attributes, "contraction_flops": tuple(sum(map(contraction_flops, c)) for c in calls)},
        )  # fmt: skip

    def _sources(self, rows: Sequence[int]) -> list[str]:
        """The names of the nodes and inputs whose memory rows read, in order."""
        found = [self.pieces[self.maker[s]].name if s in self.maker else self.name_of.get(s) for s in self._read(rows)]
        return [name for name in dict.fromkeys(found) if name is not None]

    def _calls(self, rows: Sequence[int]) -> Iterator[fx.Node]:
        return (n for r in rows if (n := self.joint.rows[r].node) is not None)

    def _shown(self, piece: Piece) -> Any:
        """The tensor that stands for what a piece makes: as the caller or its own module sees it, a view perhaps."""
        joint = self.joint
        made = piece.outputs or [s for r in piece.forward for s in joint.rows[r].makes]
        for n in joint.returned:
            if isinstance(n, fx.Node) and joint.storage_of.get(n) in made:
                return n.meta["val"]
        whole = tensors_of(joint.storages[made[-1]].root)[0]
        stacks = [n.meta.get("nn_module_stack") for n in self._calls(piece.forward)]
        views = [n for n in self.views.get(made[-1], []) if n.meta.get("nn_module_stack") in stacks]
        return next((t for n in reversed(views) for t in tensors_of(n)[:1] if t.numel() == whole.numel()), whole)

    def _parameter_flops(self, i: int, piece: Piece) -> int:
        """The share of a VJP that only the gradients of parameters need."""
        joint = self.joint
        needed = {s for r in piece.adjoint for s in joint.rows[r].makes if self.readers.get(s, set()) - {i}}
        share = 0
        for r in reversed(piece.adjoint):
            row = joint.rows[r]
            assert row.node is not None
            if needed.isdisjoint(row.makes):
                share += flops(row.node)
            else:
                needed.update(row.reads)
                share += _weight_share(row.node)
        return share

    def _with_memory(self, graph: Graph, nodes: Sequence[Node]) -> list[Node]:
        """The nodes with the bytes of their cotangents, and with what lives only while they run."""
        sizes = [s.bytes for s in self.joint.storages]
        active = graph.active[len(graph.inputs) :].tolist()
        cotangents, workspaces = self._adjoint_memory(graph)
        out = []
        for i, (node, piece) in enumerate(zip(nodes, self.pieces, strict=True)):
            made, residual = sum(sizes[s] for s in piece.outputs), sum(sizes[s] for s in piece.residual)
            plain = self._peak(piece.forward, piece.outputs) - made
            taping = self._peak(piece.forward, [*piece.outputs, *piece.residual]) - made - residual
            out.append(
                replace(
                    node, workspace_bytes=plain, taping_workspace_bytes=taping if active[i] else None,
                    vjp_workspace_bytes=workspaces[i] if active[i] else None,
                    cotangent_bytes=cotangents[i] if active[i] else None,
                )
            )  # fmt: skip
        return out

    def _peak(self, rows: Sequence[int], kept: Sequence[int]) -> int:
        """The most bytes of what rows make that is in memory at once, if `kept` stays."""
        joint = self.joint
        last = {s: at for at, r in enumerate(rows) for s in (*joint.rows[r].makes, *joint.rows[r].reads)}
        live = peak = 0
        mine: set[int] = set()
        for at, r in enumerate(rows):
            made = joint.rows[r].makes
            mine.update(made)
            live += sum(joint.storages[s].bytes for s in made)
            peak = max(peak, live)
            gone = [s for s in {*made, *joint.rows[r].reads} & mine if last[s] == at and s not in kept]
            live -= sum(joint.storages[s].bytes for s in gone)
        return peak

    def _adjoint_memory(self, graph: Graph) -> tuple[list[int], list[int]]:
        """For each node the bytes of its cotangent, and of what its VJP takes besides.

        Both are those of a full store in reverse order. A value that serves two nodes as their cotangent counts to
        the one that needs it longer, and an array of which cotangents are views stays as long as any of them: to
        whichever of them is needed longest counts what no cotangent has. What the VJP takes may be less than none.
        """
        peaks, after, cotangents = self._adjoint_bytes()
        m, n = len(graph.inputs), len(self.pieces)
        ptr, index, active = graph.columns.input_ptr, graph.columns.input_index, graph.active
        gradients = graph.columns.param_bytes.tolist()
        touched = [
            {i, *(p - m for p in index[ptr[i] : ptr[i + 1]].tolist() if p >= m and active[p])}
            if active[m + i]
            else set()
            for i in range(n)
        ]
        made, there = 0, set[int]()
        for i in reversed(range(n)):
            there = (there | touched[i]) - {i}
            made += gradients[i]
            missing = after[i] - made - sum(cotangents[k] for k in there)
            if there and missing > 0:
                cotangents[min(there)] += missing
        workspaces = [0] * n
        made, there = 0, set()
        for i in reversed(range(n)):
            there |= touched[i]
            made += gradients[i]
            residual = sum(self.joint.storages[s].bytes for s in self.pieces[i].residual)
            workspaces[i] = peaks[i] - residual - made - sum(cotangents[k] for k in there)
            there -= {i}
        return cotangents, workspaces

    def _adjoint_bytes(self) -> tuple[list[int], list[int], list[int]]:
        """For each VJP of a full store in reverse order: bytes at its peak, after it, and those that end with it.

        They are those of what the backward makes, and at the peak of the VJP's own residual besides, less what has
        gone by then. Parts of a gradient of parameters do not end with a VJP.
        """
        joint, n = self.joint, len(self.pieces)
        size = [s.bytes for s in joint.storages]
        last = {
            s: r for p in reversed(self.pieces) for r in p.adjoint for s in (*joint.rows[r].makes, *joint.rows[r].reads)
        }
        ends = {joint.storage_of[g] for g in joint.gradients if isinstance(g, fx.Node)}
        parts = {s for r in self.loose if ends.intersection(joint.rows[r].makes) for s in joint.rows[r].reads}
        there = {s for s in joint.rows[joint.boundary].makes if s in last or s in joint.held}
        live = sum(size[s] for s in there)
        peaks, after, ending = [0] * n, [0] * n, [0] * n
        for i in reversed(range(n)):
            before = set(there)
            held = sum(size[s] for s in self.pieces[i].residual)
            peaks[i] = live + held
            for r in self.pieces[i].adjoint:
                row = joint.rows[r]
                there.update(row.makes)
                live += sum(size[s] for s in row.makes)
                peaks[i] = max(peaks[i], live + held)
                gone = {s for s in (*row.makes, *row.reads) if last[s] == r and s not in joint.held}
                live -= sum(size[s] for s in gone & there)
                held -= sum(size[s] for s in gone & set(self.pieces[i].residual))
                ending[i] += sum(size[s] for s in gone & before - parts)
                there -= gone
            after[i] = live
        return peaks, after, ending


def once_rows(joint: JointRows) -> list[int]:
    """The rows of the forward that never run again though others read them, without those that the caller holds."""
    return [
        r for r, row in enumerate(joint.rows[: joint.boundary])
        if row.once and not any(s in joint.held for s in row.makes)
    ]  # fmt: skip


def _weight_share(node: fx.Node) -> int:
    """Flops of the weight gradient inside a call that makes the input's gradient too."""
    name = str(node.target)
    if name == "aten.convolution_backward.default" and node.args[-1][0]:
        products = contraction_flops(node)
        return (products // 2 if node.args[-1][1] else 0) + flops(node) - products
    if "norm_backward" in name:
        return 3 * int(tensors_of(node.all_input_nodes[0])[0].numel())
    return 0


def _dtype(t: Any, name: str) -> str:
    dtype = str(t.dtype).removeprefix("torch.")
    if dtype not in ITEMSIZE:
        raise GraphError(f"'{name}' is {dtype}, which is not supported; known: {', '.join(ITEMSIZE)}")
    return dtype
