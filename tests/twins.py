"""Slow, obvious twins of what the program compiles: effects from the nodes, liveness by looking ahead.

Nothing here uses the tables or kernels: only nodes, readable actions and dictionaries.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from sim.graphs.graph import Graph
from sim.graphs.node import ITEMSIZE, Node
from sim.schedules.actions import Action, SeededJvp
from sim.schedules.schedule import Schedule

Key = tuple[str, ...]


@dataclass
class PlainEffects:
    reads: set[Key] = field(default_factory=set)
    consumes: set[Key] = field(default_factory=set)
    writes: dict[Key, int] = field(default_factory=dict)
    saves: set[Key] = field(default_factory=set)
    accumulates: dict[Key, int] = field(default_factory=dict)
    flops: int = 0
    workspace: int = 0


class PlainGraph:
    """Dictionaries about a graph, from its nodes alone."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes = {node.name: node for node in graph.nodes}
        self.inputs = {i.name: i for i in graph.inputs}
        self.readers = {name: [n.name for n in graph.nodes if name in n.inputs] for name in [*self.inputs, *self.nodes]}
        self.active: set[str] = set()
        if graph.plain:
            return
        if graph.wrt == "input":
            self.active |= {name for name, i in self.inputs.items() if i.differentiable}
        for node in graph.nodes:
            own = graph.wrt == "parameters" and (node.param_size > 0 or node.tied_to is not None)
            if own or any(i in self.active for i in node.inputs):
                self.active.add(node.name)

    def bytes_of(self, name: str) -> int:
        if name in self.inputs:
            i = self.inputs[name]
            return i.bytes if i.bytes is not None else math.prod(i.shape) * ITEMSIZE[i.dtype]
        node = self.nodes[name]
        if node.activation_bytes is not None:
            return node.activation_bytes
        return math.prod(node.output_shape) * ITEMSIZE[node.dtype]

    def cotangent_bytes(self, name: str) -> int:
        readers = self.readers[name]
        if len(readers) == 1 and self.nodes[readers[0]].vjp_broadcasts:
            return min(self.bytes_of(name), self.cotangent_bytes(readers[0]))
        return self.bytes_of(name)

    def scalars(self, name: str) -> int:
        shape = self.inputs[name].shape if name in self.inputs else self.nodes[name].output_shape
        return math.prod(shape[1:] if shape and shape[0] == self.graph.batch else shape)

    def n_out(self) -> int:
        return sum(self.scalars(n) for n in self.nodes if not self.readers[n] and n in self.active)

    def derivative_reads(self, name: str) -> set[Key]:
        node = self.nodes[name]
        reads: set[Key] = set()
        if node.needs in ("input", "both"):
            for k, i in enumerate(node.inputs):
                if i in self.nodes and self.reads_position(node, k):
                    reads.add(("activation", i))
        if node.needs in ("output", "both"):
            reads.add(("activation", name))
        if node.residual_bytes is not None:
            reads.add(("residual", name))
        return reads

    def reads_position(self, node: Node, k: int) -> bool:
        """Whether the derivative reads the input at a position, in a node whose `needs` has the inputs."""
        word = "always" if node.reads is None else node.reads[k]
        if word == "others":
            return any(i in self.active for j, i in enumerate(node.inputs) if j != k)
        if word == "parameters":
            return self.graph.wrt == "parameters" and bool(self.gradient_of(node))
        return word == "always"

    def read_bytes(self, key: Key, width: int) -> int:
        """The bytes of a value that an action of some width reads."""
        kind, name = key
        if kind == "residual":
            return self.nodes[name].residual_bytes or 0
        return self.bytes_of(name) if kind == "activation" else width * self.cotangent_bytes(name)

    def gradient_of(self, node: Node) -> dict[Key, int]:
        """The gradient of the parameters that a node uses, its own or those of the node it is tied to."""
        owner = node if node.tied_to is None else self.nodes[node.tied_to]
        if not owner.param_size:
            return {}
        size = self.n_out() * owner.param_size * ITEMSIZE[owner.dtype]
        return {("gradient", owner.name): 0 if self.graph.preallocated_gradients else size}

    def effects(self, action: Action) -> PlainEffects:
        graph, node = self.graph, self.nodes[action.node]
        width, out = action.width, PlainEffects(workspace=node.workspace_bytes)
        if action.kind == "forward":
            out.reads = {("activation", i) for i in node.inputs if i in self.nodes}
            out.writes[("activation", node.name)] = self.bytes_of(node.name)
            if node.residual_bytes is not None:
                out.writes[("residual", node.name)] = node.residual_bytes
                out.saves.add(("residual", node.name))
            out.flops = node.forward_flops
            return out
        out.reads = self.derivative_reads(node.name)
        reached = [i for i in dict.fromkeys(node.inputs) if i in self.active]
        if action.kind == "vjp":
            seed = ("cotangent", node.name)
            if self.readers[node.name]:
                out.consumes.add(seed)
            else:
                out.writes[seed] = width * self.cotangent_bytes(node.name)
            for i in reached:
                if i in self.nodes:
                    out.accumulates[("cotangent", i)] = width * self.cotangent_bytes(i)
            if reached:
                out.flops += width * (node.forward_flops if node.vjp_flops is None else node.vjp_flops)
            if graph.wrt == "parameters":
                out.flops += width * node.param_vjp_flops
                out.accumulates |= self.gradient_of(node)
            return out
        assert action.kind == "jvp"
        carried = list(action.carried) if isinstance(action, SeededJvp) else reached
        for i in carried:
            key = ("tangent", i)
            if i in self.nodes or self.readers[i][0] != node.name:
                out.reads.add(key)
            else:
                out.writes[key] = width * self.bytes_of(i)
        if graph.wrt == "parameters" or self.readers[node.name]:
            out.writes[("tangent", node.name)] = width * self.bytes_of(node.name)
        if carried:
            out.flops += width * (node.forward_flops if node.jvp_flops is None else node.jvp_flops)
        if isinstance(action, SeededJvp) and action.seeded:
            out.flops += width * node.param_vjp_flops
            out.accumulates |= self.gradient_of(node)
        return out


