"""Memory and compute of automatic differentiation, simulated exactly.

>>> import sim
>>> graph = sim.chain(length=10_000, activation_bytes=1)
>>> cost = sim.replay(sim.schedule(graph, "reverse_checkpointed", schedule="binomial", slots=10))
>>> cost.actions["forward"], cost.peak_bytes
(67624, 14)

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.base.picture import drawn_by

if TYPE_CHECKING:
    from pathlib import Path

    from sim.base.picture import Picture
    from sim.experiment.results import Results
    from sim.graphs.graph import Graph
    from sim.scenario.scenario import Scenario
    from sim.schedules.replay import Cost
    from sim.schedules.schedule import Schedule
    from sim.simulation.device import Device
    from sim.simulation.trace import Trace

__all__ = [
    "chain", "cnn", "device", "layers", "load", "mlp", "plot", "replay", "run", "schedule", "simulate", "transformer",
]  # fmt: skip


def _family(name: str, parameters: Mapping[str, Any]) -> Graph:
    from sim.models.families import load as families

    return families().call(name, **parameters)


def chain(**parameters: Any) -> Graph:
    """An abstract chain; the parameters are the keys of `kind: chain` (see `sim.models.families.chain`)."""
    return _family("chain", parameters)


def layers(**parameters: Any) -> Graph:
    """A graph listed by hand; the parameters are the keys of `kind: layers`."""
    return _family("layers", parameters)


def mlp(**parameters: Any) -> Graph:
    """A multilayer perceptron; the parameters are the keys of `kind: mlp`."""
    return _family("mlp", parameters)


def cnn(**parameters: Any) -> Graph:
    """A convolutional network; the parameters are the keys of `kind: cnn`."""
    return _family("cnn", parameters)


def transformer(**parameters: Any) -> Graph:
    """A transformer of decoder blocks; the parameters are the keys of `kind: transformer`."""
    return _family("transformer", parameters)


def schedule(graph: Graph, strategy: str, /, **parameters: Any) -> Schedule:
    """The schedule of a strategy on a graph, for instance `"reverse_checkpointed", schedule="sqrt"`.

    Raises
    ------
    ParameterError
        For an unknown strategy, or parameters that are unknown, missing or out of range.
    NotApplicable
        If the strategy cannot work on this graph.
    """
    from sim.strategies import load as strategies

    return strategies().call(strategy, graph, **parameters)


def replay(schedule: Schedule) -> Cost:
    """Exact peak bytes, flops and counts of a schedule (see `sim.schedules.replay.replay`)."""
    from sim.schedules.replay import replay as replayed

    return replayed(schedule)


def device(spec: str | Mapping[str, Any]) -> Device:
    """A device: a preset by name, or its rates and sizes (see `sim.simulation.device.device`)."""
    from sim.simulation.device import device as made

    return made(spec)


def simulate(schedule: Schedule, device: Device) -> Trace:
    """The event simulation of a schedule on a device (see `sim.simulation.simulate.simulate`)."""
    from sim.simulation.simulate import simulate as simulated

    return simulated(schedule, device)


def load(source: str | Path | Mapping[str, Any]) -> Scenario:
    """The scenario in a YAML file or a mapping, or a shipped one by name (see `sim.scenario.scenario.load`)."""
    from sim.scenario.scenario import load as loaded

    return loaded(source)


def run(scenario: Scenario | str | Path | Mapping[str, Any]) -> Results:
    """Every point of a scenario, or of what `load` takes, replayed and simulated (see `sim.experiment.run.run`)."""
    from sim.experiment.run import run as ran
    from sim.scenario.scenario import Scenario

    return ran(scenario if isinstance(scenario, Scenario) else load(scenario))


def plot(of: Results | Schedule, figure: str | None = None) -> Picture:
    """A figure of results (`pareto` unless named; see `sim.plots.FIGURES`), or the picture of a schedule.

    Notebooks show it; `.save("name.png")` writes it.

    Raises
    ------
    ParameterError
        If there is no such figure, the results hold no data for it, or a schedule is too long to be drawn.
    """
    from sim import plots
    from sim.base.errors import ParameterError
    from sim.experiment.results import Results

    if isinstance(of, Results):
        name, data = figure or "pareto", of.to_dict()
    else:
        from sim.experiment.show import pictured

        name, data = figure or "schedule", pictured(of)
    if name not in plots.FIGURES:
        raise ParameterError(f"got figure {name!r}, expected one of {', '.join(plots.FIGURES)}", parameter=("figure",))
    drawn = plots.picture(name, data)
    if drawn is None:
        raise ParameterError(f"there is nothing to draw as {name!r}", parameter=("figure",))
    return drawn


def _html(schedule: Schedule) -> str:
    from sim.experiment.show import schedule_html

    return schedule_html(schedule)


drawn_by(plot, _html)


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module 'sim' has no attribute '{name}'")
    from importlib.metadata import version

    return version("ad-tradeoff-sim")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
