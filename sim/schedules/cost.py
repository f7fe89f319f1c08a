"""What a schedule takes, as exact integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.graphs.graph import LARGEST, Ints
from sim.schedules.actions import VALUE_KINDS

BREAKDOWN_KINDS = (*VALUE_KINDS, "workspace", "resident")


@dataclass(frozen=True, slots=True)
class Flops:
    """Flops by kind, as exact integers."""

    primal: int
    recompute: int
    tangent: int
    adjoint: int
    jacobian: int
    product: int

    @property
    def total(self) -> int:
        return self.primal + self.recompute + self.tangent + self.adjoint + self.jacobian + self.product


class PeakAt(NamedTuple):
    """The action during which the peak is first reached (a number in the schedule)."""

    action: int
    kind: str
    node: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What a schedule takes, exactly. Bytes are of the device unless a name says otherwise."""

    working_bytes: int
    resident_bytes: int
    peak_at: PeakAt
    peak_breakdown: dict[str, int]
    flops: Flops
    actions: dict[str, int]
    copied_bytes: dict[str, int]
    tier_peak_bytes: dict[str, int]

    @property
    def peak_bytes(self) -> int:
        return self.working_bytes + self.resident_bytes


def dot(costs: Ints, counts: NDArray[np.int64] | NDArray[np.bool_]) -> int:
    """Σ costs·counts as an exact Python integer, whatever its size."""
    if int(costs.max(initial=0)) * int(counts.sum()) < LARGEST:
        return int(np.dot(costs, counts))
    used = np.flatnonzero(counts)
    return sum(a * b for a, b in zip(costs[used].tolist(), counts[used].tolist(), strict=True))
