"""A plan of a joint graph put back: the forward and the backward that run its rows in the order of the plan.

The forward returns after its results what the backward reads of it; a tensor is dropped after its last reader,
and a view keeps its base, so that what is in memory is what the plan says.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from sim.models.torch.randomness import random_state
from sim.models.torch.rows import JointRows, rerun


@dataclass(eq=False)
class Halves:
    """The two graph modules of a plan, and the storages that the first saves for the second."""

    forward: fx.GraphModule
    backward: fx.GraphModule
    saved: list[int]


def halves(joint: JointRows, rows: Sequence[int]) -> Halves:
    """The forward and the backward that run `rows`, of which one is the boundary, in this order."""
    at = list(rows).index(joint.boundary)
    before, after = rows[:at], rows[at + 1 :]
    saved = _saved(joint, before, after)
    placeholders = joint.module.graph.find_nodes(op="placeholder")
    made = set(joint.rows[joint.boundary].makes)
    tangents = [n for n in placeholders if joint.storage_of.get(n) in made]
    primals = [n for n in placeholders if n not in set(tangents)]
    ran: set[int] = set()
    roots = [joint.storages[s].root for s in saved]

    first = _Half(joint, ran)
    first.given(primals)
    first.run(before)
    kinds = _descriptions(joint, roots)
    forward = first.module([*joint.returned, *roots], [*joint.descriptions[: len(joint.returned)], *kinds])

    second = _Half(joint, ran)
    second.given([*roots, *tangents])
    second.run(after)
    backward = second.module(joint.gradients, joint.descriptions[len(joint.returned) :])
    for node in backward.graph.nodes:
        if node.op in ("call_function", "get_attr"):
            node.meta["autograd_backward"] = True
    return Halves(forward, backward, saved)


def _saved(joint: JointRows, before: Sequence[int], after: Sequence[int]) -> list[int]:
    """The storages that the backward reads before it makes them, without its own inputs and constants.

    Those of tensors that autograd watches for changes come first.
    """
    made, ran = set(joint.rows[joint.boundary].makes), set(before)
    read: dict[int, None] = {}
    for r in after:
        row = joint.rows[r]
        assert row.node is not None
        states = [row.state] if r in ran and row.state is not None else []
        ran.add(r)
        for s in [joint.storage_of[n] for n in [*row.node.all_input_nodes, *states]]:
            if s not in made:
                read[s] = None
        made.update(row.makes)
    for n in joint.gradients:
        if isinstance(n, fx.Node) and (s := joint.storage_of[n]) not in made:
            read[s] = None
    saved = [s for s in read if joint.storages[s].root.op != "get_attr"]
    return sorted(saved, key=lambda s: bool(joint.storages[s].root.meta.get("saved_tensor_with_no_vc_check")))


class _Half:
    """One of the two graphs as it grows: where each tensor of the joint graph is to be found now."""

    def __init__(self, joint: JointRows, ran: set[int]) -> None:
        self.joint = joint
        self.ran = ran
        self.graph = fx.Graph()
        self.now: dict[fx.Node, fx.Node] = {}
        self.views: dict[int, list[fx.Node]] = {}

    def given(self, nodes: Sequence[fx.Node]) -> None:
        for node in nodes:
            self.now[node] = self.graph.placeholder(node.name)
            self.now[node].meta = node.meta

    def run(self, rows: Sequence[int]) -> None:
        for r in rows:
            node = self.joint.rows[r].node
            assert node is not None
            row = self.joint.rows[r]
            copied = rerun(self.graph, row, self.find) if r in self.ran else self.graph.node_copy(node, self.find)
            self.ran.add(r)
            for s in self.joint.rows[r].makes:
                for view in self.views.pop(s, []):
                    del self.now[view]
            self.now[node] = copied
            if not isinstance(node.meta.get("val"), torch.Tensor):
                self._take_results(node, copied)

    def _take_results(self, node: fx.Node, copied: fx.Node) -> None:
        """Take each result out of a tuple at once, so that none keeps the others in memory."""
        results = len(copied.meta["val"]) if isinstance(copied.meta.get("val"), tuple | list) else 0
        for user in node.users:
            if user.target is operator.getitem and int(user.args[1]) < results:
                self.now[user] = self.graph.node_copy(user, self.find)

    def find(self, node: fx.Node) -> fx.Node:
        """The node of this graph that has a tensor of the joint graph; a view is made where it is first read."""
        if node in self.now:
            return self.now[node]
        if node.op != "get_attr":
            assert node in self.joint.views, f"{node.name} is not in memory"
            base = self.joint.storage_of.get(node)
            if base is None:  # several views at once
                base = self.joint.storage_of[node.all_input_nodes[0]]
            self.views.setdefault(base, []).append(node)
        self.now[node] = self.graph.node_copy(node, self.find)
        return self.now[node]

    def module(self, results: Sequence[Any], descriptions: Sequence[Any]) -> fx.GraphModule:
        found = [self.find(n) if isinstance(n, fx.Node) else n for n in results]
        output = self.graph.output(tuple(found))
        output.meta["desc"] = list(descriptions)
        output.meta["output_stack_traces"] = [
            n.meta.get("stack_trace") if isinstance(n, fx.Node) else None for n in found
        ]
        for node in reversed(self.graph.nodes):
            if node.target in (operator.getitem, random_state) and not node.users:
                self.graph.erase_node(node)
        self.graph.lint()
        return fx.GraphModule(self.joint.module, self.graph)


def _descriptions(joint: JointRows, roots: Sequence[fx.Node]) -> list[Any]:
    from torch._functorch._aot_autograd import descriptors

    watched = sum(not n.meta.get("saved_tensor_with_no_vc_check") for n in roots)
    kinds = [descriptors.SavedForBackwardsAOTOutput, descriptors.SavedForBackwardsNoVcCheckAOTOutput]
    return [kinds[i >= watched](i) for i in range(len(roots))]
