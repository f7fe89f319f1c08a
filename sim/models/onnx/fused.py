"""Functions that exporters take apart, put together again.

ONNX had no GELU before opset 20 and no SiLU before opset 24, so that files spell them out. A framework
runs each as one function that keeps its input alone; step by step they would keep three tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sim.models.onnx.file import OnnxNode, TensorType


def fused(
    nodes: Sequence[OnnxNode], tensors: Mapping[str, TensorType], *, outputs: Collection[str]
) -> tuple[OnnxNode, ...]:
    """The nodes, with x·σ(x) as one Swish and x·(1 + erf(x/√2))/2 as one Gelu; `outputs` are left as they are."""
    model = _Reader(nodes, tensors, outputs)
    whole: dict[int, OnnxNode] = {}
    gone: set[int] = set()
    for i, node in enumerate(nodes):
        for op, match in (("Swish", model.silu), ("Gelu", model.gelu)):
            pattern = match(node)
            if pattern is not None:
                x, parts = pattern
                whole[i] = replace(node, op=op, inputs=(x,), attributes={})
                gone |= {model.place[part.outputs[0]] for part in parts}
    return tuple(whole.get(i, node) for i, node in enumerate(nodes) if i not in gone)


_Match = tuple[str, list[OnnxNode]]


@dataclass
class _Reader:
    """The makers and readers of tensors, and the patterns among them."""

    nodes: Sequence[OnnxNode]
    tensors: Mapping[str, TensorType]
    outputs: Collection[str]

    def __post_init__(self) -> None:
        self.place = {t: i for i, node in enumerate(self.nodes) for t in node.outputs}
        self.readers = Counter(t for node in self.nodes for t in node.inputs)

    def silu(self, node: OnnxNode) -> _Match | None:
        """x and the sigmoid of x·σ(x)."""
        for x, s in self._orders(node, "Mul"):
            sigmoid = self._inner(s, "Sigmoid")
            if sigmoid is not None and sigmoid.inputs[0] == x:
                return x, [sigmoid]
        return None

    def gelu(self, node: OnnxNode) -> _Match | None:
        """x and the parts of (x·(1 + erf(x/√2)))·½ or (x·½)·(1 + erf(x/√2)) whose last product is `node`."""
        for a, b in self._orders(node, "Mul"):
            product = self._inner(a, "Mul")
            if product is None:
                continue
            if self._number(b):
                for x, e in self._orders(product, "Mul"):
                    parts = self._erf(e, x)
                    if parts:
                        return x, [product, *parts]
            for x, half in self._orders(product, "Mul"):
                parts = self._erf(b, x)
                if parts and self._number(half):
                    return x, [product, *parts]
        return None

    def _erf(self, tensor: str, x: str) -> list[OnnxNode]:
        """The parts of 1 + erf(x/√2), if that is what `tensor` is."""
        total = self._inner(tensor, "Add")
        for e, one in self._orders(total, "Add"):
            erf = self._inner(e, "Erf")
            scaled = erf and self._inner(erf.inputs[0], "Div", "Mul")
            if total and erf and scaled and self._number(one) and x in scaled.inputs:
                others = [t for t in scaled.inputs if t != x]
                if len(others) == 1 and self._number(others[0]):
                    return [total, erf, scaled]
        return []

    def _inner(self, tensor: str, *ops: str) -> OnnxNode | None:
        """The maker of a tensor, if it is one of `ops` and nobody else reads the tensor."""
        if tensor not in self.place or self.readers[tensor] != 1 or tensor in self.outputs:
            return None
        node = self.nodes[self.place[tensor]]
        return node if node.op in ops else None

    def _orders(self, node: OnnxNode | None, op: str) -> list[tuple[str, str]]:
        """The two operands of an `op`, in both orders."""
        if node is None or node.op != op or len(node.inputs) != 2:
            return []
        a, b = node.inputs
        return [(a, b), (b, a)]

    def _number(self, tensor: str) -> bool:
        """Tell whether a tensor is a single number."""
        kind = self.tensors.get(tensor)
        return kind is not None and kind.shape in ((), (1,))
