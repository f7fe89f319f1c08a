"""Checkpointing at the least cost for every memory, exact on chains."""
