"""Pieces of a joint graph: rows of the forward that a schedule evaluates as one, with the rows of their VJPs.

A row of the backward belongs to the forward call that autograd made it for. Rows that autograd adds between those
(sums of gradients, derivatives of views) are *loose*: they run as soon as what they read is there.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import get_args

from torch import fx, nn

from sim.base.errors import GraphError, ParameterError
from sim.models.torch import Granularity
from sim.models.torch.rows import JointRows, operation_of, path_in, written

GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
ROOT = "model"
"""The name of operations of the outermost module's own forward."""


@dataclass(eq=False)
class Piece:
    """A part of the forward with the rows of its VJP, by number and in order.

    `adjoint` has the loose rows too that run after this VJP where VJPs run in reverse order. `outputs` are the
    storages that other pieces or the caller read, `residual` those that only the VJP reads.
    """

    name: str
    op: str
    forward: list[int]
    own: list[int] = field(default_factory=list)
    adjoint: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    residual: list[int] = field(default_factory=list)


@dataclass(eq=False)
class Pieces:
    """The pieces of a joint graph in order; rows in `loose`, and rows in `ending` that write at the forward's end."""

    pieces: list[Piece]
    loose: list[int]
    ending: list[int]


def cut(
    joint: JointRows, module: nn.Module, granularity: Granularity, *, loss: str = "none", taken: Sequence[str] = ()
) -> Pieces:
    """The pieces of a module's joint graph, under names that are not `taken`.

    `ops`: one for each call that makes memory; `modules`: one for each call of a submodule without children, and for
    each other call; `blocks`: one for each element of the outermost `nn.Sequential`, `nn.ModuleList` or
    `nn.ModuleDict` on the way to a call, and otherwise as `modules`. Calls outside of the module are those of its
    `loss`, which is one piece.

    Raises
    ------
    GraphError
        If VJPs of single pieces cannot be told apart.
    """
    if granularity not in GRANULARITIES:
        raise ParameterError(f"unknown granularity '{granularity}'; known: {', '.join(GRANULARITIES)}")
    cutter = _Cutter(joint, module, granularity, loss)
    ending = [r for r in range(joint.boundary) if written(cutter.node(r))]
    runs = cutter.runs(ending)
    names = cutter.names(runs, taken)
    pieces = [Piece(*label, run) for label, run in zip(names, runs, strict=True)]
    loose = cutter.give_backward(pieces)
    walk = Backward(joint, loose)
    for piece in reversed(pieces):
        piece.adjoint = walk.run(piece)
    if walk.waiting:
        raise GraphError(f"the backward calls {operation_of(cutter.node(walk.waiting[0]))}, which no part leads to")
    _find_values(joint, pieces, ending)
    return Pieces(pieces, loose, ending)


