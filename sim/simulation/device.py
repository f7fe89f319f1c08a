"""Devices: how fast a machine computes and copies, and how much it holds.

A preset by name, or rates and sizes of one's own; `device` takes either as a scenario writes it.
Rates are peaks of data sheets, which real programs do not reach: times are lower bounds, good for
comparing schedules. The compute rate of a GPU is that of float32 outside its tensor cores, because
that is what float32 layers get from PyTorch unless TF32 is allowed; for another precision override
it (`{preset: a100-80, flops: 312 TFLOP/s}` for bfloat16). Memories are as vendors state them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sim.base.errors import suggest
from sim.base.registry import Problem, first_of, problems_of
from sim.base.units import ByteRate, Bytes, Duration, FlopRate

OVERHEAD_S = 5e-6
"""Launch of one kernel: assumed, the order that profilers show for CUDA; no data sheet states it."""
COPY_LATENCY_S = 10e-6
"""Start of one copy between tiers: assumed likewise."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A machine: compute, three tiers of memory, and the links between them.

    An action takes max(flops / `flops_per_s`, moved bytes / `bandwidth_bytes_per_s`) + `overhead_s`; a
    copy takes bytes / link + `copy_latency_s`. A memory of `None` has no limit; that of the device
    holds the resident bytes too. `to_disk` and `from_disk` link host and disk. Where `flops_per_s` is what programs
    reach, `peak_flops_per_s` is what utilization is a share of.
    """

    name: str
    flops_per_s: float
    bandwidth_bytes_per_s: float
    memory_bytes: int | None
    to_host_bytes_per_s: float
    from_host_bytes_per_s: float
    to_disk_bytes_per_s: float
    from_disk_bytes_per_s: float
    host_memory_bytes: int | None = None
    disk_memory_bytes: int | None = None
    overhead_s: float = OVERHEAD_S
    copy_latency_s: float = COPY_LATENCY_S
    source: str = ""
    peak_flops_per_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The plain data of the device."""
        data = asdict(self)
        return data if self.peak_flops_per_s is not None else {k: v for k, v in data.items() if k != "peak_flops_per_s"}


class DeviceModel(BaseModel):
    """The keys of a device in a scenario; what a preset leaves open has the preset's value."""

    model_config = ConfigDict(extra="forbid", strict=True)

    preset: Annotated[str | None, Field(description="A preset whose values the other keys override.")] = None
    name: Annotated[str | None, Field(description="What the device is called in tables and charts.")] = None
    flops: Annotated[FlopRate | None, Field(description="Compute rate; a multiply-add counts as 2 flops.")] = None
    peak_flops: Annotated[
        FlopRate | None, Field(description="Rate of the data sheet, where `flops` is what programs reach of it.")
    ] = None
    bandwidth: Annotated[ByteRate | None, Field(description="Memory bandwidth of the device.")] = None
    memory: Annotated[Bytes | None, Field(description="Memory of the device; without it no limit.")] = None
    to_host: Annotated[ByteRate | None, Field(description="Link from device to host.")] = None
    from_host: Annotated[ByteRate | None, Field(description="Link from host to device.")] = None
    to_disk: Annotated[ByteRate | None, Field(description="Link from host to disk.")] = None
    from_disk: Annotated[ByteRate | None, Field(description="Link from disk to host.")] = None
    host_memory: Annotated[Bytes | None, Field(description="Memory of the host; without it no limit.")] = None
    disk_memory: Annotated[Bytes | None, Field(description="Space on the disk; without it no limit.")] = None
    overhead: Annotated[Duration | None, Field(description="Time to launch one action.")] = None
    copy_latency: Annotated[Duration | None, Field(description="Time to start one copy.")] = None


def _field(key: str) -> str:
    """The field of `Device` that a key of a scenario sets: its name, or its name and a unit."""
    return next(f.name for f in fields(Device) if f.name == key or f.name.startswith(f"{key}_"))


_REQUIRED = ("flops", "bandwidth")

_PCIE = "One direction of the PCIe ×16 link: {}."
_DISK = "Disk: Samsung PM9A3 data sheet, sequential read 6.9 GB/s and write 4.1 GB/s."
_READ_BYTES_PER_S, _WRITE_BYTES_PER_S = 6.9e9, 4.1e9


