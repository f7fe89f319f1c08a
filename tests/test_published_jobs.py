"""Jobs on many devices against what their papers and benchmarks print; see `published_jobs` for the sources."""

from __future__ import annotations

import pytest
from published_jobs import Row, rows

from sim.experiment.run import compute
from sim.scenario.scenario import load


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in rows() if not row.long], ids=lambda row: row.what)
def test_figures_are_near_the_published_ones(row: Row) -> None:
    assert row.ours() == pytest.approx(row.published, rel=row.tolerance)


def test_bubbles_of_the_schedules_are_the_published_ones() -> None:
    """Qi et al. 2023, arXiv:2401.10241, section 5.3, 14.6 B on 16 ranks with 48 micro-batches: to four decimals."""
    bubbles = {p.label: p.bubble for p in compute(load("scenarios/pipeline_schedules.yaml")).points}
    assert round(bubbles["1f1b"] or 0, 4) == 0.2552
    assert round(bubbles["zb_h1"] or 0, 4) == 0.1397
