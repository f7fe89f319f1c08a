"""Maps of who wins: the keys that are varied, errors at their places, and winners that formulas predict."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sim
from sim.base.document import DocumentError
from sim.base.yaml import parse
from sim.experiment.results import from_json
from sim.experiment.run import run
from sim.experiment.views.regimes import outcome
from sim.scenario.scenario import Cells, Scenario, from_document

BASE = """\
version: 1
name: demo
graph:
  kind: chain
  sizes: [4, 10, 8]
strategies: [forward_cached, reverse_full]
regimes:
"""
AXES = """\
  x: {key: "graph.sizes[0]", label: inputs, values: [1, 4, 20]}
  y: {key: "graph.sizes[-1]", values: {from: 2, to: 8, factor: 2}}
"""


def scenario(section: str = AXES, base: str = BASE) -> Scenario:
    return from_document(parse(base + section, name="f.yaml"))


def mapped(section: str = AXES, base: str = BASE) -> dict[str, Any]:
    found = run(scenario(section, base)).views["regimes"]
    assert found is not None
    return dict(found)


def findings(section: str, base: str = BASE) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        scenario(section, base)
    return [str(f) for f in caught.value.findings]


def test_forward_mode_wins_exactly_where_there_are_fewer_inputs_than_outputs() -> None:
    """Sweeps of x inputs cost F + x·F and of y outputs F + y·F (REFERENCE section 1, T = B = F)."""
    found = mapped()
    for j, y in enumerate([2, 4, 8]):
        for i, x in enumerate([1, 4, 20]):
            evaluation = 2 * 10 * (x + y)
            forward, reverse = (1 + x) * evaluation, (1 + y) * evaluation
            assert (found["values"][0][j][i], found["values"][1][j][i]) == (forward, reverse)
            assert found["winner"][j][i] == (0 if x <= y else 1)
            expected = None if x == y else max(forward, reverse) / min(forward, reverse)
            assert found["factor"][j][i] == expected


def test_the_map_says_what_was_varied_and_who_took_part() -> None:
    found = mapped()
    assert found["by"] == "flops"
    assert found["x"] == {"key": "graph.sizes[0]", "label": "inputs", "values": [1, 4, 20]}
    assert found["y"] == {"key": "graph.sizes[-1]", "label": "graph.sizes[-1]", "values": [2, 4, 8]}
    assert [s["label"] for s in found["strategies"]] == ["forward_cached", "reverse_full"]


def test_the_points_are_those_of_the_graph_in_the_file() -> None:
    without = run(from_document(parse(BASE.removesuffix("regimes:\n"), name="f.yaml")))
    assert without.views["regimes"] is None
    assert run(scenario()).points == without.points


@given(st.lists(st.none() | st.integers(0, 5), min_size=1, max_size=6))
def test_the_winner_takes_least_and_is_written_first_and_the_next_best_takes_more(values: list[int | None]) -> None:
    winner, factor = outcome(values)
    known = [v for v in values if v is not None]
    if winner is None:
        assert known == []
        return
    least = values[winner]
    assert least is not None
    assert least == min(known)
    assert values.index(least) == winner
    more = sorted(v for v in known if v > least)
    assert factor == (more[0] / least if more and least else None)


def test_over_a_budget_nobody_wins_who_does_not_fit() -> None:
    section = """\
  x: {key: graph.length, values: [6, 30]}
  y: {key: budget, values: [60 B, 1 kB]}
