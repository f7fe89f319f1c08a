"""Schedules run on NumPy arrays."""