def _accelerator(
    name: str, source: str, *, tflops: float, gbytes_per_s: float, memory_bytes: int, link_gbytes_per_s: float
) -> Device:
    link = {16.0: "Gen3, 16 GB/s", 32.0: "Gen4, 32 GB/s", 64.0: "Gen5, 64 GB/s"}[link_gbytes_per_s]
    return Device(
        name=name,
        flops_per_s=tflops * 1e12,
        bandwidth_bytes_per_s=gbytes_per_s * 1e9,
        memory_bytes=memory_bytes,
        to_host_bytes_per_s=link_gbytes_per_s * 1e9,
        from_host_bytes_per_s=link_gbytes_per_s * 1e9,
        to_disk_bytes_per_s=_WRITE_BYTES_PER_S,
        from_disk_bytes_per_s=_READ_BYTES_PER_S,
        source=f"{source} {_PCIE.format(link)} {_DISK}",
    )


_ALL = (
    Device(
        name="cpu-server",
        # 56 cores × 2.0 GHz × 2 AVX-512 units × 16 float32 lanes × 2 flops
        flops_per_s=7.168e12,
        # 8 channels × DDR5-4800 × 8 bytes
        bandwidth_bytes_per_s=307.2e9,
        memory_bytes=512 * 10**9,
        # a copy within the same memory reads and writes every byte
        to_host_bytes_per_s=153.6e9,
        from_host_bytes_per_s=153.6e9,
        to_disk_bytes_per_s=_WRITE_BYTES_PER_S,
        from_disk_bytes_per_s=_READ_BYTES_PER_S,
        overhead_s=1e-6,
        copy_latency_s=1e-6,
        source="Intel Xeon Platinum 8480+ product specifications (ark.intel.com), one socket: 56 cores, base "
        f"2.0 GHz, two AVX-512 FMA units, float32; eight channels of DDR5-4800, 8 × 64 GB. {_DISK}",
    ),
    _accelerator(
        "v100",
        "NVIDIA V100 Tensor Core GPU data sheet (2020), SXM2 32 GB: float32 15.7 TFLOP/s, 900 GB/s; float16 on "
        "tensor cores 125 TFLOP/s.",
        tflops=15.7, gbytes_per_s=900, memory_bytes=32 * 10**9, link_gbytes_per_s=16.0,
    ),
    _accelerator(
        "a100-40",
        "NVIDIA A100 Tensor Core GPU data sheet (2020), SXM 40 GB: float32 19.5 TFLOP/s, 1,555 GB/s; bfloat16 on "
        "tensor cores 312 TFLOP/s, TF32 156 TFLOP/s, both dense.",
        tflops=19.5, gbytes_per_s=1555, memory_bytes=40 * 10**9, link_gbytes_per_s=32.0,
    ),
    _accelerator(
        "a100-80",
        "NVIDIA A100 Tensor Core GPU data sheet (2021), SXM 80 GB: float32 19.5 TFLOP/s, 2,039 GB/s; bfloat16 on "
        "tensor cores 312 TFLOP/s, TF32 156 TFLOP/s, both dense.",
        tflops=19.5, gbytes_per_s=2039, memory_bytes=80 * 10**9, link_gbytes_per_s=32.0,
    ),
    _accelerator(
        "h100-sxm",
        "NVIDIA H100 Tensor Core GPU data sheet (2023), SXM: float32 67 TFLOP/s, 3.35 TB/s, 80 GB; bfloat16 on "
        "tensor cores 989 TFLOP/s, TF32 494 TFLOP/s, both dense (the sheet prints twice that, for sparse).",
        tflops=67, gbytes_per_s=3350, memory_bytes=80 * 10**9, link_gbytes_per_s=64.0,
    ),
    _accelerator(
        "h200",
        "NVIDIA H200 Tensor Core GPU data sheet (2024), SXM: float32 67 TFLOP/s, 4.8 TB/s, 141 GB; bfloat16 on "
        "tensor cores 989 TFLOP/s, dense.",
        tflops=67, gbytes_per_s=4800, memory_bytes=141 * 10**9, link_gbytes_per_s=64.0,
    ),
    _accelerator(
        "tpu-v4",
        "Google Cloud TPU v4 documentation, one chip: bfloat16 275 TFLOP/s (no float32 rate is published; JAX "
        "multiplies float32 in bfloat16 on TPUs unless told otherwise), 1,200 GB/s, 32 GiB.",
        tflops=275, gbytes_per_s=1200, memory_bytes=32 * 2**30, link_gbytes_per_s=16.0,
    ),
    _accelerator(
        "rtx-4090",
        "NVIDIA Ada GPU Architecture whitepaper (2022), GeForce RTX 4090: float32 82.6 TFLOP/s, 1,008 GB/s, 24 GB; "
        "bfloat16 on tensor cores 165.2 TFLOP/s, dense.",
        tflops=82.6, gbytes_per_s=1008, memory_bytes=24 * 10**9, link_gbytes_per_s=32.0,
    ),
)  # fmt: skip

