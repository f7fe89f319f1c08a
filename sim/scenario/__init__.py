"""Scenarios as files ask for them, checked as a whole, and their JSON Schema.

A `scenario` holds the graph to build and its strategies as `points`, one for each combination of values,
and perhaps the `axes` of a sweep or a map, or a job over many devices (`parallel`); `keys` name places in it,
`devices` are read by name, `shipped` finds those that come with the program, `schema` is for editors
and `reference` for readers.
Imports `base`, `graphs`, `models`, `schedules`, `simulation`, `strategies`, `parallel`.
"""

__all__ = ["axes", "devices", "parallel", "points", "reference", "scenario", "schema", "shipped"]
