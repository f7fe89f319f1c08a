"""Predicted seconds of layers that compute, on the device that `sim calibrate` measures here.

Calibration and execution take turns, and of each the fastest counts: what else the machine does only
ever adds time. Run it on an idle machine: `pytest -s tests/benchmarks/test_calibrated_seconds.py`.
"""

from __future__ import annotations

import dataclasses

import pytest

from sim.execution.numpy.arrays import inputs_for, parameters_for
from sim.execution.numpy.execute import execute
from sim.experiment.calibrate import calibrate, shortest
from sim.experiment.verify import SECONDS_TOLERANCE
from sim.models.families.mlp import mlp
from sim.scenario.points import StrategyPoint
from sim.simulation.simulate import simulate

ROUNDS = 4
POINTS = (
    StrategyPoint("reverse_full", {}),
    StrategyPoint("reverse_checkpointed", {"schedule": "sqrt"}),
    StrategyPoint("reverse_checkpointed", {"schedule": "binomial", "slots": 2}),
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_seconds_of_wide_layers_are_within_a_quarter_of_those_measured(dtype: str) -> None:
    graph = mlp(widths=[1536] * 7, activation="relu", batch=1024, dtype=dtype, loss="mse")
    graph = graph.configured(wrt="parameters")
    inputs, parameters = inputs_for(graph, 1), parameters_for(graph, 2)
    schedules = {p.label: p.schedule(graph) for p in POINTS}
    devices, measured = [], dict.fromkeys(schedules, float("inf"))
    for _ in range(ROUNDS):
        devices.append(calibrate(repeats=2).device(dtype))  # type: ignore[arg-type]
        for label, schedule in schedules.items():
            run = shortest(lambda s=schedule: execute(s, inputs, parameters), 1)
            measured[label] = min(measured[label], run)
    best = dataclasses.replace(
        devices[0],
        flops_per_s=max(d.flops_per_s for d in devices),
        bandwidth_bytes_per_s=max(d.bandwidth_bytes_per_s for d in devices),
        overhead_s=min(d.overhead_s for d in devices),
    )
    told = {label: simulate(schedule, best).seconds for label, schedule in schedules.items()}
    for label, seconds in measured.items():
        print(f"{dtype} {label}: {told[label]:.3f} s predicted, {seconds:.3f} s measured")
    for label, seconds in measured.items():
        assert told[label] == pytest.approx(seconds, rel=SECONDS_TOLERANCE), label
