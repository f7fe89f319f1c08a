"""Plain computation graphs (`kind: dag`): nodes with a cost and a size, by hand, from files or from NetworkX."""
