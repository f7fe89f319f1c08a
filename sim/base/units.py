"""Sizes, rates and times, from the way people write them (`80 GB`, `312 TFLOP/s`, `5 us`) and back.

Bytes come out as exact integers. Prefixes are quantiphy's: `k`, `M`, `G`, `T`, … are powers of 1000,
`Ki`, `Mi`, `Gi`, `Ti`, … powers of 1024. Text for people is always decimal (8 GB is 8,000,000,000
bytes), because vendors state memories, links and budgets so, and then numbers can be compared at sight.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic.json_schema import WithJsonSchema
from quantiphy import QuantiPhyError, Quantity

LARGEST_BYTES = 2**62
_NUMBER = r"[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*([^\s\d].*?)?\s*")


@dataclass(frozen=True)
class Kind:
    """A kind of quantity: the names of its unit (the first is the usual one), and what a message asks for."""

    units: tuple[str, ...]
    expected: str


SIZE = Kind(("B", "bytes", "byte"), "a size such as 80 GB or 64 GiB")
FLOP_RATE = Kind(("FLOP/s", "FLOPS", "FLOPs", "flop/s", "flops"), "a compute rate such as 60 TFLOP/s")
BYTE_RATE = Kind(("B/s",), "a bandwidth such as 55 GB/s or 3.3 TB/s")
TIME = Kind(("s",), "a time such as 5 us or 2 ms")


def parse(value: object, kind: Kind) -> tuple[Fraction, Fraction]:
    """The number that was written and the scale of its unit, both exact; a plain number has scale 1.

    Raises
    ------
    ValueError
        If it is no quantity of this kind; the message is what to write instead.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(kind.expected)
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise ValueError(kind.expected)
        return Fraction(value), Fraction(1)
    match = _QUANTITY.fullmatch(value)
    if match is None:
        raise ValueError(kind.expected)
    number, unit = match.groups()
    _, _, exponent = number.lower().partition("e")
    if len(number) > 60 or (exponent and abs(int(exponent)) > 300):
        raise ValueError(kind.expected)
    return Fraction(number.replace("_", "")), _scale(unit, kind) if unit else Fraction(1)


def _scale(unit: str, kind: Kind) -> Fraction:
    for name in kind.units:
        if unit.endswith(name):
            prefix = unit.removesuffix(name)
            try:
                # B stands in for the unit, whose own first letter may read as a prefix (flop, femto)
                one = Quantity(f"1 {prefix}B", binary=True)
            except QuantiPhyError:
                continue
            if one.units == "B":
                return Fraction(repr(one.real))
    raise ValueError(kind.expected)


def parse_bytes(value: object) -> int:
    """Bytes of `80 GB`, `64 GiB`, `1e9` or a plain number; a fraction of a byte is dropped (0.1 GiB)."""
    number, scale = parse(value, SIZE)
    size = number * scale
    if size < 0 or (scale <= 1 and size.denominator != 1):
        raise ValueError(SIZE.expected)
    if size >= LARGEST_BYTES:
        raise ValueError("less than 4 EiB")
    return math.floor(size)


def parse_flop_rate(value: object) -> float:
    """Flops a second of `312 TFLOP/s` or a plain number."""
    return _positive(value, FLOP_RATE)


def parse_byte_rate(value: object) -> float:
    """Bytes a second of `3.3 TB/s` or a plain number."""
    return _positive(value, BYTE_RATE)


def parse_seconds(value: object) -> float:
    """Seconds of `5 us` or a plain number; 0 is allowed."""
    number, scale = parse(value, TIME)
    if number < 0 or number * scale > 10**12:
        raise ValueError(TIME.expected)
    return float(number * scale)


def _positive(value: object, kind: Kind) -> float:
    number, scale = parse(value, kind)
    if number <= 0 or not 1e-6 < number * scale < 1e30:
        raise ValueError(kind.expected)
    return float(number * scale)


def schema_of(kind: Kind, *, whole: bool = False) -> dict[str, Any]:
    """The JSON Schema of a quantity as people write it: a number, or a text with its unit."""
    prefix = "([kKMGTPE]i?|[munpµ])?"
    unit = "|".join(kind.units)
    pattern = rf"^\s*\+?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?\s*({prefix}({unit}))?\s*$"
    number = {"type": "integer" if whole else "number", "minimum": 0}
    return {"description": kind.expected, "anyOf": [number, {"type": "string", "pattern": pattern}]}


def _schema(kind: Kind, *, whole: bool = False) -> WithJsonSchema:
    return WithJsonSchema(schema_of(kind, whole=whole))


Bytes = Annotated[int, BeforeValidator(parse_bytes), _schema(SIZE, whole=True)]
"""A size in bytes, for pydantic models."""
FlopRate = Annotated[float, BeforeValidator(parse_flop_rate), Field(gt=0), _schema(FLOP_RATE)]
"""Flops a second, for pydantic models."""
ByteRate = Annotated[float, BeforeValidator(parse_byte_rate), Field(gt=0), _schema(BYTE_RATE)]
"""Bytes a second, for pydantic models."""
Duration = Annotated[float, BeforeValidator(parse_seconds), Field(ge=0), _schema(TIME)]
"""Seconds, for pydantic models."""


_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y", "R", "Q")


def format_bytes(count: int) -> str:
    """`8.25 GB`: three digits, decimal prefixes; exact below 1000 bytes."""
    return _scaled(count, "B")


def format_flops(count: int) -> str:
    """`50.5 GFLOP`."""
    return _scaled(count, "FLOP")


def format_count(count: int) -> str:
    """`25.6 M`, for parameters and other things without a unit."""
    return _scaled(count, "").rstrip()


def format_seconds(seconds: float) -> str:
    """`5.2 ms`; the unit never exceeds the second."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")):
        if seconds >= scale * 0.9995 or unit == "ns":
            return f"{_three_digits(seconds / scale)} {unit}" if seconds else "0 s"
    raise AssertionError


def _scaled(count: int, unit: str) -> str:
    if count < 1000:
        return f"{count} {unit}"
    if count >= 10**300:
        return f"10^{len(str(count)) - 1} {unit}"
    value, exponent = Fraction(count, 1000), 1
    while value >= Fraction("999.5") and exponent < len(_PREFIXES) - 1:
        value /= 1000
        exponent += 1
    return f"{_three_digits(float(value))} {_PREFIXES[exponent]}{unit}"


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
