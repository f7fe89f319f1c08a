"""The memory of an execution: arrays by value number, each in a buffer of its own, and what they carry."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import numpy as np

from sim.base.errors import InvalidSchedule
from sim.graphs.node import Ints
from sim.ops.rule import Array
from sim.schedules.table import Table
from sim.schedules.values import TIERS


class Carried(NamedTuple):
    """The tangents or cotangents that an array holds: numbers `start` … `start + width - 1` of those that
    `seed` (a node with parameters; -1: the graph's inputs or outputs) sends out."""

    seed: int
    start: int
    width: int

    def __str__(self) -> str:
        return f"{self.start} to {self.start + self.width - 1}" + (f" of node {self.seed}" if self.seed >= 0 else "")


class Memory:
    """Working values in their tiers. Every array stored owns its buffer, so that bytes are what is really held."""

    def __init__(self, table: Table, resident: list[Array]) -> None:
        self._table = table
        self._resident = {id(root(a)) for a in resident}
        self.arrays: dict[int, Array] = {}
        self.carried: dict[int, Carried] = {}
        self.action = 0

    def __contains__(self, value: int) -> bool:
        return value in self.arrays

    def read(self, value: int) -> Array:
        """The array of a value.

        Raises
        ------
        InvalidSchedule
            If it is not in memory.
        """
        if value not in self.arrays:
            self.fail(f"reads {self._table.describe_value(value)}, which is not in memory", value)
        return self.arrays[value]

    def write(self, value: int, array: Array, dtype: str, carried: Carried | None = None) -> None:
        """Store an array, in place of an earlier one, in a buffer of its own and without gaps."""
        self.keep(value, self._owned(array, np.dtype(dtype)), carried)

    def keep(self, value: int, array: Array, carried: Carried | None = None) -> None:
        """Store an array as it is: also a view, which then stands for its buffer."""
        self.arrays[value] = array
        if carried is not None:
            self.carried[value] = carried

    def free(self, value: int) -> None:
        self.arrays.pop(value, None)
        self.carried.pop(value, None)

    def _owned(self, array: Array, dtype: np.dtype[Any]) -> Array:
        array = np.ascontiguousarray(array, dtype=dtype).reshape(np.shape(array))
        base = root(array)
        shared = id(base) in self._resident or any(root(a) is base for a in self.arrays.values())
        owned = array.flags.writeable and not shared and base.nbytes == array.nbytes
        return array if owned else np.array(array)

    def live_bytes(self) -> Ints:
        """Bytes of the distinct buffers held now in each tier: shape (3,)."""
        total = np.zeros(len(TIERS), dtype=np.int64)
        seen: set[int] = set()
        for value, array in self.arrays.items():
            base = root(array)
            if id(base) not in seen:
                seen.add(id(base))
                total[self._table.columns.value_tier[value]] += base.nbytes
        return total

    def fail(self, what: str, value: int | None = None) -> NoReturn:
        """Raise InvalidSchedule, naming the action."""
        name = None if value is None else str(self._table.describe_value(value))
        raise InvalidSchedule(f"action {self.action} {what}", action=self.action, value=name)


def root(array: Array) -> Array:
    """The array that owns the buffer of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
