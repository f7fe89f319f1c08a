"""What everything stands on: errors, units, registries, files, documents with positions, dominance.

Imports nothing of `sim`.
"""
