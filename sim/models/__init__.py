"""Sources of graphs; imports `base`, `graphs` and `ops`.

`families` make graphs of a few numbers, `importers` of real models: `onnx` files, `torch` modules and
`jax` functions, each a package that imports its library when a model is read. `factory` finds functions
of a person's own code. `shards` are shares of a transformer's layers on ranks that divide them.
"""

__all__ = ["factory", "families", "importers", "jax", "onnx", "shards", "torch"]
