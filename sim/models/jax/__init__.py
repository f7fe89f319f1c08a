"""JAX functions to graphs."""
