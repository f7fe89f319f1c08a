"""Laws of the profiles that figures draw."""

from __future__ import annotations

import pytest
from graphs import graphs
from hypothesis import given

import sim
from sim.experiment.views.timeline import SAMPLES, memory_profile
from sim.graphs.graph import Graph
from sim.schedules.replay import replay
from sim.simulation.simulate import simulate


@given(graph=graphs())
def test_a_profile_reaches_the_peak_and_its_clock_never_goes_back(graph: Graph) -> None:
    for name in ("reverse_full", "forward_recompute", "reverse_offload"):
        schedule = sim.schedule(graph, name)
        for trace in (None, simulate(schedule, sim.device("cpu-server"))):
            entry = memory_profile(schedule, trace)
            assert max(map(sum, entry["bytes"])) == replay(schedule).peak_bytes
            if "x" not in entry:  # nothing to spread the samples over
                assert replay(schedule).flops.total == 0
                continue
            assert len(entry["x"]) == len(entry["bytes"]) + 1 <= SAMPLES + 1
            assert entry["x"] == sorted(entry["x"])
            assert entry["x"][0] == 0


def test_a_loop_is_marked_where_one_turn_stands_for_many() -> None:
    schedule = sim.schedule(sim.chain(sizes=[50, 10, 10]), "forward_cached")
    entry = memory_profile(schedule)
    # the primal, then the first, the middle and the last of 50 equal turns of 2·50·10 + 2·10·10 flops
    (loop,) = entry["loops"]
    turn = 2 * 50 * 10 + 2 * 10 * 10
    assert loop == {"start": 2 * turn, "end": 3 * turn, "times": 48}
    assert entry["x"][-1] == pytest.approx(4 * turn)
