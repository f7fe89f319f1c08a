"""Stages of a graph: what each part of a stage computes, and the bytes it takes as it runs.

Values live within a stage by liveness, as everywhere: from the row that makes them to the last row of the
stage that reads them. What crosses a cut is in both stages; between them it is a message.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.base.memo import remembered
from sim.graphs.columns import PARAMETERS
from sim.graphs.graph import Graph
from sim.graphs.node import ITEMSIZE, Ints
from sim.parallel.cuts import BLOCK
from sim.parallel.pipeline import Part
from sim.schedules.effects import FORWARD, VJP
from sim.schedules.table import base_table
from sim.schedules.values import ACCUMULATE, ACTIVATION, CONSUME, COTANGENT, GRADIENT, READ, RESIDUAL, SAVE, WRITE

Recompute = Literal["none", "selective", "block"]
HELD = ("activations", "cotangents", "gradients", "parameters", "workspace", "communication")
"""The kinds of what comes and goes on a rank."""
ACTIVATIONS, COTANGENTS, GRADIENTS, GATHERED, WORKSPACE, COMMUNICATION = range(len(HELD))
_KIND = {ACTIVATION: ACTIVATIONS, RESIDUAL: ACTIVATIONS, COTANGENT: COTANGENTS, GRADIENT: GRADIENTS}
ATTENTION_CORE = ("attention_scores", "softmax")
"""Ops whose tensors of sequence² selective recomputation drops (Korthikanti et al. 2022, arXiv:2205.05198)."""


class Profile(NamedTuple):
    """The rows of one part of a stage as they run: `seconds` of each, and bytes by kind that it takes and frees.

    What a row takes is there from its start, what it frees until its end; workspace is in both. `gradients`
    lists (row, node, bytes): what the first row to add to the gradient of a node's parameters takes besides;
    `finished` (row, nodes) of the last rows that do, block by block. `moving` are the seconds of collectives, and
    `waiting` those of them that the rows' seconds are longer for.
    """

    seconds: NDArray[np.float64]
    taken: Ints
    freed: Ints
    gradients: tuple[tuple[int, int, int], ...]
    finished: tuple[tuple[int, frozenset[int]], ...] = ()
    moving: float = 0.0
    waiting: float = 0.0

    def moved(self, by: int) -> Profile:
        """The same rows, of nodes so many further on."""
        gradients = tuple((row, node + by, size) for row, node, size in self.gradients)
        finished = tuple((row, frozenset(node + by for node in nodes)) for row, nodes in self.finished)
        return self._replace(gradients=gradients, finished=finished)


@dataclass(frozen=True)
class Message:
    """The result that a stage sends when one of its parts ends; `kept` says that the sender holds it anyway."""

    bytes: int
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Nodes `start` … `stop` - 1 of a graph: the profiles of its parts, its messages, and its parameters.

    `forward` goes to the next stage, `back` to the one before. `owners` are the nodes whose parameters it uses,
    its own or tied ones.
    """

    start: int
    stop: int
    profiles: Mapping[Part, Profile]
    forward: Message
    back: Message
    owners: frozenset[int]
    flops: Mapping[str, int]

    @property
    def span(self) -> tuple[int, int]:
        return self.start, self.stop

    def moved(self, by: int) -> Stage:
        """The same stage, so many nodes further on."""
        if not by:
            return self
        profiles = {part: profile.moved(by) for part, profile in self.profiles.items()}
        owners = frozenset(owner + by for owner in self.owners)
        return replace(self, start=self.start + by, stop=self.stop + by, owners=owners, profiles=profiles)

    def seconds(self, part: Part) -> float:
        return float(self.profiles[part].seconds.sum())


