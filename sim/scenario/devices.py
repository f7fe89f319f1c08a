"""Devices as command lines and scenarios name them: a preset, a YAML file, or rates and sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sim.base import yaml as yamltext
from sim.base.document import DocumentError
from sim.base.errors import ParameterError
from sim.base.registry import Problem
from sim.simulation.device import Device
from sim.simulation.device import check as check_device

DEVICE_FILES = (".yaml", ".yml")


def named_device(text: str) -> Device:
    """The device that a command line names: a preset, or a YAML file.

    Raises
    ------
    DocumentError
        With everything that is wrong with the file.
    ParameterError
        For an unknown preset.
    """
    if text.endswith(DEVICE_FILES):
        return _device_in(Path(text), text)
    device, wrong = check_device(text)
    if device is None:
        raise ParameterError(wrong[0].message, parameter=("device",))
    return device


def device_of(value: Any, folder: Path) -> tuple[Device | None, list[Problem]]:
    """The device that a scenario means: what `sim.simulation.device` knows, or a file beside the scenario."""
    if not (isinstance(value, str) and value.endswith(DEVICE_FILES)):
        return check_device(value)
    try:
        return _device_in(folder / value, value), []
    except DocumentError as error:
        return None, [Problem((), str(finding)) for finding in error.findings]


def _device_in(path: Path, name: str) -> Device:
    document = yamltext.read(path, name=name)
    if not isinstance(document.data, dict):
        raise document.error([Problem((), "expected the keys of a device, such as flops and bandwidth")])
    device, wrong = check_device(document.data)
    if device is None:
        raise document.error(wrong)
    return replace(device, source=f"given in {name}")
