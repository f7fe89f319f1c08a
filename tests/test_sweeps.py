"""Sweeps: the cells that a file asks for, errors at their places, and points that no sharing or stopping changes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import sim
from sim.base.document import DocumentError
from sim.base.workers import Workers
from sim.base.yaml import dumped, parse
from sim.experiment import cells
from sim.experiment.cells import Common, Keys
from sim.experiment.results import Results, from_json
from sim.experiment.run import run
from sim.scenario.scenario import Cells, Scenario, from_document, load

BASE = """\
version: 1
name: demo
graph: {kind: chain, length: 9, activation_bytes: 8}
budget: 60
strategies:
  - reverse_full
  - reverse_checkpointed: {schedule: binomial, slots: 3}
sweep:
"""
AXES = """\
  graph.length: {from: 4, to: 12, step: 4}
  graph.activation_bytes, optimizer: [[8, none], [16, adam]]
"""


def scenario(section: str = AXES, base: str = BASE) -> Scenario:
    return from_document(parse(base + section, name="f.yaml"))


def without_place(point: Any) -> Any:
    return dataclasses.replace(point, cell={})


def test_cells_are_all_combinations_and_the_last_axis_varies_first() -> None:
    found = [p.cell for p in run(scenario()).points]
    expected = [
        {"graph.length": length, "graph.activation_bytes": size, "optimizer": optimizer}
        for length in (4, 8, 12)
        for size, optimizer in ((8, "none"), (16, "adam"))
    ]
    assert found == [cell for cell in expected for _ in range(2)]


def test_a_cell_has_the_points_of_the_file_with_its_values() -> None:
    """The points and the fronts of a cell are those of a run with `--set`, whatever the axis varies."""
    base = BASE.replace("budget: 60", "device: {flops: 1 GFLOP/s, bandwidth: 1 TB/s, memory: 1 kB}")
    section = """\
  graph.length: [5, 11]
  device.memory: [100 B, 1 kB]
  strategies[1].reverse_checkpointed.slots: [1, 4]
  gradients: [preallocated]
"""
    swept = run(scenario(section, base)).points
    assert len(swept) == 8 * 2
    for first in range(0, len(swept), 2):
        values = swept[first].cell
        data: dict[str, Any] = parse(base.removesuffix("sweep:\n"), name="f.yaml").data
        data["graph"]["length"] = values["graph.length"]
        data["device"]["memory"] = values["device.memory"]
        data["strategies"][1]["reverse_checkpointed"]["slots"] = values["strategies[1].reverse_checkpointed.slots"]
        data["gradients"] = values["gradients"]
        alone = run(load(data)).points
        assert tuple(without_place(p) for p in swept[first : first + 2]) == alone


def test_any_key_may_be_varied_also_as_a_whole() -> None:
    section = """\
  graph: [{kind: chain, length: 3}, {kind: mlp, widths: [4, 5, 6], batch: 2}]
  device: [h100-sxm, null]
"""
    results = run(scenario(section, BASE.replace("budget: 60\n", "")))
    assert [p.cell["device"] for p in results.points[::2]] == ["h100-sxm", None] * 2
    assert json.loads(results.points[-1].cell["graph"]) == {"kind": "mlp", "widths": [4, 5, 6], "batch": 2}
    assert [p.seconds is None for p in results.points[::2]] == [False, True] * 2


def test_a_budget_is_given_in_units_and_told_in_bytes() -> None:
    results = run(scenario("  budget: [40 B, 1 kB]\n"))
    assert [p.cell["budget"] for p in results.points] == [40, 40, 1000, 1000]
    assert [p.fits for p in results.points] == [p.peak_bytes <= p.cell["budget"] for p in results.points]
    assert results.sweep is not None
    assert results.sweep["fitting"] == sum(p.fits for p in results.points)


def test_a_job_over_devices_may_be_swept() -> None:
    base = """\
version: 1
name: jobs
parallel: {pipeline: {stages: 2, schedule: [gpipe, zb_v], micro_batches: 4,
  times: {forward: 1, input_vjp: 1, weight_vjp: 1}}}
