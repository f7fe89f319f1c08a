"""Sizes, rates and times: what is read, what is refused and with which words, and what is shown."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from sim.base.units import (
    ByteRate,
    Bytes,
    Duration,
    FlopRate,
    format_bytes,
    format_count,
    format_flops,
    format_seconds,
    parse_byte_rate,
    parse_bytes,
    parse_flop_rate,
    parse_seconds,
)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("80 GB", 80 * 10**9),
        ("8GB", 8 * 10**9),
        ("64 GiB", 64 * 2**30),
        ("1.5 KiB", 1536),
        ("3 kB", 3000),
        ("3 KB", 3000),
        ("1_000 B", 1000),
        ("12", 12),
        ("2e9", 2 * 10**9),
        (8e9, 8 * 10**9),
        (0, 0),
        ("9007199254740993 B", 2**53 + 1),  # a float cannot hold this
        ("0.1 GiB", 107374182),  # 107374182.4
    ],
)
def test_sizes_are_exact_bytes(written: object, read: int) -> None:
    assert parse_bytes(written) == read
    assert type(parse_bytes(written)) is int


@pytest.mark.parametrize(
    "written",
    [
        "4 GB/s",
        "-1 GB",
        "80 gb",
        "8 Gb",
        "8 G",
        "12:30",
        "much",
        "",
        "nan",
        "inf B",
        "0.5 B",
        0.5,
        True,
        None,
        [1],
        "1e400 B",
    ],
)
def test_what_is_no_size_is_refused_with_an_example(written: object) -> None:
    with pytest.raises(ValueError, match="a size such as 80 GB or 64 GiB"):
        parse_bytes(written)


def test_sizes_that_no_ledger_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="less than 4 EiB"):
        parse_bytes("4 EiB")
    assert parse_bytes(2**62 - 1) == 2**62 - 1


def test_rates_and_times() -> None:
    assert parse_flop_rate("312 TFLOP/s") == 312e12
    assert parse_flop_rate("1 flop/s") == 1.0  # not a femto-"lop"
    assert parse_byte_rate("3.3 TB/s") == 3.3e12
    assert parse_byte_rate("1 GiB/s") == 2**30
    assert parse_seconds("5 us") == parse_seconds("5 µs") == 5e-6
    assert parse_seconds(0) == 0.0


@pytest.mark.parametrize(
    ("parser", "written", "expected"),
    [
        (parse_flop_rate, "3 TB/s", "a compute rate such as 60 TFLOP/s"),
        (parse_flop_rate, 0, "a compute rate"),
        (parse_byte_rate, "55 GB", "a bandwidth such as 55 GB/s"),
        (parse_byte_rate, float("inf"), "a bandwidth"),
        (parse_seconds, "5 m", "a time such as 5 us"),
        (parse_seconds, "-1 s", "a time such as 5 us"),
    ],
)
def test_units_of_the_wrong_kind_are_refused(parser: object, written: object, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parser(written)  # type: ignore[operator]


@given(st.integers(0, 2**62 - 1))
def test_a_plain_number_of_bytes_is_itself(count: int) -> None:
    assert parse_bytes(count) == parse_bytes(str(count)) == parse_bytes(f"{count} B") == count


@given(st.integers(1, 2**62 - 1))
def test_text_of_a_size_reads_back_within_half_a_percent(count: int) -> None:
    assert abs(Fraction(parse_bytes(format_bytes(count))) / count - 1) <= Fraction(1, 199)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (format_bytes(0), "0 B"),
        (format_bytes(999), "999 B"),
        (format_bytes(1000), "1.00 kB"),
        (format_bytes(999_499), "999 kB"),
        (format_bytes(999_500), "1.00 MB"),
        (format_bytes(8_250_000_000), "8.25 GB"),
        (format_flops(50_465_900_000), "50.5 GFLOP"),
        (format_count(25_557_032), "25.6 M"),
        (format_count(10), "10"),
        (format_seconds(0.0), "0 s"),
        (format_seconds(5.2e-3), "5.20 ms"),
        (format_seconds(125.0), "125 s"),
        (format_seconds(3e-6), "3.00 us"),
    ],
)
def test_text_has_three_digits_and_decimal_prefixes(shown: str, text: str) -> None:
    assert shown == text


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Bytes, ["80 GB", "64GiB", 12, "1_000 B", "2e9"], ["4 GB/s", -1, "80 gb", 0.5, "12:30"]),
        (FlopRate, ["312 TFLOP/s", "1 flop/s", 60e12], ["3 TB/s", -1]),
        (ByteRate, ["3.3 TB/s", 1e9], ["55 GB", "5 s"]),
        (Duration, ["5 us", "5 µs", 0], ["5 m", -1]),
    ],
)
def test_the_json_schema_of_a_quantity_accepts_what_the_parser_accepts(kind: object, good: list, bad: list) -> None:  # type: ignore[type-arg]
    adapter = TypeAdapter(kind)
    validator = Draft202012Validator(adapter.json_schema())
    for value in good:
        adapter.validate_python(value, strict=True)
        assert validator.is_valid(value), value
    for value in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(value, strict=True)
        assert not validator.is_valid(value), value
