"""Settings for every test: hypothesis without deadlines (kernels compile on first use)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("all", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("not slow", settings.get_profile("all"), max_examples=20)


def pytest_configure(config: pytest.Config) -> None:
    """Draw a third of the examples where slow tests are left out."""
    settings.load_profile("not slow" if config.getoption("markexpr") == "not slow" else "all")


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """See `figures.looking_at`."""
    from figures import looking_at

    return looking_at(monkeypatch)


@pytest.fixture
def nothing_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No graphs of other tests in PyTorch's compiler, and no compiled code of other runs."""
    import torch

    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
