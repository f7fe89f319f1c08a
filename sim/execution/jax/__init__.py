"""Schedules put back into JAX functions."""
