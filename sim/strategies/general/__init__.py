"""Checkpointing on graphs that are no chains."""
