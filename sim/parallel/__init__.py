"""Many devices: pipeline schedules over ranks, stages of a graph, and the simulation of both.

A `pipeline` says what each rank computes in which order, `schedules` makes them, `times` are what passes take,
`paths` follows all ranks and what they send, `simulate` is the run that comes out, and `chrome` writes it for Perfetto.
`cuts` says where a graph is cut, `stages` what its parts compute and hold, `links` are what ranks send on, `sharding`
is what replicas share, `memory` what ranks hold over time, a `job` is all of it, and `bounds` say what jobs take
at least.

Imports `base`, `graphs`, `schedules`, `simulation`.
"""

__all__ = [
    "bounds",
    "chrome",
    "cuts",
    "job",
    "links",
    "pipeline",
    "schedules",
    "sharding",
    "simulate",
    "stages",
    "times",
]
