"""PyTorch modules cut into pieces: what each evaluates, what its gradient keeps, and what both cost.

`capture` records a module's operations on fake tensors (no memory), `grouping` cuts them into pieces,
`joint` takes each piece apart into a forward and a backward function of real tensors, and `program`
joins all of it to a `Graph`. Nothing here is imported without PyTorch.
"""

from typing import Literal

Granularity = Literal["ops", "modules", "blocks"]
"""A node for each operation, leaf module, or element of a container."""
