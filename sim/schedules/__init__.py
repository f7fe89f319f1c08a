"""In which order: values, actions, their effects, schedules, the ledger that replays them, plans.

Imports `base`, `graphs`.
"""
