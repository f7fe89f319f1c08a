"""Softmax and its logarithm along an axis; both keep their output, as PyTorch does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sim import ops
from sim.graphs.node import Node
from sim.models.onnx.call import Attributes, Call, operator, rows
from sim.ops.rule import Array, At, Rule, selfadjoint
from sim.ops.softmax import log_softmax, softmax_derivative


def _along_axis(rule: Rule) -> Callable[[Call], Attributes]:
    """A rule on (rows, classes, places): classes lie along one axis, before opset 13 along all from that axis on."""

    def shaped(call: Call) -> Attributes:
        shape, since = call.x.shape, call.opset >= 13
        axis = call.attributes.get("axis", -1 if since else 1) % len(shape)
        classes = shape[axis] if since else math.prod(shape[axis:])
        before = math.prod(shape[:axis])
        return {"rule": rule, "rows": (before, classes, call.x.size // before // classes)}

    return shaped


def _rows(at: At, x: Array) -> Array:
    return x.reshape(-1, *at["rows"])


_SOFTMAX = selfadjoint(
    lambda at: (np.exp(log_softmax(_rows(at, at.x[0]), -2)).reshape(at.node.output_shape), None),
    lambda at, v: softmax_derivative(_rows(at, at.y), _rows(at, v), -2).reshape(v.shape),
)


@operator("Softmax", runs=_along_axis(_SOFTMAX))
def softmax(call: Call) -> Node:
    """Softmax along `axis`; before opset 13 over all dimensions from `axis` on."""
    shape = call.x.shape
    if call.opset >= 13:
        classes = shape[call.attributes.get("axis", -1)]
    else:
        classes = math.prod(shape[call.attributes.get("axis", 1) :])
    return ops.softmax(call.name, rows(call.x, classes))


def _log_softmax_tangent(at: At, v: Array) -> Array:
    t = _rows(at, v)
    return np.asarray(t - (np.exp(_rows(at, at.y)) * t).sum(axis=-2, keepdims=True)).reshape(v.shape)


def _log_softmax_cotangent(at: At, g: Array) -> Array:
    t = _rows(at, g)
    return np.asarray(t - np.exp(_rows(at, at.y)) * t.sum(axis=-2, keepdims=True)).reshape(g.shape)


_LOG_SOFTMAX = Rule(
    forward=lambda at: (log_softmax(_rows(at, at.x[0]), -2).reshape(at.node.output_shape), None),
    jvp=lambda at, dx: _log_softmax_tangent(at, dx[0]),
    vjp=lambda at, g: (_log_softmax_cotangent(at, g),),
)


@operator("LogSoftmax", runs=_along_axis(_LOG_SOFTMAX))
def log_of_softmax(call: Call) -> Node:
    """LogSoftmax: the flops of a softmax; PyTorch keeps its output."""
    return replace(softmax(call), op="log_softmax")
