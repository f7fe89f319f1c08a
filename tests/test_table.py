"""What stands below the table of `sim run`: the planners' words about their plans."""

from __future__ import annotations

from sim.base.units import format_seconds
from sim.base.yaml import parse
from sim.commands.tables.run import LONGEST_REMARK, table
from sim.experiment.results import Results
from sim.experiment.run import run
from sim.scenario.scenario import from_document


def results(text: str) -> Results:
    return run(from_document(parse("version: 1\nname: words\n" + text, name="words.yaml")))


def remarks(found: Results) -> list[str]:
    parts = table(found).split("\n\n")
    return parts[2].splitlines() if len(parts) > 2 else []


def test_bracketings_are_told() -> None:
    """Sizes 10, 2, 100, 20: the reverse order is the cheaper one."""
    found = results(
        "graph: {kind: chain, sizes: [10, 2, 100, 20]}\n"
        "strategies:\n  - reverse_full\n  - jacobian_chain: {order: [forward, optimal]}\n"
    )
    assert remarks(found) == [
        "jacobian_chain forward: bracketing (F3·(F2·F1))",
        "jacobian_chain optimal: bracketing ((F3·F2)·F1)",
    ]


def test_a_long_bracketing_shows_its_ends() -> None:
    found = results(
        f"graph: {{kind: chain, sizes: {[2] * 61}}}\nstrategies:\n  - jacobian_chain: {{order: [forward, reverse]}}\n"
    )
    forward, reverse = (text.split(": bracketing ")[1] for text in remarks(found))
    assert forward.startswith("(F60·(F59·(F58·(F57·")
    assert forward.endswith("·(F4·(F3·(F2·F1)…)")
    assert reverse.startswith("(…(F60·F59)·F58)·F57)·")
    assert reverse.endswith("·F3)·F2)·F1)")
    assert max(len(forward), len(reverse)) <= LONGEST_REMARK + len(" … ")


def test_what_overlap_saves_is_told_beside_the_serial_cost() -> None:
    found = results(
        "graph: {kind: chain, length: 30, forward_flops: 1e9, vjp_flops: 2e9, activation_bytes: 8_000_000,"
        " residual_bytes: 24_000_000}\nwrt: input\ndevice: cpu-server\n"
        "strategies:\n  - reverse_checkpointed: {schedule: multilevel, slots: 3, host_slots: 3}\n"
    )
    (point,) = found.points
    assert point.serial_seconds is not None
    assert point.seconds is not None
    saved = point.serial_seconds - point.seconds
    assert saved > 0
    (*_, text) = remarks(found)
    assert "serial cost" in text
    assert text.endswith(f"; overlap saves {format_seconds(saved)} of {format_seconds(point.serial_seconds)}")


def test_nothing_is_said_where_planners_are_silent() -> None:
    found = results("graph: {kind: chain, length: 3}\nstrategies:\n  - reverse_full\n")
    assert remarks(found) == []
