"""Devices: presets with their sources, and own devices as a scenario writes them."""

from __future__ import annotations

import dataclasses

import jsonschema
import pytest

from sim.base.errors import ParameterError
from sim.simulation.device import PRESETS, DeviceModel, check, device


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_found_by_name_and_says_where_its_numbers_are_from(name: str) -> None:
    found = device(name)
    assert found.name == name
    assert len(found.source) > 60
    assert found.memory_bytes is not None
    assert found.to_host_bytes_per_s < found.bandwidth_bytes_per_s


@pytest.mark.parametrize(
    ("name", "tflops", "gbytes_per_s", "memory_bytes"),
    [
        # the float32 rates, memory bandwidths and memories printed in the data sheets that the presets name
        ("v100", 15.7, 900, 32 * 10**9),
        ("a100-40", 19.5, 1555, 40 * 10**9),
        ("a100-80", 19.5, 2039, 80 * 10**9),
        ("h100-sxm", 67, 3350, 80 * 10**9),
        ("h200", 67, 4800, 141 * 10**9),
        ("tpu-v4", 275, 1200, 32 * 2**30),
        ("rtx-4090", 82.6, 1008, 24 * 10**9),
        ("cpu-server", 56 * 2.0e9 * 2 * 16 * 2 / 1e12, 8 * 4.8 * 8, 512 * 10**9),
    ],
)
def test_presets_have_the_vendors_figures(name: str, tflops: float, gbytes_per_s: float, memory_bytes: int) -> None:
    found = device(name)
    assert found.flops_per_s == pytest.approx(tflops * 1e12)
    assert found.bandwidth_bytes_per_s == pytest.approx(gbytes_per_s * 1e9)
    assert found.memory_bytes == memory_bytes


def test_a_device_of_ones_own_reads_units() -> None:
    found = device(
        {
            "flops": "60 TFLOP/s", "bandwidth": "3.3 TB/s", "memory": "80 GB", "to_host": "55 GB/s",
            "from_host": "50 GB/s", "to_disk": "2 GB/s", "from_disk": "3 GB/s", "host_memory": "1 TiB",
            "disk_memory": 10**13, "overhead": "5 us", "copy_latency": "2 ms", "name": "mine",
        }
    )  # fmt: skip
    assert found.to_dict() | {"source": ""} == {
        "name": "mine", "flops_per_s": 60e12, "bandwidth_bytes_per_s": 3.3e12, "memory_bytes": 80 * 10**9,
        "to_host_bytes_per_s": 55e9, "from_host_bytes_per_s": 50e9, "to_disk_bytes_per_s": 2e9,
        "from_disk_bytes_per_s": 3e9, "host_memory_bytes": 2**40, "disk_memory_bytes": 10**13, "overhead_s": 5e-6,
        "copy_latency_s": 2e-3, "source": "",
    }  # fmt: skip


def test_a_preset_keeps_what_is_not_overridden() -> None:
    base, found = PRESETS["h100-sxm"], device({"preset": "h100-sxm", "flops": "989 TFLOP/s", "memory": None})
    assert (found.flops_per_s, found.memory_bytes) == (989e12, None)
    kept = {"flops_per_s", "memory_bytes", "source"}
    assert {k: v for k, v in dataclasses.asdict(found).items() if k not in kept} == {
        k: v for k, v in dataclasses.asdict(base).items() if k not in kept
    }
    assert "flops" in found.source.removeprefix(base.source)
    assert device({"preset": "h100-sxm"}) == base


def test_a_device_is_taken_as_it_is() -> None:
    assert device(PRESETS["v100"]) is PRESETS["v100"]


@pytest.mark.parametrize(
    ("value", "parameter", "message"),
    [
        ("h1000-sxm", None, "unknown device 'h1000-sxm'; did you mean 'h100-sxm'?"),
        ({"preset": "a100"}, "preset", "preset: unknown device 'a100'; did you mean 'a100-40'?"),
        ({"flop": 1, "bandwidth": 1}, "flop", "flop: unknown key 'flop'; did you mean 'flops'?"),
        ({"flops": "60 GB", "bandwidth": 1}, "flops", "flops: got '60 GB', expected a compute rate such as 60 TFLOP/s"),
        ({"flops": 1, "bandwidth": -1}, "bandwidth", "bandwidth: got -1, expected a bandwidth such as"),
        ({"flops": 1}, None, "'bandwidth' is missing"),
        ({"flops": None, "bandwidth": 1}, None, "got nothing, expected a value for flops"),
        ({}, None, "(and 1 more problems)"),
        ({"flops": 1, "bandwidth": 1, "memory": "5 s"}, "memory", "memory: got '5 s', expected a size such as"),
        (7, None, "got 7, expected a preset (cpu-server, "),
    ],
)
def test_what_is_wrong_with_a_device_is_said(value: object, parameter: str | None, message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        device(value)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert caught.value.parameter == (() if parameter is None else (parameter,))


def test_all_problems_of_a_device_are_found_at_once() -> None:
    found, wrong = check({"flops": "x", "bandwidth": "y", "speed": 3})
    assert found is None
    assert {p.path for p in wrong} == {("flops",), ("bandwidth",), ("speed",)}


def test_the_schema_accepts_what_the_model_does() -> None:
    schema = DeviceModel.model_json_schema()
    jsonschema.validate({"flops": "60 TFLOP/s", "bandwidth": "3.3 TB/s", "memory": "80 GB", "overhead": "5 us"}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"flops": "60 GB"}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"flop": 1}, schema)


def test_every_key_sets_a_field_of_its_own() -> None:
    base, own = dataclasses.asdict(PRESETS["v100"]), set()
    for key in DeviceModel.model_fields.keys() - {"preset"}:
        changed = dataclasses.asdict(device({"preset": "v100", key: "7" if key == "name" else 7}))
        [name] = [field for field, value in changed.items() if field != "source" and value != base[field]]
        assert name.startswith(key)
        own.add(name)
    assert own | {"source"} == base.keys()
