"""Where graphs come from: families of a few numbers, ONNX files, PyTorch modules, JAX functions.

Imports `base`, `graphs`, `ops`.
"""
