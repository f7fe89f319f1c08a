"""Random graphs for laws: chains and DAGs with random sizes, costs, needs, residuals and parameters; plain DAGs."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from sim.graphs.graph import Graph
from sim.graphs.node import NEEDS, READS, GraphInput, Node

small = st.integers(0, 9)


@st.composite
def nodes(draw: st.DrawFn, number: int, earlier: list[str], *, chain: bool) -> Node:
    if chain:
        inputs = [earlier[-1]]
    else:
        recent = earlier[-4:]
        inputs = draw(st.lists(st.sampled_from(recent), min_size=1, max_size=3))
    needs = draw(st.sampled_from(NEEDS))
    words = st.tuples(*[st.sampled_from(READS) for _ in inputs])
    return Node(
        name=f"n{number}",
        inputs=tuple(inputs),
        output_shape=(2, draw(st.integers(1, 3))),
        forward_flops=draw(small),
        jvp_flops=draw(st.one_of(st.none(), small)),
        vjp_flops=draw(st.one_of(st.none(), small)),
        param_vjp_flops=draw(small),
        param_size=draw(st.sampled_from([0, 0, 1, 3])),
        residual_bytes=draw(st.one_of(st.none(), small)),
        needs=needs,
        reads=draw(st.one_of(st.none(), words)) if needs in ("input", "both") else None,
        workspace_bytes=draw(st.sampled_from([0, 0, 5])),
        activation_bytes=draw(st.integers(1, 9)),
        vjp_broadcasts=draw(st.sampled_from([False, False, False, True])),
    )


@st.composite
def graphs(
    draw: st.DrawFn,
    *,
    most: int = 7,
    chain: bool | None = None,
    wrt: str | None = None,
) -> Graph:
    """A graph of up to `most` nodes; about half are chains unless `chain` says."""
    is_chain = draw(st.booleans()) if chain is None else chain
    wanted = draw(st.sampled_from(["input", "parameters"])) if wrt is None else wrt
    inputs = [GraphInput("x", (2, draw(st.integers(1, 4))))]
    if not is_chain and draw(st.booleans()):
        inputs.append(GraphInput("ids", (2, 1), "int64"))
    if not is_chain and draw(st.integers(0, 3)) == 0:
        inputs.append(GraphInput("y", (2, 2)))
    made: list[Node] = []
    names = [i.name for i in inputs]
    for number in range(draw(st.integers(1, most))):
        made.append(draw(nodes(number, names[:1] if is_chain and not made else names, chain=is_chain)))
        names.append(made[-1].name)
    # every graph can answer both questions: the first node reads x and has a parameter
    first = made[0]
    made[0] = replace(first, inputs=("x",), reads=first.reads and first.reads[:1], param_size=1)
    return Graph.from_nodes(made, inputs, batch=2).configured(
        wrt=wanted, preallocated_gradients=draw(st.booleans()), optimizer="adam"
    )


@st.composite
def plain_graphs(draw: st.DrawFn, *, most: int = 7, with_inputs: bool = True) -> Graph:
    """A plain graph of up to `most` nodes, some of whose outputs remain."""
    inputs = [GraphInput("x", (2,))] if with_inputs and draw(st.booleans()) else []
    made: list[Node] = []
    for number in range(draw(st.integers(1, most))):
        earlier = [i.name for i in inputs] + [n.name for n in made]
        read = draw(st.lists(st.sampled_from(earlier[-4:]), max_size=3)) if earlier else []
        node = Node(
            name=f"n{number}",
            inputs=tuple(read),
            output_shape=(),
            forward_flops=draw(small),
            activation_bytes=draw(small),
            workspace_bytes=draw(st.sampled_from([0, 0, 5])),
        )
        made.append(node)
    outputs = draw(st.lists(st.sampled_from([n.name for n in made]), max_size=3))
    return Graph.from_nodes(made, inputs, plain=True, outputs=outputs)


def any_graphs() -> st.SearchStrategy[Graph]:
    """A graph with derivatives, or a plain one."""
    return st.one_of(graphs(), plain_graphs())
