"""What is computed: nodes, graphs of them as columns, where they may be cut, what derivatives read.

Imports `base`.
"""
