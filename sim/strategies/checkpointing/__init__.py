"""Checkpointed reverse mode: which steps are stored, and in which order the rest is computed again."""
