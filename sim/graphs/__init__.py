"""Graphs of computations; imports `base`.

`node` says what one operation costs and what makes it meaningless, `columns` holds the nodes of a graph
as arrays, `graph` is both with what is differentiated, where it may be cut and what derivatives read,
and `size` tells whether this machine's memory holds it.
"""

__all__ = ["columns", "graph", "node", "size"]
