"""Which of its inputs the derivative of a node reads, given what is differentiated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sim.graphs.node import NEEDS, Node

if TYPE_CHECKING:
    from sim.graphs.graph import Graph

ALWAYS, OTHERS, PARAMETERS, ITSELF = 1, 2, 4, 8
"""When an input is read, as a bit mask: always; where another input, the node's parameters or it itself is
differentiated."""

_CONDITION = {"never": 0, "always": ALWAYS, "others": OTHERS, "parameters": PARAMETERS}


def conditions(nodes: Sequence[Node]) -> NDArray[np.uint8] | None:
    """When the derivative reads each distinct input of each node, as `Node.reads` says; `None` where all are `always`.

    An input that stands at several positions is read where one of them is; of a product of x by itself
    each factor is another input to the other.
    """
    if all(node.reads is None for node in nodes):
        return None
    flags: list[int] = []
    for node in nodes:
        words = node.reads or ("always",) * len(node.inputs)
        of: dict[str, list[str]] = {}
        for name, word in zip(node.inputs, words, strict=True):
            of.setdefault(name, []).append(word)
        for given in of.values():
            twice = ITSELF if "others" in given and len(given) > 1 else 0
            flags.append(reduce(or_, [_CONDITION[word] for word in given], twice))
    return np.array(flags, dtype=np.uint8)


def derivative_reads(graph: Graph) -> NDArray[np.bool_]:
    """For each edge of `columns.input_index`, whether the JVP and the VJP of its reader read it."""
    m, c = len(graph.inputs), graph.columns
    own = graph.active[m:] & ((c.needs & NEEDS.index("input")) > 0)
    if graph.is_chain and c.reads is None:
        return own
    reader = np.repeat(np.arange(len(graph)), np.diff(c.input_ptr))
    used: NDArray[np.bool_] = own[reader]
    if c.reads is None:
        return used
    itself = graph.active[c.input_index]
    reached = np.bincount(reader, weights=itself, minlength=len(graph))
    trained = (graph.gradient_of >= 0) & (graph.wrt == "parameters")
    met = ALWAYS + OTHERS * (reached[reader] > itself) + PARAMETERS * trained[reader] + ITSELF * itself
    used &= (c.reads & met) > 0
    return used
