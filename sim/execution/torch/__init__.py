"""Schedules run on PyTorch tensors."""