@dataclass(frozen=True, kw_only=True)
class Gathers:
    """What ranks that share gradients (`zero` 2) or parameters too (3) hold whole while it is used, and its seconds.

    Units of so many `blocks` are gathered before they run, `prefetch` of them ahead, and freed after, unless
    parameters stay (`reshard` false); their gradients are reduced after their VJP (Zhao et al. 2023, PyTorch FSDP,
    arXiv:2304.11277, section 3). `gather_s` and `reduce_s` are seconds for the parameters and gradients of some nodes.
    """

    zero: int = 0
    blocks: int = 1
    prefetch: int = 1
    reshard: bool = True
    gather_s: Callable[[frozenset[int]], float] = lambda _: 0.0
    reduce_s: Callable[[frozenset[int]], float] = lambda _: 0.0

    @property
    def parameters(self) -> bool:
        """Whether parameters are gathered for each pass."""
        return self.zero == 3 and self.reshard


@dataclass(frozen=True)
class RowTimes:
    """Seconds of each node's forward and VJP, arrays of shape (2, n): those it computes, and those of its collectives.

    It waits for `exposed` ones, and computes while it waits for `hidden` ones.
    """

    compute: NDArray[np.float64]
    exposed: NDArray[np.float64]
    hidden: NDArray[np.float64]

    @classmethod
    def of(cls, compute: NDArray[np.float64]) -> RowTimes:
        """Those without collectives."""
        return cls(compute, np.zeros_like(compute), np.zeros_like(compute))

    @property
    def whole(self) -> NDArray[np.float64]:
        """Seconds from start to end."""
        return np.maximum(self.compute, self.hidden) + self.exposed


def stages_of(
    graph: Graph,
    starts: Sequence[int],
    times: RowTimes | None,
    *,
    recompute: Sequence[Recompute | tuple[Recompute, ...]],
    gathers: Gathers | None = None,
    gradient_dtype: str | None = None,
) -> list[Stage]:
    """The stages between consecutive `starts`, each with its own recomputation, or one for each of its blocks.

    Without `times` their rows take no time. A block is one of the family, or the nodes between two places where a
    single activation crosses.
    """
    cutter = Cutter(graph, times, gathers=gathers or Gathers(), gradient_dtype=gradient_dtype)
    return [cutter.stage(start, stop, how) for (start, stop), how in zip(pairwise(starts), recompute, strict=True)]


def owners_of(graph: Graph, start: int, stop: int) -> frozenset[int]:
    """The nodes whose parameters some nodes use."""
    return frozenset(graph.gradient_of[start:stop].tolist()) - {-1}


def inputs_of(graph: Graph, start: int, stop: int) -> frozenset[int]:
    """The graph inputs that some nodes read."""
    c = graph.columns
    read = c.input_index[int(c.input_ptr[start]) : int(c.input_ptr[stop])].tolist()
    return frozenset(p for p in read if p < len(graph.inputs))


class _Row(NamedTuple):
    """One row of a part: its node, whether it evaluates it, its seconds, flops, and what it touches how.

    It computes `seconds`, `hidden` ones of collectives at the same time, and then waits `exposed` ones for others.
    """

    node: int
    forward: bool
    seconds: float
    exposed: float
    hidden: float
    flops: int
    touches: tuple[tuple[int, int], ...]

    @property
    def whole(self) -> float:
        """Seconds from start to end."""
        return max(self.seconds, self.hidden) + self.exposed


@remembered
def _stages_made(graph: Graph) -> dict[Hashable, Stage]:
    """The stages of a graph that were laid out, by all they depend on."""
    return {}


