"""Many devices: pipeline schedules over ranks, and their event simulation.

A `pipeline` says what each rank computes in which order, `schedules` makes them, `times` are what passes take,
`simulate` runs all ranks and links in one simpy environment, and `chrome` writes it for Perfetto. Imports `base`.
"""

__all__ = ["chrome", "pipeline", "schedules", "simulate", "times"]
