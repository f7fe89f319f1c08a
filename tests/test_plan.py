"""`sim plan` and plan files: the cheapest plan that fits, and a file from which the same schedule comes back."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from execution import schedules_of
from graphs import graphs
from hypothesis import given
from hypothesis import strategies as st
from simulations import calls, made

from sim.base.errors import SimError
from sim.base.units import parse_bytes
from sim.base.yaml import parse
from sim.commands import cli
from sim.commands.tables.plan import ranges
from sim.experiment.choose import choose
from sim.graphs.graph import Graph
from sim.models.families.chain import chain
from sim.models.families.mlp import mlp
from sim.scenario import scenario as scenarios
from sim.scenario.scenario import from_document
from sim.schedules import compact
from sim.schedules.plan import kept, plan_of, read, recomputed, schedule_of, to_json, write
from sim.schedules.replay import replay
from sim.schedules.schedule import Builder
from sim.strategies import load

CHAIN = """\
version: 1
name: chained
graph: {kind: chain, length: 8, activation_bytes: 100}
strategies: [reverse_full]
"""


def scheduled(text: str, **wanted: object) -> object:
    scenario = from_document(parse(text, name="s.yaml"))
    return choose(scenario, scenario.build_graph(), **wanted)  # type: ignore[arg-type]


def small(wrt: str = "parameters", batch: int = 3) -> Graph:
    return mlp(widths=[5, 4, 7, 2, 3], activation="tanh", batch=batch, dtype="float32", loss="mse").configured(wrt=wrt)


@pytest.mark.parametrize("wrt", ["parameters", "input"])
def test_every_schedule_comes_back_from_its_short_form(wrt: str) -> None:
    graph = small(wrt)
    count = 0
    for label, schedule in schedules_of(graph):
        items = json.loads(json.dumps(compact.compact(schedule)))
        again = compact.expand(items, graph)
        assert [str(a) for a in again] == [str(a) for a in schedule], label
        assert again.loops == schedule.loops, label
        assert replay(again) == replay(schedule), label
        count += 1
    assert count > 10


def test_runs_of_neighbours_are_one_item() -> None:
    graph = small()
    items = compact.compact(load().call("reverse_full", graph))
    first, last = graph.nodes[0].name, graph.nodes[-1].name
    assert items == [
        {"kind": "forward", "node": first, "through": last},
        {"kind": "vjp", "node": last, "through": first},
    ]


@pytest.mark.parametrize("wrt", ["parameters", "input"])
def test_every_schedule_comes_back_from_its_plan_file(wrt: str, tmp_path: Path) -> None:
    graph = small(wrt)
    for label, schedule in schedules_of(graph):
        plan = plan_of(schedule)
        path = write(plan, tmp_path / "plan.json")
        again = schedule_of(graph, read(path))
        assert replay(again) == replay(schedule), label
        assert plan["peak_bytes"] == replay(schedule).peak_bytes


def test_a_plan_for_another_graph_is_refused() -> None:
    graph = small()
    for name in ("reverse_full", "reverse_offload"):
        plan = plan_of(load().call(name, graph))
        other = mlp(widths=[5, 4, 3], activation="tanh", batch=3, dtype="float32", loss="mse")
        with pytest.raises(SimError, match="another model"):
            schedule_of(other.configured(wrt="parameters"), plan)


def test_the_digest_tells_shapes_apart_and_the_fingerprint_does_not() -> None:
    one, other = (plan_of(load().call("reverse_full", small(batch=batch))) for batch in (3, 4))
    assert one["fingerprint"] == other["fingerprint"]
    assert one["graph_sha256"] != other["graph_sha256"]


@given(graph=graphs(), call=st.sampled_from(calls(plain=False)))
def test_a_plan_is_the_schedule_that_it_was_made_of(graph: Graph, call: tuple[str, dict[str, Any]]) -> None:
    schedule = made(graph, call)
    plan = json.loads(to_json(plan_of(schedule)))
    again = schedule_of(graph, plan)
    assert [str(a) for a in again] == [str(a) for a in schedule]
    assert replay(again) == replay(schedule)


@given(graph=graphs(), width=st.integers(1, 5))
def test_one_sweep_of_several_cotangents_keeps_its_width(graph: Graph, width: int) -> None:
    builder = Builder(graph)
    builder.forward(range(len(graph)))
    builder.vjp(range(len(graph) - 1, -1, -1), width=width)
    plan = plan_of(builder.build())
    assert ("order" in plan, plan.get("width", 1)) == (True, width)
    assert replay(schedule_of(graph, plan)) == replay(builder.build())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "this is not JSON"),
        ("[]", "this is no plan of `sim plan`"),
        ("{}", "'fingerprint' is missing"),
        ('{"fingerprint": "x", "model": "m", "peak_bytes": 1, "order": [], "version": 99}', "got version 99 of a plan"),
        ('{"fingerprint": "x", "model": "m", "peak_bytes": 1, "version": 1}', "either 'order' or 'actions'"),
        ('{"fingerprint": 3, "model": "m", "peak_bytes": 1, "order": [], "version": 1}', ":1:17: fingerprint: got 3"),
        (
            '{"fingerprint": "x", "model": "m", "peak_bytes": 1, "version": 1,\n "order": [["dance", 0, 1]]}',
            ":2:13: order[0][0]: got 'dance', expected one of 'forward', 'vjp'",
        ),
        (
            '{"fingerprint": "x", "model": "m", "peak_bytes": 1, "version": 1,\n "order": [["vjp", -1, 1]]}',
            "order[0][1]: got -1, expected at least 0",
        ),
    ],
)
def test_what_is_no_plan_is_refused_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(SimError) as caught:
        read(path)
    assert expected in str(caught.value)
    with pytest.raises(SimError, match="no such file"):
        read(tmp_path / "missing.json")


WRONG = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3), st.just([]), st.just({}),
    st.lists(st.integers(-2, 99), max_size=3),
)  # fmt: skip


@given(data=st.data())
def test_a_tampered_plan_is_refused_or_still_a_schedule(data: st.DataObject) -> None:
    graph = small("parameters")
    name = data.draw(st.sampled_from(["reverse_full", "reverse_offload", "forward_recompute", "forward_cached"]))
    plan = json.loads(to_json(plan_of(load().call(name, graph))))
    plan["width"] = 1
    place: Any = plan
    key = data.draw(st.sampled_from([k for k in ("version", "fingerprint", "width", "order", "actions") if k in place]))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = data.draw(WRONG)
    with contextlib.suppress(SimError):
        replay(schedule_of(graph, plan))


@pytest.mark.parametrize(
    "items",
    [
        [{"kind": "forward", "node": "nobody"}],
        [{"kind": "dance", "node": "layer1.linear"}],
        [{"kind": "forward", "node": "x"}],
        [{"kind": "forward"}],
        [{"kind": "repeat", "times": 0, "actions": []}],
        ["forward"],
        "forward",
    ],
)
def test_what_is_no_action_is_refused_with_its_place(items: object) -> None:
    with pytest.raises(SimError, match="actions"):
        compact.expand(items, small())  # type: ignore[arg-type]


def test_kept_are_the_checkpoints_and_recomputed_what_lies_between() -> None:
    # 4 layers whose VJPs read their input; two segments: the second is kept from the forward sweep, with
    # the checkpoint between; of the first, l1's output alone is evaluated again (l2's is the checkpoint)
    graph = chain(length=4, activation_bytes=1)
    names = [n.name for n in graph.nodes]
    schedule = load().call("reverse_checkpointed", graph, schedule="uniform", segments=2)
    assert set(kept(schedule)["device"]["activation"]) == {names[1], names[2], names[3]} - (
        set() if _reads_output(graph) else {names[3]}
    )
    assert set(recomputed(schedule)) <= {names[0], names[1]}
    assert recomputed(schedule)[names[0]] == 1
    assert recomputed(load().call("reverse_full", graph)) == {}


def _reads_output(graph: Graph) -> bool:
    return bool(graph.columns.needs[-1] & 2)


def test_the_chosen_plan_is_the_cheapest_of_those_that_fit() -> None:
    text = CHAIN.replace("[reverse_full]", "[reverse_full, {reverse_checkpointed: {schedule: binomial, slots: 3}}]")
    full = scheduled(text, budget_bytes=10**6)
    assert full.chosen.request.strategy == "reverse_full"  # type: ignore[attr-defined]
    assert full.cheaper is None  # type: ignore[attr-defined]
    most = full.chosen.peak_bytes - 1  # type: ignore[attr-defined]
    less = scheduled(text, budget_bytes=most)
    assert less.chosen.peak_bytes <= most < less.cheaper.peak_bytes  # type: ignore[attr-defined]
    assert less.cheaper.flops < less.chosen.flops  # type: ignore[attr-defined]
    assert less.smaller.peak_bytes < less.chosen.peak_bytes  # type: ignore[attr-defined]
    assert less.smaller.flops >= less.chosen.flops  # type: ignore[attr-defined]


def test_an_overhead_of_nothing_is_full_store_and_of_much_is_the_smallest_peak() -> None:
    from fractions import Fraction

    none = scheduled(CHAIN, max_overhead=Fraction(0))
    assert none.chosen.flops == none.full_store.flops  # type: ignore[attr-defined]
    much = scheduled(CHAIN, max_overhead=Fraction(1000))
    assert much.smaller is None  # type: ignore[attr-defined]
    assert much.chosen.peak_bytes < none.chosen.peak_bytes  # type: ignore[attr-defined]
    some = scheduled(CHAIN, max_overhead=Fraction(1, 5))
    assert some.chosen.flops * 5 <= some.full_store.flops * 6  # type: ignore[attr-defined]


def test_without_a_device_copying_comes_last_and_with_one_seconds_decide() -> None:
    offload = CHAIN.replace("[reverse_full]", "[reverse_full, reverse_offload]")
    full = scheduled(offload, budget_bytes=10**6).full_store.peak_bytes  # type: ignore[attr-defined]
    least = scheduled(offload, budget_bytes=full - 1)
    assert not least.chosen.copied_bytes  # type: ignore[attr-defined]
    free = "device: {flops: 1, bandwidth: 1 TB/s, to_host: 1 TB/s, from_host: 1 TB/s, overhead: 0, copy_latency: 0}\n"
    text = offload.replace("strategies", f"{free}strategies")
    scenario = from_document(parse(text, name="s.yaml"))
    fast = choose(scenario, scenario.build_graph(), budget_bytes=full - 1, device=scenario.device)
    assert fast.chosen.copied_bytes


def test_ranges_join_neighbours_in_the_graph_or_within_an_op() -> None:
    graph = mlp(widths=[4] * 6, activation="relu", batch=2, dtype="float32", loss="sum")
    names = [n.name for n in graph.nodes]
    assert ranges(names[:3], graph) == f"{names[0]} … {names[2]} (3)"
    relus = [n.name for n in graph.nodes if n.op == "relu"]
    assert ranges(relus, graph) == f"{relus[0]} … {relus[-1]} ({len(relus)})"
    assert ranges([names[1]], graph) == names[1]


def run(*arguments: object, capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main([str(a) for a in arguments])
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    return code, out, err


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "chained.yaml"
    path.write_text(CHAIN)
    return path


def test_plan_prints_what_it_keeps_and_writes_the_file(scenario: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run("plan", scenario, "--budget", "700", capfd=capfd)
    assert code == 0
    assert err == "wrote plan.json\n"
    heads = [line.split("  ")[0] for line in out.splitlines()[2:]]
    assert [h for h in heads if h] == [
        "peak", "price", "proven", "full store", "kept", "recomputed", "next cheaper", "next smaller",
    ]  # fmt: skip
    plan = json.loads(Path("plan.json").read_text())
    assert plan["peak_bytes"] <= 700 == plan["budget_bytes"]
    assert plan["kept"]["device"]["activation"]
    code, out, _ = run("plan", scenario, "--budget", "700", "--format", "json", "-o", "sub/p.json", capfd=capfd)
    assert (code, out) == (0, Path("sub/p.json").read_text())


def test_a_budget_below_every_peak_exits_with_3_and_names_the_smallest(
    scenario: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run("plan", scenario, "--budget", "10", capfd=capfd)
    assert (code, out) == (3, "")
    assert "nothing fits the budget of 10 B; the smallest peak is " in err
    assert not Path("plan.json").exists()
    smallest = int(err.split("(")[1].split(" bytes")[0])
    assert run("plan", scenario, "--budget", smallest, capfd=capfd)[0] == 0
    assert run("plan", scenario, "--budget", smallest - 1, capfd=capfd)[0] == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--budget", "8 apples"], "--budget: got '8 apples', expected a size such as 80 GB or 64 GiB"),
        (["--max-overhead", "20"], "--max-overhead: got '20', expected a percentage such as 20%"),
        (["--device", "h10-sxm"], "unknown device 'h10-sxm'; did you mean 'h100-sxm'?"),
        (["--device", "gone.yaml"], "gone.yaml: there is no such file"),
        ([], "names neither a budget nor a device with a memory"),
    ],
)
def test_wrong_limits_exit_with_2(
    scenario: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    code, out, err = run("plan", scenario, *arguments, capfd=capfd)
    assert (code, out) == (2, "")
    assert expected in err
    assert not Path("plan.json").exists()


def test_the_budget_of_the_scenario_or_the_memory_of_its_device_stand_in(
    scenario: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scenario.write_text(CHAIN.replace("strategies", "budget: 650\nstrategies"))
    run("plan", scenario, capfd=capfd)
    assert json.loads(Path("plan.json").read_text())["budget_bytes"] == 650
    run("plan", scenario, "--device", "v100", capfd=capfd)
    assert json.loads(Path("plan.json").read_text())["budget_bytes"] == parse_bytes("32 GB")


def test_a_plan_is_told_with_what_no_reverse_sweep_takes_less_than(
    scenario: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = scenarios.load(scenario)
    graph = loaded.build_graph()
    for level in ("fast", "proof"):
        choice = choose(loaded, graph, budget_bytes=700, bound=level)
        assert choice.proof is not None
        assert graph.forward_flops < choice.proof.flops <= choice.chosen.flops
        assert (choice.proof.word is None) == (level == "fast")
        assert choice.proof.word is None or choice.proof.flops <= choice.proof.word <= choice.chosen.flops
    assert "proven" not in run("plan", scenario, "--budget", "700", "--bound", "none", capfd=capfd)[1]
    assert "the solver's word" in run("plan", scenario, "--budget", "700", "--bound", "proof", capfd=capfd)[1]