class Cutter:
    """The profiles of stages of one graph."""

    def __init__(self, graph: Graph, times: RowTimes | None, *, gathers: Gathers, gradient_dtype: str | None) -> None:
        self.graph, self.gathers = graph, gathers
        self.times = RowTimes.of(np.zeros((2, len(graph)))) if times is None else times
        self.table = base_table(graph, jvp=False)
        self.n, self.active = len(graph), graph.active[len(graph.inputs) :].tolist()
        self.gradient_of = graph.gradient_of.tolist()
        self.ends = set(graph.articulation_points.tolist())
        self.flops = self.table.flops.tolist()
        self.bytes = self.table.columns.value_bytes.reshape(-1, self.n).copy()
        if not graph.preallocated_gradients:  # of one cotangent, that of the loss or of what follows
            whole = graph.columns.param_bytes
            self.bytes[GRADIENT] = (
                whole if gradient_dtype is None else graph.columns.param_size * ITEMSIZE[gradient_dtype]
            )
        self.sizes = self.bytes.ravel().tolist()
        self.alike: dict[tuple[int, int], Hashable] = {}
        # what is gathered meanwhile is not in the key
        self.made: dict[Hashable, Stage] = {} if gathers.zero >= 2 else _stages_made(graph)

    def stage(self, start: int, stop: int, recompute: Recompute | tuple[Recompute, ...]) -> Stage:
        """The stage of some nodes; those that differ in their place alone are laid out once."""
        ops = tuple(node.op for node in self.graph.nodes[start:stop]) if "selective" in recompute else ()
        if (start, stop) not in self.alike:
            self.alike[start, stop] = tuple(self._alike(start, stop))
        key = (recompute, ops, self.alike[start, stop])
        if key not in self.made:
            self.made[key] = self._stage(start, stop, recompute)
        made = self.made[key]
        return made.moved(start - made.start)

    def _alike(self, start: int, stop: int) -> Iterator[Hashable]:
        """Yield all that a stage depends on, with nodes counted from its first."""
        n, c, t, of = self.n, self.graph.columns, self.table.columns, slice(start, stop)
        before = slice(max(start - 1, 0), stop)
        yield stop - start, start > 0, stop < n
        yield self.bytes[:, before].tobytes()
        for rows in (t.workspace.reshape(-1, n), self.times.compute, self.times.exposed, self.times.hidden):
            yield rows[:, of].tobytes()
        for column in (t.saving_workspace, c.param_vjp_flops, c.param_size, c.param_bytes):
            yield column[of].tobytes()
        yield tuple(self.active[before])
        owners, numbers = self.graph.gradient_of[of], self.block_numbers
        yield np.where(owners < 0, n, owners - start).tobytes(), tuple(k - numbers[start] for k in numbers[of])
        for opcode in (FORWARD, VJP):
            first, last = (self.table.numbers.row(opcode, node) for node in (start, stop - 1))
            a, b = int(t.ptr[first]), int(t.ptr[last + 1])
            kind, node = np.divmod(t.value[a:b], n)
            yield from ((kind * 2 * n + node - start).tobytes(), t.access[a:b].tobytes())
            yield np.diff(t.ptr[first : last + 2]).tobytes()
            yield self.table.flops[first : last + 1].tobytes()
        edges = slice(int(c.input_ptr[start]), int(c.input_ptr[stop]))
        yield (c.input_index[edges] - start).tobytes(), None if c.reads is None else c.reads[edges].tobytes()
        yield tuple((a - start, b - start) for a, b in self.blocks(start, stop))

    def _stage(self, start: int, stop: int, recompute: Recompute | tuple[Recompute, ...]) -> Stage:
        graph, n = self.graph, self.n
        forward = [self._forward(node) for node in range(start, stop)]
        back = list(self._back(start, stop, recompute))
        split = [row if row.forward else self._input_part(row) for row in back]
        weights = [self._weight_part(row) for row in back if not row.forward and self.gradient_of[row.node] >= 0]
        whole, kept = self._profiles(start, stop, {Part.FORWARD: forward, Part.VJP: back})
        parts, _ = self._profiles(start, stop, {Part.FORWARD: forward, Part.INPUT_VJP: split, Part.WEIGHT_VJP: weights})
        sends_back = start > 0 and self.active[start - 1]
        return Stage(
            start=start,
            stop=stop,
            profiles=parts | whole,
            forward=Message(self.sizes[stop - 1] if stop < n else 0, kept),
            back=Message(self.sizes[COTANGENT * n + start - 1] if sends_back else 0, False),
            owners=owners_of(graph, start, stop),
            flops={
                "primal": sum(row.flops for row in forward),
                "recompute": sum(row.flops for row in back if row.forward),
                "adjoint": sum(row.flops for row in back if not row.forward),
            },
        )

    def _forward(self, node: int) -> _Row:
        return self._row(FORWARD, node)

    def _vjp(self, node: int) -> _Row:
        return self._row(VJP, node)

    def _row(self, opcode: int, node: int) -> _Row:
        row, at, times = self.table.numbers.row(opcode, node), (opcode, node), self.times
        return _Row(
            node=node,
            forward=opcode == FORWARD,
            seconds=float(times.compute[at]),
            exposed=float(times.exposed[at]),
            hidden=float(times.hidden[at]),
            flops=self.flops[row],
            touches=self.touches[row],
        )

    def _back(self, start: int, stop: int, recompute: Recompute | tuple[Recompute, ...]) -> Iterator[_Row]:
        """Yield the VJPs of a stage, last node first, and before them what is recomputed."""
        blocks = list(self.blocks(start, stop))
        hows = (recompute,) * len(blocks) if isinstance(recompute, str) else recompute
        for (first, last), how in zip(reversed(blocks), reversed(hows), strict=True):
            vjps = [self._vjp(node) for node in range(last - 1, first - 1, -1) if self.active[node]]
            again = self._recomputed(first, last, vjps, how)
            needed = {value for row in vjps for value, access in row.touches if access == READ}
            if how == "selective":
                # just before the first VJP that reads any of it, so that it is there no longer than it must
                made = set(again) | {RESIDUAL * self.n + node for node in again}
                at = next((k for k, r in enumerate(vjps) if any(v in made for v, a in r.touches if a == READ)), 0)
                yield from vjps[:at]
                yield from map(self._forward, again)
                yield from vjps[at:]
            else:
                while again and not needed & {again[-1], RESIDUAL * self.n + again[-1]}:
                    again.pop()  # nobody reads what it would leave
                yield from map(self._forward, again)
                yield from vjps

    def _recomputed(self, first: int, last: int, vjps: Sequence[_Row], recompute: Recompute) -> list[int]:
        if recompute == "block":
            return list(range(first, last))
        if recompute == "none":
            return []
        nodes, m = self.graph.nodes, len(self.graph.inputs)
        ops = {node: nodes[node].op for node in range(first, last)}
        c = self.graph.columns

        def after_softmax(node: int) -> bool:
            inputs = c.input_index[int(c.input_ptr[node]) : int(c.input_ptr[node + 1])].tolist()
            return ops[node] == "dropout" and any(ops.get(p - m) == "softmax" for p in inputs)

        return [node for node in ops if ops[node] in ATTENTION_CORE or after_softmax(node)]

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the stretches between places where a single activation crosses, those named as one block joined."""
        names, m = self.graph.names, len(self.graph.inputs)
        cuts = [p for p in range(start, stop + 1) if p in self.ends or p in (start, stop)]
        first = start
        for here in cuts[1:]:
            block = BLOCK.match(names[m + first])
            if here == stop or block is None or not names[m + here].startswith(block[0]):
                yield first, here
                first = here

    def _input_part(self, row: _Row) -> _Row:
        """The part of a VJP that makes cotangents: what the weights' gradients alone read is left out."""
        if self.gradient_of[row.node] < 0:
            return row
        own = int(self.graph.columns.param_vjp_flops[row.node])
        alone = self._read_for_weights_alone(row.node)
        touches = tuple(
            (v, READ if a == CONSUME else a) for v, a in row.touches if v // self.n != GRADIENT and v not in alone
        )
        share = (row.flops - own) / row.flops if row.flops else 1.0
        return row._replace(seconds=row.seconds * share, flops=row.flops - own, touches=touches)

    def _weight_part(self, row: _Row) -> _Row:
        """The part of a VJP that makes the gradient of its parameters."""
        own = int(self.graph.columns.param_vjp_flops[row.node])
        touches = tuple((v, a) for v, a in row.touches if not (v // self.n == COTANGENT and a == ACCUMULATE))
        touches = tuple((v, READ if a == WRITE else a) for v, a in touches)  # the seed is there already
        share = own / row.flops if row.flops else 0.0
        return row._replace(seconds=row.seconds * share, exposed=0.0, hidden=0.0, flops=own, touches=touches)

    def _read_for_weights_alone(self, node: int) -> set[int]:
        """The activations that the gradient of a node's parameters reads and its input's cotangent does not."""
        c, m = self.graph.columns, len(self.graph.inputs)
        if c.reads is None:
            return set()
        edges = range(int(c.input_ptr[node]), int(c.input_ptr[node + 1]))
        return {int(c.input_index[e]) - m for e in edges if c.reads[e] == PARAMETERS}

    def _profiles(self, start: int, stop: int, parts: dict[Part, list[_Row]]) -> tuple[dict[Part, Profile], bool]:
        """The profiles of parts that run one after the other, and whether what is sent on is kept anyway."""
        n, rows = self.n, [row for of_part in parts.values() for row in of_part]
        ends = np.cumsum([len(of_part) for of_part in parts.values()]).tolist()
        taken, freed = (
            np.zeros((len(rows), len(HELD)), dtype=np.int64),
            np.zeros((len(rows), len(HELD)), dtype=np.int64),
        )
        gradients: list[tuple[int, int, int]] = []
        uses: dict[int, list[tuple[int, int]]] = {}
        for k, row in enumerate(rows):
            for value, access in row.touches:
                uses.setdefault(value, []).append((k, access))
        saved: set[int] = set()
        kept = False
        for value, of_value in uses.items():
            kind, node = divmod(value, n)
            size = self.sizes[value]
            if kind == GRADIENT:
                gradients.append((of_value[0][0], node, size))
                continue
            for begin, end in self._lives(of_value):
                if begin < 0:  # it was sent here, before the part that reads it first
                    begin = max(e for e in (0, *ends) if e <= of_value[0][0])
                elif kind == RESIDUAL and end == begin:
                    continue
                elif kind == RESIDUAL:
                    saved.add(begin)
                if kind == ACTIVATION and node == stop - 1 < n - 1 and begin < ends[0]:
                    kept, end = end >= ends[0], max(end, ends[0] - 1)
                if kind == COTANGENT and node < start:
                    end = next(e for e in ends if begin < e) - 1
                taken[begin, _KIND[kind]] += size
                freed[end, _KIND[kind]] += size
        c = self.table.columns
        for k, row in enumerate(rows):
            number = self.table.numbers.row(FORWARD if row.forward else VJP, row.node)
            bytes_ = int(c.saving_workspace[row.node] if row.forward and k in saved else c.workspace[number])
            taken[k, WORKSPACE] += bytes_
            freed[k, WORKSPACE] += bytes_
        spans = dict(zip(parts, pairwise([0, *ends]), strict=True))
        profiles = {}
        for part, (a, b) in spans.items():
            own = tuple((k - a, owner, size) for k, owner, size in sorted(gradients) if a <= k < b)
            profiles[part] = self._profile(rows[a:b], taken[a:b], freed[a:b], own, part)
        return profiles, kept

    def _profile(
        self, rows: Sequence[_Row], taken: Ints, freed: Ints, gradients: Sequence[tuple[int, int, int]], part: Part
    ) -> Profile:
        """The profile of a part, with what replicas that share gather and reduce meanwhile."""
        seconds = np.array([row.whole for row in rows])
        moving = sum(row.exposed + row.hidden for row in rows)
        if self.gathers.zero >= 2 and rows:
            moving += self._gather(rows, seconds, taken, freed, gradients, parameters=part is not Part.WEIGHT_VJP)
            gradients = ()
        waiting = float(seconds.sum()) - sum(row.seconds for row in rows)
        return Profile(
            seconds, taken, freed, tuple(gradients), tuple(self._finished(rows)), float(moving), max(0.0, waiting)
        )

    def _finished(self, rows: Sequence[_Row]) -> Iterator[tuple[int, frozenset[int]]]:
        """Yield (row, nodes) of the last row of each block, and the gradients to which no later row adds."""
        last = {self.gradient_of[row.node]: k for k, row in enumerate(rows) if not row.forward}
        for first, stop in self._units(rows):
            owners = frozenset(owner for owner, k in last.items() if owner >= 0 and first <= k < stop)
            if owners:
                yield stop - 1, owners

    def _units(self, rows: Sequence[_Row], blocks: int = 1) -> Iterator[tuple[int, int]]:
        """Yield the stretches of rows of so many blocks that have parameters, with what lies between in one of them."""
        number_of, starts, named = self.block_numbers, [0], 0
        last = -1
        for k, row in enumerate(rows):
            if self.gradient_of[row.node] >= 0 and number_of[row.node] != last:
                last = number_of[row.node]
                if named and named % blocks == 0:
                    starts.append(next(j for j in range(k, -1, -1) if j == 0 or number_of[rows[j - 1].node] != last))
                named += 1
        yield from pairwise([*starts, len(rows)])

    @staticmethod
    def _lives(uses: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield (begin, end) of each life of a value; -1 as the begin of one that comes from elsewhere."""
        begin, end = -1, -1
        for k, access in uses:
            begins = access in (WRITE, SAVE) or (access == ACCUMULATE and end < 0)
            if begins and end >= 0:
                yield begin, end
            if begins:
                begin = k
            end = k
        yield begin, end

    @cached_property
    def touches(self) -> list[tuple[tuple[int, int], ...]]:
        """What each row of the graph touches, and how."""
        c = self.table.columns
        ptr, value, access = c.ptr.tolist(), c.value.tolist(), c.access.tolist()
        return [tuple(zip(value[a:b], access[a:b], strict=True)) for a, b in pairwise(ptr)]

    @cached_property
    def block_numbers(self) -> list[int]:
        """The number of the block of each node."""
        blocks = enumerate(self.blocks(0, self.n))
        return [number for number, (first, last) in blocks for _ in range(first, last)]

    def _gather(
        self,
        rows: Sequence[_Row],
        seconds: NDArray[np.float64],
        taken: Ints,
        freed: Ints,
        gradients: Sequence[tuple[int, int, int]],
        *,
        parameters: bool,
    ) -> float:
        """Let units wait for their parameters, with these and their gradients whole meanwhile; seconds of collectives.

        One stream moves what is asked for in order: a unit's parameters when the one `prefetch` before it begins,
        its gradients when its last row ends. A part ends when all are reduced.
        """
        how, units = self.gathers, list(self._units(rows, self.gathers.blocks))
        owners = [frozenset(self.gradient_of[row.node] for row in rows[a:b]) - {-1} for a, b in units]
        gathers = [how.gather_s(of) if how.parameters and parameters else 0.0 for of in owners]
        made = [[(row, owner, size) for row, owner, size in gradients if a <= row < b] for a, b in units]
        reduces = [how.reduce_s(frozenset(owner for _, owner, _ in of)) if of else 0.0 for of in made]
        free, now, asked = 0.0, 0.0, 0
        there, ends, reduced = [0.0] * len(units), [], []
        for k, (a, b) in enumerate(units):
            if asked == k:
                free = there[k] = max(free, now) + gathers[k]
                asked += 1
            start = max(now, there[k])
            seconds[a] += start - now
            while asked < min(k + how.prefetch + 1, len(units)):
                free = there[asked] = max(free, start) + gathers[asked]
                asked += 1
            now = start + float(sum(row.whole for row in rows[a:b]))
            ends.append(now)
            free = max(free, now) + reduces[k] if reduces[k] else free
            reduced.append(max(now, free) if reduces[k] else now)
        seconds[-1] += max(0.0, free - now)
        param_bytes = self.graph.columns.param_bytes
        for k, (_, b) in enumerate(units):
            if how.parameters and parameters:
                whole = int(param_bytes[list(owners[k])].sum())
                taken[units[max(0, k - how.prefetch)][0], GATHERED] += whole
                freed[b - 1, GATHERED] += whole
            until = next((j for j in range(k, len(units)) if ends[j] >= reduced[k]), len(units) - 1)
            for row, _, size in made[k]:
                taken[row, GRADIENTS] += size
                freed[units[until][1] - 1, GRADIENTS] += size
        return sum(gathers) + sum(reduces)