class _Cutter:
    """The rows of a joint graph with their places in a module."""

    def __init__(self, joint: JointRows, module: nn.Module, granularity: Granularity, loss: str) -> None:
        self.joint, self.granularity, self.loss = joint, granularity, loss
        self.leaves = {name for name, m in module.named_modules() if not any(True for _ in m.children())}
        holders = nn.Sequential | nn.ModuleList | nn.ModuleDict
        self.joined: dict[int, int] = {}
        self.containers = {name for name, m in module.named_modules() if isinstance(m, holders)}
        self.readers: dict[int, list[int]] = {}
        for r, row in enumerate(joint.rows):
            for s in row.reads:
                self.readers.setdefault(s, []).append(r)

    def node(self, row: int) -> fx.Node:
        node = self.joint.rows[row].node
        assert node is not None
        return node

    def stack(self, row: int) -> list[tuple[str, str]]:
        """(Path, call) of the submodules around a row, outermost first."""
        return [
            (path_in(path), str(key)) for key, (path, _) in (self.node(row).meta.get("nn_module_stack") or {}).items()
        ]

    def runs(self, ending: Sequence[int]) -> list[list[int]]:
        """The forward's rows in order, cut where their keys change."""
        late = set(ending)
        rows = [r for r in range(self.joint.boundary) if r not in late]
        joined = self.joined = self._joined(rows)
        runs: list[list[int]] = []
        home: dict[int, list[int]] = {}
        last: Hashable = None
        for r in rows:
            if r in joined:
                continue
            key = self._key(r)
            if not runs or key != last:
                runs.append([])
            runs[-1].append(r)
            home[r], last = runs[-1], key
        for r in reversed(rows):
            if r in joined:
                home[r] = home[joined[r]]
                home[r].append(r)
        return [sorted(run) for run in runs]

    def _joined(self, rows: Sequence[int]) -> dict[int, int]:
        """The rows that belong to the piece of a later row: what depends on nothing, to that of its only reader.

        A random state belongs to the call that draws; what no other row of the forward reads but a write, and constants
        for the backward, to the next row.
        """
        joined: dict[int, int] = {}
        drawing = {row.state: r for r, row in enumerate(self.joint.rows) if row.state is not None}
        constants = self._constants(rows)
        among = set(rows)

        def end(r: int) -> Hashable:
            while r in joined:
                r = joined[r]
            return self._key(r)

        for r, following in reversed(list(zip(rows, [*rows[1:], None], strict=True))):
            made = self.joint.rows[r].makes
            readers = [q for s in made for q in self.readers.get(s, [])]
            forward = [q for q in readers if q in among]
            if self.node(r) in drawing:
                joined[r] = drawing[self.node(r)]
            elif r in constants and forward and len({end(q) for q in forward}) == 1:
                joined[r] = min(forward)
            elif following is not None and not forward and (r in constants or not self._is_read_later(r, readers)):
                joined[r] = following
        return joined

    def _constants(self, rows: Sequence[int]) -> set[int]:
        """The rows that depend on nothing but shapes."""
        joint, constants = self.joint, set[int]()
        for r in rows:
            sources = {joint.storage_of[n] for n in self.node(r).all_input_nodes if n in joint.storage_of}
            makers = {joint.storages[s].maker for s in sources}
            if not joint.rows[r].ordered and makers <= constants:
                constants.add(r)
        return constants

    def _is_read_later(self, row: int, readers: Sequence[int]) -> bool:
        """Tell whether the caller or the backward reads a row's result."""
        held = any(s in self.joint.held for s in self.joint.rows[row].makes)
        return held or any(q > self.joint.boundary for q in readers)

    def _key(self, row: int) -> Hashable:
        """The key of a row: rows one after another with equal keys make one piece."""
        stack = self.stack(row)
        if not stack and self.loss != "none":
            return self.loss
        if self.granularity == "blocks":
            block = self.block(stack)
            if block is not None:
                return block
        if self.granularity != "ops" and stack and stack[-1][0] in self.leaves:
            return stack[-1]
        return row

    def block(self, stack: Sequence[tuple[str, str]]) -> str | None:
        """The first submodule around a call that is an element of a container and none itself."""
        for path, _ in stack:
            if path and path not in self.containers and path.rpartition(".")[0] in self.containers:
                return path
        return None

    def names(self, runs: Sequence[Sequence[int]], taken: Sequence[str]) -> list[tuple[str, str]]:
        """A name that nobody else has and a kind for each run."""
        calls = Counter(self.stack(r)[-1] for run in runs for r in run if r not in self.joined and self.stack(r))
        used = set(taken)
        labels = []
        for run in runs:
            stack = self.stack(run[-1])
            if not stack and self.loss != "none":
                labels.append((_unique(self.loss, used), self.loss))
                continue
            kind = operation_of(self.node(run[-1])).strip("_").removeprefix("native_")
            path = stack[-1][0] if stack else ""
            calls_of_own = [r for r in run if r not in self.joined]
            block = self.block(stack) if self.granularity == "blocks" else None
            if block is not None:
                name = block
            elif path in self.leaves and path and (self.granularity != "ops" or calls[stack[-1]] == 1):
                name = path
            else:
                name = f"{path}.{kind}" if path else kind
            labels.append((_unique(name, used), "module" if len(calls_of_own) > 1 else kind))
        return labels

    def give_backward(self, pieces: Sequence[Piece]) -> list[int]:
        """Give each row of the backward to the piece of its forward call; the rows that are loose.

        Calls of the backward bear the number of their forward call, but for sums of gradients and what a gradient
        written by hand calls: these bear the last one.
        """
        home = {self.node(r): piece for piece in pieces for r in piece.forward}
        first: dict[int, fx.Node] = {}
        for node in self.joint.module.graph.nodes:
            number = node.meta.get("seq_nr")
            if node.op == "call_function" and number is not None:
                first.setdefault(number, node)
        last = max(first, default=-1)
        loose = []
        for r in range(self.joint.boundary + 1, len(self.joint.rows)):
            node = self.node(r)
            number = node.meta.get("seq_nr", last)
            source = first.get(number)
            if source in home and number < last:
                home[source].own.append(r)
            else:
                loose.append(r)
        return loose


