"""Settings for every test: hypothesis without deadlines (kernels compile on first use)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("sim", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sim")


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """See `figures.looking_at`."""
    from figures import looking_at

    return looking_at(monkeypatch)
