"""Pipeline schedules: ranks and micro-batches to the order of passes on each rank, one file a schedule.

To add one, write a decorated function of a `Shape` in a file of this package. Scenarios, the JSON Schema
and the tests over all schedules pick it up. In closed forms, p ranks compute m micro-batches with passes
of F, B (for the input) and W (for the weights) seconds a rank.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache

from sim.base.registry import Registry
from sim.parallel.pipeline import PipelineSchedule
from sim.parallel.times import Works, even_work


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The numbers of ranks and of micro-batches, and the work of stages, for schedules that look at it."""

    ranks: int
    micro_batches: int
    work: Works = even_work


pipeline_schedules: Registry[PipelineSchedule] = Registry("pipeline schedule")


@cache
def load() -> Registry[PipelineSchedule]:
    """The registry, with every module of this package imported."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return pipeline_schedules