class Backward:
    """A walk over the backward by VJPs, between which loose rows run as soon as what they read is there."""

    def __init__(self, joint: JointRows, loose: Sequence[int]) -> None:
        self.joint, self.waiting = joint, list(loose)
        self.made = {s for s, storage in enumerate(joint.storages) if storage.maker <= joint.boundary}

    def run(self, piece: Piece) -> list[int]:
        """The rows of a piece's VJP and the loose ones that run with them, in order.

        Raises
        ------
        GraphError
            If the VJP reads what no VJP before it has made.
        """
        ran, pending = list[int](), deque(piece.own)
        while True:
            ready = [r for r in self.waiting if self._can_run(r)]
            self.waiting = [r for r in self.waiting if r not in ready]
            if not ready:
                if not pending:
                    return ran
                if not self._can_run(pending[0]):
                    node = self.joint.rows[pending[0]].node
                    assert node is not None
                    raise GraphError(
                        f"the derivative of '{piece.name}' ({operation_of(node)}) reads what that of an earlier part "
                        "makes, so that the model cannot be cut into parts with derivatives of their own"
                    )
                ready = [pending.popleft()]
            for r in ready:
                self.made.update(self.joint.rows[r].makes)
            ran += ready

    def _can_run(self, row: int) -> bool:
        return self.made.issuperset(self.joint.rows[row].reads)


def _find_values(joint: JointRows, pieces: Sequence[Piece], ending: Sequence[int]) -> None:
    """Find what each piece gives to others and what it keeps for its own VJP."""
    forward_of = {r: i for i, piece in enumerate(pieces) for r in piece.forward}
    adjoint_of = {r: i for i, piece in enumerate(pieces) for r in piece.adjoint}
    returned = {joint.storage_of[n] for n in joint.returned if isinstance(n, fx.Node) and n in joint.storage_of}
    outside: set[int] = set()
    kept: set[int] = set()
    for r, row in enumerate(joint.rows):
        for s in row.reads:
            maker = forward_of.get(joint.storages[s].maker)
            if maker is None or r == joint.boundary or r in ending:
                continue
            if r in forward_of:
                if forward_of[r] != maker:
                    outside.add(s)
            elif adjoint_of[r] == maker:
                kept.add(s)
            else:
                outside.add(s)
    for r, i in forward_of.items():
        for s in joint.rows[r].makes:
            if s in outside or s in returned:
                pieces[i].outputs.append(s)
            elif s in kept:
                pieces[i].residual.append(s)


def _unique(name: str, used: set[str]) -> str:
    name = name or ROOT
    number, candidate = 2, name
    while candidate in used:
        candidate = f"{name}_{number}"
        number += 1
    used.add(candidate)
    return candidate