PRESETS: Mapping[str, Device] = MappingProxyType({d.name: d for d in _ALL})
"""The devices that a scenario may name."""


def device(value: str | Mapping[str, Any] | Device) -> Device:
    """The device that a scenario means: a preset by name, or a mapping with the keys of `DeviceModel`.

    Without `preset`, `flops` and `bandwidth` are needed, memories are unlimited, and links are those
    of PCIe Gen4 (32 GB/s each way) and one NVMe drive.

    >>> device({"preset": "a100-80", "flops": "312 TFLOP/s"}).flops_per_s
    312000000000000.0

    Raises
    ------
    ParameterError
        For an unknown preset or key, or a value that is out of range; the first of all problems.
    """
    machine, wrong = check(value)
    if machine is None:
        raise first_of(wrong)
    return machine


def check(value: object) -> tuple[Device | None, list[Problem]]:
    """The device that a scenario means, or everything that is wrong with it."""
    if isinstance(value, Device):
        return value, []
    if isinstance(value, str):
        if value not in PRESETS:
            return None, [Problem((), _unknown(value))]
        return PRESETS[value], []
    if not isinstance(value, Mapping):
        expected = f"a preset ({', '.join(PRESETS)}) or a mapping with flops and bandwidth"
        return None, [Problem((), f"got {value!r:.60}, expected {expected}")]
    try:
        model = DeviceModel.model_validate(dict(value))
    except ValidationError as error:
        return None, problems_of(error, DeviceModel)
    set_here = {_field(key): getattr(model, key) for key in model.model_fields_set if key != "preset"}
    if model.preset is not None:
        if model.preset not in PRESETS:
            return None, [Problem(("preset",), _unknown(model.preset))]
        missing = [key for key in model.model_fields_set - set(_UNLIMITED) if getattr(model, key) is None]
        base = PRESETS[model.preset]
        source = f"{base.source} Overridden: {', '.join(sorted(model.model_fields_set - {'preset'}))}."
        set_here = {"source": source if set_here else base.source, **set_here}
    else:
        missing = [key for key in model.model_fields_set - set(_UNLIMITED) if getattr(model, key) is None]
        missing += [key for key in _REQUIRED if key not in model.model_fields_set]
        base = _OWN
    if missing:
        what = "'{}' is missing" if missing[0] not in model.model_fields_set else "got nothing, expected a value for {}"
        return None, [Problem((), what.format(key)) for key in sorted(set(missing))]
    return replace(base, **set_here), []


def _unknown(name: str) -> str:
    begun = [p for p in PRESETS if name and p.startswith(name)]  # `a100` is nearer to a100-40 than to v100
    return f"unknown device '{name}'" + suggest(begun[0] if begun else name, PRESETS)


_UNLIMITED = ("peak_flops", "memory", "host_memory", "disk_memory", "preset")
_OWN = Device(
    name="own device",
    flops_per_s=1.0,
    bandwidth_bytes_per_s=1.0,
    memory_bytes=None,
    to_host_bytes_per_s=32e9,
    from_host_bytes_per_s=32e9,
    to_disk_bytes_per_s=_WRITE_BYTES_PER_S,
    from_disk_bytes_per_s=_READ_BYTES_PER_S,
    source="given in the scenario",
)
