"""Settings for every test: hypothesis without deadlines (kernels compile on first use)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("all", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("not slow", settings.get_profile("all"), max_examples=20)


def pytest_configure(config: pytest.Config) -> None:
    """Draw a third of the examples where slow tests are left out; keep results apart from those of this user."""
    settings.load_profile("not slow" if config.getoption("markexpr") == "not slow" else "all")
    _stores.append(TemporaryDirectory(prefix="sim-tests-"))
    os.environ["SIM_CACHE_DIR"] = _stores[0].name


def pytest_unconfigure() -> None:
    """Take the stores of results away again."""
    _stores.pop().cleanup()


_stores: list[TemporaryDirectory[str]] = []


@pytest.fixture(autouse=True)
def _own_store() -> None:
    """Results of one test are none of another's; the folder is made by who needs it."""
    os.environ["SIM_CACHE_DIR"] = str(Path(_stores[0].name) / uuid4().hex)


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