@dataclass
class PlainCost:
    peak: int
    flops: dict[str, int]
    actions: Counter[str]
    during: list[int]


def unrolled(schedule: Schedule) -> list[int]:
    """The numbers of the actions in order, every loop written out turn by turn."""

    def walk(start: int, stop: int, loops: list[tuple[int, int, int]]) -> list[int]:
        out: list[int] = []
        at = start
        while loops:
            first = loops[0]
            inner = [x for x in loops[1:] if x[0] < first[1]]
            out += range(at, first[0])
            out += walk(first[0], first[1], inner) * first[2]
            at, loops = first[1], loops[1 + len(inner) :]
        return [*out, *range(at, stop)]

    return walk(0, len(schedule), sorted(map(tuple, schedule.loops), key=lambda x: (x[0], -x[1])))


def plain_replay(schedule: Schedule) -> PlainCost:
    """Peak, flops and counts of a schedule of forwards, JVPs and VJPs by dictionaries alone."""
    plain = PlainGraph(schedule.graph)
    effects_of = {k: plain.effects(schedule.action(k)) for k in range(len(schedule))}
    order = unrolled(schedule)
    steps = [effects_of[k] for k in order]

    outputs = {("activation", schedule.graph.nodes[i].name) for i in schedule.graph.outputs}

    def read_later(key: Key, after: int) -> bool:
        if key[0] == "gradient":
            return True
        for step in steps[after + 1 :]:
            if key in step.reads or key in step.consumes:
                return True
            if key in step.writes:
                return False
        return key in outputs

    live: dict[Key, int] = {}
    flops: Counter[str] = Counter()
    actions: Counter[str] = Counter()
    evaluated: set[str] = set()
    during: list[int] = []
    for k, (number, step) in enumerate(zip(order, steps, strict=True)):
        action = schedule.action(number)
        for key in step.reads | step.consumes:
            assert key in live, f"{action} reads {key}, which is not there"
        for key, size in step.writes.items():
            if key not in step.saves or read_later(key, k):
                live[key] = size
        for key, size in step.accumulates.items():
            live.setdefault(key, size)
        during.append(sum(live.values()) + step.workspace)
        for key in list(live):
            if key in step.consumes or not read_later(key, k):
                del live[key]
        kind = {"vjp": "adjoint", "jvp": "tangent"}.get(action.kind)
        if kind is None:
            kind = "recompute" if action.node in evaluated else "primal"
            evaluated.add(action.node)
        flops[kind] += step.flops
        actions[action.kind] += 1
    return PlainCost(max(during), dict(flops), actions, during)