"""
    base = (
        BASE.replace("sizes: [4, 10, 8]", "length: 9\n  activation_bytes: 8")
        .replace("forward_cached, reverse_full", "reverse_full, {reverse_checkpointed: {schedule: binomial, slots: 2}}")
    )  # fmt: skip
    found = mapped(section, base)
    assert found["y"]["values"] == [60, 1000]
    for i, length in enumerate((6, 30)):
        graph = sim.chain(length=length, activation_bytes=8)
        for k, (name, parameters) in enumerate(
            [("reverse_full", {}), ("reverse_checkpointed", {"schedule": "binomial", "slots": 2})]
        ):
            cost = sim.replay(sim.schedule(graph, name, **parameters))
            for j, budget in enumerate((60, 1000)):
                expected = cost.flops.total if cost.peak_bytes <= budget else None
                assert found["values"][k][j][i] == expected
    # full store holds 8 bytes for each of 30 layers, binomial checkpointing for a few
    assert found["winner"][0][1] == 1
    assert found["winner"][1] == [0, 0]


def test_a_strategy_that_does_not_apply_in_a_cell_does_not_compete_there() -> None:
    """With 1000 inputs of 8 bytes nothing fits 3 kB; with 4, two Jacobians of 40 and 80 scalars do."""
    base = BASE.replace(
        "[forward_cached, reverse_full]", "[{jacobian_chain: {order: optimal_in_memory, budget: 3 kB}}]"
    )
    section = "  x: {key: 'graph.sizes[0]', values: [1000, 4]}\n  y: {key: graph.jacobian_flops, values: [1]}\n"
    found = mapped(section, base)
    assert (found["winner"], found["factor"]) == ([[None, 0]], [[None, None]])


def test_by_peak_bytes_and_by_seconds() -> None:
    found = mapped("  by: peak_bytes\n" + AXES)
    cost = sim.replay(sim.schedule(sim.chain(sizes=[20, 10, 2]), "forward_cached"))
    assert found["values"][0][0][2] == cost.peak_bytes
    timed = mapped("  by: seconds\n" + AXES, "device: {flops: 1 GFLOP/s, bandwidth: 1 TB/s, overhead: 0}\n" + BASE)
    assert timed["values"][0][0][2] == pytest.approx(found_flops() / 1e9)


def found_flops() -> int:
    return (1 + 20) * 2 * 10 * (20 + 2)


def test_progress_counts_points_and_cells() -> None:
    told: list[tuple[int, int]] = []
    wanted = scenario()
    run(wanted, progress=lambda done: told.append((done.steps_done, done.steps)))
    assert wanted.steps == 2 + 9
    assert told == [(k, 11) for k in range(1, 12)]


def test_a_map_is_read_back_as_it_was_written() -> None:
    made = run(scenario())
    assert from_json(made.to_json()) == made
    assert run(scenario()).to_json() == made.to_json()


def test_a_parameter_that_the_file_leaves_out_may_be_varied() -> None:
    section = "  x: {key: graph.jacobian_flops, values: [0, 7]}\n  y: {key: graph.input_bytes, values: [8]}\n"
    assert mapped(section)["winner"] == [[0, 0]]


def test_an_entry_inside_a_list_may_be_varied() -> None:
    base = BASE.replace("kind: chain\n  sizes: [4, 10, 8]", "kind: mlp\n  widths: [4, {repeat: 5, times: 2}, 8]")
    section = "  x: {key: 'graph.widths[1].times', values: [1, 3]}\n  y: {key: graph.batch, values: [2]}\n"
    wanted = scenario(section, base)
    # linear layers with an activation between each two: times + 1 and times
    assert [len(Cells(wanted)[i].build_graph()) for i in range(2)] == [3, 7]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("  x: {key: graph.sizes, values: [1]}\n", "f.yaml:8:3: regimes: 'y' is missing"),
        (AXES + "  z: 1\n", "f.yaml:10:3: regimes.z: unknown key 'z'"),
        (AXES.replace("graph.sizes[0]", "graph.szies[0]"), "f.yaml:8:12: regimes.x.key: got 'graph.szies[0]', but "
         "there is no 'szies' there; did you mean 'sizes'? known: kind, sizes"),
        (AXES.replace("graph.sizes[0]", "graph.sizes[3]"), "f.yaml:8:12: regimes.x.key: got 'graph.sizes[3]', but the "
         "list there has 3 entries"),
        (AXES.replace("graph.sizes[0]", "graph.sizes[0][0]"), "f.yaml:8:12: regimes.x.key: got 'graph.sizes[0][0]', "
         "but there is no list at graph.sizes.0"),
        (AXES.replace("graph.sizes[0]", "graph.sizes[0].a"), "f.yaml:8:12: regimes.x.key: got 'graph.sizes[0].a', but "
         "there is no 'a' there"),
        (AXES.replace("graph.sizes[0]", "graph sizes"), "f.yaml:8:12: regimes.x.key: got 'graph sizes', expected a key "
         "such as graph.widths[0], graph.length or budget"),
        (AXES.replace("graph.sizes[0]", "device.memory"), "f.yaml:8:12: regimes.x.key: got 'device.memory', but there "
         "is no 'device' there;"),
        (AXES.replace("graph.sizes[0]", "graph.kind"), "f.yaml:8:12: regimes.x.key: got 'graph.kind', but each kind "
         "has keys of its own; vary graph as a whole"),
        (AXES.replace("graph.sizes[0]", "strategies[0]"), "f.yaml:8:12: regimes.x.key: got 'strategies[0]', but the "
         "same strategies compete in every cell"),
        (AXES.replace("graph.sizes[0]", "name"), "f.yaml:8:12: regimes.x.key: got 'name', which is the same in every "
         "cell"),
        (AXES.replace("graph.sizes[0]", "graph.sizes[2]"), "f.yaml:9:12: regimes.y.key: got 'graph.sizes[-1]' on both "
         "axes, expected two different keys"),
        (AXES.replace("[1, 4, 20]", "3"), "f.yaml:8:53: regimes.x.values: got 3, expected a list of values, or a range "
         "such as {from: 1, to: 64, factor: 2}"),
        (AXES.replace("[1, 4, 20]", "[]"), "f.yaml:8:53: regimes.x.values: got an empty list, expected at least one "
         "value"),
        (AXES.replace("[1, 4, 20]", "[1, [4]]"), "f.yaml:8:57: regimes.x.values[1]: got [4], expected a number or a "
         "word"),
        (AXES.replace("[1, 4, 20]", "{from: 1, to: 60}").replace("from: 2, to: 8, factor: 2", "from: 1, to: 60"),
         "f.yaml:8:3: regimes: makes 3600 cells, expected at most 2500; give a larger step or factor"),
        (AXES.replace("factor: 2", "factor: 1"), "f.yaml:9:64: regimes.y.values.factor: got 1, expected more than 1"),
        (AXES.replace("[1, 4, 20]", "[1, -4]"), "f.yaml:8:57: regimes.x.values[1]: graph.sizes[0] = -4: "
         "graph.sizes: got"),
        ("  by: seconds\n" + AXES, "f.yaml:8:7: regimes.by: got 'seconds', but without a device there are no times"),
        ("  by: bytes\n" + AXES, "f.yaml:8:7: regimes.by: got 'bytes', expected one of 'flops', 'peak_bytes', "
         "'seconds'"),
        ("  x: {key: budget, values: [1 GB, 3 GB/s]}\n  y: {key: graph.batch, values: [1]}\n",
         "f.yaml:8:35: regimes.x.values[1]: got '3 GB/s', expected a size"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_map_is_shown_at_its_place(section: str, expected: str) -> None:
    [finding] = findings(section)
    assert finding.startswith(expected)


def test_values_that_do_not_go_together_are_one_clear_error() -> None:
    section = "  x: {key: graph.length, values: [2, 5]}\n  y: {key: graph.activation_bytes, values: [8]}\n"
    with pytest.raises(DocumentError) as caught:
        run(scenario(section))
    [finding] = caught.value.findings
    assert str(finding) == (
        "f.yaml:8:3: regimes: graph.activation_bytes = 8, graph.length = 5: graph.sizes: "
        "got 3 values, expected 6 for a chain of length 5"
    )
