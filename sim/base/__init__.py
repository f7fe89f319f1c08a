"""Foundations of all rooms; imports nothing of `sim`.

`errors` that callers tell apart, `units` of what people write and read, the `registry` of entries whose
parameters are checked, `document`, `yaml` and `json` (data with the places of its values), `files`
written whole or not at all, `pareto` (what no point beats), a `picture` in memory, the decorator of `compiled` kernels,
caches of what follows from an object (`memo`), a `store` of results on disk, `workers` that share work out,
`searches` that end early with the best they have, and a `companion` that works beside this process.
"""

__all__ = [
    "companion", "compiled", "document", "errors", "files", "json", "memo", "pareto", "picture", "registry", "searches",
    "store", "units", "workers", "yaml",
]  # fmt: skip
