"""Many devices: pipeline schedules over ranks, stages of a graph, and the event simulation of both.

A `pipeline` says what each rank computes in which order, `schedules` makes them, `times` are what passes take,
`simulate` runs all ranks and links in one simpy environment, and `chrome` writes it for Perfetto. `stages` cuts a
graph, `sharding` is what replicas share, `memory` what ranks hold over time, and a `job` is all of it. Imports
`base`, `graphs`, `schedules`, `simulation`.
"""

__all__ = ["chrome", "job", "pipeline", "schedules", "sharding", "simulate", "stages", "times"]