sweep:
"""
    points = run(scenario("  parallel.pipeline.micro_batches: [4, 8]\n", base)).points
    assert [p.parameters["micro_batches"] for p in points] == [4, 4, 8, 8]
    assert {p.label for p in points} == {"gpipe", "zb_v"}


def test_a_strategy_that_works_in_some_cells_is_left_out_in_the_others() -> None:
    """With 1000 inputs of 8 bytes nothing fits 3 kB; with 4, two Jacobians of 40 and 80 scalars do."""
    base = """\
version: 1
name: demo
graph: {kind: chain, sizes: [4, 10, 8]}
strategies: [reverse_full, {jacobian_chain: {order: optimal_in_memory, budget: 3 kB}}]
sweep:
"""
    results = run(scenario("  graph.sizes[0]: [1000, 2000, 4]\n", base))
    assert [(p.cell["graph.sizes[0]"], p.strategy) for p in results.points] == [
        (1000, "reverse_full"),
        (2000, "reverse_full"),
        (4, "reverse_full"),
        (4, "jacobian_chain"),
    ]
    assert results.sweep is not None
    [refusal] = results.sweep["refused"]
    assert (refusal["label"], refusal["cells"]) == ("jacobian_chain optimal_in_memory budget=3.00kB", 2)
    assert refusal["first"] == {"graph.sizes[0]": 1000}


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("  graph.lenght: [3]\n",
         "f.yaml:9:18: sweep.graph.lenght[0]: graph.lenght = 3: unknown key 'lenght'"),
        ("  graph.length: [3, x]\n", "f.yaml:9:21: sweep.graph.length[1]: graph.length = x: got 'x'"),
        ("  graph.length: 3\n", "f.yaml:9:17: sweep.graph.length: got 3, expected a list of values, or a range"),
        ("  graph.length: []\n", "f.yaml:9:17: sweep.graph.length: got an empty list, expected at least one value"),
        ("  graph.length: {from: 3, to: 1}\n", "f.yaml:9:31: sweep.graph.length.to: got 1, expected at least 'from'"),
        ("  name: [a]\n", "f.yaml:9:3: sweep.name: got 'name', which is the same in every cell"),
        ("  sweep.name: [a]\n", "f.yaml:9:3: sweep.sweep.name: got 'sweep.name', which is the same in every cell"),
        ("  graph.kind: [mlp]\n", "f.yaml:9:3: sweep.graph.kind: got 'graph.kind', but each kind has keys of its own"),
        ("  strategies[2]: [reverse_full]\n", "f.yaml:9:3: sweep.strategies[2]: got 'strategies[2]', but the list"),
        ("  a, b: [[1, 2]]\n", "f.yaml:9:10: sweep.a, b[0]: a = 1, b = 2: unknown key 'a'; known: "),
        ("  graph.length, wrt: [[3, input], [4]]\n",
         "f.yaml:9:35: sweep.graph.length, wrt[1]: got [4], expected a list of 2 values, one for"),
        ("  graph.length, wrt: {from: 1, to: 2}\n", "f.yaml:9:22: sweep.graph.length, wrt: got {'from': 1, 'to': 2}, "
         "expected a list of values"),
        ("  wrt, wrt: [[input, input]]\n", "f.yaml:9:3: sweep.wrt, wrt: names a key twice"),
        ("  graph: [{kind: chain}]\n  graph.length: [3]\n", "f.yaml:10:3: sweep.graph.length: varies what another axis "
         "varies"),
        ("  graph.length: {from: 1, to: 2000}\n  graph.activation_bytes: {from: 1, to: 2000}\n",
         "f.yaml:9:3: sweep: makes 4000000 cells, expected at most 1000000"),
        ("  budget: [3 GB/s]\n", "f.yaml:9:12: sweep.budget[0]: got '3 GB/s', expected a size"),
        ("  device: [h100]\n", "f.yaml:9:12: sweep.device[0]: device = h100: "),
        ("  strategies[0]: [reverse_ful]\n",
         "f.yaml:9:19: sweep.strategies[0][0]: strategies[0] = reverse_ful: unknown strategy 'reverse_ful'; did you"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_shown_at_its_place(section: str, expected: str) -> None:
    with pytest.raises(DocumentError) as caught:
        scenario(section)
    shown = [str(f) for f in caught.value.findings]
    assert shown[0].startswith(expected), shown


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("  graph.length: [9, 10]\n  graph.activation_bytes: [8, [1, 2, 3, 4, 5, 6, 7, 8, 9]]\n",
         "f.yaml:9:3: sweep: graph.length = 10, graph.activation_bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9]: "),
        ("  graph.length: [9]\n  graph.activation_bytes: [[1, 2]]\n",
         "f.yaml:10:28: sweep.graph.activation_bytes[0]: graph.activation_bytes = [1, 2]: got 2 values, expected one"),
        ("  graph.length: [9]\n  graph.activation_bytes: [8, [1, 2]]\n",
         "f.yaml:10:31: sweep.graph.activation_bytes[1]: graph.activation_bytes = [1, 2]: got 2 values, expected one"),
        ("  graph: [{kind: mlp, widths: [4, 5], batch: 2, loss: mse}]\n  strategies[0]: [{jacobian_chain: {order: "
         "forward}}]\n", "f.yaml:6:5: strategies[0]: jacobian_chain forward: "),
    ],
)  # fmt: skip
def test_what_no_graph_can_be_made_of_is_told_before_anything_runs(
    section: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "_of_request", None)
    wanted = scenario(section)
    for refuse in (wanted.check, lambda: run(wanted)):
        with pytest.raises(DocumentError) as caught:
            refuse()
        [finding] = caught.value.findings
        assert str(finding).startswith(expected)


def test_a_value_on_the_command_line_takes_its_axis_out(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(BASE + AXES)
    fixed = load(path, changes=["graph.length=7"])
    assert fixed.sweep is not None
    assert [axis.label for axis in fixed.sweep.axes] == ["graph.activation_bytes, optimizer"]
    assert fixed.graph_parameters["length"] == 7
    assert load(path, changes=["sweep="]).sweep is None
    with pytest.raises(DocumentError, match="varies it together with others"):
        load(path, changes=["optimizer=sgd"])


def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of what is measured from now on, in this process."""
    labels: list[str] = []
    original = cells._of_request

    def noted(request: Any, *rest: Any) -> str:
        labels.append(request.label)
        return original(request, *rest)

    monkeypatch.setattr(cells, "_of_request", noted)
    return labels


