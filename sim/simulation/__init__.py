"""Time: devices, and the event simulation of a schedule on one.

Imports `base`, `graphs`, `schedules`.
"""
