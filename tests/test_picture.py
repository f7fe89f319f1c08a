"""Pictures of results and schedules in memory, as notebooks show them."""

from __future__ import annotations

from pathlib import Path

import pytest

import sim
from sim.base.errors import ParameterError
from sim.base.files import OutputError

RESULTS = sim.run("three_factors")


def test_results_draw_each_figure_that_they_hold_data_for(tmp_path: Path) -> None:
    pareto, products = RESULTS.plot(), RESULTS.plot("products")
    assert "<svg" in pareto._repr_svg_()
    assert pareto != products
    assert products.save(tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert products.save(tmp_path / "one.svg").read_text() == products.svg
    with pytest.raises(OutputError, match=r"expected \.svg or \.png"):
        products.save(tmp_path / "one.pdf")


@pytest.mark.parametrize(
    ("figure", "told"), [("streams", "there is nothing to draw as 'streams'"), ("pie", "got figure 'pie', expected")]
)
def test_a_figure_that_cannot_be_drawn_is_refused(figure: str, told: str) -> None:
    with pytest.raises(ParameterError, match=told):
        RESULTS.plot(figure)


def test_a_schedule_shows_its_cost_and_its_picture() -> None:
    schedule = sim.schedule(sim.chain(length=6, activation_bytes=1), "reverse_checkpointed", schedule="sqrt")
    shown = schedule._repr_html_()
    assert "<svg" in shown
    assert f"{sim.replay(schedule).actions['forward']}</td>" in shown
    assert schedule.plot().svg in sim.plot(schedule).svg


def test_a_schedule_too_long_to_be_drawn_shows_its_cost_and_says_so() -> None:
    schedule = sim.schedule(sim.chain(length=5_000), "reverse_full")
    assert "got a schedule of 10,000 actions, expected 1 to 2,000" in schedule._repr_html_()
    with pytest.raises(ParameterError, match="10,000 actions"):
        schedule.plot()
