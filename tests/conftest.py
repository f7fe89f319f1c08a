"""Settings for every test: hypothesis without deadlines (kernels compile on first use)."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("sim", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sim")
