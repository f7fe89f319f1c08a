"""Checkpointing at the least cost for every memory, exact on chains; the README beside it works the recurrence out."""
