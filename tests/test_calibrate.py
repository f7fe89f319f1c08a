"""`sim calibrate` and device files: what it prints is a device, and a broken file shows where."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.base.document import DocumentError
from sim.base.yaml import parse
from sim.commands import cli
from sim.experiment import calibrate
from sim.scenario.scenario import from_document, load
from sim.simulation.device import device

SCENARIO = """\
version: 1
name: demo
graph: {kind: chain, length: 3}
device: machine.yaml
strategies: [reverse_full]
"""


@pytest.fixture
def measured() -> calibrate.Calibration:
    return calibrate.calibrate(repeats=1, matrix=64, stream_bytes=80_000)


def test_every_rate_is_measured(measured: calibrate.Calibration) -> None:
    made = measured.device("float64")
    rates = (made.flops_per_s, made.bandwidth_bytes_per_s, made.to_host_bytes_per_s, made.overhead_s)
    assert min(rates) > 0
    assert made.memory_bytes == calibrate.physical_memory()
    assert set(measured.flops_per_s) == {"float32", "float64"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_printed_is_the_device_to_three_digits(measured: calibrate.Calibration, dtype: str) -> None:
    made = measured.device(dtype)  # type: ignore[arg-type]
    read = device(parse(measured.to_yaml(dtype), name="machine.yaml").data)  # type: ignore[arg-type]
    assert read.name == made.name == f"this machine, {dtype}"
    assert read.memory_bytes == made.memory_bytes
    for rate in (
        "flops_per_s", "bandwidth_bytes_per_s", "to_host_bytes_per_s", "from_disk_bytes_per_s", "overhead_s",
        "copy_latency_s",
    ):  # fmt: skip
        assert getattr(read, rate) == pytest.approx(getattr(made, rate), rel=5e-3), rate


def test_shortest_is_the_fastest_of_the_runs_after_the_first() -> None:
    import time

    waits = iter([0.2, 0.05, 0.02, 0.05])
    found = calibrate.shortest(lambda: time.sleep(next(waits)), 3)
    assert 0.02 <= found < 0.05
    assert next(waits, None) is None


def test_a_scenario_names_a_device_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "machine.yaml").write_text("flops: 2 GFLOP/s\nbandwidth: 3 GB/s\nname: mine\n")
    (tmp_path / "sub" / "demo.yaml").write_text(SCENARIO)
    found = load(tmp_path / "sub" / "demo.yaml").device
    assert found is not None
    assert (found.name, found.flops_per_s, found.source) == ("mine", 2e9, "given in machine.yaml")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("flops: 2 GFLOP/s\nbandwidth: fast\n", "machine.yaml:2:12: bandwidth: got 'fast', expected a bandwidth"),
        ("flops: 1e9\n", "machine.yaml:1:1: 'bandwidth' is missing"),
        ("- 1\n", "machine.yaml:1:1: expected the keys of a device"),
        (None, "machine.yaml: there is no such file"),
    ],
)
def test_a_broken_device_file_is_shown_at_its_line_and_at_that_of_the_scenario(
    tmp_path: Path, content: str | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / "machine.yaml").write_text(content)
    path = tmp_path / "demo.yaml"
    path.write_text(SCENARIO)
    with pytest.raises(DocumentError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}:4:9: device: {expected}")


def test_an_unknown_preset_is_still_one() -> None:
    with pytest.raises(DocumentError, match=r"unknown device 'machine\.yml2'"):
        from_document(parse(SCENARIO.replace("machine.yaml", "machine.yml2"), name="s.yaml"))


def test_the_command_prints_and_writes_the_same_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], measured: calibrate.Calibration
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibrate, "calibrate", lambda: measured)
    assert cli.main(["calibrate", "--output", "machine.yaml", "--dtype", "float64"]) == 0
    out, err = capfd.readouterr()
    assert out == Path("machine.yaml").read_text() == measured.to_yaml("float64")
    assert err.splitlines()[-1] == "wrote machine.yaml; name it in a scenario by: device: machine.yaml"
    Path("demo.yaml").write_text(SCENARIO)
    assert cli.main(["validate", "demo.yaml"]) == 0
    assert cli.main(["calibrate", "-q"]) == 0
    assert capfd.readouterr().err == ""
    Path("file").write_text("")
    assert cli.main(["calibrate", "-q", "--output", "file/machine.yaml"]) == 2
