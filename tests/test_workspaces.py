"""Workspaces that differ between a plain evaluation, one that saves its residual, and a VJP."""

from __future__ import annotations

import pytest

from sim.base.errors import GraphError
from sim.graphs.graph import Graph
from sim.graphs.node import GraphInput, Node
from sim.schedules.replay import replay
from sim.schedules.schedule import Builder
from sim.simulation.device import device
from sim.simulation.simulate import simulate


def _graph(*, taping: int | None, vjp: int | None) -> Graph:
    """Two nodes of 10 bytes; the second has a residual of 100 bytes and a workspace of 7."""
    shape = {"output_shape": (1,), "activation_bytes": 10, "needs": "none"}
    nodes = [
        Node(name="a", inputs=("x",), **shape),
        Node(
            name="b", inputs=("a",), residual_bytes=100, workspace_bytes=7,
            taping_workspace_bytes=taping, vjp_workspace_bytes=vjp, **shape,
        ),
    ]  # fmt: skip
    return Graph.from_nodes(nodes, [GraphInput("x", (1,), bytes=10)])


def _peak(graph: Graph, *, vjp: bool) -> int:
    builder = Builder(graph)
    builder.forward([0, 1])
    if vjp:
        builder.vjp([1, 0])
    schedule = builder.build()
    peak = replay(schedule).working_bytes
    assert simulate(schedule, device("h100-sxm")).working_bytes == peak
    return peak


def test_a_forward_that_saves_nothing_takes_the_plain_workspace():
    assert _peak(_graph(taping=500, vjp=900), vjp=False) == 10 + 10 + 7


def test_a_forward_that_saves_its_residual_takes_the_taping_workspace():
    assert _peak(_graph(taping=500, vjp=0), vjp=True) == 10 + 10 + 100 + 500


def test_a_vjp_takes_the_vjp_workspace():
    # Residual 100, its own cotangent 10 and the one that it makes.
    assert _peak(_graph(taping=0, vjp=900), vjp=True) == 100 + 10 + 10 + 900


def test_negative_workspaces_take_off_what_is_freed_on_the_way():
    # Forward of b: 10 + 10 + 100 - 30; its VJP: 100 + 10 + 10 - 50.
    assert _peak(_graph(taping=-30, vjp=-50), vjp=True) == 90


def test_without_them_every_action_takes_the_plain_workspace():
    assert _peak(_graph(taping=None, vjp=None), vjp=True) == 10 + 10 + 100 + 7


def test_absurd_workspaces_are_refused():
    with pytest.raises(GraphError, match="vjp_workspace_bytes is -9223372036854775808"):
        _graph(taping=None, vjp=-(2**63))