def test_what_is_known_is_not_measured_again_and_a_changed_line_computes_its_own_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = measured(monkeypatch)
    first = run(scenario())
    assert len(labels) == 6 * 2
    assert run(scenario()).to_json() == first.to_json()
    assert len(labels) == 6 * 2
    changed = run(scenario(base=BASE.replace("slots: 3", "slots: 4")))
    assert labels[12:] == ["binomial slots=4"] * 6
    full = [[p for p in results.points if p.strategy == "reverse_full"] for results in (first, changed)]
    assert full[0] == full[1]
    run(scenario(AXES.replace("to: 12", "to: 16")))
    assert len(labels) == 12 + 6 + 4
    assert run(scenario(), fresh=True).to_json() == first.to_json()
    assert len(labels) == 12 + 6 + 4 + 12


def test_an_interrupted_run_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the cell in hand when it stops nothing is kept, of those before all."""
    labels = measured(monkeypatch)
    counted = cells._of_request

    def stop(*arguments: Any) -> str:
        if len(labels) == 7:
            raise KeyboardInterrupt
        return counted(*arguments)

    with monkeypatch.context() as stopped:
        stopped.setattr(cells, "_of_request", stop)
        with pytest.raises(KeyboardInterrupt):
            run(scenario())
    rest = run(scenario()).to_json()
    assert len(labels) == 7 + (12 - 6)
    assert run(scenario(), fresh=True).to_json() == rest


def test_the_results_are_the_same_bytes_whoever_computes_them() -> None:
    alone = run(scenario(), fresh=True)
    shared = run(scenario(), workers=Workers(2, at_once=True), fresh=True)
    assert shared.to_json() == alone.to_json()
    assert shared.to_csv() == alone.to_csv()


CHANGES: Mapping[str, Mapping[str, Any]] = {
    "the graph": {"graph": {"kind": "chain", "length": 9, "activation_bytes": 9}},
    "what is differentiated": {"wrt": "input"},
    "the optimizer": {"optimizer": "sgd"},
    "gradients": {"gradients": "preallocated"},
    "the budget": {"budget": 61},
    "the device": {"device": "h100-sxm"},
    "a rate of the device": {"device": {"preset": "h100-sxm", "flops": "1 TFLOP/s"}},
    "the strategy": {"strategies": ["forward_cached"]},
    "a parameter": {"strategies": [{"forward_recompute": {"chunk": 3}}]},
}


def test_all_that_determines_points_is_in_their_keys() -> None:
    plain = {"version": 1, "name": "a", "graph": {"kind": "chain", "length": 9, "activation_bytes": 8},
             "strategies": ["forward_recompute"], "sweep": {"graph.input_bytes": [8]}}  # fmt: skip

    def key(data: Mapping[str, Any], *, timed: bool = True, program: str = "p") -> bytes:
        document = parse(dumped(data), name="f.yaml")
        [found] = Keys(Common(document, timed, program)).of(Cells(from_document(document))[0])
        return found

    assert key(plain) == key({**plain, "name": "b", "description": "another", "sweep": {"graph.input_bytes": [8, 9]}})
    others = [key({**plain, **change}) for change in CHANGES.values()]
    others += [key(plain, program="q"), key({**plain, "sweep": {"graph.input_bytes": [9]}})]
    assert len({key(plain), *others}) == 1 + len(others)


def test_the_content_of_a_file_is_in_the_key(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    data = {"version": 1, "name": "a", "graph": {"kind": "onnx", "file": "model.onnx"}, "wrt": "input",
            "strategies": ["reverse_full"], "sweep": {"optimizer": ["none"]}}  # fmt: skip

    def keys(name: str) -> list[bytes]:
        (tmp_path / "model.onnx").write_bytes((folder / name).read_bytes())
        document = parse(dumped(data), name=str(tmp_path / "f.yaml"))
        return Keys(Common(document, True, "")).of(Cells(from_document(document))[0])

    assert keys("light_resnet50.onnx") != keys("light_squeezenet.onnx")


def test_a_cell_that_ends_its_worker_is_told_with_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    from sim.base.workers import WorkerLost

    def lost(self: Workers, work: Any, about: Any, items: Any, *, count: int) -> Any:
        raise WorkerLost((3, (0,)))

    monkeypatch.setattr(Workers, "results", lost)
    with pytest.raises(DocumentError, match=r"graph.length = 8, .*optimizer = adam: .*its process was ended 2 times"):
        run(scenario())


def swept() -> Results:
    return run(scenario("  graph.length: [4, 8]\n  device: [h100-sxm, null]\n"))


def test_results_are_read_back() -> None:
    results = swept()
    text = results.to_json()
    assert from_json(text).to_json() == text
    assert from_json(text).points == tuple(results.points)
    assert results.points[-1] == results.points[len(results.points) - 1]
    assert results.points[1:3] == tuple(results.points)[1:3]


def test_csv_and_data_frame_and_parquet_have_the_same_cells(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    parquet = pytest.importorskip("pyarrow.parquet")
    results = swept()
    rows = list(csv.DictReader(io.StringIO(results.to_csv())))
    frame = results.to_dataframe()
    table = parquet.read_table(results.to_parquet(tmp_path / "r.parquet"))
    assert list(frame.columns) == list(table.column_names) == list(rows[0])
    assert len(frame) == table.num_rows == len(rows) == 8
    assert frame["flops.total"].tolist() == table["flops.total"].to_pylist() == [int(r["flops.total"]) for r in rows]
    assert table["seconds"].to_pylist() == [float(r["seconds"]) if r["seconds"] else None for r in rows]
    assert table["cell.device"].to_pylist() == [r["cell.device"] or None for r in rows]
    assert frame["fits"].dtype.name == "boolean"


def test_large_counts_stay_exact_in_every_table(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    parquet = pytest.importorskip("pyarrow.parquet")
    from points import flops, point, some

    results = some(point(flops=flops(2**63 + 1)), point(flops=flops(3)))
    assert results.to_dataframe()["flops.total"].tolist() == [2**63 + 1, 3]
    table = parquet.read_table(results.to_parquet(tmp_path / "r.parquet"))
    assert [int(x) for x in table["flops.total"].to_pylist()] == [2**63 + 1, 3]


def test_one_scenario_at_a_time_is_planned() -> None:
    with pytest.raises(DocumentError, match="a sweep is for `sim run`"):
        scenario().single()


def test_the_library_runs_sweeps() -> None:
    assert len(sim.run({**parse(BASE + AXES, name="f").data}).points) == 12
