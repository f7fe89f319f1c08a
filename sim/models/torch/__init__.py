"""PyTorch modules cut into pieces: what each evaluates, what its gradient keeps, and what both cost.

`front` traces a training step with PyTorch's own compiler into a joint graph of forward and backward, `rows` says what
each call of it reads and makes, `pieces` groups calls by module, and `program` joins the groups to a `Graph`. Nothing
here is imported without PyTorch.
"""

from typing import Literal

Granularity = Literal["ops", "modules", "blocks"]
"""A node for each operation, leaf module, or element of a container."""
